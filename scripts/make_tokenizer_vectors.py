"""Writes tests/data/tokenizer: vocabularies without weights, texts, and the ids that llama.cpp gives them.

    PEER_PYTHON scripts/make_tokenizer_vectors.py VOCAB_DIR SmolLM2-135M-Instruct.Q4_1.gguf tests/data/tokenizer

PEER_PYTHON is a Python with llama-cpp-python 0.3.36, gguf and tokenizers. VOCAB_DIR holds llama.cpp's own tokenizer test files,
ggml-vocab-NAME.gguf with .inp (texts, each followed by a separator line) and .out (a line of ids for each): those ids were made
with Hugging Face's tokenizers, and this script stops if llama.cpp, which gives all the others, does not agree with them.

A file of vectors is JSON lines {"text", "ids", "special"}, special saying whether special tokens in the text were parsed.
NAME.gguf.xz is the vocabulary. gpt-2 and smollm2 are whole; llama-bpe and qwen2 are cut down to what the texts can reach, as
is gpt-2-cut.gguf, which C reads uncompressed. Byte-pair encoding only ever asks for the rank of two neighbours in a word, and
those joined are a part of the text; so tokens and merges that occur in no text may go, and no result changes. What is left is
numbered anew, in the old order. The same holds for the pieces of SentencePiece and WordPiece in what a text is normalised
to (the lowest score stays too: unknown characters are rated by it); llama.cpp is asked again with the part, and must agree.

The ids of bert-bge are those of Hugging Face's tokenizers: llama.cpp splits at U+000B, which BERT's tokenizer drops, and
knows no limit to a word's length. Its texts have only characters whose category is the same since Unicode 3.2, as both
sides' tables differ.
"""

from __future__ import annotations

import json
import lzma
import random
import sys
import tempfile
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEPARATOR = "\n__ggml_vocab_test__\n"
TEXT_DIR = Path(__file__).resolve().parent.parent / "tests" / "data" / "text"
WHOLE, CUT = ["gpt-2", "smollm2"], ["llama-bpe", "qwen2"]
PIECES = ["llama-spm", "gemma-4", "nomic-bert-moe", "bert-bge"]
NORMAL, BYTE = 1, 6

# Where expressions differ: contractions in both cases, digits of several scripts, combining marks, every kind of space and line
# break, symbols next to letters, code, and the special tokens of the vocabularies.
TEXTS = [
    "I'm sure they'll say it's HE'S, I'VE, you'Re, we'D and 'tis o'clock; rock'n'roll 'S",
    "x = 1234567890 + 0x1F - 3.14159e-10; ١٢٣٤ ४५६ ²³ ½ Ⅷ 12 345 6 7890",
    "def f(a: int, *, b=None) -> list[int]:\n    \"\"\"Doc.\"\"\"\n\treturn [a ** 2 for _ in range(10)]\n\n\n# end\r\n\r\n",
    "if (a&&b||!c) { return foo->bar[i++]; } // comment /* x */\n#define MAX(a,b) ((a)>(b)?(a):(b))\n",
    "naïve café, Zürich, façade; cafe\u0301, nai\u0308ve: the same with combining marks; a\u0301\u0302\u0303b",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. ΣΊΣΥΦΟΣ σίσυφος",
    "นกกระจอกเทศกินหญ้า हिन्दी में लिखा हुआ வணக்கம் ខ្មែរ မြန်မာ",
    "いろはにほへと チリヌルヲ 色は匂へど、散りぬるを。我が世誰ぞ 常ならむ 2024年3月",
    "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。한글은 아름답다. ㄱㄴㄷ",
    "שלום עולם! مرحبا بالعالم، كيف حالك؟ \u202bright to left\u202c",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 👍🏽 ☕️ ½⅔ ①② ㎏ ™ © ♥ ∑∫√ ⟨⟩ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛",
    " \u00a0\u2003\u2009\u3000\u200b\u200d\ufeff\u00ad mixed \u2028 spaces \u2029 \u0085 \x0b\x0c\x1c\x1d\x1e\x1f end ",
    "   three\n  two\n one\n\n\n   \n \t \n\t\ttabs\t\t\n trailing   ",
    "\n", " ", "  ", "\t", "\r\n", " \n", "\n ", " \n ", "a", " a", "  a", "a ", "a  ", "'", "''", "' ", " '", "1", " 1", "  1",
    "!!!!!!!!!!!!????......,,,,;;;;::::----____====++++****////\\\\\\\\||||~~~~^^^^$$$$%%%%@@@@####&&&&",
    "(a)[b]{c}<d>\"e\"'f'`g`«h»“i”‘j’„k‟‹l›",
    "HTTPServer2XMLParser getURLFromID iPhone15Pro McDonald's ÀÉÎõü ÇA ĳĲ ǅungla ʼn",
    "https://example.org/a/b?c=d&e=f%20g#h user.name+tag@example.co.uk 192.168.0.1:8080 /usr/local/lib C:\\Temp\\x",
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|><|endoftext|>a<|endoftext|> b <|endoftext|>\n<|endoftext",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
    "<repo_name>x<file_sep>y<|im_end| ><|IM_END|> <empty_output>",
    "the the the The THE tHe, and and And AND; of OF oF",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "                                                                                x",
    "antidisestablishmentarianism floccinaucinihilipilification pneumonoultramicroscopicsilicovolcanoconiosis",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
]  # fmt: skip


