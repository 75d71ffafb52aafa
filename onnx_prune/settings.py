"""All that a user can ask for, with its defaults: what the command line and the API share.

Nothing heavy is imported here: `onnx-prune --help` reads this file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onnx_prune.errors import InputError
from onnx_prune.words import guess, plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

Progress = Callable[[str], None]
ATTENTION = ("auto", "heads", "dims", "both")
CRITERIA_NAMES = ("l1", "l2", "group-l1", "group-l2", "fpgm", "bn-scale", "random")


@dataclass(frozen=True, slots=True)
class Budget:
    """How much to remove, and where.

    Attributes:
        ratio: fraction of channels removed in every group.
        across: rank channels across groups instead (`--global`).
        layer_ratios: (glob, ratio) pairs; the last that matches a group's weights or nodes counts.
        ignore: globs; groups that touch a match stay whole.
        round_to: multiple that whole widths are rounded to, or "auto".
        min_channels: channels that stay in every group at least.
        max_ratio: fraction of a group's channels that is removed at most.
        mixed: whether groups that change a statistic are cut too.
        attention: what goes where an axis is heads times head size: whole heads (grouped queries
            with their key-value head), the same dims of every head, or both; "auto" takes heads where
            whole ones come within a tenth of the ratio (two of four at 0.5, but not one of three),
            otherwise what comes nearest.

    Raises:
        InputError: A value is out of range.

    Example:
        >>> Budget(ratio=1.5)
        Traceback (most recent call last):
        onnx_prune.errors.InputError: ratio 1.5 is not in [0, 1): it is the fraction removed, 0.5 for half
    """

    ratio: float = 0.5
    across: bool = False
    layer_ratios: tuple[tuple[str, float], ...] = ()
    ignore: tuple[str, ...] = ()
    round_to: int | Literal["auto"] = "auto"
    min_channels: int = 1
    max_ratio: float = 1.0
    mixed: bool = False
    attention: Literal["auto", "heads", "dims", "both"] = "auto"

    def __post_init__(self) -> None:
        require_ratio("ratio", self.ratio)
        for glob, ratio in self.layer_ratios:
            require_ratio(f"layer ratio for {plain(glob)!r}:", ratio)
        if self.round_to != "auto":
            _require_count("round-to", self.round_to, "1 leaves widths as the ratio gives them")
        _require_count("min-channels", self.min_channels, "no group can lose all its channels")
        if self.attention not in ATTENTION:
            raise InputError(f"attention {self.attention!r} is not one of {', '.join(ATTENTION)}")
        if not 0 < self.max_ratio <= 1:
            raise InputError(
                f"max-ratio {self.max_ratio:g} is not in (0, 1]: it is the most that one group may lose, "
                "0.8 for four fifths"
            )


@dataclass(frozen=True, slots=True)
class Settings:
    """One run's settings.

    Attributes:
        budget: how much to remove, and where.
        criterion: name of the criterion, see `onnx_prune.criteria.CRITERIA`.
        scores: the user's own scores instead: a .npz file, or arrays by weight name.
        apply_plan: a plan file to replay instead of choosing.
        validate: prove the cut and run both models; False writes an unproved file.
        drift_data: a .npz file with an array for each input, stacked on the batch axis.
        threads: onnxruntime threads for the latency; 0 lets onnxruntime choose.
        strict: fail (exit code 4) if the channels removed differ from those asked by over 10 %.
        external_data: whether the output keeps weights in a file of their own.
        progress: called with the name of each stage as it starts.

    Raises:
        InputError: The criterion is unknown, or the number of threads negative.
    """

    budget: Budget = field(default_factory=Budget)
    criterion: str = "l1"
    scores: Path | Mapping[str, NDArray[Any]] | None = None
    apply_plan: Path | None = None
    validate: bool = True
    drift_data: Path | None = None
    threads: int = 0
    strict: bool = False
    external_data: Literal["auto", "always", "never"] = "auto"
    progress: Progress = lambda stage: None

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA_NAMES:
            raise InputError(unknown("criterion", self.criterion, CRITERIA_NAMES))
        if self.threads < 0:
            raise InputError(
                f"threads {self.threads} is negative: give 1 or more, 0 for onnxruntime's choice"
            )


def unknown(what: str, value: str, known: tuple[str, ...]) -> str:
    """The message for a value that is none of those known.

    Example:
        >>> unknown("criterion", "l3", ("l1", "fpgm"))
        "unknown criterion 'l3'; did you mean l1? Known: l1, fpgm"
    """
    hint = guess(value, known)
    return f"unknown {what} {plain(value)!r}{hint or '.'} Known: {', '.join(known)}"


def require_ratio(what: str, ratio: float) -> None:
    """Raise InputError unless the ratio is a fraction below 1."""
    if not 0 <= ratio < 1:
        raise InputError(f"{what} {ratio:g} is not in [0, 1): it is the fraction removed, 0.5 for half")


def _require_count(what: str, value: int, why: str) -> None:
    if value < 1:
        raise InputError(f"{what} {value} is below 1: {why}")
