"""Tokenizers, from the files beside a checkpoint to the tokenizer.ggml metadata of GGUF.

tokenizer.json is preferred for byte-level BPE ("gpt2"), WordPiece ("bert") and Unigram ("t5"); tokenizer.model for
SentencePiece BPE ("llama"); vocab.json with merges.txt, or vocab.txt, where there is nothing newer. Which ids are special, and
whether they are added to a text, is read from tokenizer_config.json and from the post-processor of tokenizer.json.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from dataclasses import dataclass, field
from typing import Any

from cactus_py.errors import ModelFileError, ModelFormatError, UnsupportedModelError
from cactus_py.hub.conversion import pretokenizers, sentencepiece
from cactus_py.hub.conversion.plan import Job
from cactus_py.hub.conversion.sentencepiece import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

_SPACE = "\u2581"
_MAX_TOKENS = 1 << 24
_KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask", "eot", "eom")
_BERT_TEXTS = {"bos": "[CLS]", "eos": "[SEP]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
_ID_KEYS = {
    "bos": "bos_token_id", "eos": "eos_token_id", "eot": "eot_token_id", "eom": "eom_token_id", "unk": "unknown_token_id",
    "sep": "seperator_token_id", "pad": "padding_token_id", "mask": "mask_token_id",
}  # fmt: skip


# ---- what rows of the tables name -----------------------------------------------------------------------------------------


def byte_level(job: Job) -> None:
    """Byte-level BPE."""
    tokenizer = _tokenizer_json(job)
    model = tokenizer.get("model", {})
    if tokenizer and (model.get("type") != "BPE" or model.get("byte_fallback")):
        kind = model.get("type")
        raise UnsupportedModelError(f"tokenizer.json holds a {kind} tokenizer where {job.arch} has a byte-level BPE.")
    _write_byte_level(job, tokenizer, specials(job, tokenizer))


def any_llama(job: Job) -> None:
    """Llama's family: SentencePiece for the older, byte-level BPE for the newer models."""
    if (prefix := job.json("tokenizer_config.json").get("add_prefix_space")) is not None:
        job.meta.flag("tokenizer.ggml.add_space_prefix", bool(prefix))
    sentencepiece_or_byte_level(job)
    n_tokens = job.config.get("vocab_size")
    if n_tokens == 32016:  # Code Llama
        for name, token in (("prefix", 32007), ("suffix", 32008), ("middle", 32009), ("eot", 32010)):
            job.meta.u32(f"tokenizer.ggml.{name}_token_id", token)
    if n_tokens == 49152:  # Granite's code models
        job.meta.flag("tokenizer.ggml.add_bos_token", False)


def sentencepiece_or_byte_level(job: Job) -> None:
    tokenizer = _tokenizer_json(job)
    model = tokenizer.get("model", {})
    if (job.folder / "tokenizer.model").is_file():
        _write_sentencepiece(job, tokenizer)
    elif model.get("type") == "BPE" and model.get("byte_fallback"):
        _write_bpe_with_bytes(job, tokenizer)
    else:
        byte_level(job)


def gemma(job: Job) -> None:
    """SentencePiece without a space before the text."""
    sentencepiece_or_byte_level(job)
    job.meta.flag("tokenizer.ggml.add_space_prefix", False)
    tokens = job.meta.values["tokenizer.ggml.tokens"][1]
    turn_end = 107
    if len(tokens) > turn_end and tokens[turn_end] in ("<end_of_turn>", b"<end_of_turn>"):
        job.meta.u32("tokenizer.ggml.eot_token_id", turn_end)
    job.config.values["_n_tokens"] = len(tokens)


def phi3(job: Job) -> None:
    """SentencePiece with the added tokens of tokenizer.json; Phi 4 has a byte-level BPE."""
    if (job.folder / "tokenizer.model").is_file():
        _write_sentencepiece(job, _tokenizer_json(job), all_added=True)
    else:
        sentencepiece_or_byte_level(job)