def random_texts(n: int, seed: int) -> list[str]:
    """Texts of anything: pieces of the texts above, ASCII, and code points of all planes (surrogates left out)."""
    rng = random.Random(seed)
    pieces = [piece for text in TEXTS for piece in text.split(" ") if piece]
    texts = []
    for _ in range(n):
        parts = []
        for _ in range(rng.randrange(1, 12)):
            kind = rng.randrange(5)
            if kind == 0:
                parts.append(rng.choice(pieces))
            elif kind == 1:
                parts.append("".join(chr(rng.randrange(0x20, 0x7F)) for _ in range(rng.randrange(1, 6))))
            elif kind == 2:
                parts.append(rng.choice([" ", "  ", "\n", "'", "\t", "\u3000", "\r\n", "\u0301", "9"]) * rng.randrange(1, 5))
            else:
                top = 0x3000 if kind == 3 else 0x110000
                parts.append("".join(chr(c) for c in (rng.randrange(0x80, top) for _ in range(3)) if not 0xD800 <= c < 0xE000))
        texts.append("".join(parts))
    return texts


def prose() -> list[str]:
    """A few paragraphs of English."""
    return [p for name in ("alice.txt", "workshop.txt") for p in (TEXT_DIR / name).read_text("utf-8").split("\n\n")[:6]]


@dataclass
class Vocabulary:
    """What a tokenizer needs of a GGUF file."""

    scalars: dict[str, Any]
    tokens: list[str]
    types: list[int]
    merges: list[str] | None
    scores: list[float] | None = None
    charsmap: bytes | None = None
    architecture: str = "llama"


def read_vocabulary(path: Path) -> Vocabulary:
    """The tokenizer's metadata of a GGUF file."""
    from gguf import GGUFReader, GGUFValueType

    fields = GGUFReader(path).fields
    scalars = {}
    for key, value in fields.items():
        if key.startswith("tokenizer.ggml.") and value.types[0] != GGUFValueType.ARRAY:
            scalars[key] = value.contents()
    keys = ("tokens", "token_type", "merges", "scores", "precompiled_charsmap")
    arrays = {key: fields[name].contents() for key in keys if (name := f"tokenizer.ggml.{key}") in fields}
    charsmap = bytes(arrays["precompiled_charsmap"]) if "precompiled_charsmap" in arrays else None
    return Vocabulary(scalars, arrays["tokens"], arrays["token_type"], arrays.get("merges"), arrays.get("scores"), charsmap)


