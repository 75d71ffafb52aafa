"""Where the jobs run: on all cores of this machine, or wherever somebody's executor takes them."""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from pathlib import Path

from onnx_prune.curves.work import Job, Setup, measure
from onnx_prune.errors import InputError

Found = list[tuple[float, float | None]]
Make = Callable[["Setup | Path"], Job]
_AHEAD = 2  # jobs for each process that are made before it asks: a job holds weights
_AWAY = 64  # nothing says how many workers an executor has, and they may change while it runs


def cores() -> int:
    """How many this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def run(
    setup: Setup, makers: Sequence[Make], executor: Executor | None = None, jobs: int | None = None
) -> Iterator[tuple[int, Found]]:
    """Run jobs, each made only when there is a worker for it, and give what they found as they end.

    Args:
        setup: what they share.
        makers: for each job a function that makes it.
        executor: runs them, wherever it does; all that a job needs travels with it. None is this machine.
        jobs: processes of this machine, None for one a core, with one there is no other process; or how many
            jobs are with the executor at once, None for 64.

    Raises:
        InputError: a process died.
        RunError: onnxruntime can't run a model.
    """
    if executor is not None:
        yield from _through(executor, [(make, setup) for make in makers], jobs or _AWAY)
        return
    count = min(jobs or cores(), len(makers))
    if count <= 1:
        for j, make in enumerate(makers):
            yield j, measure(make(setup))
        return
    with tempfile.TemporaryDirectory(prefix="onnx-prune-") as folder:
        path = Path(folder, "setup")
        with path.open("wb") as file:
            pickle.dump(setup, file, pickle.HIGHEST_PROTOCOL)
        pool, others = ProcessPoolExecutor(count, get_context("spawn"), _leave_signals), active_children()
        try:
            yield from _through(pool, [(make, path) for make in makers], _AHEAD * count)
        except BaseException as error:
            for process in active_children():  # whoever stops us is not to wait for what nobody reads
                if process not in others:
                    process.terminate()
            if not isinstance(error, BrokenProcessPool):
                raise
            raise InputError(
                "a worker process died, for want of memory or because the script that asks is not guarded by "
                "if __name__ == '__main__'; try --jobs 1"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _leave_signals() -> None:
    """Ctrl-C reaches every process of a terminal; the one that asked stops the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _through(
    executor: Executor, makers: Sequence[tuple[Make, Setup | Path]], ahead: int
) -> Iterator[tuple[int, Found]]:
    waiting: dict[Future[Found], int] = {}
    left = iter(enumerate(makers))
    try:
        while True:
            while len(waiting) < ahead and (job := next(left, None)) is not None:
                j, (make, setup) = job
                waiting[executor.submit(measure, make(setup))] = j
            if not waiting:
                return
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield waiting.pop(future), future.result()
    finally:
        for future in waiting:
            future.cancel()