def glm(job: Job) -> None:
    """Byte-level BPE whose turns end with the next speaker's name."""
    tokenizer = _tokenizer_json(job)
    special = specials(job, tokenizer)
    for kind, text in {"eos": "<|endoftext|>", "eot": "<|user|>", "unk": "<|endoftext|>", "bos": "<|endoftext|>"}.items():
        if (token := special.added.get(text)) is not None:
            special.ids.setdefault(kind, token)
    if job.pre is None and tokenizer:  # the same expressions, for models that want no token before the text
        name = pretokenizers.name_of(tokenizer)
        job.pre = {"llama-bpe": "glm4", "dbrx": "chatglm-bpe"}.get(name, name)
    _write_byte_level(job, tokenizer, special)


def wordpiece(job: Job) -> None:
    """BERT's. Pieces that begin a word get a mark, and those that continue one lose theirs."""
    tokenizer = _tokenizer_json(job)
    if tokenizer:
        if (kind := tokenizer.get("model", {}).get("type")) != "WordPiece":
            raise UnsupportedModelError(f"tokenizer.json holds a {kind} tokenizer where {job.arch} has a WordPiece tokenizer.")
        tokens, types = _tokens_of_json(job, tokenizer)
    else:
        tokens, types = _tokens_of_vocab_txt(job)
    marked = []
    for token, token_type in zip(tokens, types, strict=True):
        if token_type == CONTROL:
            marked.append(token)
        else:
            marked.append(token[2:] if token.startswith("##") else _SPACE + token)
    meta = job.meta
    meta.u32("tokenizer.ggml.token_type_count", job.config.maybe_whole("type_vocab_size") or 1)
    meta.text("tokenizer.ggml.model", "bert")
    meta.text("tokenizer.ggml.pre", job.pre or "bert-bge")
    meta.array("tokenizer.ggml.tokens", "text", marked)
    meta.array("tokenizer.ggml.token_type", "i32", types)
    special = specials(job, tokenizer, len(marked))
    if not tokenizer:
        special.texts = _BERT_TEXTS | special.texts
        special.from_texts(tokens)
        special.adds = {"bos": True, "eos": True} | special.adds
        meta.flag("tokenizer.ggml.normalizer.lowercase", bool(job.json("tokenizer_config.json").get("do_lower_case", True)))
    special.write(job)


def roberta(job: Job) -> None:
    """Byte-level BPE or, in XLM-R, Unigram; else WordPiece."""
    tokenizer = _tokenizer_json(job)
    kind = tokenizer.get("model", {}).get("type")
    if kind == "Unigram" or (job.folder / "sentencepiece.bpe.model").is_file():
        unigram(job)
    elif kind == "WordPiece":
        wordpiece(job)
    else:
        byte_level(job)
        job.meta.u32("tokenizer.ggml.token_type_count", job.config.maybe_whole("type_vocab_size") or 1)


def unigram(job: Job) -> None:
    """XLM-R's: scores for pieces, and a table of replacements that is applied first."""
    tokenizer = _tokenizer_json(job)
    path = job.folder / "sentencepiece.bpe.model"
    if path.is_file():
        model = sentencepiece.read(path)
        if model.kind != sentencepiece.UNIGRAM:
            raise UnsupportedModelError(f"{path} is not a Unigram model.")
        types = [NORMAL if kind == USER_DEFINED else kind for kind in model.types]
        # ids as the checkpoints have them: four special tokens, then the pieces behind the model's own three
        texts: list[str | bytes] = [b"<s>", b"<pad>", b"</s>", b"<unk>", *model.texts[3:]]
        scores = [0.0] * 4 + model.scores[3:]
        kinds = [CONTROL, CONTROL, CONTROL, UNKNOWN, *types[3:]]
        _pad(job, texts, kinds, scores)
        charsmap, prefix, remove = model.charsmap, model.add_dummy_prefix, model.remove_extra_whitespaces
    else:
        texts, scores, kinds, charsmap = _unigram_of_json(job, tokenizer)
        config = job.json("tokenizer_config.json")
        prefix, remove = bool(config.get("add_prefix_space", True)), bool(config.get("clean_up_tokenization_spaces", False))
    meta = job.meta
    meta.text("tokenizer.ggml.model", "t5")
    meta.text("tokenizer.ggml.pre", "default")
    meta.array("tokenizer.ggml.tokens", "text", texts)
    meta.array("tokenizer.ggml.scores", "f32", scores)
    meta.array("tokenizer.ggml.token_type", "i32", kinds)
    meta.flag("tokenizer.ggml.add_space_prefix", prefix)
    meta.u32("tokenizer.ggml.token_type_count", job.config.maybe_whole("type_vocab_size") or 1)
    meta.flag("tokenizer.ggml.remove_extra_whitespaces", remove)
    if charsmap:
        meta.array("tokenizer.ggml.precompiled_charsmap", "u8", list(charsmap))
    specials(job, tokenizer, len(texts)).write(job)


