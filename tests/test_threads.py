"""Threads that work on parts in order: what they give is what `map` gives, and they stop when they are to."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from onnx_prune.model import threads

PATIENCE = 30  # seconds


@pytest.fixture(autouse=True, params=[1, 2, 5])
def processors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(threads, "processors", lambda: request.param)
    return int(request.param)


@pytest.mark.parametrize("count", [0, 1, threads.FEW, threads.FEW + 1, 100])
def test_what_comes_is_in_order(count: int) -> None:
    def late(part: int) -> int:
        time.sleep(0.001 * (part % 3 == 0))
        return part * part

    assert list(threads.in_order(late, range(count))) == [part * part for part in range(count)]
    assert list(threads.ahead(late, range(count))) == [part * part for part in range(count)]


@pytest.mark.parametrize("begin", [threads.in_order, threads.ahead])
def test_an_error_comes_in_its_turn(begin: object) -> None:
    def work(part: int) -> int:
        if part == 7:
            raise ValueError("at 7")
        return part

    found = begin(work, range(50))  # type: ignore[operator]
    assert [next(found) for _ in range(7)] == list(range(7))
    with pytest.raises(ValueError, match="at 7"):
        next(found)


@pytest.mark.parametrize("begin", [threads.in_order, threads.ahead])
def test_nothing_is_begun_that_nobody_asks_for(begin: object, processors: int) -> None:
    begun = []
    found = begin(begun.append, range(1000))  # type: ignore[operator]
    next(found)
    found.close()
    most = max(processors, threads._BEGUN) + 2
    assert len(begun) <= most
    time.sleep(0.01)
    assert len(begun) <= most


def test_parts_are_begun_ahead_and_share_what_is_left() -> None:
    enough = threading.Event()
    begun = []

    def work(part: int) -> int:
        begun.append(threads.workers())
        if len(begun) == threads._BEGUN:
            enough.set()
        return part

    found = threads.ahead(work, range(10))
    assert next(found) == 0
    assert enough.wait(PATIENCE)
    assert set(begun) == {max(1, threads.processors() - 1)}
    assert threads.workers() == threads.processors()
    assert list(found) == list(range(1, 10))


def test_work_that_is_begun_ahead_may_have_threads_of_its_own() -> None:
    found = threads.ahead(lambda row: list(threads.in_order(abs, range(row, row + 20))), range(0, 100, 20))
    assert [value for row in found for value in row] == list(range(100))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on Windows")
def test_a_fork_has_threads_of_its_own(processors: int) -> None:
    code = (
        "import os, sys\n"
        "from onnx_prune.model import threads\n"
        f"threads.processors = lambda: {processors}\n"
        "assert list(threads.in_order(abs, range(50))) == list(range(50))\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os._exit(list(threads.in_order(abs, range(50))) != list(range(50)))\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=PATIENCE).returncode == 0
