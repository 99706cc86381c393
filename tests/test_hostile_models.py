"""Model files that lie. Each is a good file damaged in one place; each must be refused in a sentence that names the place.

Files are opened in a child process, one line of output per file, so that a crash is a failed test that names its file and
not the end of the test run. What the child accepts it also computes with, so a file that should have been refused has the
chance to do harm there.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf_edit
import numpy as np
import pytest
from gguf_edit import ARRAY, BOOL, F32, F64, I32, I64, STRING, U8, U16, U32, U64, Array, Gguf, Value
from packed import unpacked

FORMAT, UNSUPPORTED, FILE = "ModelFormatError", "UnsupportedModelError", "ModelFileError"
REFUSED = {FORMAT, UNSUPPORTED, FILE}
ACCEPTED = "accepted"

CHILD = r"""
import hashlib, json, sys
from cactus_py.engine import Model
from cactus_py.errors import CactusError

def peak_bytes():
    try:  # ru_maxrss would start with what the parent had when it forked
        lines = open("/proc/self/status").read().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except OSError:
        return 0

def compute(model):
    if not model.info.generates:
        return hashlib.sha256(model.embed_ids([[0, 1, 2, 1], [0]]).tobytes()).hexdigest()
    scores = model.logits([0, 1, 2, 1]) if model.info.vocabulary > 2 else model.logits([0])
    list(model.generate([0, 1], max_tokens=3, sampling={"temperature": 1.0, "ignore_eos": True}))
    model.detokenize(model.tokenize("Bridges, and 12 stones\n"))
    return hashlib.sha256(scores.tobytes()).hexdigest()

for path in sys.stdin.read().splitlines():
    stage = "load"
    try:
        model = Model.load(path, threads=2)
        stage = "compute"
        try:
            message = compute(model)
        finally:
            model.close()
        outcome = "accepted"
    except CactusError as error:
        outcome, message = type(error).__name__, str(error)
    print(json.dumps({"stage": stage, "outcome": outcome, "message": message, "peak": peak_bytes()}), flush=True)
"""


@dataclass
class Outcome:
    """What became of one file: at which stage, which exception with what message (or "accepted" and a digest of scores), and
    the child's peak memory so far."""

    stage: str
    outcome: str
    message: str
    peak: int


def open_all(paths: list[Path]) -> list[Outcome]:
    """Opens every file in a child process. One that brings the child down ("crashed") or hangs it ("hung") costs that child
    only: the files behind it are opened by the next one."""
    outcomes: list[Outcome] = []
    while len(outcomes) < len(paths):
        lines, ended = run_child(paths[len(outcomes) :])
        outcomes += [Outcome(**line) for line in lines if "outcome" in line]
        if len(outcomes) < len(paths):
            outcomes.append(Outcome("load", *ended, peak=0))
    return outcomes


def run_child(paths: list[Path]) -> tuple[list[dict[str, Any]], tuple[str, str]]:
    """What one child printed, and how it ended: ("crashed" or "hung", the end of its error output)."""
    python_path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    child = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": python_path, "PYTHONIOENCODING": "utf-8"},
    )
    how = "crashed"
    with child:
        try:
            out, err = child.communicate("\n".join(map(str, paths)).encode(), timeout=240)
        except subprocess.TimeoutExpired:
            how = "hung"
            child.kill()
            out, err = child.communicate()
    whole_lines = out.decode("utf-8", "replace").rpartition("\n")[0].splitlines()
    return [json.loads(line) for line in whole_lines], (how, f"exit {child.returncode}: {err.decode(errors='replace')[-2000:]}")


def check_sentence(message: str) -> None:
    """A sentence for a person: one line, printable, not endless, no internals."""
    assert message and len(message) < 1024, message
    assert message.isprintable(), message
    assert not re.search(r"0x[0-9a-f]{6,}|\.c:\d+|Traceback", message), message


# ---- one damage each ----

Edit = Callable[[Gguf], None]
CASES: dict[str, tuple[str, Edit, set[str], str]] = {}  # name -> (base file, edit, exceptions, pattern in the message)


def case(name: str, edit: Edit, expected: str | set[str], pattern: str, base: str = "untied-gqa") -> None:
    """Adds a case."""
    assert name not in CASES
    CASES[name] = (base, edit, {expected} if isinstance(expected, str) else expected, pattern)


def setting(**fields: Any) -> Edit:
    """Sets fields of the file (magic, version, counts)."""

    def edit(gguf: Gguf) -> None:
        for name, value in fields.items():
            setattr(gguf, name, value)

    return edit


def value(key: str, kind: int, data: Any, count: int | None = None) -> Edit:
    """Sets a metadata value."""

    def edit(gguf: Gguf) -> None:
        gguf.values[key] = Value(kind, data, count)

    return edit