# ---- kinds of vocabularies ------------------------------------------------------------------------------------------------


def _write_byte_level(job: Job, tokenizer: dict[str, Any], special: Specials) -> None:
    if tokenizer:
        tokens, types = _tokens_of_json(job, tokenizer)
        merges = _merges(tokenizer)
        pre = job.pre or pretokenizers.name_of(tokenizer)
    else:
        tokens, types, merges = _tokens_of_vocab_json(job, special)
        pre = job.pre or _pre_of_class(job)
    meta = job.meta
    meta.text("tokenizer.ggml.model", "gpt2")
    meta.text("tokenizer.ggml.pre", pre)
    meta.array("tokenizer.ggml.tokens", "text", tokens)
    meta.array("tokenizer.ggml.token_type", "i32", types)
    meta.array("tokenizer.ggml.merges", "text", merges)
    special.write(job)


def _write_sentencepiece(job: Job, tokenizer: dict[str, Any], *, all_added: bool = False) -> None:
    model = sentencepiece.read(job.folder / "tokenizer.model")
    size = _size(job, len(model.texts))
    texts: list[str | bytes] = [f"[PAD{token}]" for token in range(size)]
    scores = [-10000.0] * size
    types = [UNUSED] * size
    n_pieces = min(size, len(model.texts))
    texts[:n_pieces] = model.texts[:n_pieces]
    scores[:n_pieces] = model.scores[:n_pieces]
    types[:n_pieces] = [NORMAL if kind == USER_DEFINED else kind for kind in model.types[:n_pieces]]
    for text, token in job.json("added_tokens.json").items():
        if type(token) is int and 0 <= token < size:
            texts[token], scores[token], types[token] = text, -1000.0, USER_DEFINED
    config = job.json("tokenizer_config.json")
    added = _added_of_config(config)
    if all_added:
        added |= {token: (text, flag) for text, token, flag, _ in _added_tokens(tokenizer)}
    for token, (text, is_special) in added.items():
        if not 0 <= token < size:
            continue
        if is_special or (not all_added and _looks_special(text)):
            types[token] = CONTROL
        else:
            types[token] = USER_DEFINED
            text = text if all_added else text.replace(_SPACE, " ")
        texts[token], scores[token] = text, -1000.0
    _write_llama(job, texts, scores, types, tokenizer)


def _write_bpe_with_bytes(job: Job, tokenizer: dict[str, Any]) -> None:
    """A SentencePiece BPE of which only tokenizer.json is there. What is merged earlier gets the higher score."""
    tokens, types = _tokens_of_json(job, tokenizer)
    rank: dict[str, int] = {}
    for place, merge in enumerate(_pairs(tokenizer)):
        rank.setdefault("".join(merge), place)
    unknown = tokenizer.get("model", {}).get("unk_token")
    scores = []
    for token, text in enumerate(tokens):
        if re.fullmatch("<0x[0-9A-Fa-f]{2}>", text):
            types[token] = BYTE
        elif text == unknown:
            types[token] = UNKNOWN
        scores.append(-float(rank.get(text, len(rank))) if types[token] == NORMAL else 0.0)
    _write_llama(job, list(tokens), scores, types, tokenizer)


def _write_llama(job: Job, texts: list[str | bytes], scores: list[float], types: list[int], tokenizer: dict[str, Any]) -> None:
    meta = job.meta
    meta.text("tokenizer.ggml.model", "llama")
    meta.text("tokenizer.ggml.pre", "default")
    meta.array("tokenizer.ggml.tokens", "text", texts)
    meta.array("tokenizer.ggml.scores", "f32", scores)
    meta.array("tokenizer.ggml.token_type", "i32", types)
    special = specials(job, tokenizer, len(texts))
    special.from_texts([text.decode("utf-8") if isinstance(text, bytes) else text for text in texts])
    special.write(job)


