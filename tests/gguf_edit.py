"""A GGUF file taken apart and put together again, so that tests can damage one part of it and leave the rest right.

Little-endian, version 3. Nothing is checked when writing: wrong counts, types, shapes and offsets are what this is for.
Written from the format's description, not from the reader under test.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
SCALARS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}


@dataclass
class Array:
    """A metadata array: the type of its elements, and the elements."""

    kind: int
    items: list[Any]


@dataclass
class Value:
    """A metadata value: its type number and what Python sees. `count` overrides the stored length of a string or an array."""

    kind: int
    data: Any
    count: int | None = None


@dataclass
class Tensor:
    """One row of the tensor table and its bytes. `offset` overrides the place that the writer would give it."""

    name: bytes
    dims: list[int]
    kind: int
    data: bytes
    offset: int | None = None


@dataclass
class Gguf:
    """A whole file. The counts are those of the lists unless set."""

    values: dict[str, Value] = field(default_factory=dict)
    tensors: list[Tensor] = field(default_factory=list)
    magic: bytes = b"GGUF"
    version: int = 3
    alignment: int = 32
    n_values: int | None = None
    n_tensors: int | None = None

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name."""
        return next(t for t in self.tensors if t.name == name.encode())

    def remove_tensor(self, name: str) -> None:
        """Drops a tensor."""
        self.tensors.remove(self.tensor(name))

    def set(self, key: str, kind: int, data: Any) -> None:
        """Adds or replaces a metadata value."""
        self.values[key] = Value(kind, data)

    def to_bytes(self) -> bytes:
        """The file."""
        out = bytearray(self.magic + struct.pack("<I", self.version))
        out += struct.pack("<Q", len(self.tensors) if self.n_tensors is None else self.n_tensors)
        out += struct.pack("<Q", len(self.values) if self.n_values is None else self.n_values)
        for key, value in self.values.items():
            out += _string(key.encode()) + struct.pack("<I", value.kind) + _encode(value.kind, value.data, value.count)
        at = 0
        for tensor in self.tensors:
            out += _string(tensor.name) + struct.pack("<I", len(tensor.dims))
            out += struct.pack(f"<{len(tensor.dims)}Q", *tensor.dims)
            out += struct.pack("<IQ", tensor.kind, at if tensor.offset is None else tensor.offset)
            at += _padded(len(tensor.data), self.alignment)
        out += b"\0" * (_padded(len(out), self.alignment) - len(out))
        for tensor in self.tensors:
            out += tensor.data + b"\0" * (_padded(len(tensor.data), self.alignment) - len(tensor.data))
        return bytes(out)


def _padded(n: int, alignment: int) -> int:
    return (n + alignment - 1) // alignment * alignment


def _string(data: bytes, count: int | None = None) -> bytes:
    return struct.pack("<Q", len(data) if count is None else count) + data


def _encode(kind: int, data: Any, count: int | None = None) -> bytes:
    if isinstance(data, bytes) and kind != STRING:
        return data  # raw bytes under any type number
    if kind == STRING:
        return _string(data if isinstance(data, bytes) else data.encode(), count)
    if kind == ARRAY:
        n = len(data.items) if count is None else count
        return struct.pack("<IQ", data.kind, n) + b"".join(_encode(data.kind, item) for item in data.items)
    return struct.pack("<" + SCALARS[kind], data)


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, n: int) -> bytes:
        piece = self.data[self.at : self.at + n]
        assert len(piece) == n, "the file to edit is itself truncated"
        self.at += n
        return piece

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> bytes:
        return self.take(self.number("Q"))

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            element, n = self.number("I"), self.number("Q")
            return Array(element, [self.value(element) for _ in range(n)])
        return self.number(SCALARS[kind])


def read(path: Path) -> Gguf:
    """Takes a good file apart."""
    cursor = _Cursor(path.read_bytes())
    gguf = Gguf(magic=cursor.take(4), version=cursor.number("I"))
    n_tensors, n_values = cursor.number("Q"), cursor.number("Q")
    for _ in range(n_values):
        key, kind = cursor.string().decode(), cursor.number("I")
        gguf.values[key] = Value(kind, cursor.value(kind))
    if "general.alignment" in gguf.values:
        gguf.alignment = gguf.values["general.alignment"].data
    heads = []
    for _ in range(n_tensors):
        name = cursor.string()
        dims = [cursor.number("Q") for _ in range(cursor.number("I"))]
        heads.append((name, dims, cursor.number("I"), cursor.number("Q")))
    start = _padded(cursor.at, gguf.alignment)
    ends = [*sorted(offset for *_, offset in heads)[1:], len(cursor.data) - start]
    by_offset = dict(zip(sorted(offset for *_, offset in heads), ends, strict=True))
    for name, dims, kind, offset in heads:
        gguf.tensors.append(Tensor(name, dims, kind, cursor.data[start + offset : start + by_offset[offset]]))
    return gguf
