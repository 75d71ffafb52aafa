"""Arrays that wait in a temporary file until they are written, so that memory holds one at a time."""

from __future__ import annotations

import io
import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping
from math import prod as product
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune.model.turns import write_at
from onnx_prune.sparse.bits import Bits

Array = NDArray[Any]
_IN_MEMORY = 1 << 24  # bytes up to which there is no file


class Spool:
    """Arrays by name, on the disk.

    Example:
        >>> spool = Spool()
        >>> spool["a"] = np.arange(3)
        >>> spool["a"].tolist(), spool.get("b")
        ([0, 1, 2], None)
    """

    def __init__(self) -> None:
        self._file: IO[bytes] = io.BytesIO()
        self._places: dict[str, tuple[int, np.dtype[Any], tuple[int, ...]]] = {}

    def __setitem__(self, name: str, array: Array) -> None:
        end = self._file.seek(0, os.SEEK_END)
        if isinstance(self._file, io.BytesIO) and end + array.nbytes > _IN_MEMORY:
            before, self._file = self._file, tempfile.TemporaryFile()  # noqa: SIM115  gone with the spool
            self._file.write(before.getbuffer())
        self._places[name] = end, array.dtype, array.shape
        self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def __getitem__(self, name: str) -> Array:
        offset, dtype, shape = self._places[name]
        self._file.seek(offset)
        count = product(shape) * dtype.itemsize
        return np.frombuffer(self._file.read(count), dtype).reshape(shape)

    def get(self, name: str) -> Array | None:
        """The array, None where there is none of that name."""
        return self[name] if name in self._places else None


class Masks(Mapping[str, Bits]):
    """Masks by name, as they become known, on the disk: each has its place in a file that forks share.

    Args:
        shapes: of the tensors; what is said of others is let go.

    Example:
        >>> masks = Masks({"a": (2,), "b": (2,)})
        >>> masks.put("b", 0, Bits.of(np.array([True, False])).packed)
        >>> masks.know("b")
        >>> list(masks), masks["b"].kept
        (['b'], 1)
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._places: dict[str, tuple[int, int, tuple[int, ...]]] = {}
        end = 0
        for name, shape in shapes.items():
            size = -(-product(shape) // 8)
            self._places[name] = end, size, shape
            end += size
        self._known: set[str] = set()
        self._file = _InMemory(end) if end <= _IN_MEMORY else _OnDisk()

    def put(self, name: str, first: int, packed: NDArray[np.uint8]) -> None:
        """Keep what is packed from an element on, which is a multiple of eight."""
        if name in self._places:
            self._file.write(self._places[name][0] + first // 8, packed)

    def know(self, name: str) -> None:
        """All of a mask has been put, by this process or another."""
        if name in self._places:
            self._known.add(name)

    def __getitem__(self, name: str) -> Bits:
        if name not in self._known:
            raise KeyError(name)
        offset, size, shape = self._places[name]
        return Bits(np.frombuffer(self._file.read(offset, size), np.uint8), shape)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._places if name in self._known)

    def __len__(self) -> int:
        return len(self._known)


class _InMemory:
    """Bytes that forks share."""

    def __init__(self, size: int) -> None:
        self._bytes = mmap.mmap(-1, max(1, size))

    def write(self, offset: int, data: NDArray[np.uint8]) -> None:
        self._bytes[offset : offset + data.size] = data.tobytes()

    def read(self, offset: int, size: int) -> bytes:
        return self._bytes[offset : offset + size]


class _OnDisk:
    """The same in a file: its position, which forks share too, is left alone where that can be."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  gone with the masks

    def write(self, offset: int, data: NDArray[np.uint8]) -> None:
        write_at(self._file.fileno(), offset, data.data)

    def read(self, offset: int, size: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), size, offset)
        self._file.seek(offset)
        return self._file.read(size)
