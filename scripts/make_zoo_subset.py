"""Copies into tests/data/zoo the part of the golden-model zoo that the engine runs.

    python scripts/make_zoo_subset.py ZOO_DIR tests/data/zoo

ZOO_DIR holds NAME/NAME.f32.gguf with NAME.npz and NAME.json (see tests/data/zoo/README.md for what they hold), and
NAME-quant/NAME-quant.TYPE.gguf with one npz and one json for all types. GGUF files are copied byte for byte; arrays and json
entries of types that are left out are dropped. Add a name or a type below when the engine learns it. Needs numpy only.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np

DECODERS = ["llama"]
QUANTISED = {"llama-quant": ["Q2_K", "Q3_K_M", "Q4_K_M", "TQ1_0"]}


def copy_decoder(source: Path, target: Path, name: str) -> None:
    """One F32 model with its arrays and its json, as they are."""
    out = target / name
    out.mkdir(parents=True, exist_ok=True)
    for file in (f"{name}.f32.gguf", f"{name}.npz", f"{name}.json"):
        shutil.copyfile(source / name / file, out / file)


def copy_quantised(source: Path, target: Path, name: str, types: list[str]) -> None:
    """The files of `types`, and of the shared npz and json what belongs to them."""
    out = target / name
    out.mkdir(parents=True, exist_ok=True)
    for kind in types:
        file = f"{name}.{kind}.gguf"
        shutil.copyfile(source / name / file, out / file)
    with np.load(source / name / f"{name}.npz") as arrays:
        kept = {key: arrays[key] for key in ["tokens", *(f"logits_{kind}" for kind in types)]}
    np.savez_compressed(out / f"{name}.npz", **kept)
    document = json.loads((source / name / f"{name}.json").read_text(encoding="utf-8"))
    document["variants"] = {kind: document["variants"][kind] for kind in types}
    text = json.dumps(document, ensure_ascii=False, indent=1)
    (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def main(source: Path, target: Path) -> None:
    """Writes every directory and reports its size."""
    for name in DECODERS:
        copy_decoder(source, target, name)
    for name, types in QUANTISED.items():
        copy_quantised(source, target, name, types)
    for name in [*DECODERS, *QUANTISED]:
        n_bytes = sum(file.stat().st_size for file in (target / name).iterdir())
        print(f"{name}: {n_bytes / 1e6:.2f} MB")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