def without(key: str) -> Edit:
    """Removes a metadata value."""

    def edit(gguf: Gguf) -> None:
        del gguf.values[key]

    return edit


def tensor(which: str, /, **fields: Any) -> Edit:
    """Sets fields of a tensor."""

    def edit(gguf: Gguf) -> None:
        for field, data in fields.items():
            setattr(gguf.tensor(which), field, data)

    return edit


def without_tensor(name: str) -> Edit:
    """Removes a tensor."""
    return lambda gguf: gguf.remove_tensor(name)


def resized(key: str, change: int) -> Edit:
    """Makes a metadata array longer (the last element again) or shorter."""

    def edit(gguf: Gguf) -> None:
        items = gguf.values[key].data.items
        gguf.values[key].data.items = items[:change] if change < 0 else items + items[-1:] * change

    return edit


def add_tensor(name: str, dims: list[int], data: bytes, kind: int = 0) -> Edit:
    """Appends a tensor."""
    return lambda gguf: gguf.tensors.append(gguf_edit.Tensor(name.encode(), dims, kind, data))


def header_cases() -> None:
    """The first 24 bytes."""
    case("magic", setting(magic=b"GGUX"), FORMAT, r"GGUF")
    case("magic-ggml", setting(magic=b"lmgg"), {FORMAT, UNSUPPORTED}, r"GGUF")
    case("magic-zip", setting(magic=b"PK\3\4"), FORMAT, r"GGUF")
    for version in (0, 1, 4, 999, 0x03000000):
        case(f"version-{version}", setting(version=version), {FORMAT, UNSUPPORTED}, r"version|endian")
    for n in (2**16, 2**31, 2**32, 2**40, 2**63, 2**64 - 1):
        case(f"n-tensors-{n}", setting(n_tensors=n), FORMAT, r".")
        case(f"n-values-{n}", setting(n_values=n), FORMAT, r".")
    case("n-tensors-one-more", lambda g: setattr(g, "n_tensors", len(g.tensors) + 1), FORMAT, r".")
    case("n-values-one-more", lambda g: setattr(g, "n_values", len(g.values) + 1), FORMAT, r".")
    case("n-values-one-less", lambda g: setattr(g, "n_values", len(g.values) - 1), FORMAT, r".")
    case("no-tensors", setting(tensors=[]), FORMAT, r"token_embd\.weight|no tensors")
    case("no-values", setting(values={}), FORMAT, r"general\.architecture")
    for alignment in (0, 3, 31, 2**31, 2**32 - 1):
        case(f"alignment-{alignment}", value("general.alignment", U32, alignment), {FORMAT, UNSUPPORTED}, r"alignment")
    case("alignment-text", value("general.alignment", STRING, "32"), FORMAT, r"alignment")


REQUIRED = [
    "block_count", "embedding_length", "feed_forward_length", "attention.head_count", "context_length",
    "attention.layer_norm_rms_epsilon",
]  # fmt: skip


