"""A checkpoint as the Hugging Face hub holds it: config.json and tensors in safetensors files, which are mapped, not read.

A safetensors file is 8 bytes with the length of a header, the header (JSON: name -> dtype, shape, data_offsets), and the
tensors' bytes without gaps. Nothing of it is believed before it was checked against the size of the file. A checkpoint in
several files has model.safetensors.index.json, which says which file holds which tensor.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cactus_py.errors import ModelFileError, ModelFormatError, UnsupportedModelError

_HEADER_LIMIT_BYTES = 100 << 20
_JSON_LIMIT_BYTES = 256 << 20
INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"

# The type a tensor is stored in -> how numpy holds its bits. BF16 and FP8 have no numpy type; lazy.py gives them a meaning.
STORAGE: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F8_E4M3": np.dtype("u1"),
    "F8_E8M0": np.dtype("u1"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "BOOL": np.dtype("u1"),
}


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies. `begin` counts from the start of the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    size_bytes: int


class Checkpoint:
    """The tensors of a folder by name. Opens and checks all headers; bytes are touched when a tensor is read."""

    def __init__(self, folder: Path) -> None:
        """Raises ModelFileError, ModelFormatError or UnsupportedModelError, in a sentence that names the file."""
        self.folder = folder
        self._maps: dict[Path, mmap.mmap] = {}
        self._entries: dict[str, Entry] = {}
        if (folder / INDEX).is_file():
            self._open_parts(folder / INDEX)
        elif (folder / WHOLE).is_file():
            self._entries = self._read_header(folder / WHOLE)
        else:
            raise self._nothing_here()

    def _nothing_here(self) -> Exception:
        pickles = [path.name for path in sorted(self.folder.iterdir()) if path.suffix in (".bin", ".pt", ".pth")]
        if pickles:
            return UnsupportedModelError(
                f"{self.folder} holds its weights in {pickles[0]}: Python's pickle format, which can run code when it is read; "
                "convert them to safetensors first, or take a revision of the model that has them."
            )
        return ModelFileError(f"{self.folder} holds neither {WHOLE} nor {INDEX}.")

    def _open_parts(self, index: Path) -> None:
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelFormatError(f"{index} has no weight_map.")
        found: dict[str, dict[str, Entry]] = {}
        for name, file in weight_map.items():
            if not isinstance(file, str) or Path(file).name != file or "\\" in file or not file.endswith(".safetensors"):
                raise ModelFormatError(
                    f"{index} says that {name!r} is in {file!r}, which is not a .safetensors file beside it."
                )
            if file not in found:
                found[file] = self._read_header(self.folder / file)
            if name not in found[file]:
                raise ModelFormatError(f"{file} holds no tensor {name!r}, though {INDEX} says so.")
            self._entries[name] = found[file][name]

    def _read_header(self, path: Path) -> dict[str, Entry]:
        try:
            with path.open("rb") as file:
                file_bytes = os.fstat(file.fileno()).st_size
                if file_bytes < 8:
                    raise ModelFormatError(f"{path} has {file_bytes} bytes, too few for a safetensors file.")
                header_bytes = int.from_bytes(file.read(8), "little")
                if header_bytes > min(file_bytes - 8, _HEADER_LIMIT_BYTES):
                    raise ModelFormatError(f"{path} claims a header of {header_bytes:,} bytes and has {file_bytes:,} in all.")
                header = _loads(file.read(header_bytes), path)
                self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise ModelFileError(f"{path} cannot be read: {error.strerror or error}.") from error
        return _checked_entries(header, path, 8 + header_bytes, file_bytes)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def bits(self, name: str) -> NDArray[Any]:
        """The stored bits, as a read-only view of the mapped file."""
        entry = self._entries[name]
        flat = np.frombuffer(self._maps[entry.file], STORAGE[entry.dtype], math.prod(entry.shape), entry.begin)
        return flat.reshape(entry.shape)

    def forget(self, name: str) -> None:
        """Tells the system that the pages of this tensor are not needed any more: they would count as this process's memory."""
        entry = self._entries[name]
        if not hasattr(mmap.mmap, "madvise") or not hasattr(mmap, "MADV_DONTNEED"):
            return
        begin = entry.begin // mmap.PAGESIZE * mmap.PAGESIZE
        self._maps[entry.file].madvise(mmap.MADV_DONTNEED, begin, entry.begin + entry.size_bytes - begin)


def _checked_entries(header: dict[str, Any], path: Path, data_begin: int, file_bytes: int) -> dict[str, Entry]:
    entries = {}
    for name, facts in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(facts, dict):
            raise ModelFormatError(f"{path}: the entry of tensor {name!r} is not an object.")
        dtype, shape, offsets = (facts.get(key) for key in ("dtype", "shape", "data_offsets"))
        if not isinstance(dtype, str) or dtype not in STORAGE:
            raise UnsupportedModelError(f"{path}: tensor {name!r} is of type {dtype!r}, which is not supported.")
        if not isinstance(shape, list) or len(shape) > 8 or not all(type(n) is int and 0 < n < 1 << 40 for n in shape):
            raise ModelFormatError(f"{path}: tensor {name!r} has the shape {str(shape)[:100]}.")
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int for n in offsets):
            raise ModelFormatError(f"{path}: tensor {name!r} has no pair of data_offsets.")
        begin, end = offsets
        if not 0 <= begin <= end <= file_bytes - data_begin:
            raise ModelFormatError(
                f"{path}: tensor {name!r} lies at bytes {begin:,} to {end:,} of {file_bytes - data_begin:,}: the file is cut "
                "short, or its header is wrong."
            )
        if end - begin != math.prod(shape) * STORAGE[dtype].itemsize:
            raise ModelFormatError(f"{path}: tensor {name!r} of shape {shape} in {dtype} cannot have {end - begin:,} bytes.")
        entries[name] = Entry(path, dtype, tuple(shape), data_begin + begin, end - begin)
    before = None
    for entry in sorted(entries.values(), key=lambda entry: entry.begin):
        if before is not None and entry.begin < before.begin + before.size_bytes:
            raise ModelFormatError(f"{path}: two tensors share bytes.")
        before = entry
    return entries


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelFileError or ModelFormatError."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > _JSON_LIMIT_BYTES:
                raise ModelFormatError(f"{path} is too long for what it should be.")
            return _loads(file.read(), path)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}.") from error


def _loads(data: bytes, path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ModelFormatError(f"{path} has two entries {twice[:100]!r}.")
        return found

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ModelFormatError(f"{path} holds no JSON object.")
    return value
