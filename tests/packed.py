"""Golden models are kept as .gguf.xz where that makes them small; a test needs the file itself."""

from __future__ import annotations

import lzma
import tempfile
from functools import cache
from pathlib import Path

_FOLDER = tempfile.TemporaryDirectory(prefix="cactus-zoo-")  # removed when the tests end


@cache
def unpacked(path: Path) -> Path:
    """The file at `path`; of NAME.gguf.xz a decompressed copy, made once, to be left as it is."""
    if path.suffix != ".xz":
        return path
    copy = Path(_FOLDER.name) / path.parent.name / path.stem
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(lzma.decompress(path.read_bytes()))
    return copy