# ---- tokens ---------------------------------------------------------------------------------------------------------------


def _tokenizer_json(job: Job) -> dict[str, Any]:
    tokenizer = job.json("tokenizer.json")
    if tokenizer and not isinstance(tokenizer.get("model"), dict):
        raise ModelFormatError(f"{job.folder / 'tokenizer.json'} has no model.")
    return tokenizer


def _size(job: Job, n_known: int) -> int:
    size = job.config.maybe_whole("vocab_size") or n_known
    if not 0 < size <= _MAX_TOKENS:
        raise ModelFormatError(f"config.json gives the vocabulary {size:,} tokens.")
    return size


def _added_tokens(tokenizer: dict[str, Any]) -> list[tuple[str, int, bool, bool]]:
    """(text, id, special, normalised) of the tokens that tokenizer.json adds to its model's."""
    found = []
    added = tokenizer.get("added_tokens") or []
    for entry in added if isinstance(added, list) else [added]:
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str) or type(entry.get("id")) is not int:
            raise ModelFormatError("tokenizer.json has an added token without content or id.")
        found.append((entry["content"], entry["id"], bool(entry.get("special")), bool(entry.get("normalized"))))
    return found


def _added_of_config(config: dict[str, Any]) -> dict[int, tuple[str, bool]]:
    """id -> (text, special) of added_tokens_decoder."""
    found = {}
    given = config.get("added_tokens_decoder") or {}
    for token, entry in given.items() if isinstance(given, dict) else []:
        if token.isdecimal() and isinstance(entry, dict) and isinstance(entry.get("content"), str):
            found[int(token)] = (entry["content"], bool(entry.get("special")))
    return found


def _vocabulary(model: dict[str, Any]) -> dict[str, int]:
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or not all(type(token) is int and token >= 0 for token in vocabulary.values()):
        raise ModelFormatError("The vocabulary of tokenizer.json is not an object of ids.")
    return vocabulary


def _tokens_of_json(job: Job, tokenizer: dict[str, Any]) -> tuple[list[str], list[int]]:
    by_id = {token: text for text, token in _vocabulary(tokenizer["model"]).items()}
    types = dict.fromkeys(by_id, NORMAL)
    for text, token, is_special, _ in _added_tokens(tokenizer):
        if is_special or _looks_special(text):
            types[token] = CONTROL
        else:
            types[token] = USER_DEFINED
            text = text.replace(_SPACE, " ")
        by_id[token] = text
    return _numbered(job, by_id, types)


def _numbered(job: Job, by_id: dict[int, str], types: dict[int, int]) -> tuple[list[str], list[int]]:
    size = _size(job, max(by_id, default=-1) + 1)
    if by_id and max(by_id) >= size:
        last = max(by_id)
        raise ModelFormatError(f"The tokenizer has a token {last} ({by_id[last]!r}); config.json says {size} tokens.")
    return [by_id.get(token, f"[PAD{token}]") for token in range(size)], [types.get(token, UNUSED) for token in range(size)]


