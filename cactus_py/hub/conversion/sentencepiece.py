"""Reading a SentencePiece model (tokenizer.model): as much of its protobuf as a GGUF file wants.

The file is a message of fields, each a number and a value: 1 a piece (text, score, type), 2 the trainer's settings (of which
field 3 is the kind of model), 3 the normaliser's (field 2 its table of replacements, 3 and 4 flags).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cactus_py.errors import ModelFileError, ModelFormatError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2
_LIMIT_BYTES = 256 << 20


@dataclass
class SentencePiece:
    """A model: its pieces in the order of their ids."""

    texts: list[bytes] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    kind: int = UNIGRAM
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True


def read(path: Path) -> SentencePiece:
    """Raises ModelFileError or ModelFormatError."""
    try:
        data = path.read_bytes() if path.stat().st_size <= _LIMIT_BYTES else b""
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}.") from error
    try:
        model = _model(data)
    except (ValueError, IndexError, struct.error) as error:
        raise ModelFormatError(f"{path} is not a SentencePiece model: {error}.") from error
    if not model.texts:
        raise ModelFormatError(f"{path} is not a SentencePiece model: it holds no pieces.")
    return model


def _model(data: bytes) -> SentencePiece:
    model = SentencePiece()
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            text, score, kind = b"", 0.0, NORMAL
            for inner, given in _fields(value):
                if inner == 1 and isinstance(given, bytes):
                    text = given
                elif inner == 2 and isinstance(given, float):
                    score = given
                elif inner == 3 and isinstance(given, int):
                    kind = given
            if not NORMAL <= kind <= BYTE or not math.isfinite(score):
                raise ValueError(f"piece {len(model.texts)} has type {kind} and score {score}")
            text.decode("utf-8")
            model.texts.append(text)
            model.scores.append(score)
            model.types.append(kind)
        elif number == 2 and isinstance(value, bytes):
            model.kind = next((given for inner, given in _fields(value) if inner == 3 and isinstance(given, int)), UNIGRAM)
        elif number == 3 and isinstance(value, bytes):
            for inner, given in _fields(value):
                if inner == 2 and isinstance(given, bytes):
                    model.charsmap = given
                elif inner == 3:
                    model.add_dummy_prefix = bool(given)
                elif inner == 4:
                    model.remove_extra_whitespaces = bool(given)
    return model


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int | float]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
        elif wire == 2:
            n_bytes, at = _varint(data, at)
            if n_bytes > len(data) - at:
                raise ValueError(f"a field of {n_bytes} bytes goes past the end")
            yield number, data[at : at + n_bytes]
            at += n_bytes
        elif wire in (1, 5):
            n_bytes = 8 if wire == 1 else 4
            (real,) = struct.unpack_from("<d" if wire == 1 else "<f", data, at)
            yield number, real
            at += n_bytes
        else:
            raise ValueError(f"field {number} has the wire type {wire}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is longer than 64 bits")
