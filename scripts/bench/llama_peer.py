"""llama.cpp as the peer: the few calls that references and benchmarks need, over llama-cpp-python's low-level binding.

Run by a Python that has llama-cpp-python (and numpy), which need not have this project. Everything goes straight to the C
API: no sampler, no penalty, no prompt cache, no reuse of a prefix between calls. Settings not named here are llama.cpp's own.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import llama_cpp as lc  # type: ignore[import-not-found,unused-ignore]
import numpy as np
from numpy.typing import NDArray

GGML_TYPES = {"f32": 0, "f16": 1}


def _quiet(_level: int, _text: bytes, _user: Any) -> None:
    """llama.cpp logs to stderr unless it is given somewhere else to log."""


_LOG = lc.llama_log_callback(_quiet)


class Peer:
    """One model and one context of llama.cpp, CPU only."""

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int = 2,
        n_ctx: int = 2048,
        n_batch: int = 512,
        n_sequences: int = 1,
        kv_type: str = "f16",
        flash_attention: int = 0,
        extra_buffers: bool = True,
    ) -> None:
        """n_ctx: tokens of all sequences together, an equal share each.
        flash_attention: 0 off (llama-cpp-python's default), 1 on, -1 llama.cpp decides.
        extra_buffers: llama.cpp may copy weights into layouts of its own (repacking, AMX). Its AMX path faults on virtual
        machines that announce AMX but refuse its tile configuration; False keeps to the plain CPU buffers."""
        lc.llama_log_set(_LOG, ctypes.c_void_p(0))
        lc.llama_backend_init()
        model_params = lc.llama_model_default_params()
        model_params.n_gpu_layers = 0
        model_params.use_extra_bufts = extra_buffers
        self._model = lc.llama_model_load_from_file(str(path).encode(), model_params)
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        params = lc.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_seq_max = n_sequences
        params.n_batch = n_batch
        params.n_ubatch = n_batch
        params.n_threads = threads
        params.n_threads_batch = threads
        params.flash_attn_type = flash_attention
        params.type_k = GGML_TYPES[kv_type]
        params.type_v = GGML_TYPES[kv_type]
        self._ctx = lc.llama_init_from_model(self._model, params)
        if not self._ctx:
            raise RuntimeError(f"llama.cpp cannot make a context for {path}")
        self._vocab = lc.llama_model_get_vocab(self._model)
        self.n_vocab: int = lc.llama_vocab_n_tokens(self._vocab)
        self.n_batch = n_batch
        self._batch = lc.llama_batch_init(n_batch, 0, 1)
        self.position = 0

    def close(self) -> None:
        """Frees batch, context and model; they are unusable afterwards."""
        lc.llama_batch_free(self._batch)
        lc.llama_free(self._ctx)
        lc.llama_model_free(self._model)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Text -> ids."""
        raw = text.encode()
        ids = (lc.llama_token * (len(raw) + 8))()
        n = lc.llama_tokenize(self._vocab, raw, len(raw), ids, len(ids), add_special, parse_special)
        if n < 0:
            raise RuntimeError(f"llama.cpp needs {-n} tokens for {len(raw)} bytes")
        return list(ids[:n])

    def reset(self) -> None:
        """Empties the key/value cache."""
        lc.llama_memory_clear(lc.llama_get_memory(self._ctx), True)
        self.position = 0

    def decode(self, ids: Sequence[int], *, all_logits: bool = False) -> None:
        """Computes `ids` (at most n_batch of them) behind what is in the cache; scores of the last one, or of each."""
        n = len(ids)
        self.decode_rows([(token, self.position + i, 0, all_logits or i == n - 1) for i, token in enumerate(ids)])
        self.position += n

    def decode_rows(self, rows: Sequence[tuple[int, int, int, bool]]) -> None:
        """Computes one batch of (token, position, sequence, whether its scores are wanted), which need not belong together."""
        if not 0 < len(rows) <= self.n_batch:
            raise ValueError(f"1 to {self.n_batch} tokens fit a batch, got {len(rows)}")
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wanted
        status = lc.llama_decode(self._ctx, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode of {len(rows)} tokens from position {rows[0][1]} returned {status}")

    def scores(self, index: int = -1) -> NDArray[np.float32]:
        """Scores [n_vocab] behind token `index` of the last batch: a view, valid until the next decode."""
        pointer = lc.llama_get_logits_ith(self._ctx, index)
        return np.ctypeslib.as_array(pointer, shape=(self.n_vocab,))

    def logits(self, ids: Sequence[int], *, chunk: int = 0) -> NDArray[np.float32]:
        """Scores of every position, float32 [len(ids), n_vocab], from an empty cache, `chunk` tokens at a time (0: n_batch)."""
        step = chunk or self.n_batch
        out = np.empty((len(ids), self.n_vocab), np.float32)
        self.reset()
        for start in range(0, len(ids), step):
            piece = ids[start : start + step]
            self.decode(piece, all_logits=True)
            for i in range(len(piece)):
                out[start + i] = self.scores(i)
        return out

    def prefill(self, ids: Sequence[int]) -> None:
        """Reads a prompt of any length from an empty cache, n_batch tokens at a time."""
        self.reset()
        for start in range(0, len(ids), self.n_batch):
            self.decode(ids[start : start + self.n_batch])

    def synchronize(self) -> None:
        """Waits until what was asked for has been computed."""
        lc.llama_synchronize(self._ctx)


def system_info() -> str:
    """What llama.cpp says it was compiled for."""
    return str(lc.llama_print_system_info().decode())


def version() -> str:
    """Version of llama-cpp-python."""
    return str(lc.__version__)


def main(model: str, ids_file: str, out_file: str) -> None:
    """Scores of the ids in one npy file into another, in one batch, key/value cache in float32."""
    ids = [int(token) for token in np.load(ids_file)]
    with Peer(model, threads=1, n_ctx=max(256, len(ids)), kv_type="f32", extra_buffers=False) as peer:
        np.save(out_file, peer.logits(ids))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit("usage: llama_peer.py MODEL.gguf IDS.npy LOGITS.npy")
    main(*sys.argv[1:])
