"""Loading libcactus: the declarations are ``_bindings.py``, made from ``cactus.h``; the library lies in the package.

Nothing outside ``cactus_py.engine`` imports this module.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

from cactus_py.errors import EngineError

ABI_VERSION = 1
_HERE = Path(__file__).resolve().parent
_LIBRARY_NAME = "libcactus.dylib" if sys.platform == "darwin" else "libcactus.so"


def _candidates() -> list[Path]:
    """Places of the library: the environment's, this package, a build inside a source checkout, an installed package."""
    override = os.environ.get("CACTUS_PY_LIBRARY")
    found = [Path(override)] if override else []
    found += [_HERE / "lib" / _LIBRARY_NAME, _HERE.parent.parent / "build" / _LIBRARY_NAME]
    # A source checkout that comes before the installed package on the path, as in `python -c` inside it: the installed library.
    found += [Path(entry) / "cactus_py" / "engine" / "lib" / _LIBRARY_NAME for entry in sys.path if entry]
    return found


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
    from ._bindings import ffi

    library = library_path()
    if library is None:
        raise EngineError(
            f"the native library {_LIBRARY_NAME} is not installed; reinstall cactus-py (from source: pip install .)"
        )
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
    return next((library for library in _candidates() if library.exists()), None)