def _tokens_of_vocab_json(job: Job, special: Specials) -> tuple[list[str], list[int], list[str]]:
    """vocab.json and merges.txt, with what added_tokens.json and tokenizer_config.json add."""
    if not (job.folder / "vocab.json").is_file() or not (job.folder / "merges.txt").is_file():
        raise ModelFileError(f"{job.folder} holds neither tokenizer.json nor vocab.json with merges.txt.")
    by_id = {token: text for text, token in _vocabulary({"vocab": job.json("vocab.json")}).items()}
    types = dict.fromkeys(by_id, NORMAL)
    added = {token: (text, False) for text, token in job.json("added_tokens.json").items() if type(token) is int}
    added |= _added_of_config(job.json("tokenizer_config.json"))
    texts = {text for kind, text in special.texts.items() if kind != "unk"}
    for token, text in by_id.items():
        if text in texts:
            added.setdefault(token, (text, True))
    for token, (text, is_special) in added.items():
        by_id[token] = text
        types[token] = CONTROL if is_special or _looks_special(text) else USER_DEFINED
    special.from_texts([by_id.get(token, "") for token in range(max(by_id, default=-1) + 1)])
    lines = (job.folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [line for line in lines if line and not line.startswith("#version")]
    if any(line.count(" ") != 1 for line in merges):
        raise ModelFormatError(f"{job.folder / 'merges.txt'} has a line that is not two words.")
    return *_numbered(job, by_id, types), merges


def _tokens_of_vocab_txt(job: Job) -> tuple[list[str], list[int]]:
    path = job.folder / "vocab.txt"
    try:
        texts = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{job.folder} holds neither tokenizer.json nor a readable vocab.txt.") from error
    texts = [text.rstrip("\r") for text in texts]
    controls = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    by_id = dict(enumerate(texts))
    return _numbered(job, by_id, {token: CONTROL if text in controls else NORMAL for token, text in by_id.items()})


def _unigram_of_json(job: Job, tokenizer: dict[str, Any]) -> tuple[list[str | bytes], list[float], list[int], bytes]:
    model = tokenizer.get("model", {})
    pieces = model.get("vocab")
    if model.get("type") != "Unigram" or not isinstance(pieces, list):
        raise UnsupportedModelError(f"{job.folder} holds no Unigram tokenizer.")
    texts: list[str | bytes] = []
    scores, types = [], []
    for piece in pieces:
        is_pair = isinstance(piece, list) and len(piece) == 2
        if not is_pair or not isinstance(piece[0], str) or type(piece[1]) not in (int, float):
            raise ModelFormatError("The vocabulary of tokenizer.json is not a list of texts with scores.")
        texts.append(piece[0])
        scores.append(float(piece[1]) if math.isfinite(piece[1]) else 0.0)
        types.append(NORMAL)
    unknown = model.get("unk_id")
    for text, token, is_special, _ in _added_tokens(tokenizer):
        if token < len(texts):
            texts[token], types[token] = text, CONTROL if is_special else USER_DEFINED
    if type(unknown) is int and 0 <= unknown < len(types):
        types[unknown] = UNKNOWN
    _pad(job, texts, types, scores)
    return texts, scores, types, _charsmap(tokenizer.get("normalizer"))


def _pad(job: Job, texts: list[str | bytes], types: list[int], scores: list[float]) -> None:
    size = max(_size(job, len(texts)), len(texts))
    for token in range(len(texts), size):
        texts.append(f"[PAD{token}]")
    scores += [-10000.0] * (size - len(scores))
    types += [UNUSED] * (size - len(types))


def _charsmap(normalizer: Any) -> bytes:
    """The table of replacements, wherever it is in the normaliser."""
    if not isinstance(normalizer, dict):
        return b""
    if isinstance(text := normalizer.get("precompiled_charsmap"), str):
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ModelFormatError("The precompiled_charsmap of tokenizer.json is not base64.") from error
    parts = normalizer.get("normalizers") or []
    return next((found for part in parts if (found := _charsmap(part))), b"")


def _pairs(tokenizer: dict[str, Any]) -> list[tuple[str, str]]:
    merges = tokenizer["model"].get("merges")
    if not isinstance(merges, list):
        raise ModelFormatError("tokenizer.json has no list of merges.")
    pairs = []
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) and part for part in pair):
            raise ModelFormatError(f"tokenizer.json has the merge {str(merge)[:60]!r}, which is not two parts.")
        pairs.append((pair[0], pair[1]))
    return pairs


def _merges(tokenizer: dict[str, Any]) -> list[str]:
    """As lines of two words; a blank inside a part is written as byte-level vocabularies write it."""
    return [f"{left} {right}" for left, right in ((a.replace(" ", "Ġ"), b.replace(" ", "Ġ")) for a, b in _pairs(tokenizer))]


def _looks_special(text: str) -> bool:
    """Tokens that models use for structure, though some of their files do not say so."""
    return (
        text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        or (text.startswith("<|") and text.endswith("|>"))
        or (text.startswith("<｜") and text.endswith("｜>"))
        or (text.startswith("<unused") and text.endswith(">"))
    )


