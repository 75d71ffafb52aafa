"""Limits on how far two models may be apart: what a script asks, and gets as an exit code."""

from __future__ import annotations

import re
from dataclasses import dataclass

from onnx_prune.comparison.compare import Compared
from onnx_prune.errors import InputError
from onnx_prune.words import duration, plain, share


@dataclass(frozen=True, slots=True)
class Limits:
    """What must hold between two models.

    Attributes:
        error: the most that the relative error of any output may be.
        agreement: the least top-1 agreement of any output that has a score for each class.
        latency: the most that the second model's median may be, as text: "8ms", or "0.6" of the first's.
        drop: the most that top-1 may fall, as a fraction of the samples.

    Raises:
        InputError: a limit makes no sense.

    Example:
        >>> Limits(latency="8 bananas")
        Traceback (most recent call last):
        onnx_prune.errors.InputError: --max-latency '8 bananas' is not a time as in 8ms, or a part as in 0.6
    """

    error: float | None = None
    agreement: float | None = None
    latency: str | None = None
    drop: float | None = None

    def __post_init__(self) -> None:
        if self.error is not None and not self.error >= 0:
            raise InputError(f"--max-error {self.error:g} is below 0: it is a relative error, 0.05 for 5 %")
        if self.agreement is not None and not 0 <= self.agreement <= 1:
            raise InputError(f"--min-agreement {self.agreement:g} is not in [0, 1]: 0.99 is 99 %")
        if self.drop is not None and not 0 <= self.drop <= 1:
            raise InputError(f"--max-drop {self.drop:g} is not in [0, 1]: 0.01 is one point of top-1")
        if self.latency is not None:
            milliseconds(self.latency, 1.0)

    def crossed(self, found: Compared) -> list[str]:
        """A sentence for each limit that does not hold.

        Raises:
            InputError: a limit is on something that was not measured.
        """
        said = []
        if self.error is not None and not found.error <= self.error:
            worst = max(found.outputs, key=lambda name: found.outputs[name].relative_error)
            said.append(f"relative error of {worst} is {found.error:.4g}, over --max-error {self.error:g}")
        if self.agreement is not None:
            if found.agreement is None:
                raise InputError("--min-agreement: no output has a score for each class of each sample")
            if not found.agreement >= self.agreement:
                reached = share(found.agreement, 1)
                said.append(f"top-1 agreement is {reached}, under --min-agreement {self.agreement:g}")
        if self.latency is not None:
            limit, taken = milliseconds(self.latency, found.latency.before_ms), found.latency.after_ms
            if not taken <= limit:
                part = f" ({duration(limit)})" if not self.latency.endswith("s") else ""
                said.append(f"latency is {duration(taken)}, over --max-latency {plain(self.latency)}{part}")
        if self.drop is not None:
            if found.accuracy is None:
                raise InputError("--max-drop is about top-1: give --eval FILE.npz with labels")
            fall = found.accuracy.before - found.accuracy.after
            if fall > self.drop + 1e-9:
                said.append(f"top-1 falls by {100 * fall:.2f} points, over --max-drop {self.drop:g}")
        return said


def milliseconds(text: str, first: float) -> float:
    """A limit on a time in milliseconds.

    Args:
        text: a time with its unit, or a part of the first model's.
        first: the first model's time in milliseconds.

    Raises:
        InputError: it is neither.

    Example:
        >>> milliseconds("8ms", 5.0), milliseconds("0.5", 5.0), milliseconds("1.2 s", 5.0)
        (8.0, 2.5, 1200.0)
    """
    found = re.fullmatch(r"\s*(\d*\.?\d+)\s*(us|ms|s|)\s*", text)
    if found is None or not float(found[1]):
        raise InputError(f"--max-latency {plain(text)!r} is not a time as in 8ms, or a part as in 0.6")
    return float(found[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3, "": first}[found[2]]
