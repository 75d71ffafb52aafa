"""All that a user can ask for, with its defaults: what the command line and the API share.

Nothing heavy is imported here: `onnx-prune --help` reads this file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onnx_prune import plugins
from onnx_prune.errors import InputError
from onnx_prune.words import guess, plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

Progress = Callable[[str], None]
ATTENTION = ("auto", "heads", "dims", "both")
CALIBRATED_NAMES = ("obs", "activation", "wanda", "flap")
TARGETS = ("macs", "params", "size", "latency")
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
RECOVERIES = ("lstsq", "bias", "bn", "none")
CRITERIA_NAMES = ("l1", "l2", "group-l1", "group-l2", "fpgm", "bn-scale", "random")


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be left of a model.

    Attributes:
        kind: "macs", "params", "size" (bytes of the file) or "latency" (milliseconds).
        amount: a fraction of the original, or a number where `absolute`.
        absolute: which of the two.
        text: as it was given.
    """

    kind: str
    amount: float
    absolute: bool
    text: str

    def __str__(self) -> str:
        return self.text


def target(text: str) -> Target:
    """A target from text: a fraction of the original, or an absolute number with or without a unit.

    Raises:
        InputError: it can't be read, or is nothing to aim at.

    Example:
        >>> target("macs=0.5").amount, target("size=10MB").amount, target("params=1.5M").absolute
        (0.5, 10000000.0, True)
        >>> target("latency=0.5").amount, target("latency=1.2s").amount
        (0.5, 1200.0)
    """
    kind, _, value = text.partition("=")
    units = r"\s*(us|ms|s)?" if kind == "latency" else r"\s*([kMGT]?)(i?)B?"
    found = re.fullmatch(r"(\d*\.?\d+)" + units, value.strip())
    if kind not in TARGETS or found is None:
        raise InputError(
            f"target {plain(text)!r} is not {', '.join(TARGETS)} with what is to be left, as in macs=0.5, "
            "params=1.5M, size=10MB or latency=8ms"
        )
    number = float(found[1])
    absolute = number > 1 or any(found.groups()[1:]) or value.strip().endswith("B")
    if kind == "latency" and absolute and not found[2]:
        raise InputError(
            f"target {plain(text)!r} has no unit: say latency=8ms, or latency=0.5 for half of the original's"
        )
    if number == 0 or (number == 1 and not absolute):
        raise InputError(f"target {plain(text)!r} is nothing to aim at: say what is to be left, 0.5 for half")
    if kind == "latency":
        scale = _MILLISECONDS.get(found[2], 1.0)
    else:
        scale = (1024 if found[3] else 1000) ** " kMGT".index(found[2] or " ")
    return Target(kind, number * scale if absolute else number, absolute, text)


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
        target: what is to be left of the whole model instead of a ratio, shared out among the groups so that
            least is lost.

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
    target: Target | None = None

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
        criterion: name of the criterion, see `onnx_prune.criteria.CRITERIA` and
            `onnx_prune.calibration.criteria.CALIBRATED`; None is "obs" with data and "l1" without.
        scores: the user's own scores instead: a .npz file, or arrays by weight name.
        sensitivity: measured curves that say how much of each group goes: their file, or "auto" to measure
            them now.
        apply_plan: a plan file to replay instead of choosing.
        validate: prove the cut and run both models; False writes an unproved file.
        data: calibration inputs: a .npz file or a folder, "synthetic", or sets of inputs.
        recover: how accuracy is given back: "lstsq", "bias", "bn" or "none"; None is "lstsq" with data.
        input_mean: mean of synthetic inputs, one number or one a channel.
        input_std: their standard deviation, likewise.
        input_range: the least and the largest value of synthetic inputs.
        memory: bytes that statistics and intermediate values may take.
        drift_data: a .npz file with an array for each input, stacked on the batch axis.
        evaluate: a .npz file with inputs and their `labels`, to count what is right before and after.
        threads: onnxruntime threads for the latency; 0 lets onnxruntime choose.
        max_memory: bytes that the proof and the runs may take; None for what the machine has.
        strict: fail (exit code 4) if the channels removed differ from those asked by over 10 %.
        external_data: whether the output keeps weights in a file of their own.
        progress: called with the name of each stage as it starts.

    Raises:
        InputError: The criterion is unknown or needs data, or a number is out of range.
    """

    budget: Budget = field(default_factory=Budget)
    criterion: str | None = None
    scores: Path | Mapping[str, NDArray[Any]] | None = None
    sensitivity: Path | Literal["auto"] | None = None
    apply_plan: Path | None = None
    validate: bool = True
    data: str | Path | Iterable[Mapping[str, NDArray[Any]]] | None = None
    recover: Literal["lstsq", "bias", "bn", "none"] | None = None
    input_mean: tuple[float, ...] = (0.0,)
    input_std: tuple[float, ...] = (1.0,)
    input_range: tuple[float, float] = (-math.inf, math.inf)
    memory: int = 4 * 10**9
    drift_data: Path | None = None
    evaluate: Path | None = None
    threads: int = 0
    max_memory: int | None = None
    strict: bool = False
    external_data: Literal["auto", "always", "never"] = "auto"
    progress: Progress = lambda stage: None

    def __post_init__(self) -> None:
        known = CRITERIA_NAMES + CALIBRATED_NAMES
        if self.ranking not in known and self.ranking not in plugins.criteria():
            raise InputError(unknown("criterion", self.ranking, known + plugins.criteria()))
        if self.recovery not in RECOVERIES:
            raise InputError(unknown("recovery", self.recovery, RECOVERIES))
        if self.data is None and (self.ranking in CALIBRATED_NAMES or self.recovery != "none"):
            which = f"recover {self.recovery}" if self.recovery != "none" else f"criterion {self.ranking}"
            raise InputError(f"{which} looks at what layers read: give --data FILE, or --data synthetic")
        aim = self.budget.target
        if aim is not None and aim.kind == "latency" and not self.validate:
            raise InputError(f"target {aim} is measured by running both models, which no-validate forbids")
        if self.memory < 1:
            raise InputError(f"memory {self.memory} is below 1: give bytes, as in 4GB")
        if len(self.input_range) != 2 or self.input_range[0] >= self.input_range[1]:
            raise InputError("input-range has to be two numbers, the smaller one first, as in 0,1")
        if min(self.input_std) <= 0:
            raise InputError("input-std has to be above 0: it is the spread of the inputs' values")
        if self.threads < 0:
            raise InputError(
                f"threads {self.threads} is negative: give 1 or more, 0 for onnxruntime's choice"
            )

    @property
    def ranking(self) -> str:
        """The criterion that holds."""
        return self.criterion or ("l1" if self.data is None else "obs")

    @property
    def recovery(self) -> str:
        """The recovery that holds."""
        return self.recover or ("none" if self.data is None else "lstsq")


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
