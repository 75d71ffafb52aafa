"""How sparse a model is after each of some rounds; one-shot is a single round."""

from __future__ import annotations

from collections.abc import Callable

from onnx_prune.errors import InputError
from onnx_prune.settings import require_ratio, unknown

_KINDS: dict[str, Callable[[float, float], float]] = {
    "cubic": lambda final, t: final - final * (1 - t) ** 3,
    "exponential": lambda final, t: 1 - (1 - final) ** t,
    "linear": lambda final, t: final * t,
}
KINDS = tuple(_KINDS)


def sparsities(kind: str, final: float, rounds: int) -> list[float]:
    """The fraction that is gone after each round; after the last it is `final`.

    "cubic" removes most in the first rounds, Zhu and Gupta 2018, "To prune, or not to prune", equation 1;
    "exponential" the same share of what remains in every round, as Frankle and Carbin 2019 do, "The
    Lottery Ticket Hypothesis", section 2; "linear" the same number.

    Args:
        kind: one of `KINDS`.
        final: the fraction asked for in the end.
        rounds: how many.

    Raises:
        InputError: a value is out of range.

    Example:
        >>> [[round(s, 3) for s in sparsities(kind, 0.875, 3)] for kind in KINDS]
        [[0.616, 0.843, 0.875], [0.5, 0.75, 0.875], [0.292, 0.583, 0.875]]
        >>> sparsities("cubic", 0.5, 1)
        [0.5]
    """
    if kind not in _KINDS:
        raise InputError(unknown("schedule", kind, KINDS))
    require_ratio("ratio", final)
    if rounds < 1:
        raise InputError(f"rounds {rounds} is below 1: one round is one-shot pruning")
    found = [_KINDS[kind](final, k / rounds) for k in range(1, rounds)]
    return [*found, final]


def of_what_remains(share: float, rounds: int) -> float:
    """The fraction that is gone after rounds that each remove a share of what remains.

    Example:
        >>> round(of_what_remains(0.2, 3), 3)
        0.488
    """
    require_ratio("share", share)
    return float(1 - (1 - share) ** rounds)