def _pre_of_class(job: Job) -> str:
    """For vocabularies without tokenizer.json, which say how they cut text by their class alone."""
    name = str(job.json("tokenizer_config.json").get("tokenizer_class", "")).removesuffix("Fast")
    known = {"GPT2Tokenizer": "gpt-2", "WhisperTokenizer": "gpt-2", "RobertaTokenizer": "gpt-2", "Qwen2Tokenizer": "qwen2"}
    if name not in known:
        raise UnsupportedModelError(
            f"{job.folder} has a vocabulary without tokenizer.json, of the class {name or 'unknown'!r}; name the way it cuts "
            "text with --pre (gpt-2, llama-bpe, qwen2 …)."
        )
    return known[name]


# ---- special tokens -------------------------------------------------------------------------------------------------------


@dataclass
class Specials:
    """Which ids have a role, and which of them are put around a text."""

    n_tokens: int | None = None
    texts: dict[str, str] = field(default_factory=dict)  # role -> text, as tokenizer_config.json has it
    ids: dict[str, int] = field(default_factory=dict)
    adds: dict[str, bool] = field(default_factory=dict)
    added: dict[str, int] = field(default_factory=dict)  # text -> id of the added tokens
    templates: dict[str, str] = field(default_factory=dict)  # name -> chat template
    lowercase: bool | None = None
    strip_accents: bool | None = None

    def from_texts(self, texts: list[str]) -> None:
        """Roles that have a text but no id yet get the id of that text in the vocabulary."""
        places: dict[str, int] = {}
        for token, text in enumerate(texts):
            places.setdefault(text, token)
        for role, text in self.texts.items():
            if role not in self.ids and text in places:
                self.ids[role] = places[text]

    def write(self, job: Job) -> None:
        meta = job.meta
        for role, key in _ID_KEYS.items():
            token = self.ids.get(role)
            if token is not None and (self.n_tokens is None or token < self.n_tokens):
                meta.u32(f"tokenizer.ggml.{key}", token)
        for role, wanted in self.adds.items():
            meta.flag(f"tokenizer.ggml.add_{role}_token", wanted)
        names = sorted(name for name in self.templates if name != "default")
        for name in names:
            meta.text(f"tokenizer.chat_template.{name}", self.templates[name])
        if names:
            meta.array("tokenizer.chat_templates", "text", names)
        if "default" in self.templates:
            meta.text("tokenizer.chat_template", self.templates["default"])
        if self.lowercase is not None:
            meta.flag("tokenizer.ggml.normalizer.lowercase", self.lowercase)
        if self.strip_accents is not None:
            meta.flag("tokenizer.ggml.normalizer.strip_accents", self.strip_accents)


def specials(job: Job, tokenizer: dict[str, Any], n_tokens: int | None = None) -> Specials:
    """From tokenizer_config.json, the post-processor of tokenizer.json and config.json, in this order."""
    config = job.json("tokenizer_config.json")
    found = Specials(n_tokens)
    for role in _KINDS:
        entry = config.get(f"{role}_token")
        entry = entry.get("content") if isinstance(entry, dict) else entry
        if isinstance(entry, str):
            found.texts[role] = entry
    found.added = {text: token for text, token, _, _ in _added_tokens(tokenizer)}
    roles = list(_KINDS[:7])
    if tokenizer:
        for role, stand_in in (("bos", "cls"), ("eos", "sep")):
            if role not in found.texts and stand_in in found.texts:
                found.texts[role] = found.texts[stand_in]
        _read_normalizer(found, tokenizer.get("normalizer"))
        post = tokenizer.get("post_processor")
        for processor in post.get("processors", [post]) if isinstance(post, dict) else []:
            if isinstance(processor, dict):
                _read_processor(found, processor, roles)
    for role in roles:
        wanted = config.get(f"add_{role}_token")
        if isinstance(wanted, bool):
            found.adds.setdefault(role, wanted)
        token = found.added.get(found.texts.get(role, ""))
        if token is not None:
            found.ids[role] = token
    for role in roles:
        token = job.config.get(f"{role}_token_id")
        if type(token) is int and token >= 0:
            found.ids.setdefault(role, token)
    found.templates = _templates(job, config)
    return found


