"""A file that several processes write into, in turns.

The system lets one of them at a file at a time, and those that wait for it keep their processors busy.  So
what finds another process there is put aside, and computing goes on until there is a turn.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

AT_ONCE = 1 << 20  # bytes to write in one call: of more a Linux kernel made up to eight times the work
_ASIDE = 1 << 23  # bytes


class Turns:
    """Whose turn it is, on Linux: made before the processes are, which share it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryFile() as file:
        ...     Turns().write(file.fileno(), 0, [b"ab", b"c"])
        ...     file.read()
        b'abc'
    """

    def __init__(self) -> None:
        self._lock = tempfile.TemporaryFile()  # noqa: SIM115  gone with the turns
        self._aside = memoryview(bytearray())

    def write(self, file: int, offset: int, pieces: Iterable[bytes | memoryview]) -> None:
        """Write pieces one after the other; each may be written over once the next is asked for.

        Raises:
            OSError: the disk is full, for one.
        """
        self._aside = self._aside or memoryview(bytearray(_ASIDE))
        aside = 0
        for piece in pieces:
            view = memoryview(piece).cast("B")
            end = aside + len(view)
            with self._turn(wait=end > _ASIDE) as mine:
                if mine:
                    offset = write_at(file, write_at(file, offset, self._aside[:aside]), view)
                    aside = 0
            if not mine:
                self._aside[aside:end] = view
                aside = end
        if aside:
            with self._turn(wait=True):
                write_at(file, offset, self._aside[:aside])

    @contextmanager
    def _turn(self, wait: bool) -> Iterator[bool]:
        """Have the file for oneself; False if it is another process's turn."""
        import fcntl  # not on Windows

        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except OSError:  # a file system without locks: the system sees to the order, too
            yield True
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)


def write_at(file: int, offset: int, data: memoryview) -> int:
    """Write data from an offset on, the file's position, which forks share, left alone where that can be.

    Returns:
        Where they end.

    Raises:
        OSError: the disk is full, for one.
    """
    while data:
        if hasattr(os, "pwrite"):
            count = os.pwrite(file, data[:AT_ONCE], offset)
        else:  # Windows, which has no forks
            os.lseek(file, offset, os.SEEK_SET)
            count = os.write(file, data[:AT_ONCE])
        data, offset = data[count:], offset + count
    return offset
