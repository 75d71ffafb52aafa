"""Initializers whose data stay in the model's own file until they are read, or are made then.

So a model takes up no more memory than its structure and the tensor in hand.  In the record such a tensor
looks like external data, with a location that no file can name: it starts with a mark of this process.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_prune.errors import InputError

_MAPPED = 1 << 20  # bytes from which on a tensor is mapped
_MARK = f"\0{secrets.token_hex(16)}:"


def put_off(tensor: TensorProto, file: Path, status: os.stat_result, offset: int, size: int) -> None:
    """Let the tensor's data be those bytes of the file, as it is now, to be read when they are asked for.

    Example:
        >>> import tempfile
        >>> tensor = TensorProto(name="w")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "a"
        ...     written = file.write_bytes(b"abcd")
        ...     put_off(tensor, file, file.stat(), 1, 2)
        ...     data(tensor).tobytes(), is_put_off(tensor)
        (b'bc', True)
    """
    tensor.data_location = TensorProto.EXTERNAL
    place = os.fsencode(file.absolute()).decode("latin-1")  # any name is such a text, UTF-8 or not
    for key, value in (
        ("location", f"{_MARK}{place}"),
        ("offset", str(offset)),
        ("length", str(size)),
        ("checksum", _stamp(status)),
    ):
        tensor.external_data.add(key=key, value=value)


class Made:
    """What makes the data of a tensor, for as long as somebody holds it.

    Args:
        make: gives the tensor's bytes as ONNX stores them.
    """

    def __init__(self, make: Callable[[], NDArray[np.uint8]]) -> None:
        self.make, self._key = make, secrets.token_hex(16)

    def put_off(self, tensor: TensorProto) -> None:
        """Let the tensor's data be made when they are asked for.

        Example:
            >>> tensor, made = TensorProto(name="w"), Made(lambda: np.ones(2, np.uint8))
            >>> made.put_off(tensor)
            >>> data(tensor).tolist()
            [1, 1]
        """
        _MADE[self._key] = self
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=f"{_MARK}{self._key}")


_MADE: WeakValueDictionary[str, Made] = WeakValueDictionary()


def is_put_off(tensor: TensorProto) -> bool:
    """Whether the tensor's data are still in the model's own file.

    Example:
        >>> is_put_off(TensorProto(data_location=TensorProto.EXTERNAL))
        False
    """
    if tensor.data_location != TensorProto.EXTERNAL or not tensor.external_data:
        return False
    return tensor.external_data[0].value.startswith(_MARK)


def data(tensor: TensorProto) -> NDArray[np.uint8]:
    """Read, or make, the bytes of a tensor that was put off.

    Only many of them are mapped: in a protobuf file nothing is aligned.

    Raises:
        InputError: the file is gone, or is not what it was.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if len(entries) == 1:
        return _MADE[entries["location"].removeprefix(_MARK)].make()
    file = os.fsdecode(entries["location"].removeprefix(_MARK).encode("latin-1"))
    offset, size = int(entries["offset"]), int(entries["length"])
    try:
        with open(file, "rb", buffering=0) as opened:
            if _stamp(os.fstat(opened.fileno())) == entries["checksum"]:
                if size >= _MAPPED:
                    return np.asarray(np.memmap(opened, np.uint8, "r", offset, (size,)))
                opened.seek(offset)
                found = np.empty(size, np.uint8)
                if _fill(opened, found) == size:
                    return found
    except OSError as error:
        raise InputError(f"cannot read {file!r} again: {error.strerror}; leave it there meanwhile") from None
    raise InputError(f"{file!r} has changed since it was loaded; start again")


def _fill(opened: Any, target: NDArray[np.uint8]) -> int:
    at = 0
    while count := opened.readinto(target[at:].data):
        at += count
    return at


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_dev}-{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"