def write_vocabulary(vocabulary: Vocabulary, path: Path) -> bytes:
    """A GGUF file without tensors; its bytes."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, vocabulary.architecture)
    for key, value in vocabulary.scalars.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)
    writer.add_array("tokenizer.ggml.tokens", vocabulary.tokens)
    writer.add_array("tokenizer.ggml.token_type", vocabulary.types)
    for key, values in (
        ("merges", vocabulary.merges),
        ("scores", vocabulary.scores),
        ("precompiled_charsmap", vocabulary.charsmap),
    ):
        if values is not None:
            writer.add_array(f"tokenizer.ggml.{key}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path.read_bytes()


def alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: those printable in Latin-1 are themselves, the rest counts up from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


def cut(vocabulary: Vocabulary, texts: Iterable[str]) -> tuple[Vocabulary, dict[int, int]]:
    """The part of a vocabulary that these texts can reach, and new ids by old ones."""
    to_byte = alphabet()
    corpus = b"\0\0".join(text.encode() for text in texts)

    def occurs(token: str) -> bool:
        return bytes(to_byte[c] for c in token) in corpus

    def needed(token: str, kind: int) -> bool:
        return len(token) == 1 or occurs(token) if kind == NORMAL else not token.startswith(("[PAD", "<|reserved"))

    kept = [i for i, row in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)) if needed(*row)]
    new_id = {old: new for new, old in enumerate(kept)}
    scalars = {key: new_id[value] if key.endswith("_token_id") else value for key, value in vocabulary.scalars.items()}
    merges = [merge for merge in vocabulary.merges or () if occurs(merge.replace(" ", ""))]
    return Vocabulary(scalars, [vocabulary.tokens[i] for i in kept], [vocabulary.types[i] for i in kept], merges), new_id


def cut_pieces(vocabulary: Vocabulary, normal_forms: Iterable[str]) -> tuple[Vocabulary, dict[int, int]]:
    """The same for pieces that are text, U+2581 for a space. One may stand before any of them: models put it before texts."""
    corpus = "\0".join(form.replace(" ", "▁") for form in normal_forms)

    def occurs(token: str) -> bool:
        return token.lstrip("▁") in corpus

    rated = zip(vocabulary.scores or (), range(len(vocabulary.tokens)), vocabulary.types, strict=False)
    lowest = min(((score, i) for score, i, kind in rated if kind == NORMAL), default=(0.0, -1))[1]
    named = {value for key, value in vocabulary.scalars.items() if key.endswith("_token_id")}
    kept = [
        i
        for i, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if i in named or i == lowest or kind == BYTE or (occurs(token) if kind == NORMAL else not token.startswith("<unused"))
    ]
    new_id = {old: new for new, old in enumerate(kept)}
    scalars = {key: new_id[value] if key.endswith("_token_id") else value for key, value in vocabulary.scalars.items()}
    merges = None if vocabulary.merges is None else [m for m in vocabulary.merges if occurs(m.replace(" ", ""))]
    scores = None if vocabulary.scores is None else [vocabulary.scores[i] for i in kept]
    tokens, types = [vocabulary.tokens[i] for i in kept], [vocabulary.types[i] for i in kept]
    return Vocabulary(scalars, tokens, types, merges, scores, vocabulary.charsmap), new_id


def bert_ids(vocabulary: Vocabulary, texts: list[str]) -> tuple[list[list[int]], list[str]]:
    """What Hugging Face's tokenizers make of texts with this vocabulary: ids, and the texts as normalised."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    pieces = {}
    for i, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        pieces[token if kind != NORMAL else token[1:] if token.startswith("▁") else "##" + token] = i
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    return ids, [tokenizer.normalizer.normalize_str(text) for text in texts]


def old_characters(text: str) -> str:
    """Without those that have come, or changed, since Unicode 3.2."""
    return "".join(c for c in text if unicodedata.category(c) == unicodedata.ucd_3_2_0.category(c))


