"""Writes tests/data/quantise: real weights, and the error that llama.cpp's quantiser leaves in them.

    rows.gguf         slices of SmolLM2-135M-Instruct (blocks of the file as they are) and all-MiniLM-L6-v2 (float16)
    references.json   for each slice and tensor type the sum of squared errors of ggml_quantize_chunk, without importances and
                      with those of `importances` below (then weighted by them)

A slice is kept as rows of 256, so that every type fits it. Needs the packages `gguf`, `numpy` and `safetensors`, and ggml's
shared library, as llama-cpp-python has it.

    python scripts/make_quantise_references.py --smollm2 FILE.gguf --minilm model.safetensors --ggml libggml-base.so
"""

from __future__ import annotations

import argparse
import ctypes
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize
from safetensors import safe_open

N_COLS = 256
TYPES = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "MXFP4", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
TYPES += ["IQ4_XS", "TQ1_0", "TQ2_0", "IQ3_XXS", "IQ3_S", "IQ2_XXS", "IQ2_XS", "IQ2_S"]
SMOLLM2 = {  # the first of 16 rows
    "token_embd.weight": 20000,
    "blk.0.attn_q.weight": 0,
    "blk.0.attn_k.weight": 64,
    "blk.0.ffn_down.weight": 100,
    "blk.15.attn_v.weight": 0,
    "blk.15.attn_output.weight": 32,
    "blk.15.ffn_gate.weight": 7,
    "blk.15.ffn_up.weight": 7,
}
MINILM = {  # the first of 32 rows
    "embeddings.word_embeddings.weight": 2000,
    "encoder.layer.2.attention.self.key.weight": 0,
    "encoder.layer.2.intermediate.dense.weight": 0,
}


def importances() -> npt.NDArray[np.float32]:
    """What a column of 256 counts: uneven, as real ones are, and easy to say."""
    return np.exp(1.5 * np.sin(np.arange(N_COLS) * 2.399)).astype(np.float32)


def smollm2_slices(path: Path) -> dict[str, tuple[npt.NDArray[np.uint8], GGMLQuantizationType]]:
    """Raw blocks of 16 rows of each tensor."""
    found = {}
    for tensor in GGUFReader(path).tensors:
        if tensor.name in SMOLLM2:
            first = SMOLLM2[tensor.name]
            rows = np.ascontiguousarray(tensor.data[first : first + 16])
            found[f"smollm2.{tensor.name}"] = (rows.reshape(-1), tensor.tensor_type)
    return found


def minilm_slices(path: Path) -> dict[str, tuple[npt.NDArray[np.uint8], GGMLQuantizationType]]:
    """32 rows of each tensor as float16."""
    found = {}
    with safe_open(path, "numpy") as file:
        for name, first in MINILM.items():
            rows = file.get_tensor(name)[first : first + 32].astype(np.float16)
            found[f"minilm.{name}"] = (np.ascontiguousarray(rows).view(np.uint8).reshape(-1), GGMLQuantizationType.F16)
    return found


class Peer:
    """ggml's quantiser and its decoders."""

    def __init__(self, path: Path) -> None:
        self.lib = ctypes.CDLL(str(path))
        self.lib.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]

    def error(self, kind: str, x: npt.NDArray[np.float32], weights: npt.NDArray[np.float32] | None) -> float:
        """Sum of squared errors of rows [n, 256], weighted by column where weights are given."""
        number = GGMLQuantizationType[kind]
        out = np.zeros(4 * x.size, np.uint8)
        given = weights.ctypes.data if weights is not None else None
        size = self.lib.ggml_quantize_chunk(number.value, x.ctypes.data, out.ctypes.data, 0, x.shape[0], x.shape[1], given)
        y = dequantize(out[:size].reshape(x.shape[0], -1), number).reshape(x.shape).astype(np.float64)
        squares = (y - x) ** 2
        return float((squares * weights if weights is not None else squares).sum())


def main() -> None:
    """Writes both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", type=Path, required=True)
    parser.add_argument("--minilm", type=Path, required=True)
    parser.add_argument("--ggml", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("tests/data/quantise"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    peer, weights = Peer(options.ggml), importances()
    writer = GGUFWriter(options.out / "rows.gguf", "slices")
    references: dict[str, Any] = {"importances": [round(float(w), 6) for w in weights], "errors": {}, "weighted": {}}
    weights = np.array(references["importances"], np.float32)
    needs_weights = {"IQ2_XXS", "IQ2_XS"}  # ggml refuses them without
    for name, (raw, kind) in (smollm2_slices(options.smollm2) | minilm_slices(options.minilm)).items():
        x = dequantize(raw, kind).astype(np.float32).reshape(-1, N_COLS)
        writer.add_tensor(name, raw.reshape(x.shape[0], -1), raw_dtype=kind)
        x = np.ascontiguousarray(x)
        references["errors"][name] = {t: peer.error(t, x, None) for t in TYPES if t not in needs_weights}
        references["weighted"][name] = {t: peer.error(t, x, weights) for t in TYPES if t not in ("F16", "BF16")}
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    text = json.dumps(references)
    (options.out / "references.json").write_text(text.replace('"errors"', '\n"errors"').replace('}, "', '},\n"') + "\n")


if __name__ == "__main__":
    main()