def hyper_parameter_cases() -> None:
    """Numbers that the shapes of everything come from."""
    case("no-architecture", without("general.architecture"), FORMAT, r"general\.architecture")
    case("architecture-foo", value("general.architecture", STRING, "foo"), UNSUPPORTED, r"foo")
    case("architecture-empty", value("general.architecture", STRING, ""), {FORMAT, UNSUPPORTED}, r"rchitecture")
    case("architecture-long", value("general.architecture", STRING, "x" * 5000), {FORMAT, UNSUPPORTED}, r"xxx")
    case("architecture-bytes", value("general.architecture", STRING, b"ll\xff\x00ma\n"), {FORMAT, UNSUPPORTED}, r"rchitecture")
    case("architecture-format", value("general.architecture", STRING, "%s%n%s%n"), UNSUPPORTED, r"%s%n")
    case("architecture-number", value("general.architecture", U32, 7), FORMAT, r"general\.architecture")
    for key in REQUIRED:
        pattern = re.escape(f"llama.{key}")
        case(f"no-{key}", without(f"llama.{key}"), FORMAT, pattern)
        case(f"{key}-text", value(f"llama.{key}", STRING, "2"), FORMAT, pattern)
        case(f"{key}-strings", value(f"llama.{key}", ARRAY, Array(STRING, ["2"])), FORMAT, pattern)
        case(f"{key}-no-elements", value(f"llama.{key}", ARRAY, Array(U32, [])), FORMAT, pattern)
        case(f"{key}-nan", value(f"llama.{key}", F32, math.nan), FORMAT, pattern)
        case(f"{key}-infinite", value(f"llama.{key}", F32, math.inf), FORMAT, pattern)
        case(f"{key}-negative", value(f"llama.{key}", F32 if "epsilon" in key else I32, -1), FORMAT, pattern)
    for key in [*REQUIRED[:-1], "attention.head_count_kv", "attention.key_length", "attention.value_length"]:
        pattern = re.escape(f"llama.{key}")
        for number in (0, 2**31, 2**32 - 1):
            case(f"{key}-{number}", value(f"llama.{key}", U32, number), FORMAT, pattern)
        case(f"{key}-wide", value(f"llama.{key}", U64, 2**40), FORMAT, pattern)
        case(f"{key}-wide-negative", value(f"llama.{key}", I64, -(2**40)), FORMAT, pattern)
    case("eps-huge", value("llama.attention.layer_norm_rms_epsilon", F32, 1e30), FORMAT, r"epsilon")
    case("eps-double", value("llama.attention.layer_norm_rms_epsilon", F64, math.nan), FORMAT, r"epsilon")
    case("kv-does-not-divide", value("llama.attention.head_count_kv", U32, 4), FORMAT, r"head_count_kv is 4")
    case("kv-more-than-heads", value("llama.attention.head_count_kv", U32, 12), FORMAT, r"head_count_kv is 12")
    case("heads-7", value("llama.attention.head_count", U32, 7), FORMAT, r"head_count|attn_q")
    case("heads-differ", value("llama.attention.head_count", ARRAY, Array(U32, [6, 3])), {FORMAT, UNSUPPORTED}, r"head_count")
    case("layers-one-more", value("llama.block_count", U32, 3), FORMAT, r"blk\.2\.")
    case("layers-one-less", value("llama.block_count", U32, 1), {FORMAT, UNSUPPORTED}, r"blk\.1\.")
    case("layers-many", value("llama.block_count", U32, 1000), FORMAT, r"blk\.2\.")
    case("d-model-off", value("llama.embedding_length", U32, 61), FORMAT, r"token_embd\.weight")
    case("d-model-large", value("llama.embedding_length", U32, 2**17), FORMAT, r"token_embd\.weight")
    case("d-ff-off", value("llama.feed_forward_length", U32, 81), FORMAT, r"ffn_(gate|up|down)\.weight")
    case("head-odd", value("llama.attention.key_length", U32, 15), {FORMAT, UNSUPPORTED}, r"15|rope")
    case("head-off", value("llama.attention.key_length", U32, 20), FORMAT, r"attn_q\.weight")
    case("value-off", value("llama.attention.value_length", U32, 8), FORMAT, r"attn_v\.weight")
    for number in (0, 1, 7, 15, 17, 18, 2**31, 2**32 - 1):
        case(f"rope-dims-{number}", value("llama.rope.dimension_count", U32, number), FORMAT, r"rope\.dimension_count")
    for real in (0.0, -1.0, 1.0, math.nan, math.inf, 1e38):
        case(f"rope-base-{real}", value("llama.rope.freq_base", F32, real), FORMAT, r"rope\.freq_base")
    for kind in ("bogus", "", "x" * 300):
        case(f"rope-scaling-{kind[:8]}", value("llama.rope.scaling.type", STRING, kind), UNSUPPORTED, r"scaling")
    for real in (0.0, -2.0, math.nan, math.inf, 1e30, 1e-30):
        pattern = r"rope\.scaling\.factor|scaling factor"
        case(f"rope-factor-{real}", value("llama.rope.scaling.factor", F32, real), FORMAT, pattern, "linear")
        pattern = r"rope\.scale_linear|scaling factor"
        case(f"rope-linear-{real}", value("llama.rope.scale_linear", F32, real), FORMAT, pattern)
    case(
        "yarn-context", value("llama.rope.scaling.original_context_length", U32, 0), FORMAT, r"original_context_length", "yarn"
    )
    case("yarn-attn", value("llama.rope.scaling.attn_factor", F32, -1.0), FORMAT, r"attn_factor", "yarn-attn")
    case("experts", value("llama.expert_count", U32, 8), FORMAT, r"expert_used_count")
    case("longrope-without-factors", value("llama.rope.scaling.type", STRING, "longrope"), FORMAT, r"rope_factors_short")
    case("experts-text", value("llama.expert_count", STRING, "8"), FORMAT, r"expert_count")


