"""Text to token ids and back, by the vocabulary of a GGUF file."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from cactus_py.errors import InvalidRequestError, ModelFileError

from . import _ffi, _status

_ATTRIBUTES = {1: "unknown", 2: "control", 4: "user_defined", 8: "unused", 16: "byte", 32: "end"}


@dataclass(frozen=True, slots=True)
class TokenizerInfo:
    """What a vocabulary says of itself. Ids are None where the file names none."""

    model: str
    pre: str
    n_vocab: int
    bos_id: int | None
    eos_id: int | None
    eot_id: int | None
    pad_id: int | None
    unk_id: int | None
    add_bos: bool
    add_eos: bool
    sep_id: int | None = None
    mask_id: int | None = None
    add_sep: bool = False


def path_bytes(path: str | os.PathLike[str]) -> bytes:
    """A path as the C library takes it. Raises ModelFileError for one that no file can have."""
    raw = os.fsencode(path)
    if b"\0" in raw:
        raise ModelFileError("the path of a model cannot contain a NUL character")
    return raw


def id_array(ids: Sequence[int]) -> tuple[Any, int]:
    """``(int32_t[], n)`` for a sequence of ids: a list, a tuple, an integer array. Raises InvalidRequestError otherwise."""
    ffi, _ = _ffi.load()
    try:
        if isinstance(ids, (str, bytes)):
            raise TypeError
        values = [operator.index(i) for i in ids]
    except TypeError as error:
        raise InvalidRequestError("token ids must be a sequence of integers") from error
    if any(not -(2**31) <= i < 2**31 for i in values):
        raise InvalidRequestError("token ids must fit 32 bits")
    return ffi.new("int32_t[]", values), len(values)


class Tokenizer:
    """The tokenizer of a model file. Immutable; safe to share between threads.

    ``Tokenizer.load(path)`` opens a GGUF file, which may hold a vocabulary only.
    """

    def __init__(self, handle: Any, in_use: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
        self._handle = handle
        self._in_use = in_use  # entered around each call: a model's tokenizer lives as long as the model is open

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Opens the tokenizer of a GGUF file.

        Raises ModelFileError, ModelFormatError or UnsupportedModelError, each with one sentence that names the cause.
        """
        ffi, lib = _ffi.load()
        out, error = ffi.new("cactus_tokenizer **"), _status.new_error()
        _status.check(lib.cactus_tokenizer_load(path_bytes(path), out, error), error)
        handle = ffi.gc(out[0], lib.cactus_tokenizer_free)
        return cls(handle)

    @property
    def info(self) -> TokenizerInfo:
        ffi, lib = _ffi.load()
        raw, error = ffi.new("cactus_tokenizer_info *"), _status.new_error()
        raw.struct_size = ffi.sizeof("cactus_tokenizer_info")
        with self._in_use():
            _status.check(lib.cactus_tokenizer_get_info(self._handle, raw, error), error)
            model, pre = (ffi.string(text).decode("utf-8", "replace") for text in (raw.model, raw.pre))

        def optional(value: int) -> int | None:
            return None if value < 0 else value

        return TokenizerInfo(
            model=model,
            pre=pre,
            n_vocab=raw.n_vocab,
            bos_id=optional(raw.bos_id),
            eos_id=optional(raw.eos_id),
            eot_id=optional(raw.eot_id),
            pad_id=optional(raw.pad_id),
            unk_id=optional(raw.unk_id),
            add_bos=bool(raw.add_bos),
            add_eos=bool(raw.add_eos),
            sep_id=optional(raw.sep_id),
            mask_id=optional(raw.mask_id),
            add_sep=bool(raw.add_sep),
        )

    def encode(self, text: str | bytes, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Ids of a text. `add_special`: with bos/eos where the model wants them; `parse_special`: text such as
        ``<|im_end|>`` becomes its token. Bytes need not be UTF-8."""
        ffi, lib = _ffi.load()
        if not isinstance(text, (str, bytes, bytearray, memoryview)):
            raise InvalidRequestError(f"a text must be str or bytes, not {type(text).__name__}")
        raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
        capacity = len(raw) + 3
        n_ids, error = ffi.new("size_t *"), _status.new_error()
        while True:
            ids = ffi.new("int32_t[]", capacity)
            with self._in_use():
                status = lib.cactus_tokenize(
                    self._handle, raw, len(raw), add_special, parse_special, ids, capacity, n_ids, error
                )
            if status == _status.OK or n_ids[0] <= capacity:
                break
            capacity = n_ids[0]  # normalising made the text longer
        _status.check(status, error)
        return ffi.unpack(ids, n_ids[0]) if n_ids[0] else []

    def decode_bytes(self, ids: Sequence[int], show_special: bool = False) -> bytes:
        """Bytes of a sequence of ids, which may end inside a character; exact but for spaces that encoding added at the front
        (SentencePiece) or that WordPiece puts before punctuation. `show_special`: control tokens are written too.

        Raises InvalidRequestError for an id that is not in the vocabulary.
        """
        ffi, lib = _ffi.load()
        raw, n = id_array(ids)
        n_bytes, error = ffi.new("size_t *"), _status.new_error()
        capacity = 16 * n + 64
        while True:
            text = ffi.new("char[]", capacity)
            with self._in_use():
                status = lib.cactus_detokenize(self._handle, raw, n, show_special, text, capacity, n_bytes, error)
            if status == _status.OK or n_bytes[0] <= capacity:
                break
            capacity = n_bytes[0]
        _status.check(status, error)
        return bytes(ffi.buffer(text, n_bytes[0]))

    def decode(self, ids: Sequence[int], show_special: bool = False) -> str:
        """Text of a sequence of ids; what is not UTF-8 becomes U+FFFD."""
        return self.decode_bytes(ids, show_special).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes of one token as they appear inside a text, control tokens included.

        Raises InvalidRequestError for an id that is not in the vocabulary.
        """
        ffi, lib = _ffi.load()
        raw, n_bytes, error = ffi.new("char **"), ffi.new("size_t *"), _status.new_error()
        wanted = id_array([token_id])[0][0]
        with self._in_use():
            _status.check(lib.cactus_token_bytes(self._handle, wanted, raw, n_bytes, error), error)
            return bytes(ffi.buffer(raw[0], n_bytes[0])) if n_bytes[0] else b""

    def attributes(self, token_id: int) -> frozenset[str]:
        """Which of unknown, control, user_defined, unused, byte, end a token is.

        Raises InvalidRequestError for an id that is not in the vocabulary.
        """
        bits = self._attribute_bits([token_id] if -(2**31) <= token_id < 2**31 else [-1])[0]
        if bits < 0:
            raise InvalidRequestError(f"token {token_id} is not in the vocabulary")
        return frozenset(name for bit, name in _ATTRIBUTES.items() if bits & bit)

    def ids_with(self, *names: str) -> list[int]:
        """Ids of all tokens that have at least one of the named attributes, ascending."""
        wanted = sum(bit for bit, name in _ATTRIBUTES.items() if name in names)
        return [i for i, bits in enumerate(self._attribute_bits(range(self.info.n_vocab))) if bits & wanted]

    def _attribute_bits(self, ids: Iterable[int]) -> list[int]:
        _, lib = _ffi.load()
        with self._in_use():
            return [lib.cactus_token_attributes(self._handle, i) for i in ids]
