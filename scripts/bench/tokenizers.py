"""How fast texts become ids, next to Hugging Face's tokenizers on one thread: the same vocabulary, the same text, the same ids.

    python scripts/bench/tokenizers.py VOCABULARY.gguf ... [--rounds 7] [--megabytes 1] [--text FILE ...]

Needs the packages tokenizers and gguf. From each file's metadata the equal tokenizer of the other side is built; ids that
differ are an error, unless --differ allows them. Sides alternate; reported are the time to load our side, the medians of the
time to encode, and their ratio (above 1: ours is faster). The other side runs encode_batch_fast, which spares it the
offsets. The text is English by default: tests/data/text and Python's own language reference; files given are cut to
--megabytes.
"""

from __future__ import annotations

import argparse
import os
import pydoc_data.topics
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]  # this file is no package

from gguf import GGUFReader  # noqa: E402
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers  # noqa: E402

from cactus_py.engine import Tokenizer as Ours  # noqa: E402

TEXTS = Path(__file__).resolve().parent.parent.parent / "tests" / "data" / "text"
CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
NON_WORD = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + NON_WORD
QWEN2 = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + NON_WORD


def byte_level(fields: dict[str, Any]) -> Any:
    """The other side of tokenizer.ggml.model "gpt2"."""
    tokens, pre = fields["tokens"], fields.get("pre", "")
    merges = [tuple(merge.split(" ", 1)) for merge in fields["merges"]]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pre == "llama-bpe"))
    if pre in ("llama-bpe", "qwen2"):
        split = pre_tokenizers.Split(Regex(LLAMA3 if pre == "llama-bpe" else QWEN2), "isolated")
        parts = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    elif pre in ("gpt-2", "smollm"):
        digits = [pre_tokenizers.Digits(individual_digits=True)] if pre == "smollm" else []
        parts = [*digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        raise SystemExit(f"no equal of the pre-tokenizer {pre!r} is written down here")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    return tokenizer


def sentencepiece(fields: dict[str, Any]) -> Any:
    """That of "llama": merges are the pairs that make a token, in the order of its score."""
    tokens, types = fields["tokens"], fields["token_type"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    normal = {token for token, kind in zip(tokens, types, strict=True) if kind == 1}
    merges = []
    for token, score, kind in zip(tokens, fields["scores"], types, strict=True):
        if kind != 1:
            continue
        for cut in range(1, len(token)):
            if token[:cut] in normal and token[cut:] in normal:
                merges.append((-score, vocabulary[token], token[:cut], token[cut:]))
    merges.sort(key=lambda m: (m[0], m[1]))
    unknown = tokens[fields.get("unknown_token_id", 0)]
    model = models.BPE(vocabulary, [(a, b) for _, _, a, b in merges], unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    steps = [normalizers.Prepend("▁")] if fields.get("add_space_prefix", True) else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    return tokenizer


def unigram(fields: dict[str, Any]) -> Any:
    """That of "t5"."""
    scores = list(zip(fields["tokens"], fields["scores"], strict=True))
    tokenizer = Tokenizer(models.Unigram(scores, fields["unknown_token_id"], byte_fallback=6 in fields["token_type"]))
    steps: list[Any] = []
    if "precompiled_charsmap" in fields:
        steps.append(normalizers.Precompiled(bytes(fields["precompiled_charsmap"])))
    if fields.get("remove_extra_whitespaces"):
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    prefix = "always" if fields.get("add_space_prefix") else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix)
    return tokenizer


def wordpiece(fields: dict[str, Any]) -> Any:
    """That of "bert"."""
    special = [kind != 1 for kind in fields["token_type"]]
    texts = [
        token if plain else token[1:] if token.startswith("▁") else "##" + token
        for token, plain in zip(fields["tokens"], special, strict=True)
    ]
    unknown = texts[fields["unknown_token_id"]]
    tokenizer = Tokenizer(models.WordPiece({text: i for i, text in enumerate(texts)}, unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def other_side(path: str) -> Any:
    """The tokenizer that gives the ids of this file, built from its metadata."""
    prefix = "tokenizer.ggml."
    fields = {k[len(prefix) :]: v.contents() for k, v in GGUFReader(path).fields.items() if k.startswith(prefix)}
    tokenizer = {"gpt2": byte_level, "llama": sentencepiece, "t5": unigram, "bert": wordpiece}[fields["model"]](fields)
    tokenizer.add_tokens([token for token, kind in zip(fields["tokens"], fields["token_type"], strict=True) if kind == 4])
    return tokenizer


def default_text() -> str:
    """English: two books' chapters and the reference of the Python language."""
    books = [(TEXTS / f"{name}.txt").read_text("utf-8") for name in ("alice", "workshop")]
    return "\n".join([*books, *pydoc_data.topics.topics.values()])


def ms(start: float) -> float:
    return 1e3 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vocabularies", nargs="+")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=float, default=1.0)
    parser.add_argument("--text", nargs="+", type=Path)
    parser.add_argument("--differ", action="store_true", help="go on where the ids are not the same")
    arguments = parser.parse_args()
    text = "\n".join(p.read_text("utf-8") for p in arguments.text) if arguments.text else default_text()
    size = int(arguments.megabytes * 1e6)
    raw = text.encode()
    text = (raw * (size // len(raw) + 1))[:size].decode("utf-8", "ignore")
    print(f"{'vocabulary':34}{'tokens':>9}{'load ms':>9}{'ours ms':>9}{'theirs ms':>11}{'ratio':>8}{'MB/s':>8}")
    for path in arguments.vocabularies:
        start = time.perf_counter()
        ours = Ours.load(path)
        load_ms = ms(start)
        theirs = other_side(path)
        ids, wanted = ours.encode(text), theirs.encode(text, add_special_tokens=False).ids
        if ids != wanted:
            at = next(
                (i for i, pair in enumerate(zip(ids, wanted, strict=False)) if pair[0] != pair[1]), min(len(ids), len(wanted))
            )
            message = f"{path}: token {at} is {ids[at : at + 4]}, and {wanted[at : at + 4]} on the other side"
            if not arguments.differ:
                raise SystemExit(message)
            print(message)
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(arguments.rounds):
            start = time.perf_counter()
            ours.encode(text)
            times[0].append(ms(start))
            start = time.perf_counter()
            _ = theirs.encode_batch_fast([text], add_special_tokens=False)[0].ids
            times[1].append(ms(start))
        a, b = (statistics.median(side) for side in times)
        name = Path(path).stem[-33:]
        print(f"{name:34}{len(ids):9}{load_ms:9.1f}{a:9.1f}{b:11.1f}{b / a:8.1f}{len(text.encode()) / a / 1e3:8.1f}")


if __name__ == "__main__":
    main()