def value_cases() -> None:
    """Metadata that breaks the format's rules, wherever it stands."""
    case("unknown-value-type", value("x.y", 13, b"\0\0\0\0"), FORMAT, r"x\.y|type")
    case("unknown-value-type-huge", value("x.y", 2**32 - 1, b""), FORMAT, r"x\.y|type")
    for n in (2**20, 2**31, 2**32, 2**62, 2**63, 2**64 - 8, 2**64 - 1):
        case(f"string-{n}", value("x.y", STRING, "abc", n), FORMAT, r"x\.y|metadata entry \d+")
        case(f"array-{n}", value("x.y", ARRAY, Array(U64, [1]), n), FORMAT, r"x\.y")
        case(f"string-array-{n}", value("x.y", ARRAY, Array(STRING, ["a"]), n), FORMAT, r"x\.y")
        raw = struct.pack("<IQQ", STRING, 1, n) + b"abc"
        case(f"string-in-array-{n}", value("x.y", ARRAY, raw), FORMAT, r"x\.y")
    nested = struct.pack("<IQIQ", ARRAY, 1, U8, 0)
    case("nested-array", value("x.y", ARRAY, nested), {FORMAT, UNSUPPORTED}, r"x\.y")
    deep = struct.pack("<IQ", ARRAY, 1) * 50000
    case("deeply-nested-array", value("x.y", ARRAY, deep), {FORMAT, UNSUPPORTED}, r"x\.y")
    case("array-of-unknown", value("x.y", ARRAY, struct.pack("<IQ", 77, 1)), FORMAT, r"x\.y")
    case("empty-key", value("", U32, 1), FORMAT, r"key|name|empty")
    case("long-key", value("k" * 70000, U32, 1), FORMAT, r"key|name|long")
    case("key-with-nul", value("a\0b", U32, 1), FORMAT, r"key|name|NUL")

    def same_key_twice(gguf: Gguf) -> None:
        gguf.values["llama.context_lengtH"] = Value(U32, 99)

    case("key-twice", same_key_twice, FORMAT, r"llama\.context_length")
    case("key-not-utf8", value("abc\u00ff", U32, 1), FORMAT, r"key|name|UTF")


BYTES_PATCHES = {"key-twice": (b"context_lengtH", b"context_length"), "key-not-utf8": ("abc\u00ff".encode(), b"abc\xff\xfe")}


def tokenizer_cases() -> None:
    """The vocabulary."""
    tokens = "tokenizer.ggml.tokens"
    case("no-tokenizer-model", without("tokenizer.ggml.model"), {FORMAT, UNSUPPORTED}, r"tokenizer\.ggml\.model")
    case("tokenizer-model-foo", value("tokenizer.ggml.model", STRING, "foo"), UNSUPPORTED, r"foo")
    case("tokenizer-pre-foo", value("tokenizer.ggml.pre", STRING, "foo"), UNSUPPORTED, r"foo")
    case("no-tokens", without(tokens), FORMAT, r"tokenizer\.ggml\.tokens")
    case("tokens-empty", value(tokens, ARRAY, Array(STRING, [])), FORMAT, r"tokens")
    case("tokens-numbers", value(tokens, ARRAY, Array(U32, list(range(271)))), FORMAT, r"tokenizer\.ggml\.tokens")
    case("tokens-one-string", value(tokens, STRING, "abc"), FORMAT, r"tokenizer\.ggml\.tokens")
    case("tokens-fewer", resized(tokens, -1), FORMAT, r"token_embd\.weight|token_type|merge")
    case("tokens-more", resized(tokens, 1), FORMAT, r"token_embd\.weight|token_type|tokens")
    case("types-fewer", resized("tokenizer.ggml.token_type", -1), FORMAT, r"token_type")
    case("types-text", value("tokenizer.ggml.token_type", ARRAY, Array(STRING, ["a"] * 271)), FORMAT, r"token_type")
    case("types-unknown", value("tokenizer.ggml.token_type", ARRAY, Array(I32, [99] * 271)), FORMAT, r"type 99")
    case("merges-numbers", value("tokenizer.ggml.merges", ARRAY, Array(U32, [1, 2])), FORMAT, r"merges")
    case("merges-no-space", value("tokenizer.ggml.merges", ARRAY, Array(STRING, ["th"])), FORMAT, r"merge")
    case("merges-unknown", value("tokenizer.ggml.merges", ARRAY, Array(STRING, ["t \u2603"])), FORMAT, r"merge")
    for name in ("bos", "eos", "padding", "unknown"):
        key = f"tokenizer.ggml.{name}_token_id"
        case(f"{name}-id-outside", value(key, U32, 271), FORMAT, re.escape(key))
        case(f"{name}-id-text", value(key, STRING, "1"), FORMAT, re.escape(key))
    case("add-bos-number", value("tokenizer.ggml.add_bos_token", STRING, "yes"), FORMAT, r"add_bos_token")

    def fewer_of_everything(gguf: Gguf) -> None:
        for key in (tokens, "tokenizer.ggml.token_type"):
            resized(key, -12)(gguf)
        del gguf.values["tokenizer.ggml.merges"]

    case("vocabulary-shorter-than-embedding", fewer_of_everything, FORMAT, r"token_embd\.weight|merges")


