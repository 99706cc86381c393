"""What the engine runs: architectures and tensor types, as the native library itself lists them."""

from __future__ import annotations

from typing import Any, NamedTuple

from . import _ffi, _status

_MAX_TYPES = 256  # numbers of tensor types beyond any that ggml gives


class Architecture(NamedTuple):
    """A kind of decoder that runs natively."""

    name: str
    """As ``general.architecture`` of a GGUF file has it."""
    models: str
    """What is published under this name."""
    summary: str
    """How its layers are built."""


class TensorType(NamedTuple):
    """A tensor type of GGUF."""

    number: int
    name: str
    block_elems: int
    """Elements of a block, 1 for plain types."""
    block_bytes: int
    computes: bool
    """Whether models may have weights of it."""

    @property
    def bits_per_weight(self) -> float:
        """Storage, scales included."""
        return 8 * self.block_bytes / self.block_elems


def _text(pointer: Any) -> str:
    ffi, _ = _ffi.load()
    return bytes(ffi.string(pointer)).decode()


def architectures() -> list[Architecture]:
    """Every architecture that runs natively, in the order of the engine's table."""
    ffi, lib = _ffi.load()
    error = _status.new_error()
    found: list[Architecture] = []
    row = ffi.new("cactus_architecture *")
    row.struct_size = ffi.sizeof("cactus_architecture")
    while lib.cactus_architecture_get(len(found), row, error) == _status.OK:
        found.append(Architecture(_text(row.name), _text(row.models), _text(row.summary)))
    return found


def tensor_types() -> list[TensorType]:
    """Every tensor type whose layout is known, by number."""
    ffi, lib = _ffi.load()
    error = _status.new_error()
    found: list[TensorType] = []
    row = ffi.new("cactus_tensor_type *")
    row.struct_size = ffi.sizeof("cactus_tensor_type")
    for number in range(_MAX_TYPES):
        if lib.cactus_tensor_type_get(number, row, error) == _status.OK:
            found.append(TensorType(number, _text(row.name), int(row.block_elems), int(row.block_bytes), bool(row.computes)))
    return found
