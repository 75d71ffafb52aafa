"""Several processes write into one file: all of it is there, whoever had to wait."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from onnx_prune.model import turns
from onnx_prune.model.turns import Turns

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


def fork(work: Callable[[], object]) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: this fork needs none of them
        process = os.fork()
    if process:
        return process
    try:
        work()
    finally:
        os._exit(0)


def pieces(letter: bytes, count: int) -> Iterator[memoryview]:
    """Pieces of 100 bytes in memory that is written over."""
    memory = bytearray(100)
    for j in range(count):
        memory[:] = bytes([letter[0], j]) * 50
        yield memoryview(memory)


def content(letter: bytes, count: int) -> bytes:
    return b"".join(bytes([letter[0], j]) * 50 for j in range(count))


@pytest.mark.parametrize("aside", [100, 250, 1 << 20])
def test_processes_write_all_they_have(aside: int, file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_ASIDE", aside)
    ours = Turns()
    others = [fork(lambda j=j: ours.write(file, j * 20_000, pieces(b"%d" % j, 200))) for j in (1, 2)]  # type: ignore[misc]
    ours.write(file, 0, pieces(b"0", 200))
    for process in others:
        os.waitpid(process, 0)
    assert os.pread(file, 1 << 20, 0) == content(b"0", 200) + content(b"1", 200) + content(b"2", 200)


@pytest.mark.parametrize("aside", [250, 1 << 20])
def test_what_finds_another_process_there_is_put_aside(
    aside: int, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has the file until it hears that two pieces have been asked for."""
    monkeypatch.setattr(turns, "_ASIDE", aside)
    ours, asked, taken = Turns(), os.pipe(), os.pipe()

    def hold() -> None:
        fcntl.lockf(ours._lock, fcntl.LOCK_EX)
        os.write(taken[1], b"!")
        os.read(asked[0], 1)
        os.write(taken[1], b"0" if os.fstat(file).st_size == 0 else b"1")

    other = fork(hold)
    os.read(taken[0], 1)

    def slow() -> Iterator[memoryview]:
        for j, piece in enumerate(pieces(b"a", 5)):
            if j == 2:
                os.write(asked[1], b"!")
            yield piece

    ours.write(file, 0, slow())
    os.waitpid(other, 0)
    assert os.read(taken[0], 1) == b"0"
    assert os.pread(file, 1 << 20, 0) == content(b"a", 5)
    for end in (*asked, *taken):
        os.close(end)


def test_a_file_system_without_locks_will_do(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    Turns().write(file, 0, pieces(b"a", 3))
    assert os.pread(file, 1 << 20, 0) == content(b"a", 3)


def test_a_full_disk_ends_the_turn(file: int) -> None:
    ours = Turns()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as found:
            ours.write(file, 0, pieces(b"a", 2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found.value.errno == errno.EFBIG
    other = fork(lambda: ours.write(file, 0, pieces(b"b", 1)))
    os.waitpid(other, 0)
    assert os.pread(file, 1 << 20, 0) == content(b"b", 1) + content(b"a", 2)[100:150]