def _read_normalizer(found: Specials, normalizer: Any) -> None:
    if not isinstance(normalizer, dict):
        return
    kind = normalizer.get("type")
    if kind == "Lowercase":
        found.lowercase = True
    elif kind == "StripAccents":
        found.strip_accents = True
    elif kind == "BertNormalizer":
        if isinstance(flag := normalizer.get("lowercase"), bool):
            found.lowercase = flag
        if isinstance(flag := normalizer.get("strip_accents"), bool):
            found.strip_accents = flag
    elif kind == "Sequence":
        for part in normalizer.get("normalizers") or []:
            _read_normalizer(found, part)


def _read_processor(found: Specials, processor: dict[str, Any], roles: list[str]) -> None:
    kind = processor.get("type")
    if kind == "ByteLevel":
        found.adds.setdefault("bos", False)
        found.adds.setdefault("eos", False)
    elif kind == "RobertaProcessing":
        found.adds |= {"bos": True, "eos": True, "sep": True}
        for role in ("cls", "sep"):
            pair = processor.get(role)
            if isinstance(pair, list) and pair and isinstance(pair[0], str):
                found.texts.setdefault(role, pair[0])
    elif kind == "TemplateProcessing":
        _read_template(found, processor, roles)


def _special_at(items: list[Any], place: int) -> str | None:
    try:
        name = items[place]["SpecialToken"]["id"]
    except (IndexError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None


def _read_template(found: Specials, processor: dict[str, Any], roles: list[str]) -> None:
    """What stands before and behind one text, and between two."""
    single, pair = processor.get("single") or [], processor.get("pair") or []
    first = _special_at(single, 0) if len(single) > 1 else None
    last = _special_at(single, -1) if len(single) > 1 else None
    texts = found.texts
    if first:
        if first not in (texts.get("bos"), texts.get("cls")):
            texts.setdefault("bos", first)
            texts.setdefault("cls", first)
        found.adds["bos"] = first in (texts.get("bos"), texts.get("cls"))
    if last:
        if last != texts.get("eos"):  # the text ends otherwise than a turn
            spare = next((role for role in ("eot", "eom") if role not in roles), None)
            if spare is not None and "eos" in texts:
                roles.append(spare)
                texts[spare] = texts["eos"]
            texts["eos"] = last
        found.adds["eos"] = True
    if not pair:
        return
    begin = 1 if first and _special_at(pair, 0) == first else 0
    middle = pair[begin : len(pair) - 1 if last and _special_at(pair, -1) == last else len(pair)][1:-1]
    if not middle:
        return
    separators = (texts.get("sep"), texts.get("eos"))
    between = _special_at(middle, 0)
    add = between is not None and between in separators and not last
    if len(middle) == 2 and (second := _special_at(middle, 1)) is not None and second in separators:
        add = True
    found.adds["sep"] = add
    if add and "sep" not in texts and "eos" in texts:
        texts["sep"] = texts["eos"]


def _templates(job: Job, config: dict[str, Any]) -> dict[str, str]:
    """name -> chat template; the usual one is "default"."""
    given = config.get("chat_template")
    if given is None:
        path = job.folder / "chat_template.jinja"
        if path.is_file():
            try:
                found = {"default": path.read_text(encoding="utf-8")}
                for other in sorted((job.folder / "additional_chat_templates").glob("*.jinja")):
                    found[_word(other.stem)] = other.read_text(encoding="utf-8")
                return found
            except (OSError, UnicodeDecodeError) as error:
                raise ModelFileError(f"{path} cannot be read: {error}.") from error
        given = job.json("chat_template.json").get("chat_template")
    if isinstance(given, str):
        return {"default": given}
    found = {}
    for entry in given if isinstance(given, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("template"), str) and isinstance(entry.get("name"), str):
            found[_word(entry["name"])] = entry["template"]
    return found


def _word(name: str) -> str:
    return re.sub("[^A-Za-z0-9]", "_", name)
