"""Tiny model files that tests write themselves, over the vocabulary of a golden model (512 tokens of byte-level BPE).

A scripted model says a given sequence of tokens: its layers add nothing, and the score of a token is the likeness of the
current one's embedding to that of the token which comes before it in the script. No token may occur twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import gguf_edit
import numpy as np
from gguf_edit import ARRAY, F32, I32, STRING, U32, Array, Gguf, Tensor
from numpy.typing import NDArray

N_EMBD, N_FF, N_LAYERS, N_HEADS = 128, 192, 2, 4
CONTROL, USER_DEFINED = 3, 4
BASE = Path(__file__).parent / "data" / "zoo" / "llama" / "llama.f32.gguf"


def _with_vocabulary(architecture: str, special: Mapping[str, int], template: str | None) -> Gguf:
    """A file without tensors; `special` tokens (text: type) come after those of the golden model."""
    base = gguf_edit.read(BASE)
    gguf = Gguf(values={key: value for key, value in base.values.items() if not key.startswith("llama.")})
    tokens, types = base.values["tokenizer.ggml.tokens"].data.items, base.values["tokenizer.ggml.token_type"].data.items
    gguf.set("general.architecture", STRING, architecture)
    gguf.set("tokenizer.ggml.tokens", ARRAY, Array(STRING, [*tokens, *(text.encode() for text in special)]))
    gguf.set("tokenizer.ggml.token_type", ARRAY, Array(I32, [*types, *special.values()]))
    if template is not None:
        gguf.set("tokenizer.chat_template", STRING, template)
    for key, number in (
        ("context_length", 256),
        ("embedding_length", N_EMBD),
        ("block_count", N_LAYERS),
        ("feed_forward_length", N_FF),
        ("attention.head_count", N_HEADS),
    ):
        gguf.set(f"{architecture}.{key}", U32, number)
    return gguf


def _add(gguf: Gguf, name: str, values: NDArray[np.float32]) -> None:
    gguf.tensors.append(Tensor(name.encode(), list(reversed(values.shape)), 0, values.astype("<f4").tobytes()))


def scripted_llama(path: Path, script: Sequence[str], *, special: Mapping[str, int], template: str | None = None) -> Path:
    """A llama that says the script's tokens after the first of them. A token of the script is one entry of the vocabulary as
    the file spells it ("Ċ" is a new line)."""
    gguf = _with_vocabulary("llama", special, template)
    tokens = [token.decode() for token in gguf.values["tokenizer.ggml.tokens"].data.items]
    gguf.set("llama.attention.layer_norm_rms_epsilon", F32, 1e-5)
    gguf.set("llama.rope.dimension_count", U32, N_EMBD // N_HEADS)
    gguf.set("llama.vocab_size", U32, len(tokens))
    assert len(set(script)) == len(script)
    ids = [tokens.index(text) for text in script]
    embeddings = np.random.default_rng(1).choice(np.float32([-1, 1]), (len(tokens), N_EMBD))
    output = np.zeros((len(tokens), N_EMBD), np.float32)
    for current, following in pairwise(ids):
        output[following] = embeddings[current]
    _add(gguf, "token_embd.weight", embeddings)
    _add(gguf, "output.weight", output)
    _add(gguf, "output_norm.weight", np.ones(N_EMBD, np.float32))
    for i in range(N_LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            _add(gguf, f"blk.{i}.{name}.weight", np.ones(N_EMBD, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            _add(gguf, f"blk.{i}.{name}.weight", np.zeros((N_EMBD, N_EMBD), np.float32))
        for name, shape in (("ffn_gate", (N_FF, N_EMBD)), ("ffn_up", (N_FF, N_EMBD)), ("ffn_down", (N_EMBD, N_FF))):
            _add(gguf, f"blk.{i}.{name}.weight", np.zeros(shape, np.float32))
    path.write_bytes(gguf.to_bytes())
    return path


def random_mpt(path: Path, *, template: str | None = None) -> Path:
    """A decoder of the mpt architecture (LayerNorm, ALiBi, GELU) with random weights."""
    gguf = _with_vocabulary("mpt", {}, template)
    n_vocab = len(gguf.values["tokenizer.ggml.tokens"].data.items)
    gguf.set("mpt.attention.layer_norm_epsilon", F32, 1e-5)
    gguf.set("mpt.attention.max_alibi_bias", F32, 8.0)
    random = np.random.default_rng(7)

    def matrix(n_out: int, n_in: int, scale: float = 1.0) -> NDArray[np.float32]:
        return (scale * random.standard_normal((n_out, n_in)) / np.sqrt(n_in)).astype(np.float32)

    _add(gguf, "token_embd.weight", matrix(n_vocab, N_EMBD, 8.0))
    _add(gguf, "output.weight", matrix(n_vocab, N_EMBD, 3.0))
    _add(gguf, "output_norm.weight", np.ones(N_EMBD, np.float32))
    for i in range(N_LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            _add(gguf, f"blk.{i}.{name}.weight", np.ones(N_EMBD, np.float32))
        _add(gguf, f"blk.{i}.attn_qkv.weight", matrix(3 * N_EMBD, N_EMBD, 2.0))
        _add(gguf, f"blk.{i}.attn_output.weight", matrix(N_EMBD, N_EMBD, 2.0))
        _add(gguf, f"blk.{i}.ffn_up.weight", matrix(N_FF, N_EMBD))
        _add(gguf, f"blk.{i}.ffn_down.weight", matrix(N_EMBD, N_FF))
    path.write_bytes(gguf.to_bytes())
    return path
