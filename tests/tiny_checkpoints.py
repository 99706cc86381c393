"""Tiny Hugging Face checkpoints, written with numpy alone: random weights by name, shapes and configurations from a JSON file.

tests/data/convert/checkpoints.json (made by scripts/make_convert_references.py with transformers) says which tensors there are;
the values are integers over 64 by a seed of the tensor's name: exact in BF16, F16 and F32. Nothing here is a model
that says anything.
"""

from __future__ import annotations

import base64
import json
import math
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "U8": 1}
MERGES = ["t h", "h e", "i n", "e r", "a n", "Ġ t", "Ġ a", "Ġt he"]
CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = (
    CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)  # the expression of Llama 3's tokenizer.json
QWEN2 = LLAMA3.replace("{1,3}", "")


def values(name: str, dtype: str, shape: list[int], seed: str = "") -> bytes:
    """The bytes of one tensor."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(f"{seed}/{name}".encode())))
    n = math.prod(shape)
    if dtype == "U8":
        low, high = (110, 130) if name.endswith("_scales") else (0, 256)
        return rng.integers(low, high, n, dtype=np.uint8).tobytes()
    if dtype == "F8_E4M3":
        return (rng.integers(0, 0x7F, n, dtype=np.uint8) | (rng.integers(0, 2, n, dtype=np.uint8) << 7)).tobytes()
    numbers = rng.integers(-100, 101, n).astype(np.float32) / np.float32(64)
    if dtype == "BF16":
        return (numbers.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return numbers.astype(np.float16 if dtype == "F16" else np.float32).tobytes()


def safetensors(tensors: Mapping[str, tuple[str, list[int], bytes]], **changes: Any) -> bytes:
    """The bytes of a file; `changes` replace entries of the header."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    for name, change in changes.items():
        header[name] = header[name] | change if isinstance(change, dict) else change
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values())


