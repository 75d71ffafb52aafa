"""Threads that work on parts of something in order.

numpy, and reading and writing, let other threads run.  Which thread does a part changes nothing in it, and
parts come in order; so many are done ahead as keep the threads busy, and memory holds no more than these.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

P = TypeVar("P")
T = TypeVar("T")
FEW = 4  # parts that are not worth starting threads for
_BEGUN = 3  # parts that a thread of its own does before they are asked for
_MOST_THREADS = 8
_LOCAL = threading.local()


def in_order(work: Callable[[P], T], parts: Sequence[P]) -> Iterator[T]:
    """As `map`, by threads if there are more than a few parts; `work` must not call this function.

    Example:
        >>> list(in_order(abs, [-1, 2, -3, 4, -5]))
        [1, 2, 3, 4, 5]
    """
    if len(parts) <= FEW or processors() == 1:
        yield from map(work, parts)
        return
    yield from _early(_pool(workers()), workers() + 1, work, parts)


def ahead(work: Callable[[P], T], parts: Sequence[P]) -> Generator[T, None, None]:
    """As `map`, by a thread of its own, some parts before they are asked for; `work` may call what is here.

    Example:
        >>> list(ahead(abs, [-1, 2]))
        [1, 2]
    """

    def begin(part: P) -> T:
        _LOCAL.ahead = True
        return work(part)

    yield from _early(_alone(), _BEGUN, begin, parts)


def _early(
    pool: ThreadPoolExecutor, count: int, work: Callable[[P], T], parts: Sequence[P]
) -> Generator[T, None, None]:
    """As `map`, by the threads of a pool, so many parts before they are asked for."""
    waiting: deque[Future[T]] = deque()
    try:
        for part in parts:
            waiting.append(pool.submit(work, part))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def processors() -> int:
    """Processors that this thread may have work done by."""
    return 1 if getattr(_LOCAL, "alone", False) else _processors()


@contextmanager
def alone() -> Iterator[None]:
    """Let this thread do its work itself: the other processors have work."""
    _LOCAL.alone = True
    try:
        yield
    finally:
        _LOCAL.alone = False


@cache
def _processors() -> int:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(count, _MOST_THREADS)


def workers() -> int:
    """Threads that share parts: one less where the thread that they were begun for has work of its own."""
    return max(1, processors() - getattr(_LOCAL, "ahead", False))


@cache
def _pool(count: int) -> ThreadPoolExecutor:
    """Threads that stay, and their scratch memory with them."""
    return ThreadPoolExecutor(count)


@cache
def _alone() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1)


def _forget() -> None:
    _pool.cache_clear()
    _alone.cache_clear()


if hasattr(os, "register_at_fork"):  # a child has no threads but the one that forked
    os.register_at_fork(after_in_child=_forget)