def tensor_cases(names: dict[str, list[int]]) -> None:
    """Every tensor, missing and of wrong shape; and what else a row of the table can get wrong. `names`: name -> dims."""
    for name, dims in names.items():
        pattern = re.escape(name)
        optional = name == "output.weight"
        if not optional:
            case(f"no-{name}", without_tensor(name), FORMAT, pattern)
        size = math.prod(dims) * 4
        for label, wrong in {
            "longer": [dims[0] + 4, *dims[1:]],
            "shorter": [dims[0] - 4, *dims[1:]],
            "swapped": [*reversed(dims), 2] if dims == dims[::-1] else dims[::-1],
            "deeper": [*dims, 2],
        }.items():
            data = bytes(max(size, math.prod(wrong) * 4))
            case(f"{label}-{name}", tensor(name, dims=wrong, data=data), FORMAT, pattern)
        case(f"integers-{name}", tensor(name, kind=26), UNSUPPORTED, pattern)
    name = "blk.1.ffn_up.weight"
    pattern = re.escape(name)
    for dims in ([0, 80], [60, 0], [2**63, 2], [2**32, 2**32], [2**62, 2, 2, 2], [2**64 - 1], [2**40, 2**20]):
        case(f"dims-{dims}", tensor(name, dims=dims), FORMAT, pattern)
    case("dims-none", tensor(name, dims=[]), FORMAT, pattern)
    case("dims-five", tensor(name, dims=[60, 80, 1, 1, 1]), {FORMAT, UNSUPPORTED}, pattern)
    for kind in (4, 5, 31, 32, 33, 36, 40, 77, 2**31, 2**32 - 1):
        case(f"type-{kind}", tensor(name, kind=kind), {FORMAT, UNSUPPORTED}, pattern)
    for kind in (15, 24, 25, 27, 28):
        wide = bytes(60 * 80 * 8)
        case(f"type-not-for-weights-{kind}", tensor(name, kind=kind, data=wide), {FORMAT, UNSUPPORTED}, pattern)
    case("type-needs-blocks", tensor(name, kind=8), FORMAT, pattern)  # 60 is no multiple of 32
    norm = "blk.0.attn_norm.weight"
    case("quantised-norm", tensor("output_norm.weight", kind=8, dims=[32], data=bytes(34)), FORMAT, r"output_norm")

    def quantised_norm(gguf: Gguf) -> None:
        gguf.tensor(norm).kind, gguf.tensor(norm).data = 8, bytes(102)

    case("quantised-norm-of-its-size", quantised_norm, UNSUPPORTED, re.escape(norm), "mixed")
    for offset in (1, 16, 31, 2**40, 2**63, 2**64 - 32, 2**64 - 1):
        case(f"offset-{offset}", tensor(name, offset=offset), FORMAT, pattern)
    case("offset-of-another", tensor(name, offset=0), FORMAT, r"overlap")

    def cut_into(gguf: Gguf) -> None:
        gguf.tensor(name).data = gguf.tensor(name).data[:-36]

    case("data-of-another", lambda g: setattr(g.tensor("token_embd.weight"), "data", bytes(64)), FORMAT, r"overlap|past|end")
    case("data-too-short", cut_into, FORMAT, r"overlap|past|end")
    case("same-name-twice", tensor(name, name=b"blk.0.ffn_up.weight"), FORMAT, r"blk\.0\.ffn_up\.weight")
    case("empty-name", tensor(name, name=b""), FORMAT, r"name|empty")
    case("long-name", tensor(name, name=b"n" * 300), FORMAT, r"name|long|nnn")
    case("name-not-utf8", tensor(name, name=b"blk.1.\xff\xfe"), FORMAT, r".")
    case("unknown-in-layer", add_tensor("blk.0.attn_q_norm.weight", [16], bytes(64)), UNSUPPORTED, r"attn_q_norm")
    case(
        "layer-without-number",
        add_tensor("blk.x.attn_q.weight", [60, 96], bytes(60 * 96 * 4)),
        {FORMAT, UNSUPPORTED},
        r"blk\.x",
    )
    case("layer-beyond", add_tensor("blk.7.attn_norm.weight", [60], bytes(240)), {FORMAT, UNSUPPORTED}, r"blk\.7")
    for bias in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        short = tensor(f"blk.1.{bias}.bias", dims=[8], data=bytes(32))
        case(f"bias-{bias}", short, FORMAT, rf"blk\.1\.{bias}\.bias", "bias")
    for label, factors in {"short": [1.0] * 7, "zero": [0.0] * 8, "nan": [math.nan] * 8, "negative": [-1.0] * 8}.items():
        data = np.array(factors, "<f4").tobytes()
        case(f"rope-freqs-{label}", add_tensor("rope_freqs.weight", [len(factors)], data), FORMAT, r"rope_freqs\.weight")


