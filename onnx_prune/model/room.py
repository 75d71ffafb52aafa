"""Room on the disk for a file before its bytes are there: a full disk is known at once.

On Linux a file then takes half as long to write: blocks are found for all of it together, in place of one by
one as they are written, while no other process may write into the file.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

_WORTH = 1 << 20  # bytes
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def make(file: int, offset: int, size: int) -> None:
    """Let a file have room for so many bytes from an offset on, where the system can.

    `os.posix_fallocate` will not do: where a file system cannot, it writes a byte into every block.

    Args:
        file: its descriptor.
        offset: in bytes.
        size: in bytes; less than a megabyte is left to the writing.

    Raises:
        OSError: the disk is full, or the file would be longer than it may be.
    """
    if size < _WORTH or sys.platform != "linux" or sys.maxsize < 1 << 32:
        return
    if ctypes.CDLL(None, use_errno=True).fallocate(file, 0, ctypes.c_int64(offset), ctypes.c_int64(size)):
        number = ctypes.get_errno()
        if number in FULL:
            raise OSError(number, os.strerror(number))
