"""Tensors that are described now and computed when they are written, a block of rows at a time.

A Lazy knows its shape and the type of its bits. Cutting, reordering and joining keep the bits; `map` goes through float32.
Nothing is read before `blocks` or `bits` is called, so a plan for all tensors of a checkpoint costs no memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK_BYTES = 4 << 20  # an encoder makes several arrays of this size

Floats = NDArray[np.float32]


class Lazy:
    """A tensor in the making. `dtype` names the meaning of its bits, as safetensors does."""

    def __init__(
        self,
        shape: Sequence[int],
        dtype: str,
        load: Callable[[], NDArray[Any]] | None = None,
        parts: Sequence[Lazy] = (),
        done: Callable[[], None] | None = None,
    ) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype
        self._load = load
        self._parts = tuple(parts)
        self._done = done

    @property
    def n_elems(self) -> int:
        return math.prod(self.shape)

    # ---- what there is to write ----

    def bits(self) -> NDArray[Any]:
        """All of it, in the storage type."""
        if self._load is not None:
            return self._load()
        return np.concatenate([part.bits().reshape(-1) for part in self._parts]).reshape(self.shape)

    def floats(self) -> Floats:
        """All of it in float32."""
        return to_float(self.bits(), self.dtype)

    def blocks(self) -> Iterator[NDArray[Any]]:
        """The bits in order, a few rows [n, n_columns] of at most _BLOCK_BYTES at a time (a vector made of parts: in parts)."""
        n_columns = self.shape[-1] if self.shape else 1
        if self._parts:
            for part in self._parts:
                for block in part.blocks():
                    yield block if block.size % n_columns else block.reshape(-1, n_columns)
        else:
            rows = self.bits().reshape(-1, n_columns)
            n_rows = max(1, _BLOCK_BYTES // (rows.itemsize * n_columns))
            for begin in range(0, len(rows), n_rows):
                yield rows[begin : begin + n_rows]
            del rows
        self.finished()

    def finished(self) -> None:
        """Lets go of the pages this came from."""
        if self._done is not None:
            self._done()

    # ---- what can be made of it ----

    def _derive(self, shape: Sequence[int], change: Callable[[NDArray[Any]], NDArray[Any]], dtype: str | None = None) -> Lazy:
        return Lazy(shape, dtype or self.dtype, lambda: change(self.bits()), done=self._release)

    def _release(self) -> None:
        for part in self._parts:
            part._release()
        self.finished()

    def reshape(self, *shape: int) -> Lazy:
        """As numpy's, with at most one -1. Raises ValueError if the number of elements differs."""
        known = -math.prod(shape)
        full = tuple(self.n_elems // known if n == -1 and known > 0 else n for n in shape)
        if math.prod(full) != self.n_elems or min(full, default=1) < 0:
            raise ValueError(f"a tensor of shape {list(self.shape)} cannot be seen as {list(shape)}")
        return self._derive(full, lambda bits: bits.reshape(full))

    def transpose(self, *axes: int) -> Lazy:
        """As numpy's. Raises ValueError for axes it does not have."""
        order = axes or tuple(reversed(range(len(self.shape))))
        if sorted(order) != list(range(len(self.shape))):
            raise ValueError(f"a tensor of shape {list(self.shape)} has other axes than {list(order)}")
        return self._derive([self.shape[axis] for axis in order], lambda bits: bits.transpose(order))

    def __getitem__(self, index: Any) -> Lazy:
        """Slices and integers only, as numpy's. Raises ValueError for more axes than there are."""
        try:
            shape = np.broadcast_to(np.uint8(0), self.shape)[index].shape
        except IndexError as error:
            raise ValueError(f"a tensor of shape {list(self.shape)} cannot be cut so: {error}") from error
        return self._derive(shape, lambda bits: bits[index])

    def map(self, change: Callable[[Floats], Floats]) -> Lazy:
        """`change` of all elements at once, in float32; the shape stays."""
        return Lazy(self.shape, "F32", lambda: change(self.floats()), done=self._release)


def joined(parts: Sequence[Lazy], shape: Sequence[int]) -> Lazy:
    """`parts` one behind the other in memory, seen as `shape`: a concatenation along, or a stack on, the first axis."""
    kinds = {part.dtype for part in parts}
    if len(kinds) > 1:
        parts = [part if part.dtype == "F32" else part.map(lambda values: values) for part in parts]
    if sum(part.n_elems for part in parts) != math.prod(shape):
        raise ValueError(f"parts of shapes {[list(part.shape) for part in parts][:4]} do not make one of {list(shape)}")
    return Lazy(shape, parts[0].dtype, parts=parts)


def concatenated(*parts: Lazy) -> Lazy:
    """Along the first axis. Raises ValueError if other axes differ."""
    if any(part.shape[1:] != parts[0].shape[1:] for part in parts):
        raise ValueError(f"tensors of shapes {[list(part.shape) for part in parts]} do not join")
    return joined(parts, (sum(part.shape[0] for part in parts), *parts[0].shape[1:]))


def stacked(parts: Sequence[Lazy]) -> Lazy:
    """On a new first axis. Raises ValueError if shapes differ."""
    if any(part.shape != parts[0].shape for part in parts):
        raise ValueError(f"tensors of shapes {sorted({part.shape for part in parts})[:4]} do not stack")
    return joined(parts, (len(parts), *parts[0].shape))


def to_float(bits: NDArray[Any], dtype: str) -> Floats:
    """The values of stored bits. Raises ValueError for bits that stand for no numbers (U8, scales)."""
    if dtype == "BF16":
        wide: Floats = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return wide
    if dtype == "F8_E4M3":
        found: Floats = _E4M3[bits]
        return found
    if dtype in ("U8", "F8_E8M0", "BOOL"):
        raise ValueError(f"its bits ({dtype}) are no numbers")
    return bits.astype(np.float32, copy=False)


def _e4m3_values() -> Floats:
    """The 256 values of FP8 E4M3FN: no infinities, NaN at 0x7F and 0xFF."""
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 15, codes & 7
    values = np.where(exponent == 0, mantissa * 2.0**-9, (1 + mantissa / 8) * 2.0 ** (exponent - 7))
    values[(codes & 127) == 127] = np.nan
    return np.where(codes < 128, values, -values).astype(np.float32)


_E4M3 = _e4m3_values()