def stream_cases() -> None:
    """Several residual streams, inputs of every layer, keys of other layers, sparse gates: six layers, the last two sharing."""

    def bad(name: str, edit: Edit, pattern: str, expected: str | set[str] = FORMAT) -> None:
        case(f"streams-{name}", edit, expected, pattern, "gemma3n")

    inputs = "embedding_length_per_layer_input"
    for key in ("altup.num_inputs", "altup.active_idx", inputs, "attention.shared_kv_layers"):
        bad(f"no-{key}", without(f"gemma3n.{key}"), re.escape(key))
        bad(f"{key}-text", value(f"gemma3n.{key}", STRING, "2"), re.escape(key))
        bad(f"{key}-large", value(f"gemma3n.{key}", U32, 2**32 - 1), re.escape(key))
    for number in (0, 1, 9):
        bad(f"n-{number}", value("gemma3n.altup.num_inputs", U32, number), r"altup\.num_inputs")
    bad("n-3", value("gemma3n.altup.num_inputs", U32, 3), r"altup_")
    bad("active-4", value("gemma3n.altup.active_idx", U32, 4), r"altup\.active_idx")
    for number in (0, 2**31):
        bad(f"input-{number}", value(f"gemma3n.{inputs}", U32, number), inputs)
    for number in (31, 2**17):
        bad(f"input-{number}", value(f"gemma3n.{inputs}", U32, number), r"per_layer_")
    for real in (6.0, 2.5, -1.0, math.nan, math.inf):
        bad(f"shared-{real}", value("gemma3n.attention.shared_kv_layers", F32, real), r"shared_kv_layers")
    bad("shared-all", value("gemma3n.attention.shared_kv_layers", U32, 6), r"shared_kv_layers")
    bad("shared-without-source", value("gemma3n.attention.shared_kv_layers", U32, 4), r"layer 2, which sees everything")
    bad("not-shared-but-missing", without_tensor("blk.3.attn_k.weight"), r"blk\.3\.attn_k\.weight")
    for real in (math.nan, math.inf, 1e30):
        scales = Array(F32, [real] + [-math.inf] * 5)
        bad(f"sparsity-{real}", value("gemma3n.activation_sparsity_scale", ARRAY, scales), r"activation_sparsity_scale")
    bad("sparsity-short", resized("gemma3n.activation_sparsity_scale", -1), r"5 elements for 6 layers")
    bad("sparsity-none", without("gemma3n.activation_sparsity_scale"), r"activation_sparsity_scale")
    bad("sparsity-whole", value("gemma3n.activation_sparsity_scale", ARRAY, Array(U32, [1] * 6)), r"activation_sparsity_scale")
    parts = (
        "altup_router", "altup_router_norm", "altup_predict_coef", "altup_correct_coef", "altup_correct_scale", "laurel_l",
        "laurel_r", "laurel_post_norm", "inp_gate", "proj", "post_norm",
    )  # fmt: skip
    whole = ("altup_proj", "altup_unembd_proj", "per_layer_token_embd", "per_layer_model_proj", "per_layer_proj_norm")
    for name in [f"blk.{layer}.{part}.weight" for part in parts for layer in (0, 5)] + [f"{part}.weight" for part in whole]:
        bad(f"no-{name}", without_tensor(name), re.escape(name))
        bad(f"small-{name}", tensor(name, dims=[8]), re.escape(name))
    bad("laurel-empty", tensor("blk.0.laurel_l.weight", dims=[64, 0], data=b""), r"laurel_l|dimension|no elements")
    bad("unknown", add_tensor("blk.4.attn_k_b.weight", [8], bytes(32)), r"blk\.4\.attn_k_b", UNSUPPORTED)


ZOO = Path(__file__).parent / "data" / "zoo"


def base_file(name: str) -> Path:
    """A good file to damage."""
    folders = (ZOO / "llama-variants", ZOO / "decoders")
    paths = (folder / f"{name}{ending}" for folder in folders for ending in (".gguf", ".gguf.xz"))
    return unpacked(next(path for path in paths if path.exists()))


header_cases()
hyper_parameter_cases()
value_cases()
tokenizer_cases()
stream_cases()
tensor_cases({t.name.decode(): t.dims for t in gguf_edit.read(base_file("untied-gqa")).tensors})