def write_pieces(name: str, source: Path, out: Path) -> None:
    """The vectors of one vocabulary of PIECES, and the part of it that they need."""
    golden_path = source.with_suffix(".gguf.inp")
    golden = golden_path.read_bytes().decode("utf-8").split(SEPARATOR)[:-1] if golden_path.exists() else []
    plain = [*golden, *TEXTS, *random_texts(60, seed=1)]
    vocabulary = read_vocabulary(source)
    if name == "bert-bge":
        plain = [old_characters(text) for text in plain] + ["word " * 5 + "x" * 100, "x" * 101]
        ids, forms = bert_ids(vocabulary, plain)
        texts = [(text, False) for text in plain]
    else:
        texts = [(text, False) for text in plain] + [(text, True) for text in TEXTS[-13:]]
        if name == "nomic-bert-moe":
            vocabulary.architecture = "nomic-bert-moe"
            texts += [("a <mask> b<mask>", True), ("<s> x</s>", True)]
        ids = peer_ids(source, texts)
        forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFKC") for text, _ in texts] + [t for t, _ in texts]
    if golden:
        lines = source.with_suffix(".gguf.out").read_text("utf-8").split("\n")
        wanted = [[int(i) for i in line.split()] for line in lines[: len(golden)]]
        if [row for row, text in zip(ids, golden, strict=False) if text == old_characters(text)] != [
            row for row, text in zip(wanted, golden, strict=True) if text == old_characters(text)
        ]:
            raise SystemExit(f"{name}: these are not the ids of llama.cpp's own test file")
    architecture = vocabulary.architecture
    vocabulary, new_id = cut_pieces(vocabulary, forms)
    vocabulary.architecture = architecture
    ids = [[new_id[i] for i in row] for row in ids]
    with tempfile.TemporaryDirectory() as scratch:
        part = Path(scratch) / "vocabulary.gguf"
        raw = write_vocabulary(vocabulary, part)
        again = bert_ids(vocabulary, [t for t, _ in texts])[0] if name == "bert-bge" else peer_ids(part, texts)
    if again != ids:
        raise SystemExit(f"{name}: the part of the vocabulary gives other ids than the whole")
    (out / f"{name}.gguf.xz").write_bytes(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME))
    write_vectors(out / f"{name}.jsonl", texts, ids)


def peer_ids(path: Path, texts: list[tuple[str, bool]]) -> list[list[int]]:
    """What llama.cpp makes of (text, parse special tokens)."""
    from llama_cpp import Llama

    peer = Llama(model_path=str(path), vocab_only=True, verbose=False)
    return [[int(i) for i in peer.tokenize(text.encode(), add_bos=False, special=special)] for text, special in texts]


def write_vectors(path: Path, texts: list[tuple[str, bool]], ids: list[list[int]]) -> None:
    """JSON lines, ASCII only."""
    rows = [{"text": text, "ids": row, "special": special} for (text, special), row in zip(texts, ids, strict=True)]
    path.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows), "utf-8")


def main(vocab_dir: Path, smollm2: Path, out: Path) -> None:
    """Writes all files and reports their sizes."""
    out.mkdir(parents=True, exist_ok=True)
    for name in [*WHOLE, *CUT]:
        source = smollm2 if name == "smollm2" else vocab_dir / f"ggml-vocab-{name}.gguf"
        golden = (vocab_dir / "ggml-vocab-gpt-2.gguf.inp").read_text("utf-8").split(SEPARATOR)[:-1]
        texts = [(text, False) for text in [*golden, *TEXTS, *prose(), *random_texts(60, seed=1)]]
        texts += [(text, True) for text in [*TEXTS, *random_texts(20, seed=2)]]
        ids = peer_ids(source, texts)
        if name != "smollm2":
            lines = (vocab_dir / f"ggml-vocab-{name}.gguf.out").read_text("utf-8").split("\n")
            if ids[: len(golden)] != [[int(i) for i in line.split()] for line in lines[: len(golden)]]:
                raise SystemExit(f"{name}: llama.cpp does not give the ids of its own test file")
        vocabulary = read_vocabulary(source)
        with tempfile.TemporaryDirectory() as scratch:
            if name == "gpt-2":  # for C: the golden texts only, in the form of the test files they come from
                small, new_id = cut(vocabulary, golden)
                write_vocabulary(small, out / "gpt-2-cut.gguf")
                rows = [" ".join(str(new_id[i]) for i in row) for row in ids[: len(golden)]]
                (out / "gpt-2-cut.out").write_text("\n".join(rows) + "\n", "utf-8")
                (out / "gpt-2-cut.inp").write_text("".join(text + SEPARATOR for text in golden), "utf-8")
            if name in CUT:
                vocabulary, new_id = cut(vocabulary, [text for text, _ in texts])
                ids = [[new_id[i] for i in row] for row in ids]
            raw = write_vocabulary(vocabulary, Path(scratch) / "vocabulary.gguf")
        (out / f"{name}.gguf.xz").write_bytes(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME))
        write_vectors(out / f"{name}.jsonl", texts, ids)
    for name in PIECES:
        write_pieces(name, vocab_dir / f"ggml-vocab-{name}.gguf", out)
    for file in sorted(out.iterdir()):
        print(f"{file.name}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(*(Path(argument) for argument in sys.argv[1:]))
