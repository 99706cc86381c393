"""Loading libcactus: the declarations come from ``cactus.h`` itself, the library lies beside it in the package.

Nothing outside ``cactus_py.engine`` imports this module.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

from cactus_py.errors import EngineError

ABI_VERSION = 1
_HERE = Path(__file__).resolve().parent
_LIBRARY_NAME = "libcactus.dylib" if sys.platform == "darwin" else "libcactus.so"


def _candidates() -> list[tuple[Path, Path]]:
    """Places of (library, header): this package, a build inside a source checkout, an installed package."""
    root = _HERE.parent.parent
    found = [(_HERE / "lib" / _LIBRARY_NAME, _HERE / "lib" / "cactus.h")]
    override = os.environ.get("CACTUS_PY_LIBRARY")
    header = _HERE / "lib" / "cactus.h"
    source_header = root / "native" / "include" / "cactus.h"
    if override:
        found.insert(0, (Path(override), header if header.exists() else source_header))
    found.append((root / "build" / _LIBRARY_NAME, source_header))
    # A source checkout that comes before the installed package on the path, as in `python -c` inside it: the installed library.
    installed = (Path(entry) / "cactus_py" / "engine" / "lib" for entry in sys.path if entry)
    found += [(folder / _LIBRARY_NAME, folder / "cactus.h") for folder in installed]
    return found


def declarations(header: str) -> str:
    """The C declarations of ``cactus.h`` as cffi reads them: without preprocessor lines and the export macro."""
    text = re.sub(r"/\*.*?\*/", " ", header, flags=re.S)
    text = re.sub(r"#ifdef __cplusplus.*?#endif", "", text, flags=re.S)
    text = re.sub(r"^\s*#.*$", "", text, flags=re.M)
    return text.replace("CACTUS_API ", "")


_lock = threading.Lock()
_loaded: tuple[Any, Any] | None = None


def load() -> tuple[Any, Any]:
    """``(ffi, lib)``, the same for every thread. Raises EngineError when the library is missing or of another version."""
    global _loaded
    if _loaded is None:
        with _lock:
            if _loaded is None:
                _loaded = _open()
    return _loaded


def _open() -> tuple[Any, Any]:
    import cffi

    for library, header in _candidates():
        if library.exists() and header.exists():
            break
    else:
        raise EngineError(
            f"the native library {_LIBRARY_NAME} is not installed; reinstall cactus-py (from source: pip install .)"
        )
    ffi = cffi.FFI()
    ffi.cdef(declarations(header.read_text(encoding="utf-8")))
    try:
        lib: Any = ffi.dlopen(str(library))
    except OSError as error:
        raise EngineError(f"the native library {library} cannot be loaded: {error}") from error
    version = lib.cactus_abi_version()
    if version != ABI_VERSION:
        raise EngineError(f"the native library {library} has ABI version {version}, this package needs {ABI_VERSION}")
    return ffi, lib


def library_path() -> Path | None:
    """Where the library that ``load`` would take lies; None when there is none."""
    return next((library for library, header in _candidates() if library.exists() and header.exists()), None)
