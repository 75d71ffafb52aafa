"""Two models timed against each other, so that a busy machine slows both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from math import ceil, sqrt
from pathlib import Path

import onnx

from onnx_prune.runtime import Feeds, Session
from onnx_prune.validate import Latency

FEWEST, MOST = 10, 400
PRECISION = 0.0075
_TIMED = 5
_ALONE = 4  # turns
_SECONDS = 20.0


class Race:
    """The original of a model, against which others are timed.

    A turn runs each model once for its caches and then five times for the clock, as a user who runs it alone
    would see it.  What counts is the ratio of the two in the same turn, and the median of all turns.

    Args:
        original: the unpruned model.
        feeds: the inputs of every run.
        folder: where external data are.
        threads: intra-op threads; 0 lets onnxruntime choose.
        clock: the time in seconds; for one thread CPU time, which others on the machine do not lengthen, else
            the time on the wall.

    Raises:
        RunError: onnxruntime can't run the original.
    """

    def __init__(
        self,
        original: onnx.ModelProto,
        feeds: Feeds,
        *,
        folder: Path | None = None,
        threads: int = 0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._feeds, self._folder, self._threads = feeds, folder, threads
        self._cpu = clock is None and threads == 1
        self._clock = clock or (time.thread_time if threads == 1 else time.perf_counter)
        self._original = self._session(original)

    def alone(self) -> float:
        """Milliseconds that the original takes, roughly."""
        return 1e3 * statistics.median(t for _ in range(_ALONE) for t in self._turn(self._original))

    def against(
        self,
        model: onnx.ModelProto,
        *,
        least: int = FEWEST,
        precision: float = PRECISION,
        seconds: float = _SECONDS,
    ) -> Latency:
        """Time a model in turns with the original.

        Args:
            model: the other model.
            least: the fewest turns.
            precision: what half of the 95 % confidence interval of the median ratio has to come down to, in
                parts of it.
            seconds: when to stop even so.

        Raises:
            RunError: onnxruntime can't run it.
        """
        other = self._session(model)
        before: list[float] = []
        after: list[float] = []
        ratios: list[float] = []
        start = time.perf_counter()
        while len(ratios) < MOST:
            pair = (self._original, other) if len(ratios) % 2 == 0 else (other, self._original)
            times = {session: self._turn(session) for session in pair}
            before += times[self._original]
            after += times[other]
            ratios.append(statistics.median(times[other]) / statistics.median(times[self._original]))
            if len(ratios) >= FEWEST and time.perf_counter() - start >= seconds:
                break
            if len(ratios) >= least and spread(ratios) <= precision:
                break
        return Latency(
            1e3 * statistics.median(before),
            1e3 * statistics.median(after),
            1e3 * min(before),
            1e3 * min(after),
            len(before),
            self._threads,
            ratio=statistics.median(ratios),
            spread=spread(ratios),
            cpu=self._cpu,
        )

    def _session(self, model: onnx.ModelProto) -> Session:
        session = Session(model, self._folder, optimize=True, threads=self._threads)
        session.run(self._feeds)
        return session

    def _turn(self, session: Session) -> list[float]:
        session.run(self._feeds)
        times = []
        for _ in range(_TIMED):
            began = self._clock()
            session.run(self._feeds)
            times.append(max(self._clock() - began, 1e-9))
        return times


def spread(ratios: Sequence[float]) -> float:
    """Half the width of the 95 % confidence interval of the median, in parts of it.

    By order statistics, which ask nothing of the distribution: the number of values below the median is
    binomial.

    Example:
        >>> spread([1.0, 1.0, 1.1] * 5), spread([0.5] * 12)
        (0.05, 0.0)
    """
    ordered = sorted(ratios)
    n = len(ordered)
    reach = ceil(0.98 * sqrt(n))
    low, high = ordered[max(0, n // 2 - reach)], ordered[min(n - 1, (n - 1) // 2 + reach)]
    return round((high - low) / 2 / statistics.median(ordered), 9)
