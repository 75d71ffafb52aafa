"""Signals that ask to stop: what is heard of them, and when.

Imported before anything that takes time, so it needs next to nothing itself.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from onnx_prune.errors import Interrupted


@contextmanager
def terminable() -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and SIGHUP into `Interrupted`, so that what was begun is cleaned up.

    Only the first signal counts: a second one cannot stop the cleaning. Once it has come, no other error is
    heard: what it meets half way may turn it into one of its own (a compiled module that is imported), or
    lose it. Signals that the process was told to ignore (`nohup`) stay ignored. Outside the main thread
    nothing changes.

    Example:
        >>> try:
        ...     with terminable():
        ...         signal.raise_signal(signal.SIGTERM)
        ... except Interrupted as stop:
        ...     stop.code
        143
    """
    came: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        if not came:
            came.append(signum)
            raise Interrupted(signum)

    with _handling(stop), _unsaid():
        try:
            yield
        finally:
            if came:
                raise Interrupted(came[0])


@contextmanager
def unstoppable() -> Iterator[None]:
    """Let signals wait until the block, which must be short, has ended.

    Example:
        >>> try:
        ...     with unstoppable():
        ...         signal.raise_signal(signal.SIGINT)
        ...         print("still here")
        ... except KeyboardInterrupt:
        ...     print("stopped")
        still here
        stopped
    """
    waiting: list[int] = []
    with _handling(lambda signum, frame: waiting.append(signum)):
        yield
    for signum in waiting:
        signal.raise_signal(signum)


@contextmanager
def _unsaid() -> Iterator[None]:
    """Let Python say nothing of an `Interrupted` that it loses, where an object is given up (`__del__`)."""
    before = sys.unraisablehook

    def hear(lost: sys.UnraisableHookArgs) -> None:
        if not isinstance(lost.exc_value, Interrupted):
            before(lost)

    sys.unraisablehook = hear
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle the signals that ask to stop, in the main thread and where Python may restore them."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.getsignal(number)
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
