"""Writes ``cactus_py/engine/_bindings.py`` from ``native/include/cactus.h``: the declarations as cffi stores them once parsed.

    python scripts/make_bindings.py

Parsing the header takes 35 ms of every process that loads a model; reading the result takes one. A test compares both.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "native" / "include" / "cactus.h"
BANNER = '''"""Generated from native/include/cactus.h by scripts/make_bindings.py; not to be edited."""

# mypy: ignore-errors
'''
TARGET = ROOT / "cactus_py" / "engine" / "_bindings.py"


def declarations(header: str) -> str:
    """The C declarations of ``cactus.h`` as cffi reads them: without comments, preprocessor lines and the export macro."""
    text = re.sub(r"/\*.*?\*/", " ", header, flags=re.S)
    text = re.sub(r"#ifdef __cplusplus.*?#endif", "", text, flags=re.S)
    text = re.sub(r"^\s*#.*$", "", text, flags=re.M)
    return text.replace("CACTUS_API ", "")


def bindings(header: str) -> str:
    """The Python module for these declarations (cffi's out-of-line ABI mode)."""
    builder = FFI()
    builder.set_source("_bindings", None)
    builder.cdef(declarations(header))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "_bindings.py"
        builder.emit_python_code(str(path))
        code = path.read_text(encoding="utf-8")
    return BANNER + code


if __name__ == "__main__":
    TARGET.write_text(bindings(HEADER.read_text(encoding="utf-8")), encoding="utf-8")
