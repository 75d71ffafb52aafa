"""How far a long stage is, in words."""

from __future__ import annotations

import time
from collections.abc import Callable

from onnx_prune.words import duration, share


class Countdown:
    """Says how far a long stage is, and how long the rest will take.

    Args:
        progress: called with the sentence.
        stage: what is going on.
        total: number of steps.
        clock: the time in seconds.

    Example:
        >>> ticks = Countdown(print, "reading", 4, iter([0.0, 0.0, 3.0]).__next__)
        reading
        >>> ticks.step(), ticks.step()
        reading: 25 %
        reading: 50 %, 3.00 s left
        (None, None)
    """

    def __init__(
        self,
        progress: Callable[[str], None],
        stage: str,
        total: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._progress, self._stage, self._total, self._clock = progress, stage, total, clock
        self._start, self._done = clock(), 0
        progress(stage)

    def step(self) -> None:
        """One step is done."""
        self._done += 1
        spent = self._clock() - self._start
        left = spent / self._done * (self._total - self._done)
        text = f"{self._stage}: {share(self._done, self._total)}"
        self._progress(text + (f", {duration(1000 * left)} left" if left >= 1 else ""))
