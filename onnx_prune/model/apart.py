"""Jobs shared among processes: threads of Python wait for each other's turns, processes do not.

A process is a fork, which costs nothing to start and sees all that is in memory, on Linux alone.  A fork of
a process in which others have threads may wait for ever for what these held, so only a program that has its
process to itself allows it (`allow`), and not once onnxruntime is there, which has threads.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from onnx_prune.model import threads
from onnx_prune.signals import unstoppable

_WORTH = 1 << 26  # bytes
_MOST = 4  # processes: what they write is one file, which lets in one at a time
_allowed = False


def allow() -> None:
    """Say that this process is the program's own."""
    global _allowed
    _allowed = sys.platform == "linux"


def allowed() -> bool:
    """Whether `shared` has other processes."""
    return _allowed and threads.processors() > 1 and "onnxruntime" not in sys.modules


@dataclass(frozen=True, slots=True)
class Job:
    """Something to be done, in any process.

    Attributes:
        do: does it.
        tell: what was found out when it was done, to be pickled; asked for in another process alone.
        size: in bytes.
    """

    do: Callable[[], object]
    tell: Callable[[], Any]
    size: int


def shared(jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
    """Do each job once, in as many processes as there are processors, up to four, where that is allowed.

    What a process cannot do, or does not live to do, is done here, where an error is raised.

    Args:
        jobs: what another process changes in memory is lost but for what the job tells; a few bytes are not
            worth a process.

    Yields:
        The number of a job that another process did, and what it told.

    Example:
        >>> list(shared([Job(dict, list, 1)]))  # nothing is allowed here
        []
    """
    order = sorted(range(len(jobs)), key=lambda j: -jobs[j].size)  # no large one is left for the end
    left = set(order)
    with _Queue(order) as queue:
        several = allowed() and sum(job.size for job in jobs) >= _WORTH
        others = min(threads.processors(), len(jobs), _MOST) - 1 if several else 0
        children = [_Child(jobs, queue) for _ in range(others)]
        try:
            for child in children:
                child.start()
            with threads.alone():
                for j in queue:
                    jobs[j].do()
                    left.remove(j)
            for child in children:
                for j, told in child.results():
                    left.remove(j)
                    yield j, told
            for j in sorted(left):
                jobs[j].do()
        finally:
            for child in children:
                child.stop()


class _Queue:
    """Numbers that are each given to one of several processes, which share its place in a file."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  closed by `with`
        self._file.write(np.array(numbers, np.int64).tobytes())
        self._file.seek(0)

    def __enter__(self) -> _Queue:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[int]:
        while taken := self._file.read(8):  # Linux reads, and moves on, at once (read(2), "BUGS")
            yield int.from_bytes(taken, sys.byteorder)


class _Child:
    """A process that does some of the jobs; what these tell goes to a file without a name."""

    def __init__(self, jobs: Sequence[Job], queue: _Queue) -> None:
        self._jobs, self._queue, self._process = jobs, queue, 0
        self._answers = tempfile.TemporaryFile()  # noqa: SIM115  closed by stop()

    def start(self) -> None:
        """Fork, if the system can."""
        with unstoppable(), suppress(OSError), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads: see above
            self._process = os.fork()
            if not self._process:
                self._be()

    def _be(self) -> NoReturn:
        """Be that process: nothing of what the first one has to tidy up is touched."""
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            with threads.alone():
                for j in self._queue:
                    self._jobs[j].do()
                    pickle.dump((j, self._jobs[j].tell()), self._answers)
                    self._answers.flush()
        finally:
            os._exit(0)

    def results(self) -> Iterator[tuple[int, Any]]:
        """The jobs that it did, once it has ended, and what these told."""
        self._wait()
        self._answers.seek(0)
        with suppress(EOFError, pickle.UnpicklingError):
            while True:
                yield pickle.load(self._answers)

    def stop(self) -> None:
        """End it."""
        with unstoppable(), suppress(ProcessLookupError):
            if self._process:
                os.kill(self._process, signal.SIGKILL)
                self._wait()
        self._answers.close()

    def _wait(self) -> None:
        if self._process:
            with suppress(ChildProcessError):
                os.waitpid(self._process, 0)
            self._process = 0