def open_bytes(files: list[bytes]) -> list[Outcome]:
    """As `open_all`, for contents."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i:03}.gguf" for i in range(len(files))]
        for path, data in zip(paths, files, strict=True):
            path.write_bytes(data)
        return open_all(paths)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """All cases, damaged and opened."""
    files = []
    for name, (base, edit, _, _) in CASES.items():
        gguf = gguf_edit.read(base_file(base))
        edit(gguf)
        data = gguf.to_bytes()
        if name in BYTES_PATCHES:
            before, after = BYTES_PATCHES[name]
            assert data.count(before) == 1 and len(before) == len(after)
            data = data.replace(before, after)
        files.append(data)
    return dict(zip(CASES, open_bytes(files), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_damaged_file_is_refused(outcomes: dict[str, Outcome], name: str) -> None:
    """With the right exception, before anything is computed, and the culprit named."""
    _, _, expected, pattern = CASES[name]
    outcome = outcomes[name]
    assert outcome.outcome in expected, outcome
    assert outcome.stage == "load", outcome
    assert re.search(pattern, outcome.message), outcome.message
    check_sentence(outcome.message)


def test_refusing_takes_no_memory(outcomes: dict[str, Outcome]) -> None:
    """Counts of billions are refused, not allocated."""
    assert max(outcome.peak for outcome in outcomes.values()) < 200_000_000


# ---- damage anywhere ----


def test_undamaged_files_are_accepted() -> None:
    """The children do open what is right, so that the refusals above mean something."""
    paths = [unpacked(path) for path in sorted((ZOO / "llama-variants").glob("*.gguf*"))]
    assert len(paths) > 10
    assert [outcome.outcome for outcome in open_all(paths)] == [ACCEPTED] * len(paths)


def test_truncated_files_are_refused() -> None:
    """Cut anywhere: inside the header, a key, a string, the tensor table, the weights; by a single byte."""
    data = base_file("untied-gqa").read_bytes()
    table_end = data.index(b"blk.0.") + 4096
    last = gguf_edit.read(base_file("untied-gqa")).tensors[-1]
    end = len(data) - (len(last.data) - math.prod(last.dims) * 4)  # the file may be padded behind the last tensor
    lengths = [*range(64), *range(64, table_end, 131), *range(table_end, end, 9973), end - 33, end - 1]
    for length, outcome in zip(lengths, open_bytes([data[:n] for n in lengths]), strict=True):
        assert outcome.outcome in {FORMAT, FILE}, (length, outcome)
        assert outcome.stage == "load" and ".gguf" in outcome.message
        check_sentence(outcome.message)


@pytest.mark.parametrize("seed", range(4))
def test_random_damage_never_crashes(seed: int) -> None:
    """Bytes of header, metadata and table overwritten at random: refused, or accepted and computed without harm."""
    rng = random.Random(seed)
    data = base_file(["untied-gqa", "bias", "mixed", "yarn"][seed]).read_bytes()
    table_end = data.rindex(b"blk.1.") + 100
    extremes = [
        b"\xff" * 8,
        b"\0" * 8,
        b"\xff\xff\xff\x7f",
        b"\0\0\0\x80",
        struct.pack("<Q", 2**63),
        struct.pack("<Q", len(data)),
    ]
    files = []
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            piece = rng.choice(extremes) if rng.random() < 0.4 else bytes([rng.randrange(256)])
            at = rng.randrange(table_end)
            damaged[at : at + len(piece)] = piece
        files.append(bytes(damaged))
    results = open_bytes(files)
    for outcome in results:
        assert outcome.outcome in REFUSED | {ACCEPTED, "InvalidRequestError"}, outcome
        if outcome.outcome != ACCEPTED:
            check_sentence(outcome.message)
    assert max(outcome.peak for outcome in results) < 200_000_000


@pytest.mark.parametrize("filling", [b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f"], ids=["nan", "infinity", "largest"])
@pytest.mark.parametrize("name", ["token_embd.weight", "blk.0.attn_q.weight", "blk.1.ffn_down.weight", "output_norm.weight"])
def test_weights_that_are_no_numbers(filling: bytes, name: str) -> None:
    """They pass for data, so the file opens; what cannot be sampled is an error of the request, not of the process."""
    gguf = gguf_edit.read(base_file("untied-gqa"))
    gguf.tensor(name).data = filling * (len(gguf.tensor(name).data) // 4)
    (outcome,) = open_bytes([gguf.to_bytes()])
    assert outcome.outcome in {ACCEPTED, FORMAT} and outcome.stage in {"compute", "load"}, outcome
    if outcome.outcome == FORMAT:
        assert "finite" in outcome.message
        check_sentence(outcome.message)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "MXFP4", "F16", "BF16"])
def test_random_weights_never_crash(name: str) -> None:
    """Any bytes are some weights of a quantised type: scales of NaN and infinity included."""
    gguf = gguf_edit.read(base_file(name))
    rng = np.random.default_rng(5)
    for tensor_ in gguf.tensors:
        if len(tensor_.dims) > 1:
            tensor_.data = rng.bytes(len(tensor_.data))
    (outcome,) = open_bytes([gguf.to_bytes()])
    assert outcome.outcome in {ACCEPTED, FORMAT}, outcome


# ---- odd, and right ----


def keep_all_optional_out(gguf: Gguf) -> None:
    """Only what a reader cannot do without."""
    needed = {f"llama.{key}" for key in REQUIRED} | {"general.architecture", "llama.attention.key_length"}
    needed |= {"llama.attention.value_length", "llama.attention.head_count_kv", "llama.rope.freq_base"}
    for key in list(gguf.values):
        if key not in needed and not key.startswith("tokenizer."):
            del gguf.values[key]


def no_end_token(gguf: Gguf) -> None:
    """No token ends the text."""
    for key in ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.padding_token_id"):
        del gguf.values[key]
    for name in ("tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token"):
        del gguf.values[name]
    gguf.values["tokenizer.ggml.token_type"].data.items = [1] * 271


def reversed_data(gguf: Gguf) -> None:
    """The table in another order than the data; a gap between two tensors."""
    at = 64
    for item in gguf.tensors:
        item.offset = at
        at += (len(item.data) + 31) // 32 * 32
    gguf.tensors[0].data, gguf.tensors[0].offset = bytes(64) + gguf.tensors[0].data, 64
    table = gguf.tensors[::-1]
    data = b"".join(item.data + bytes(-len(item.data) % 32) for item in gguf.tensors)
    for item in table:
        item.data = b""
    table[0].data = data
    gguf.tensors = table


def every(*edits: Edit) -> Edit:
    """One edit after the other."""

    def edit(gguf: Gguf) -> None:
        for one in edits:
            one(gguf)

    return edit


ODD: dict[str, Edit] = {
    "only-required": keep_all_optional_out,
    "no-end-token": no_end_token,
    "table-out-of-order": reversed_data,
    "version-2": setting(version=2),
    "alignment-4096": every(value("general.alignment", U32, 4096), setting(alignment=4096)),
    "numbers-of-other-widths": every(
        value("llama.block_count", U64, 2),
        value("llama.embedding_length", U8, 60),
        value("llama.feed_forward_length", U16, 80),
        value("llama.attention.head_count", I64, 6),
        value("llama.attention.layer_norm_rms_epsilon", F64, 1e-6),
    ),
    "heads-per-layer": value("llama.attention.head_count_kv", ARRAY, Array(I32, [2, 2])),
    "strange-metadata": every(
        value("x.empty", STRING, ""),
        value("x.bytes", STRING, b"\xff\xfe\0\x01"),
        value("x.none", ARRAY, Array(STRING, [])),
        value("x.many", ARRAY, Array(BOOL, [True] * 1000)),
        value("x.smile", STRING, "\u263a" * 500),
    ),
    "experts-none": value("llama.expert_count", U32, 0),
}


def test_odd_files_are_accepted() -> None:
    """Unusual and within the rules: opened, computed, the same scores as ever."""
    good = gguf_edit.read(base_file("untied-gqa")).to_bytes()
    files = []
    for edit in ODD.values():
        gguf = gguf_edit.read(base_file("untied-gqa"))
        edit(gguf)
        files.append(gguf.to_bytes())
    usual, *odd = open_bytes([good, *files])
    for name, outcome in zip(ODD, odd, strict=True):
        assert (name, outcome.outcome, outcome.message) == (name, ACCEPTED, usual.message)


def test_what_is_not_a_file(tmp_path: Path) -> None:
    """Folders, pipes, devices, links to nowhere, empty files: told at once, none is waited for."""
    (tmp_path / "folder.gguf").mkdir()
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "loop.gguf").symlink_to(tmp_path / "loop.gguf")
    (tmp_path / "nowhere.gguf").symlink_to(tmp_path / "missing")
    names = ["folder.gguf", "pipe.gguf", "empty.gguf", "loop.gguf", "nowhere.gguf", "missing.gguf", "x" * 300 + ".gguf"]
    paths = [*(tmp_path / name for name in names), Path("/dev/zero"), Path("/dev/null")]
    for path, outcome in zip(paths, open_all(paths), strict=True):
        expected = {FORMAT, FILE} if path.name == "empty.gguf" else {FILE}
        assert outcome.outcome in expected, (path.name, outcome)
        assert path.name[:100] in outcome.message
        check_sentence(outcome.message)
