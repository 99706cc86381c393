"""The native engine: the only Python that touches C.

``Model`` maps a GGUF file, scores and generates; ``Tokenizer`` turns text into ids. Errors of the C library arrive as the
exceptions of ``cactus_py.errors``, one class per status. C releases the interpreter lock while it works.
"""

from __future__ import annotations

from pathlib import Path

from . import _ffi
from .model import Generation, GenerationStats, MemoryInfo, Model, ModelInfo, Token
from .tokenizer import Tokenizer, TokenizerInfo

__all__ = [
    "Generation",
    "GenerationStats",
    "MemoryInfo",
    "Model",
    "ModelInfo",
    "Token",
    "Tokenizer",
    "TokenizerInfo",
    "cpu_features",
    "default_threads",
    "kernels_available",
    "library_path",
    "library_version",
]


def cpu_features() -> list[str]:
    """Instruction-set features of this CPU that the kernels look at."""
    ffi, lib = _ffi.load()
    return ffi.string(lib.cactus_cpu_features()).decode().split()


def kernels_available() -> list[str]:
    """Names of the kernel sets that run on this CPU, best first."""
    ffi, lib = _ffi.load()
    return ffi.string(lib.cactus_kernels_available()).decode().split()


def default_threads() -> int:
    """Threads that a model uses when none are asked for."""
    _, lib = _ffi.load()
    return int(lib.cactus_default_threads())


def library_version() -> str:
    """Version of the native library."""
    ffi, lib = _ffi.load()
    return ffi.string(lib.cactus_version()).decode()


def library_path() -> Path | None:
    """Where the native library lies; None when it is not installed."""
    return _ffi.library_path()
