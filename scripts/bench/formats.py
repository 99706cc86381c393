"""Names of a model's formats, and where its files of other formats lie. Standard library only: both Pythons import it."""

from __future__ import annotations

import re
from pathlib import Path

FORMATS = ("Q8_0", "Q4_0", "Q5_0", "Q4_K_M", "Q6_K")  # that a model is made in beside its own
_FORMAT = re.compile(r"[._-]((?:I?Q\d|TQ\d|MXFP4|BF16|F16|F32)[A-Z0-9_]*)$", re.IGNORECASE)


def format_of(model: Path) -> str:
    """`Q4_K_M` of `some-model.q4_k_m.gguf`; the name without its ending where no format is in it."""
    found = _FORMAT.search(model.stem)
    return found[1].upper() if found else model.stem


def path_of(model: Path, folder: Path, name: str) -> Path:
    """Where the same model in the format `name` lies."""
    return folder / f"{_FORMAT.sub('', model.stem)}.{name}.gguf"
