"""Large arrays worked on a piece at a time, by as many threads as there are processors."""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod as product
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from onnx_prune.model.threads import FEW, in_order, workers

Array = NDArray[Any]
T = TypeVar("T")
PIECE = 1 << 18  # elements; a multiple of eight, so that packed bits can be cut there
_LEAST = 1 << 16  # elements of a piece
SHORT = 512  # elements of a run of a sample
_LOCAL = threading.local()


@dataclass(frozen=True, slots=True)
class Pieces:
    """An array that is made a piece at a time.

    Attributes:
        shape: of the array.
        dtype: of its elements.
        make: gives its elements in row-major order, in pieces of any shape; a piece is good until the next
            one is asked for.
        told: what was found out when it was last made, to be pickled, and what takes that over where another
            process made it; None where only this one can.

    Example:
        >>> Pieces((3,), np.dtype(np.int8), lambda: iter([np.int8([1, 2]), np.int8([3])]))()
        array([1, 2, 3], dtype=int8)
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    make: Callable[[], Iterator[Array]]
    told: tuple[Callable[[], Any], Callable[[Any], None]] | None = None

    def __call__(self) -> Array:
        """The whole array."""
        whole, first = np.empty(product(self.shape), self.dtype), 0
        for piece in self.make():
            whole[first : first + piece.size] = piece.reshape(-1)
            first += piece.size
        return whole.reshape(self.shape)


def each(size: int, work: Callable[[slice], T]) -> Iterator[T]:
    """What `work` gives for one piece of `size` elements after the other.

    Args:
        size: of the array.
        work: reads, and may write, what lies in the slice that it is given, and nothing else; it must not
            call this function.

    Example:
        >>> list(each(600_000, lambda part: part.stop - part.start))
        [262144, 262144, 75712]
    """
    return in_order(work, _parts(size))


def _parts(size: int) -> list[slice]:
    return [slice(first, min(first + PIECE, size)) for first in range(0, size, PIECE)]


def every(size: int, work: Callable[[slice], T]) -> list[T]:
    """All that `each` gives.

    Example:
        >>> every(600_000, lambda part: part.stop - part.start)
        [262144, 262144, 75712]
    """
    parts = _parts(size)
    return list(map(work, parts) if workers() == 1 else in_order(work, parts))


def length(size: int) -> int:
    """Elements of a piece of an array of this size: more where there are many, since each costs its share.

    >>> length(1 << 20), length(1 << 22) == PIECE * 4, length(1000 * PIECE) // PIECE
    (262144, True, 4)
    """
    return max(_LEAST, min(size // FEW, 4 * PIECE))


class Buffers:
    """Memory that pieces are made in, used again and again: fresh pages cost more than filling them.

    Example:
        >>> buffers = Buffers(np.dtype(np.int8), 6)
        >>> first = buffers.take((2, 3))
        >>> buffers.give(first)
        >>> np.shares_memory(first, buffers.take((4,)))
        True
    """

    def __init__(self, dtype: np.dtype[Any], size: int) -> None:
        self._dtype, self._size = dtype, size
        self._free: deque[Any] = deque()  # what was taken is a view of it

    def take(self, shape: tuple[int, ...]) -> Array:
        """An array of this shape, of any content."""
        try:
            whole: Array = self._free.pop()
        except IndexError:
            whole = np.empty(self._size, self._dtype)
        return whole[: product(shape)].reshape(shape)

    def give(self, array: Array) -> None:
        """Let the memory of an array that was taken be used again."""
        self._free.append(array.base)


def scratch(use: str, count: int, kind: DTypeLike) -> Array:
    """Memory of this thread that is used again: fresh pages cost more than most computing.

    Args:
        use: what it is for; what was got before for the same use is overwritten.
        count: of elements.
        kind: of elements.

    Example:
        >>> scratch("sums", 3, np.float32).shape
        (3,)
    """
    size = count * np.dtype(kind).itemsize
    kept: dict[str, Array] = _LOCAL.__dict__
    if use not in kept or kept[use].size < size:
        kept[use] = np.empty(size, np.uint8)
    return kept[use][:size].view(kind)


class Runs:
    """An array by runs of its elements, in row-major order.

    Of a mapped file a run is read into memory that the thread's next one takes: mapped pages count as memory
    of the process until they are given back, and coming and going they take longer than a copy.

    Args:
        array: the array.

    Example:
        >>> runs = Runs(np.arange(6).reshape(2, 3))
        >>> runs[1:4].tolist(), runs.sample(3).tolist(), runs.size
        ([1, 2, 3], [0, 1, 2], 6)
    """

    def __init__(self, array: Array) -> None:
        self.shape, self.size, self.dtype = array.shape, array.size, array.dtype
        self._flat = array.reshape(-1)
        mapped: Any = array
        while isinstance(mapped, np.ndarray) and not isinstance(mapped, np.memmap):
            mapped = mapped.base
        self._file, self._first = -1, 0
        if isinstance(mapped, np.memmap) and array.flags.c_contiguous and hasattr(os, "preadv"):
            self._first = mapped.offset + self._flat.ctypes.data - mapped.ctypes.data
            self._file = os.open(str(mapped.filename), os.O_RDONLY)
            weakref.finalize(self, os.close, self._file)

    @property
    def copies(self) -> bool:
        """Whether a run is a copy, so that it may be written over."""
        return self._file >= 0

    def __getitem__(self, part: slice) -> Array:
        """The elements of a slice without a step."""
        if self._file < 0:
            return self._flat[part]
        out = scratch("run", part.stop - part.start, self.dtype)
        self._read(part.start, out)
        return out

    def sample(self, count: int) -> Array:
        """About so many elements from all over it, in short runs."""
        number, length = max(1, count // SHORT), min(SHORT, count, self.size)
        firsts = np.linspace(0, self.size - length, number).astype(np.int64).tolist()
        found = np.empty((number, length), self.dtype)
        for first, out in zip(firsts, found, strict=True):
            if self._file < 0:
                out[:] = self._flat[first : first + length]
            else:
                self._read(first, out)
        return found.reshape(-1)

    def _read(self, first: int, out: Array) -> None:
        """Fill an array with what begins at an element of the file."""
        left, at = memoryview(out.view(np.uint8).data), self._first + first * out.itemsize
        while left:
            count = os.preadv(self._file, [left], at)
            if not count:
                raise OSError(errno.EIO, "the file has become shorter")
            left, at = left[count:], at + count
