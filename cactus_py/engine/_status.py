"""One exception per status of the C library."""

from __future__ import annotations

from typing import Any

from cactus_py import errors

from . import _ffi

# The values of cactus_status, in its order.
OK = 0
TIMEOUT = 8
FINISHED = 9
_EXCEPTIONS: dict[int, type[errors.CactusError]] = {
    1: errors.ModelFileError,
    2: errors.ModelFormatError,
    3: errors.UnsupportedModelError,
    4: errors.InvalidRequestError,
    5: errors.ContextLengthError,
    6: errors.OutOfMemoryError,
    7: errors.RequestCancelledError,
    8: errors.RequestTimeoutError,
    9: errors.EngineError,
    10: errors.EngineError,
    11: errors.OverloadedError,
}


def new_error() -> Any:
    """A ``cactus_error *`` for one call."""
    ffi, _ = _ffi.load()
    return ffi.new("cactus_error *")


def check(status: int, error: Any) -> None:
    """Raises the exception that belongs to `status`, with the library's sentence; returns for OK."""
    if status == OK:
        return
    ffi, _ = _ffi.load()
    message = ffi.string(error.message).decode("utf-8", "replace")
    raise _EXCEPTIONS.get(status, errors.EngineError)(message or f"the native library returned status {status}")