def write(folder: Path, description: Mapping[str, Any], seed: str = "") -> Path:
    """The checkpoint of a description: config, tensors by name, tokenizer, further JSON files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(description["config"]), encoding="utf-8")
    tensors = {
        name: (dtype, shape, values(name, dtype, shape, seed))
        for name, (dtype, shape) in expanded(description["tensors"]).items()
    }
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    TOKENIZERS[description["tokenizer"]](folder)
    for name, content in description.get("files", {}).items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def expanded(tensors: Mapping[str, list[Any]]) -> dict[str, tuple[str, list[int]]]:
    """Names with their numbers: `a.{}.b: [dtype, shape, [[0], [1]]]` stands for a.0.b and a.1.b."""
    found = {}
    for name, (dtype, shape, *numbers) in tensors.items():
        for row in numbers[0] if numbers else [[]]:
            found[name.format(*row)] = (dtype, shape)
    return found


# ---- tokenizers -----------------------------------------------------------------------------------------------------------


def byte_characters() -> list[str]:
    """The printable character that byte-level vocabularies write for each byte."""
    shown = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    hidden = [b for b in range(256) if b not in shown]
    return [chr(b) if b in shown else chr(256 + hidden.index(b)) for b in range(256)]


def added(token: int, text: str, special: bool = True, normalized: bool = False) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": normalized, "special": special}
    return {"id": token, "content": text, **flags}


def template(first: str, last: str | None, ids: Mapping[str, int]) -> dict[str, Any]:
    """A post-processor that puts `first` before and `last` behind a text."""

    def special(text: str, kind: int = 0) -> dict[str, Any]:
        return {"SpecialToken": {"id": text, "type_id": kind}}

    end = [special(last)] if last else []
    single = [special(first), {"Sequence": {"id": "A", "type_id": 0}}, *end]
    second = [*([special(last)] if last == "</s>" else []), *([] if last else [special(first, 1)])]
    pair = [*single, *second, {"Sequence": {"id": "B", "type_id": 1}}, *end]
    tokens = {text: {"id": text, "ids": [token], "tokens": [text]} for text, token in ids.items()}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}


def bytes_stage(words: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": words}


def split_stage(expression: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "llama-bpe": {"type": "Sequence", "pretokenizers": [split_stage(LLAMA3), bytes_stage(False)]},
    "qwen2": {"type": "Sequence", "pretokenizers": [split_stage(QWEN2), bytes_stage(False)]},
    "gpt-2": bytes_stage(True),
    "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, bytes_stage(True)]},
}


def byte_level(folder: Path, pre: str = "llama-bpe", post: dict[str, Any] | None = None) -> None:
    tokens = ["<|begin|>", "<|end|>", "<|pad|>", *byte_characters(), *(merge.replace(" ", "") for merge in MERGES)]
    n = len(tokens)
    extra = [
        *(added(token, text) for token, text in enumerate(tokens[:3])), added(n, "<tool>", False), added(n + 1, "<|user|>"),
        added(n + 2, "<|endoftext|>"), added(n + 3, "a▁norm", False, True),
    ]  # fmt: skip
    steps = [bytes_stage(True), *([template("<|begin|>", None, {"<|begin|>": 0})] if pre in ("llama-bpe", "smollm") else [])]
    tokenizer = {
        "version": "1.0",
        "added_tokens": extra,
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": PRE_TOKENIZERS[pre],
        "post_processor": post or {"type": "Sequence", "processors": steps},
        "decoder": bytes_stage(True),
        "model": {
            "type": "BPE", "ignore_merges": pre == "llama-bpe", "byte_fallback": False, "merges": MERGES,
            "vocab": {text: token for token, text in enumerate(tokens)},
        },
    }  # fmt: skip
    write_json(folder / "tokenizer.json", tokenizer)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin|>", "eos_token": "<|end|>"}
    chat = "{% for m in messages %}<|{{m.role}}|>{{m.content}}{% endfor %}"
    write_json(folder / "tokenizer_config.json", {**config, "pad_token": "<|pad|>", "chat_template": chat})


def roberta(folder: Path) -> None:
    post = {"type": "RobertaProcessing", "sep": ["<|end|>", 1], "cls": ["<|begin|>", 0], "trim_offsets": True}
    byte_level(folder, "gpt-2", {**post, "add_prefix_space": False})


PIECES = ["▁t", "he", "▁the", "in", "▁a", "er", "▁", "e", "t", "a", "o", "n", "h", "i", "s", "r"]


def sentencepiece_model(kind: int = 2) -> bytes:
    """A tokenizer.model: unknown, begin, end, pad, the 256 bytes and a few pieces."""

    def field(number: int, value: bytes | int | float) -> bytes:
        if isinstance(value, bytes):
            return varint(number << 3 | 2) + varint(len(value)) + value
        if isinstance(value, float):
            return varint(number << 3 | 5) + struct.pack("<f", value)
        return varint(number << 3) + varint(value)

    def piece(text: str, score: float, type_: int) -> bytes:
        return field(1, field(1, text.encode()) + field(2, score) + field(3, type_))

    out = [piece("<unk>", 0.0, 2), piece("<s>", 0.0, 3), piece("</s>", 0.0, 3), piece("<pad>", 0.0, 3)]
    if kind == 2:
        out += [piece(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    out += [piece(text, -float(rank), 1) for rank, text in enumerate(PIECES)]
    trainer = field(3, kind) + (field(35, 1) if kind == 2 else b"") + field(43, 3)
    return b"".join(out) + field(2, trainer) + field(3, field(1, b"identity") + field(3, 1) + field(4, 0))


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def sentencepiece(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    special = {str(token): {"content": text, "special": True} for token, text in enumerate(["<unk>", "<s>", "</s>"])}
    own = {"276": {"content": "<|user|>", "special": False}, "277": {"content": "x▁y", "special": False}}
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    flags = {"add_bos_token": True, "add_eos_token": False}
    write_json(folder / "tokenizer_config.json", {**config, **flags, "added_tokens_decoder": {**special, **own}})


WORD_PIECES = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(33, 127)), *(f"##{chr(c)}" for c in range(97, 123)),
    "the", "and", "##ing", "##ed",
]  # fmt: skip


def wordpiece(folder: Path) -> None:
    tokenizer = {
        "version": "1.0",
        "added_tokens": [added(token, text) for token, text in enumerate(WORD_PIECES[:5])],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": template("[CLS]", "[SEP]", {"[CLS]": 2, "[SEP]": 3}),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": {text: token for token, text in enumerate(WORD_PIECES)},
        },
    }  # fmt: skip
    tokenizer["normalizer"] = {**tokenizer["normalizer"], "strip_accents": None}  # type: ignore[dict-item]
    write_json(folder / "tokenizer.json", tokenizer)
    names = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    write_json(folder / "tokenizer_config.json", {**config, **{f"{role}_token": text for role, text in names.items()}})
    (folder / "1_Pooling").mkdir(exist_ok=True)
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True})
    kind = "sentence_transformers.models."
    modules = [{"path": "", "type": f"{kind}Transformer"}, {"path": "1_Pooling", "type": f"{kind}Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")


# A trie of darts-clone with no entries, and no texts: as long as the format wants it.
CHARSMAP = struct.pack("<I", 1024) + bytes(1024) + b"\0"


def unigram(folder: Path) -> None:
    pieces = [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0]]
    pieces += [[text, -1.5 - rank] for rank, text in enumerate(PIECES)] + [["<mask>", 0.0]]
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [*(added(token, text) for token, text in enumerate(names)), added(len(pieces) - 1, "<mask>")],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(CHARSMAP).decode()},
        "pre_tokenizer": metaspace,
        "post_processor": template("<s>", "</s>", {"<s>": 0, "</s>": 2}),
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": pieces, "byte_fallback": False},
    }
    write_json(folder / "tokenizer.json", tokenizer)
    roles = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    config = {"tokenizer_class": "XLMRobertaTokenizer", **{f"{role}_token": text for role, text in roles.items()}}
    write_json(folder / "tokenizer_config.json", config)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


TOKENIZERS: dict[str, Callable[[Path], None]] = {
    **{pre: lambda folder, pre=pre: byte_level(folder, pre) for pre in PRE_TOKENIZERS},  # type: ignore[misc]
    "roberta": roberta,
    "sentencepiece": sentencepiece,
    "wordpiece": wordpiece,
    "unigram": unigram,
    "none": lambda folder: None,
}
N_TOKENS = {"sentencepiece": 280, "wordpiece": len(WORD_PIECES), "unigram": len(PIECES) + 5}  # byte-level: 272


# ---- reading what was made ------------------------------------------------------------------------------------------------


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, tuple[int, ...], bytes]]]:
    """Metadata, and tensors as (type, shape as numpy has it, bytes): a reader of the format's own description."""
    data = path.read_bytes()
    at = 24
    version, n_tensors, n_values = struct.unpack_from("<IQQ", data, 4)
    assert data[:4] == b"GGUF" and version == 3

    def number(form: str) -> Any:
        nonlocal at
        (value,) = struct.unpack_from(form, data, at)
        at += struct.calcsize(form)
        return value

    def text() -> str:
        nonlocal at
        n = number("<Q")
        at += n
        return data[at - n : at].decode("utf-8", "surrogateescape")

    forms = ["<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?"]

    def value(kind: int) -> Any:
        if kind == 8:
            return text()
        if kind == 9:
            inner, n = number("<I"), number("<Q")
            return [value(inner) for _ in range(n)]
        return number(forms[kind])

    metadata = {}
    for _ in range(n_values):
        key = text()
        kind = number("<I")
        metadata[key] = value(kind)
    infos = []
    for _ in range(n_tensors):
        name, n_axes = text(), number("<I")
        shape = tuple(number("<Q") for _ in range(n_axes))[::-1]
        infos.append((name, shape, number("<I"), number("<Q")))
    base = at + -at % 32
    per = {0: (1, 4), 1: (1, 2), 8: (32, 34), 30: (1, 2), 39: (32, 17)}
    tensors = {}
    for name, shape, kind, offset in infos:
        n_elems, n_bytes = per[kind]
        size = math.prod(shape) // n_elems * n_bytes
        assert offset % 32 == 0 and base + offset + size <= len(data)
        tensors[name] = (kind, shape, data[base + offset : base + offset + size])
    return metadata, tensors


def floats(tensor: tuple[int, tuple[int, ...], bytes]) -> NDArray[np.float32]:
    """The values of an F32 tensor."""
    kind, shape, data = tensor
    assert kind == 0
    return np.frombuffer(data, np.float32).reshape(shape)
