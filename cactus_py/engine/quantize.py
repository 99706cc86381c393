"""Making a GGUF file with weights of other types, on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cactus_py.errors import InvalidRequestError

from . import _ffi, _status
from .tokenizer import path_bytes


@dataclass(frozen=True, slots=True)
class QuantizeProgress:
    """What one tensor becomes, and how far the work is. Reported when a tensor is begun, while it lasts, and when it is `done`.

    `fell_back`: its rows do not fit the blocks of the type that it should have had. `has_importance`: the importance matrix has
    weights for it. `bytes_done` of `bytes_total` count all tensors of the source.
    """

    tensor: str
    from_type: str
    to_type: str
    done: bool
    fell_back: bool
    has_importance: bool
    index: int
    tensors: int
    elements: int
    from_bytes: int
    to_bytes: int
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class QuantizeResult:
    """What was made. `from_bytes` and `to_bytes` are tensor data; the files hold metadata besides."""

    tensors: int
    converted: int
    fell_back: int
    with_importance: int
    elements: int
    from_bytes: int
    to_bytes: int
    from_file_bytes: int
    to_file_bytes: int
    seconds: float

    @property
    def from_bits(self) -> float:
        """Bits per weight of the source."""
        return 8 * self.from_bytes / self.elements if self.elements else 0.0

    @property
    def to_bits(self) -> float:
        """Bits per weight of the target."""
        return 8 * self.to_bytes / self.elements if self.elements else 0.0


def quantize_recipes() -> list[str]:
    """Names that `quantize` takes: a type for most tensors, and rules for the rest."""
    return _names("cactus_quantize_recipes")


def quantize_types() -> list[str]:
    """Names of the tensor types that can be made: what `tensor_types`, `output_type` and `embedding_type` take, in any case."""
    return _names("cactus_quantize_types")


def quantize(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str] | None,
    recipe: str = "q4_k_m",
    *,
    threads: int | None = None,
    imatrix: str | os.PathLike[str] | None = None,
    tensor_types: Sequence[tuple[str, str]] = (),
    output_type: str | None = None,
    embedding_type: str | None = None,
    pure: bool = False,
    allow_requantize: bool = False,
    overwrite: bool = False,
    on_progress: Callable[[QuantizeProgress], None] | None = None,
) -> QuantizeResult:
    """Writes the model of the GGUF file `source` to `target` with weights of the types that `recipe` says.

    `imatrix`: an importance matrix of llama.cpp. `tensor_types`: pairs of a POSIX extended regular expression and a type; the
    first that is found in a tensor's name decides. `pure`: the recipe's type for all matrices. `target` None: nothing is
    written, but all is checked, counted and reported. The target appears when it is complete, or not at all; an exception of
    `on_progress`, Ctrl-C too, ends the work and is passed on. Raises the errors of `cactus_py.errors`.
    """
    ffi, lib = _ffi.load()
    params, result, error = ffi.new("cactus_quantize_params *"), ffi.new("cactus_quantize_result *"), _status.new_error()
    lib.cactus_quantize_params_default(params)
    result.struct_size = ffi.sizeof("cactus_quantize_result")
    texts = [_text(ffi, "tensor_types", f"{pattern}={kind}") for pattern, kind in tensor_types]
    array = ffi.new("char *[]", texts) if texts else ffi.NULL
    kept = {
        "recipe": _text(ffi, "recipe", recipe),
        "output_type": _text(ffi, "output_type", output_type),
        "embedding_type": _text(ffi, "embedding_type", embedding_type),
        "imatrix": ffi.new("char[]", path_bytes(imatrix)) if imatrix is not None else ffi.NULL,
    }
    for name, text in kept.items():
        setattr(params, name, text)
    params.n_threads = threads or 0
    params.tensor_types, params.n_tensor_types = array, len(texts)
    params.pure, params.allow_requantize, params.overwrite = pure, allow_requantize, overwrite
    raised: list[BaseException] = []

    def step(user: Any, raw: Any) -> int:
        if on_progress is not None:
            on_progress(_progress(ffi, raw))
        return 0

    def failed(kind: type[BaseException], value: BaseException, trace: Any) -> int:
        raised.append(value)
        return 1

    # Also without a listener: here Python sees Ctrl-C.
    callback = ffi.callback("int32_t(void *, const cactus_quantize_progress *)", step, error=1, onerror=failed)
    params.on_progress = callback
    began = time.monotonic()
    goal = path_bytes(target) if target is not None else ffi.NULL
    status = lib.cactus_quantize(path_bytes(source), goal, params, result, error)
    if raised:
        raise raised[0]
    _status.check(status, error)
    return QuantizeResult(
        tensors=result.n_tensors,
        converted=result.n_converted,
        fell_back=result.n_fell_back,
        with_importance=result.n_with_importance,
        elements=result.n_elems,
        from_bytes=result.from_bytes,
        to_bytes=result.to_bytes,
        from_file_bytes=result.from_file_bytes,
        to_file_bytes=result.to_file_bytes,
        seconds=time.monotonic() - began,
    )


def _names(function: str) -> list[str]:
    ffi, lib = _ffi.load()
    return bytes(ffi.string(getattr(lib, function)())).decode().split()


def _text(ffi: Any, name: str, value: str | None) -> Any:
    """A ``char[]``, or NULL for None."""
    if value is None:
        return ffi.NULL
    if not isinstance(value, str) or "\0" in value:
        raise InvalidRequestError(f"{name} must be a text without NUL, not {value!r}", param=name)
    return ffi.new("char[]", value.encode("utf-8", "surrogateescape"))


def _progress(ffi: Any, raw: Any) -> QuantizeProgress:
    return QuantizeProgress(
        tensor=ffi.string(raw.tensor).decode("utf-8", "replace"),
        from_type=ffi.string(raw.from_type).decode(),
        to_type=ffi.string(raw.to_type).decode(),
        done=bool(raw.done),
        fell_back=bool(raw.fell_back),
        has_importance=bool(raw.has_importance),
        index=raw.index,
        tensors=raw.n_tensors,
        elements=raw.n_elems,
        from_bytes=raw.from_bytes,
        to_bytes=raw.to_bytes,
        bytes_done=raw.bytes_done,
        bytes_total=raw.bytes_total,
    )
