"""Replace a file, and the data file beside it, or leave everything as it was.

The new bytes go to a file with a random name in the target's own folder and take the target's name in one
step. A data file gets a name that nothing uses yet, so the old pair stays whole. Killed outright (SIGKILL), a
process can leave unfinished files behind, never a broken target. An old file is given up only once the new
one is on the disk (fsync), so that it outlives a loss of power; where nothing is lost with the new file, the
operating system writes it out in its own time, as it does what `cp` made.
"""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from onnx_prune.errors import Unwritable
from onnx_prune.model import room
from onnx_prune.model.turns import AT_ONCE, Turns
from onnx_prune.signals import unstoppable

if TYPE_CHECKING:  # numpy is imported once signals are minded, as all that is compiled
    import numpy as np
    from numpy.typing import NDArray

ALIGNMENT = 64
_WINDOW = 1 << 25  # bytes after which the disk is set to work, while more are made
_PATIENCE = 2.0  # seconds that one run waits for another to put its files in place


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let other runs that put a file in place in this folder wait until the block has ended.

    Two runs with one output would otherwise each leave the other's data file behind. Nobody waits longer than
    `_PATIENCE`: without the lock a file too many may stay, but none is lost.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, alone(Path(folder)):
        ...     print("nobody else")
        nobody else
    """
    with ExitStack() as stack:
        with suppress(ImportError, OSError):  # not on Windows, nor in a folder that is gone or can't be read
            import fcntl

            opened = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, opened)
            start = time.monotonic()
            while time.monotonic() - start < _PATIENCE:
                with suppress(BlockingIOError):
                    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                time.sleep(0.01)
        yield


class Replacement:
    """The files of one save: the target, and a data file once something is added to it.

    Attributes:
        written: Bytes written so far.
    """

    def __init__(self, target: Path) -> None:
        self.written = 0
        self._target = target
        self._temporary = target.parent / f".onnx-prune-{secrets.token_hex(8)}.tmp"
        self._data_path: Path | None = None
        self._files: list[IO[bytes]] = []
        self._begun: dict[int, int] = {}
        self._turns: Turns | None = None
        self._placed = False
        self._replaces = target.exists()

    def add(self, size: int, pieces: Iterable[NDArray[np.uint8]]) -> tuple[str, int]:
        """Append so many bytes to the data file; where: the file's name and the offset, a multiple of 64."""
        name, file, offset = self._append(size)
        for data in pieces:
            self._write(file, data.data)
        return name, offset

    def reserve(self, size: int) -> tuple[str, int]:
        """Leave room in the data file, as `add` would take it, that `fill` is to write."""
        name, file, offset = self._append(size)
        self._turns = self._turns or Turns()
        file.seek(size, os.SEEK_CUR)
        self.written += size
        return name, offset

    def fill(self, offset: int, pieces: Iterable[NDArray[np.uint8]]) -> None:
        """Write what belongs at an offset of the data file; several processes may."""
        assert self._turns is not None
        self._turns.write(self._files[0].fileno(), offset, (data.data for data in pieces))

    def _append(self, size: int) -> tuple[str, IO[bytes], int]:
        """The data file at its end, which is a multiple of 64, with room for so many bytes."""
        if self._data_path is None:
            path = self._target.parent / f"{self._target.name}.data"
            with unstoppable():  # so that it is known to be ours before it can be removed
                try:
                    self._create(path)
                except FileExistsError:
                    path = path.with_name(f"{self._target.name}-{secrets.token_hex(4)}.data")
                    self._create(path)
                self._data_path = path
        file = self._files[0]
        offset = file.tell()
        padding = -offset % ALIGNMENT
        self.written += file.write(bytes(padding))
        room.make(file.fileno(), offset + padding, size)
        return self._data_path.name, file, offset + padding

    def finish(self, size: int, chunks: Iterator[bytes | memoryview]) -> None:
        """Write the target's bytes, so many, to the disk if they replace others."""
        file = self._create(self._temporary)
        room.make(file.fileno(), 0, size)
        for chunk in chunks:
            self._write(file, chunk)
        if self._target.exists():
            mode = stat.S_IMODE(self._target.stat().st_mode)
            for path in filter(None, (self._temporary, self._data_path)):
                with suppress(OSError):  # file systems without permissions
                    path.chmod(mode)
        for file in self._files:
            file.flush()
            if self._replaces:
                os.fsync(file.fileno())
            file.close()  # a network's file system may say only now that it is full

    def place(self) -> None:
        """Put what was finished in the target's place."""
        os.replace(self._temporary, self._target)
        self._placed = True
        if not self._replaces:
            return
        with suppress(OSError):  # not every system can; the file itself is safe by now
            folder = os.open(self._target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def close(self) -> None:
        """Close the files; remove them unless the target is in its place."""
        for file in self._files:
            with suppress(OSError):  # a full disk is reported once already
                file.close()
        if not self._placed:
            for path in filter(None, (self._temporary, self._data_path)):
                path.unlink(missing_ok=True)

    def _write(self, file: IO[bytes], data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), AT_ONCE):
            self.written += file.write(view[start : start + AT_ONCE])
            self._hurry(file)

    def _hurry(self, file: IO[bytes]) -> None:
        """Let the disk begin with what is written so far, so that the end need not wait for all of it.

        Linux does so when it is told that the pages are not needed: a large output does not push out of
        memory what others need, and its pages can be used again.
        """
        if not self._replaces:
            return
        begun, end = self._begun.get(file.fileno(), 0), file.tell()
        if end - begun >= _WINDOW and hasattr(os, "posix_fadvise"):
            self._begun[file.fileno()] = end
            with suppress(OSError):  # fsync will tell
                os.posix_fadvise(file.fileno(), begun, end - begun, os.POSIX_FADV_DONTNEED)

    def _create(self, path: Path) -> IO[bytes]:
        self._files.append(open(path, "xb"))  # noqa: SIM115  closed by close()
        return self._files[-1]


@contextmanager
def replacing(path: Path) -> Iterator[Replacement]:
    """Write a file, through symbolic links, whole or not at all.

    Args:
        path: The file to write; `finish` gives it its content, `place` its name.

    Raises:
        Unwritable: The operating system refused; the old file is as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "a") as new:
        ...         new.finish(3, iter([b"abc"]))
        ...         new.place()
        ...     (Path(folder) / "a").read_bytes(), os.listdir(folder)
        (b'abc', ['a'])
    """
    target = Path(os.path.realpath(path))
    shown = repr(str(path))
    try:
        if target.is_dir():
            raise Unwritable(f"cannot write {shown}: it is a directory; name a file in it")
        if not target.parent.exists():
            raise Unwritable(f"cannot write {shown}: its folder does not exist; make it first")
        if target.exists() and not target.is_file():
            raise Unwritable(f"cannot write {shown}: it is not a regular file; choose another name")
        if target.exists() and not os.access(target, os.W_OK):
            raise Unwritable(f"cannot write {shown}: it is write-protected; choose another name")
        new = Replacement(target)
        try:
            yield new
        finally:
            with unstoppable():
                new.close()
    except OSError as error:
        way_out = "free space or choose another place" if error.errno in room.FULL else "choose another place"
        raise Unwritable(f"cannot write {shown}: {error.strerror or error}; {way_out}") from None
