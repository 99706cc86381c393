"""Writes native/tokenizer/unicode_tables.h: the class, the base and the lower case of every code point.

    python3.13 scripts/make_unicode_tables.py [--check]

The tables hold Unicode 16.0, by which Hugging Face's tokenizers 0.23 split text (llama.cpp's hold 15.1; a later version only
gives classes to characters that were unassigned before, and nothing that a model has seen moves). They come from the package
unicodedata2 of that version, but for lower case, which is that of Python 3.13 itself. Other versions are refused, so that the
file is the same wherever it is made; --check writes nothing and fails if the file in the tree differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import unicodedata2 as unicodedata

UNICODE_VERSION = "16.0.0"
N_CODE_POINTS = 0x110000
BLOCK_SHIFT = 8  # 256 code points to a block: the smallest sum of both stages among the sizes whose numbers fit a byte
TARGET = Path(__file__).resolve().parent.parent / "native" / "tokenizer" / "unicode_tables.h"

# The numbers are those of enum ct_class in unicode.h.
OTHER, SPACE, UPPER, LOWER, LETTER, NUMBER, MARK, PUNCTUATION, SYMBOL, NUMERAL, ACCENT, CONTROL = range(12)
CLASSES = {
    "Lu": UPPER, "Lt": UPPER, "Ll": LOWER, "Lm": LETTER, "Lo": LETTER,
    "Nd": NUMBER, "Nl": NUMERAL, "No": NUMERAL,
    "Mn": ACCENT, "Mc": MARK, "Me": MARK,
    "Pc": PUNCTUATION, "Pd": PUNCTUATION, "Ps": PUNCTUATION, "Pe": PUNCTUATION,
    "Pi": PUNCTUATION, "Pf": PUNCTUATION, "Po": PUNCTUATION,
    "Sm": SYMBOL, "Sc": SYMBOL, "Sk": SYMBOL, "So": SYMBOL,
    "Cc": CONTROL, "Cf": CONTROL, "Co": CONTROL,
}  # fmt: skip

# The property White_Space (PropList.txt), which is what \s means in the tokenizers' regular expressions. unicodedata does
# not have it, and str.isspace() says yes to U+001C … U+001F as well. Those of category Z are checked below.
WHITE_SPACE = {*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}


def class_of(code_point: int) -> int:
    """The class number of one code point; surrogates and unassigned ones are OTHER."""
    if code_point in WHITE_SPACE:
        return SPACE
    return CLASSES.get(unicodedata.category(chr(code_point)), OTHER)


def two_stages(classes: list[int]) -> tuple[list[int], list[tuple[int, ...]]]:
    """Cuts the classes into blocks and keeps each distinct block once: (number of each block's content, contents)."""
    size = 1 << BLOCK_SHIFT
    numbers: dict[tuple[int, ...], int] = {}
    index = [numbers.setdefault(tuple(classes[i : i + size]), len(numbers)) for i in range(0, len(classes), size)]
    return index, list(numbers)


HANGUL = range(0xAC00, 0xD7A4)  # syllables decompose by arithmetic


def bases() -> dict[int, str]:
    """Code points that NFD and the removal of accents (category Mn) change, and what is left. Accents themselves, which
    leave nothing, and Hangul syllables are not among them."""
    table = {}
    for code_point in (c for c in range(N_CODE_POINTS) if c not in HANGUL):
        char = chr(code_point)
        left = "".join(c for c in unicodedata.normalize("NFD", char) if unicodedata.category(c) != "Mn")
        if left != char and unicodedata.category(char) != "Mn":
            table[code_point] = left
    if any(not 1 <= len(left) <= 3 for left in table.values()):
        raise SystemExit("a character decomposes into nothing, or into more than three")
    return table


def lower_case() -> dict[int, int]:
    """Code points whose lower case is another one. U+0130, the only one that becomes two characters, is left to the code."""
    table = {c: chr(c).lower() for c in range(N_CODE_POINTS) if chr(c).lower() != chr(c)}
    if [c for c, lower in table.items() if len(lower) > 1] != [0x130]:
        raise SystemExit("another character than U+0130 has a lower case of several characters")
    return {c: ord(lower) for c, lower in table.items() if c != 0x130}


def pairs(table: dict[int, int]) -> str:
    """Rows of two numbers, by the first one."""
    return rows([number for pair in sorted(table.items()) for number in pair], "0x{:x}")


def rows(values: list[int], pattern: str) -> str:
    """Values as lines of a C initialiser, at most 120 columns."""
    per_line = 120 // (len(pattern.format(max(values))) + 2)
    lines = (values[i : i + per_line] for i in range(0, len(values), per_line))
    return "\n".join("    " + ", ".join(pattern.format(v) for v in line) + "," for line in lines)


def render() -> str:
    """The whole header file."""
    separators = {c for c in range(N_CODE_POINTS) if unicodedata.category(chr(c))[0] == "Z"}
    if not separators <= WHITE_SPACE:
        raise SystemExit(f"WHITE_SPACE lacks the separators {sorted(separators - WHITE_SPACE)}")
    index, blocks = two_stages([class_of(c) for c in range(N_CODE_POINTS)])
    while index[-1] == index[-2]:  # the tail of one content is a default, not a table
        index.pop()
    packed = [low | high << 4 for block in blocks for low, high in zip(block[::2], block[1::2], strict=True)]
    if len(blocks) > 256:
        raise SystemExit(f"{len(blocks)} blocks do not fit a byte")
    base, lower = bases(), lower_case()
    single = {c: ord(left) for c, left in base.items() if len(left) == 1}
    several = [[c, *map(ord, left), *[0] * (3 - len(left))] for c, left in sorted(base.items()) if len(left) > 1]
    return f"""\
/* Generated by scripts/make_unicode_tables.py from Unicode {UNICODE_VERSION}. Do not edit.
 *
 * The class (enum ct_class) of a code point c, in two stages: block c >> {BLOCK_SHIFT} has its content's number in
 * unicode_block (from UNICODE_N_BLOCKS on: the last entry's), and the content holds {1 << BLOCK_SHIFT} classes of
 * 4 bits, even code points in the low half of a byte. {len(index) + len(packed):,} bytes. */
enum {{ UNICODE_BLOCK_SHIFT = {BLOCK_SHIFT}, UNICODE_N_BLOCKS = {len(index)} }};

static const uint8_t unicode_block[UNICODE_N_BLOCKS] = {{
{rows(index, "{:d}")}
}};

static const uint8_t unicode_content[{len(packed)}] = {{
{rows(packed, "0x{:02x}")}
}};

/* Code point and what NFD without accents (Mn) makes of it, where that is one other code point; in the order of the first. */
static const uint32_t unicode_base[2 * {len(single)}] = {{
{pairs(single)}
}};

/* The same where it is two or three; 0 fills up. */
static const uint32_t unicode_bases[4 * {len(several)}] = {{
{rows([number for row in several for number in row], "0x{:x}")}
}};

/* Code point and its lower case, but for U+0130, which becomes U+0069 U+0307. */
static const uint32_t unicode_lower[2 * {len(lower)}] = {{
{pairs(lower)}
}};
"""


def main() -> int:
    """Writes or checks the file; 1 if a check finds a difference."""
    parser = argparse.ArgumentParser(description="Generate the Unicode tables of the tokenizer.")
    parser.add_argument("--check", action="store_true", help="fail if the file in the tree differs; write nothing")
    arguments = parser.parse_args()
    if unicodedata.unidata_version != UNICODE_VERSION or sys.version_info[:2] != (3, 13):
        raise SystemExit(
            f"the tables are made from Unicode {UNICODE_VERSION} by Python 3.13: use that, with unicodedata2=={UNICODE_VERSION}"
        )
    text = render()
    if arguments.check:
        if not TARGET.is_file() or TARGET.read_text(encoding="ascii") != text:
            print(f"{TARGET.name} is not what this script writes", file=sys.stderr)
            return 1
        return 0
    TARGET.write_text(text, encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())
