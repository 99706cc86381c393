"""The native engine: the only Python that touches C.

``Model`` maps a GGUF file, scores and generates; ``Tokenizer`` turns text into ids; ``quantize`` makes smaller files. Errors of
the C library arrive as the exceptions of ``cactus_py.errors``, one class per status. C releases the interpreter lock while it
works.
"""

from __future__ import annotations

from pathlib import Path

from . import _ffi
from .model import EngineActivity, Generation, GenerationStates, GenerationStats, MemoryInfo, Model, ModelInfo, Token
from .quantize import QuantizeProgress, QuantizeResult, quantize, quantize_recipes, quantize_types
from .support import Architecture, TensorType, architectures, tensor_types
from .tokenizer import Tokenizer, TokenizerInfo

__all__ = [
    "Architecture",
    "EngineActivity",
    "Generation",
    "GenerationStates",
    "GenerationStats",
    "MemoryInfo",
    "Model",
    "ModelInfo",
    "QuantizeProgress",
    "QuantizeResult",
    "TensorType",
    "Token",
    "Tokenizer",
    "TokenizerInfo",
    "architectures",
    "cpu_features",
    "default_threads",
    "kernels_available",
    "library_path",
    "library_version",
    "quantize",
    "quantize_recipes",
    "quantize_types",
    "tensor_types",
]


def _text(function: str) -> str:
    """What a C function that takes nothing and returns a static string says."""
    ffi, lib = _ffi.load()
    return bytes(ffi.string(getattr(lib, function)())).decode()


def cpu_features() -> list[str]:
    """Instruction-set features of this CPU that the kernels look at."""
    return _text("cactus_cpu_features").split()


def kernels_available() -> list[str]:
    """Names of the kernel sets that run on this CPU, best first."""
    return _text("cactus_kernels_available").split()


def default_threads() -> int:
    """Threads that a model uses when none are asked for."""
    _, lib = _ffi.load()
    return int(lib.cactus_default_threads())


def library_version() -> str:
    """Version of the native library."""
    return _text("cactus_version")


def library_path() -> Path | None:
    """Where the native library lies; None when it is not installed."""
    return _ffi.library_path()
