"""Arrays that wait in a temporary file until they are written, so that memory holds one at a time."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Spool:
    """Arrays by name, on the disk.

    Example:
        >>> spool = Spool()
        >>> spool["a"] = np.arange(3)
        >>> spool["a"].tolist(), spool.get("b")
        ([0, 1, 2], None)
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed, and gone, with the spool
        self._places: dict[str, tuple[int, np.dtype[Any], tuple[int, ...]]] = {}

    def __setitem__(self, name: str, array: Array) -> None:
        self._file.seek(0, 2)
        self._places[name] = self._file.tell(), array.dtype, array.shape
        self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def __getitem__(self, name: str) -> Array:
        offset, dtype, shape = self._places[name]
        self._file.seek(offset)
        count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return np.frombuffer(self._file.read(count), dtype).reshape(shape)

    def get(self, name: str) -> Array | None:
        """The array, None where there is none of that name."""
        return self[name] if name in self._places else None
