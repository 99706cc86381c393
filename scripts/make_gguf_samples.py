"""Writes tests/data/gguf: small GGUF files made by gguf-py, read by the C tests and used as seeds for fuzzing.

    sample-v3.gguf   every kind of metadata value, and one row of each tensor type that the reader knows
    sample-v2.gguf   the same, called version 2 (the layout is equal)

Needs the `gguf` package.

    python scripts/make_gguf_samples.py [--out tests/data/gguf]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import quantize

# gguf-py can make values of these; the other types get rows of zero bytes.
QUANTISED = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ2_0")
N_COLS = 256


def write_sample(path: Path) -> None:
    """Writes the version 3 file."""
    writer = GGUFWriter(path, "sample")
    writer.add_custom_alignment(64)
    scalars: dict[str, tuple[int | float | bool, GGUFValueType]] = {
        "u8": (200, GGUFValueType.UINT8),
        "i8": (-100, GGUFValueType.INT8),
        "u16": (60000, GGUFValueType.UINT16),
        "i16": (-30000, GGUFValueType.INT16),
        "u32": (4000000000, GGUFValueType.UINT32),
        "i32": (-2000000000, GGUFValueType.INT32),
        "u64": (2**63, GGUFValueType.UINT64),
        "i64": (-(2**40), GGUFValueType.INT64),
        "f32": (0.1, GGUFValueType.FLOAT32),
        "f64": (1e300, GGUFValueType.FLOAT64),
        "bool": (True, GGUFValueType.BOOL),
    }
    for name, (value, kind) in scalars.items():
        writer.add_key_value(f"sample.{name}", value, kind)
    writer.add_string("sample.text", "Grüße\n")
    writer.add_array("sample.strings", ["a", "", "日本"])
    writer.add_array("sample.integers", [1, -2, 3])
    writer.add_array("sample.floats", [0.5, -0.25])
    writer.add_array("sample.flags", [True, False])
    rows = np.linspace(-1.0, 1.0, N_COLS, dtype=np.float32).reshape(1, N_COLS)
    for qtype in GGMLQuantizationType:
        block_elems, block_bytes = GGML_QUANT_SIZES[qtype]
        raw = np.zeros((1, N_COLS // block_elems * block_bytes), dtype=np.uint8)
        if qtype.name in QUANTISED:
            raw = np.ascontiguousarray(quantize(rows, qtype)).view(np.uint8)
        writer.add_tensor(f"weights.{qtype.name}", raw, raw_dtype=qtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes small GGUF files for tests and fuzzing.")
    parser.add_argument("--out", type=Path, default=Path("tests/data/gguf"))
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    write_sample(out / "sample-v3.gguf")
    sample = bytearray((out / "sample-v3.gguf").read_bytes())
    sample[4] = 2
    (out / "sample-v2.gguf").write_bytes(sample)


if __name__ == "__main__":
    main()
