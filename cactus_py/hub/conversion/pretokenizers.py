"""Which name GGUF has for the way a tokenizer.json cuts text into words, told by what it says rather than by what it does.

llama.cpp's converter encodes a sample text and looks the hash of the ids up in a list, which knows published vocabularies
only. Here the stages are compared: expressions, digits, punctuation, bytes. A way that is not in the table is an error that
shows it; the caller may then name one.
"""

from __future__ import annotations

from typing import Any

from cactus_py.errors import ModelFormatError, UnsupportedModelError

_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"

_LLAMA3 = _CONTRACTION + "|" + _WORD + r"|\p{N}{1,3}" + _OTHERS + _SPACES
_CL100K = (  # OpenAI's own writing of nearly the same
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
_QWEN2 = _CONTRACTION + "|" + _WORD + r"|\p{N}" + _OTHERS + _SPACES
_QWEN35 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _SPACES


def _cased(ending: str, digits: str) -> str:
    """Words cut where a capital follows a small letter, as in gpt-4o and tekken."""
    first = r"[^\r\n\p{L}\p{N}]?" + _UPPER + "*" + _LOWER + "+" + ending
    second = r"[^\r\n\p{L}\p{N}]?" + _UPPER + "+" + _LOWER + "*" + ending
    return f"{first}|{second}|{digits}| ?[^\\s\\p{{L}}\\p{{N}}]+[\\r\\n/]*{_SPACES}"


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"""|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
_BYTES, _GPT2_BYTES = ("bytes",), ("bytes", "words")

# Stages -> name. Where several names mean the same cutting, the one of the best known model.
_TABLE: dict[tuple[tuple[str, ...], ...], str] = {
    (("split", _LLAMA3), _BYTES): "llama-bpe",
    (("split", _QWEN2), _BYTES): "qwen2",
    (("split", _QWEN35), _BYTES): "qwen35",
    (("split", _cased(_CONTRACTION + "?", r"\p{N}{1,3}")), _BYTES): "gpt-4o",
    (("split", _cased("", r"\p{N}")), _BYTES): "tekken",
    (_GPT2_BYTES,): "gpt-2",
    (("split", _GPT2), _BYTES): "gpt-2",
    (("digits", "single"), _GPT2_BYTES): "smollm",
    (("split", r"\p{N}"), _GPT2_BYTES): "smollm",
    (("punctuation", "Contiguous"), _GPT2_BYTES, ("split", "[0-9][0-9][0-9]")): "falcon",
    (("punctuation", "Contiguous"), _GPT2_BYTES, ("digits", "together"), ("split", "[0-9][0-9][0-9]")): "falcon",
    (("split", r"\p{N}{1,3}"), ("split", "[一-龥぀-ゟ゠-ヿ]+"), ("split", _DEEPSEEK3), _BYTES): "deepseek-v3",
    (
        ("split", r"[\r\n]"), ("split", r"\s?\p{L}+"), ("split", r"\s?\p{P}+"),
        ("split", "[一-龥ࠀ-一가-퟿]+"), ("digits", "single"), _BYTES,
    ): "deepseek-coder",
    (
        ("split", r"[\r\n]"), ("split", "letters of alphabets"), ("split", r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
        ("split", r"\s+$"), ("split", "[一-龥ࠀ-一가-퟿]+"), ("digits", "single"), _BYTES,
    ): "deepseek-llm",
    (("split", _CL100K), _BYTES): "dbrx",
    (("split", " ?[^(\\s|[.,!?…。，、।۔،])]+"), _BYTES): "bloom",
    (("split", _WORD + r"|\p{N}" + _OTHERS + _SPACES), _BYTES): "ufakzeka",
    (("split", r"\p{N}{1,3}"), ("split", _CONTRACTION + "|" + _WORD + r"|\p{N}+" + _OTHERS + _SPACES), _BYTES): "minicpm5",
    (
        ("split", _CONTRACTION + "|" + _WORD + r"|\p{N}| ?[^\s\p{L}\p{N}\r\n]+" + _SPACES),
        _BYTES,
    ): "seed-coder",
}  # fmt: skip


def name_of(tokenizer: dict[str, Any]) -> str:
    """The name for tokenizer.ggml.pre. Raises UnsupportedModelError, showing the stages, if there is none."""
    stages = _stages(tokenizer.get("pre_tokenizer"))
    name = _TABLE.get(tuple(stages))
    if name is None:
        shown = "; ".join(" ".join(stage) for stage in stages) or "nothing"
        raise UnsupportedModelError(
            f"tokenizer.json cuts text by {shown[:600]!r}, for which GGUF has no name that is known here; "
            "if you know one that means the same, give it with --pre."
        )
    if name == "llama-bpe" and not _model(tokenizer).get("ignore_merges"):
        return "dbrx"  # the same expression for a vocabulary whose words are found by merges alone
    return name


def _model(tokenizer: dict[str, Any]) -> dict[str, Any]:
    model = tokenizer.get("model")
    if not isinstance(model, dict):
        raise ModelFormatError("tokenizer.json has no model.")
    return model


def _stages(given: Any) -> list[tuple[str, ...]]:
    if given is None:
        return []
    if not isinstance(given, dict):
        raise ModelFormatError("The pre_tokenizer of tokenizer.json is not an object.")
    kind = given.get("type")
    if kind == "Sequence":
        return [stage for part in given.get("pretokenizers", []) for stage in _stages(part)]
    if kind == "ByteLevel":
        if given.get("add_prefix_space"):
            return [("bytes", "after a space", *(("words",) if given.get("use_regex", True) else ()))]
        return [_GPT2_BYTES if given.get("use_regex", True) else _BYTES]
    if kind == "Split" and not given.get("invert") and given.get("behavior") == "Isolated":
        pattern = given.get("pattern")
        expression = pattern.get("Regex", pattern.get("String")) if isinstance(pattern, dict) else None
        return [("split", _plain(str(expression)))]
    if kind == "Split" and given.get("invert") and given.get("behavior") == "Removed":  # keeps what matches: the same
        return [("split", _plain(str((given.get("pattern") or {}).get("Regex"))))]
    if kind == "Digits":
        return [("digits", "single" if given.get("individual_digits") else "together")]
    if kind == "Punctuation":
        return [("punctuation", str(given.get("behavior")))]
    return [(str(kind), *(f"{name}={value}" for name, value in sorted(given.items()) if name != "type"))]


def _plain(expression: str) -> str:
    """An expression in one of the ways it can be written."""
    if expression.startswith(r"\s?[A-Za-zµÀ-Ö") and expression.endswith("]+"):  # some hundred ranges
        return "letters of alphabets"
    for long in (
        "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
        "(?:(?i)'s|'t|'re|'ve|'m|'ll|'d)",
    ):
        expression = expression.replace(long, _CONTRACTION)
    expression = expression.replace(r"\p{N}{1}|", r"\p{N}|")
    return expression.replace("\r", "\\r").replace("\n", "\\n")


_TABLE = {
    tuple((stage[0], _plain(stage[1])) if stage[0] == "split" else stage for stage in stages): name
    for stages, name in _TABLE.items()
}
