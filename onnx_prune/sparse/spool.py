"""Arrays that wait in a temporary file until they are written, so that memory holds one at a time."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

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
        self._owner = os.getpid()
        self._places: dict[str, tuple[int, np.dtype[Any], tuple[int, ...]]] = {}

    def __setitem__(self, name: str, array: Array) -> None:
        if self._owner != os.getpid():  # a fork begins anew: the file is that of the other process
            self._file, self._owner = io.BytesIO(), os.getpid()
            self._places.clear()
        end = self._file.seek(0, os.SEEK_END)
        if isinstance(self._file, io.BytesIO) and end + array.nbytes > _IN_MEMORY:
            before, self._file = self._file, tempfile.TemporaryFile()  # noqa: SIM115  gone with the spool
            self._file.write(before.getbuffer())
        self._places[name] = end, array.dtype, array.shape
        self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def __getitem__(self, name: str) -> Array:
        offset, dtype, shape = self._places[name]
        self._file.seek(offset)
        count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return np.frombuffer(self._file.read(count), dtype).reshape(shape)

    def get(self, name: str) -> Array | None:
        """The array, None where there is none of that name."""
        return self[name] if name in self._places else None


class Masks(Mapping[str, Bits]):
    """Masks by name, as they have become known, on the disk.

    Example:
        >>> masks = Masks(["a", "b"])
        >>> masks.add("b", Bits.of(np.array([True, False])))
        >>> list(masks), masks["b"].kept
        (['b'], 1)
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names, self._shapes, self._spool = list(names), dict[str, tuple[int, ...]](), Spool()

    def add(self, name: str, bits: Bits) -> None:
        """A mask that is known now; one that was known before stays."""
        if name not in self._shapes:
            self._spool[name] = bits.packed
            self._shapes[name] = bits.shape

    def __getitem__(self, name: str) -> Bits:
        return Bits(self._spool[name], self._shapes[name])

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._names if name in self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)
