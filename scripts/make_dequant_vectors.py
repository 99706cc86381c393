"""Writes tests/data/dequant/TYPE.bin, the golden vectors of the C test of the tensor types.

Each file holds rows of raw blocks and the float32 values that gguf-py gives for them. Two kinds of rows go in:

* those of TYPE.npz in --vectors, where there is one (arrays `raw`, `f32` and `ggml_type`; blocks made by ggml's quantiser);
* rows of random bytes under finite scales, which reach codes and scales that a quantiser never writes.

Layout, little-endian: the bytes "CTDQ", then u32 type, rows, columns, bytes per row; raw [rows, bytes per row];
float32 [rows, columns]. Needs the `gguf` package.

    python scripts/make_dequant_vectors.py --vectors DIR [--out tests/data/dequant]
"""

from __future__ import annotations

import argparse
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

N_COLS = 256
N_RANDOM_ROWS = 24

# Where a block keeps its float16 scales, in bytes. Types without blocks are all float16 or bfloat16.
SCALE_OFFSETS: dict[str, tuple[int, ...]] = {
    "F16": (0,),
    "BF16": (0,),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "IQ4_NL": (0,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "TQ2_0": (64,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "IQ4_XS": (0,),
    "IQ2_XXS": (0,),
    "IQ2_XS": (0,),
    "IQ2_S": (0,),
    "IQ3_XXS": (0,),
    "IQ3_S": (0,),
    "IQ1_S": (0,),
    "IQ1_M": (),
    "TQ1_0": (52,),
    "MXFP4": (),
    "NVFP4": (),
    "Q1_0": (0,),
    "Q2_0": (0,),
}

# Types that gguf-py 0.19 does not decode: elements and bytes per block, bits per element, lowest first, and the code of bits 0.
# Layout and meaning: block_q1_0, block_q2_0 and their dequantisation in ggml.
BIT_TYPES = {"Q1_0": (128, 18, 1, -1, 2), "Q2_0": (64, 18, 2, -1, 1)}
NUMBERS = {"Q1_0": 41, "Q2_0": 42}


def random_rows(name: str, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Rows of random blocks, uint8 [N_RANDOM_ROWS, bytes per row]. Scales: finite, of either sign, from subnormal to 100."""
    block_elems, block_bytes = BIT_TYPES[name][:2] if name in BIT_TYPES else GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    n_blocks = N_RANDOM_ROWS * N_COLS // block_elems
    blocks = rng.integers(0, 256, (n_blocks, block_bytes), dtype=np.uint8)
    for offset in SCALE_OFFSETS[name]:
        scales = (rng.choice([-1.0, 1.0], n_blocks) * 10.0 ** rng.uniform(-7.5, 2.0, n_blocks)).astype(np.float32)
        halves = (scales.view(np.uint32) >> 16).astype(np.uint16) if name == "BF16" else scales.astype(np.float16)
        blocks[:, offset : offset + 2] = halves.view(np.uint8).reshape(n_blocks, 2)
    if name == "MXFP4":
        blocks[:, 0] %= 251  # 2^(e - 127) * 6 is still finite
    if name == "IQ1_M":
        blocks[:, 55] &= 0xBF  # so is a half with one bit of its exponent missing
    return blocks.reshape(N_RANDOM_ROWS, -1)


def bit_values(name: str, raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The values of rows of one of BIT_TYPES, float32 [rows, N_COLS]."""
    _, block_bytes, n_bits, lowest, step = BIT_TYPES[name]
    blocks = raw.reshape(-1, block_bytes)
    d = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    shifts = np.arange(0, 8, n_bits, dtype=np.uint8)
    bits = (blocks[:, 2:, np.newaxis] >> shifts & np.uint8(2**n_bits - 1)).reshape(len(blocks), -1)
    values: npt.NDArray[np.float32] = d * (lowest + step * bits.astype(np.float32))
    return values.reshape(-1, N_COLS)


def write_rows(name: str, number: int, raw: npt.NDArray[np.uint8], values: npt.NDArray[np.float32], out: Path) -> None:
    header = b"CTDQ" + struct.pack("<4I", number, raw.shape[0], N_COLS, raw.shape[1])
    (out / f"{name}.bin").write_bytes(header + raw.tobytes() + values.astype("<f4").tobytes())


def write_vectors(name: str, vectors: Path, out: Path, rng: np.random.Generator) -> None:
    """Writes one file. Raises ValueError where the npz and gguf-py disagree."""
    raw = random_rows(name, rng)
    if name in BIT_TYPES:
        write_rows(name, NUMBERS[name], raw, bit_values(name, raw), out)
        return
    qtype = GGMLQuantizationType[name]
    npz = vectors / f"{name}.npz"
    if npz.exists():
        with np.load(npz) as given:
            if int(given["ggml_type"]) != int(qtype) or given["f32"].shape[1] != N_COLS:
                raise ValueError(f"{npz}: not {N_COLS} columns of type {name}")
            same = dequantize(given["raw"], qtype).view(np.uint32) == given["f32"].view(np.uint32)
            if not same.all():
                raise ValueError(f"{npz}: gguf-py gives other values for {int((~same).sum())} elements")
            raw = np.concatenate([given["raw"], raw])
    write_rows(name, int(qtype), raw, dequantize(raw, qtype), out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the golden vectors of the C test of the tensor types.")
    parser.add_argument("--vectors", type=Path, required=True, help="directory with TYPE.npz")
    parser.add_argument("--out", type=Path, default=Path("tests/data/dequant"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(SCALE_OFFSETS):
        write_vectors(name, arguments.vectors, arguments.out, np.random.default_rng(seed))


if __name__ == "__main__":
    main()
