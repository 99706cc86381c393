"""Writing GGUF: typed metadata, then tensors that are computed while they are written.

The file is written under another name in the same folder, and renamed when it is complete and on the disk.
"""

from __future__ import annotations

import contextlib
import math
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cactus_py.hub.conversion.lazy import Floats, Lazy, to_float
from cactus_py.hub.files import replace, require_space, storing, write_all

_ALIGNMENT = 32
_VERSION = 3
_KINDS = {"u32": (4, "<I"), "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<B"), "u8": (0, "<B")}
_STRING, _ARRAY = 8, 9


class Metadata:
    """Key -> typed value, in the order of first mention; a later value of a key replaces the earlier one."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[str, Any]] = {}

    def u32(self, key: str, value: int) -> None:
        if not 0 <= value < 1 << 32:
            raise ValueError(f"{key} cannot be {value}")
        self.values[key] = ("u32", int(value))

    def f32(self, key: str, value: float) -> None:
        self.values[key] = ("f32", float(value))

    def flag(self, key: str, value: bool) -> None:
        self.values[key] = ("bool", bool(value))

    def text(self, key: str, value: str) -> None:
        self.values[key] = ("text", value)

    def array(self, key: str, kind: str, values: Sequence[Any]) -> None:
        """`kind`: i32, f32, bool, u8 or text (str or bytes)."""
        self.values[key] = (f"array {kind}", list(values))

    def setdefault(self, key: str, kind: str, value: Any) -> None:
        self.values.setdefault(key, (kind, value))

    def encoded(self) -> bytes:
        out = bytearray()
        for key, (kind, value) in self.values.items():
            out += _string(key)
            if kind.startswith("array "):
                out += struct.pack("<I", _ARRAY) + _encoded_array(kind[6:], value)
            elif kind == "text":
                out += struct.pack("<I", _STRING) + _string(value)
            else:
                number, form = _KINDS[kind]
                out += struct.pack("<I", number) + struct.pack(form, value)
        return bytes(out)


def _encoded_array(kind: str, values: list[Any]) -> bytes:
    if kind == "text":
        return struct.pack("<IQ", _STRING, len(values)) + b"".join(_string(value) for value in values)
    number, form = _KINDS[kind]
    return struct.pack("<IQ", number, len(values)) + np.array(values, dtype=np.dtype(form.replace("<B", "u1"))).tobytes()


def _string(value: str | bytes) -> bytes:
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


# ---- types of tensors ----


@dataclass(frozen=True)
class TensorType:
    """A way to store rows: blocks of `n_elems` in `n_bytes`. `encode` takes float32 [rows, columns]."""

    name: str
    number: int
    n_elems: int
    n_bytes: int
    encode: Callable[[Floats], NDArray[Any]]


def _to_bf16(values: Floats) -> NDArray[Any]:
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    quiet: NDArray[Any] = np.where(nan, (bits >> np.uint32(16)) | np.uint32(64), rounded).astype(np.uint16)
    return quiet


def _to_f16(values: Floats) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        return values.astype(np.float16)


def _to_q8_0(values: Floats) -> NDArray[Any]:
    """Blocks of 32: a scale in F16, the largest magnitude over 127, and 32 int8, halves rounded away from zero."""
    blocks = np.ascontiguousarray(values).reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(scale == 0, np.float32(0), np.float32(1) / scale)
        scaled = blocks * inverse
        size = np.abs(scaled)
        whole = np.floor(size)
        codes = np.sign(scaled) * (whole + np.floor(2 * (size - whole)))
    out = np.empty((len(blocks), 34), np.uint8)
    out[:, :2] = _to_f16(scale).view(np.uint8)
    out[:, 2:] = codes.astype(np.int8).view(np.uint8)
    return out


F32 = TensorType("F32", 0, 1, 4, lambda values: values)
F16 = TensorType("F16", 1, 1, 2, _to_f16)
BF16 = TensorType("BF16", 30, 1, 2, _to_bf16)
Q8_0 = TensorType("Q8_0", 8, 32, 34, _to_q8_0)


def _never(values: Floats) -> NDArray[Any]:
    raise AssertionError("MXFP4 is only copied")


MXFP4 = TensorType("MXFP4", 39, 32, 17, _never)


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file to be. `shape` as numpy has it, the longest-running axis last; GGUF lists it in reverse."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    value: Lazy

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) // self.type.n_elems * self.type.n_bytes

    def chunks(self) -> Iterator[NDArray[Any]]:
        """The bytes to write, a block of rows at a time."""
        copied = self.type is MXFP4 or self.type.name == self.value.dtype
        for block in self.value.blocks():
            yield np.ascontiguousarray(block if copied else self.type.encode(to_float(block, self.value.dtype)))


def write(
    path: Path, metadata: Metadata, tensors: Sequence[Tensor], progress: Callable[[str, int, int], None], what: str
) -> int:
    """Writes the file; returns its size. `progress` gets (tensor, bytes done, bytes in all). Raises StoreError."""
    head = bytearray(b"GGUF" + struct.pack("<IQQ", _VERSION, len(tensors), len(metadata.values)) + metadata.encoded())
    offset = 0
    for tensor in tensors:
        head += _string(tensor.name) + struct.pack("<I", len(tensor.shape))
        head += b"".join(struct.pack("<Q", n) for n in reversed(tensor.shape))
        head += struct.pack("<IQ", tensor.type.number, offset)
        offset += _padded(tensor.n_bytes)
    head += bytes(_padded(len(head)) - len(head))
    with storing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    require_space(path.parent, len(head) + offset, what)
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with storing(draft):
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            with storing(draft):
                write_all(fd, bytes(head))
            done = 0
            for tensor in tensors:
                progress(tensor.name, done, offset)
                begin = done
                for chunk in tensor.chunks():
                    with storing(draft):
                        write_all(fd, chunk.reshape(-1).view(np.uint8).data)
                    done += chunk.nbytes
                    progress(tensor.name, done, offset)
                if done - begin != tensor.n_bytes:
                    raise AssertionError(f"{tensor.name}: {done - begin} bytes written where {tensor.n_bytes} were planned")
                with storing(draft):
                    write_all(fd, bytes(_padded(tensor.n_bytes) - tensor.n_bytes))
                done = begin + _padded(tensor.n_bytes)
            with storing(draft):
                os.fsync(fd)
        finally:
            os.close(fd)
        replace(draft, path)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    return len(head) + offset


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT
