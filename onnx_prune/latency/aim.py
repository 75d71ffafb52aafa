"""A target in time: shared out by the staircase of every layer, measured end to end, and corrected."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune.allocate import Bill, allocate, curve, widths_allowed
from onnx_prune.axes.axis import Atom
from onnx_prune.choose import Choice, best_of
from onnx_prune.coupling import Coupling, Group
from onnx_prune.errors import InputError, TargetMissed
from onnx_prune.latency.race import FEWEST, PRECISION, Race
from onnx_prune.latency.staircase import Shapes, Stair, staircase
from onnx_prune.settings import Budget, Progress, Target
from onnx_prune.validate import Latency
from onnx_prune.widths import Leads
from onnx_prune.words import duration, share

_SHORT = 0.05  # of the target, that the time reached may be short of it
_GOAL = 0.98  # nearer to the target than the middle: a repeat may come out on either side
_MARGIN = 0.007  # of the target, that a time keeps from both ends if others may still be tried
_NOISE = 0.02  # spread from which on 5 % can't be told
_TRIES, _MOST = 10, 16  # measurements on the way down, and of all that is tried
_CLOSE = 0.002  # of the whole time, within which there is nothing new to try


@dataclass(frozen=True, slots=True)
class Aim:
    """How a target in time was met.

    Attributes:
        target: what was asked for.
        corrections: how often the measured time sent the allocation back.
        tried: what was reached each time, in parts of the target.
        spread: of the last measurement, half its 95 % confidence interval in parts of it.
        staircase: the time of each layer at a few widths.
    """

    target: str
    corrections: int
    tried: tuple[float, ...]
    spread: float
    staircase: tuple[Stair, ...]


def reached(target: Target, latency: Latency) -> float:
    """The time reached, in parts of the target."""
    assert latency.ratio is not None
    return (latency.after_ms if target.absolute else latency.ratio) / target.amount


def within(target: Target, latency: Latency, margin: float = 0.0) -> bool:
    """Whether a time is at most the target, and short of it by at most 5 %."""
    return 1 - _SHORT + margin <= reached(target, latency) <= 1 - margin


def aim(
    coupling: Coupling,
    groups: Sequence[Group],
    scores: Mapping[Atom, NDArray[np.float64]],
    budget: Budget,
    *,
    race: Race,
    build: Callable[[Choice], onnx.ModelProto],
    shapes: Shapes,
    threads: int = 0,
    errors: Collection[Atom] = (),
    losses: Mapping[Atom, NDArray[np.float64]] | None = None,
    progress: Progress = lambda stage: None,
) -> tuple[Choice, Aim]:
    """Which channels stay so that the smaller model takes the time that was asked for, as measured.

    Args:
        coupling: the analysed model.
        groups: the groups that may be cut.
        scores: for each a score a channel; the highest stay.
        budget: what was asked for; its target is a latency.
        race: measures a model against the original.
        build: makes the model of a choice.
        shapes: of all tensors before the cut.
        threads: intra-op threads.
        errors: groups whose scores are losses already, see `allocate.curve`.
        losses: for each group its loss by channels removed, where that was measured.
        progress: told what is going on.

    Raises:
        InputError: the time is out of reach, or the original takes no longer.
        TargetMissed: widths come in steps too coarse for it, or the measurements are too noisy.
        CannotRestate: a choice can't be built.
    """
    target = budget.target
    assert target is not None
    progress("timing the original")
    whole = race.alone()
    if target.absolute and target.amount >= whole:
        raise InputError(f"--target {target} is nothing to aim at: the original takes {duration(whole)}")
    allowed = widths_allowed(coupling, groups, budget)
    found = staircase(coupling, groups, allowed, shapes, whole=whole, threads=threads, progress=progress)
    curves = losses or {g.atom: curve(scores[g.atom], cumulative=g.atom in errors) for g in groups}
    leads = Leads.of(coupling, groups, budget)
    bill = found.bill.led(leads)
    allowed = {group.atom: allowed[group.atom] for group in leads.alone(groups)}

    def measured(counts: Mapping[Atom, int], least: int) -> tuple[Choice, Latency]:
        counts = dict(leads.spread(counts))
        choice = Choice(best_of(groups, scores, counts), counts, tuple(groups))
        latency = race.against(
            build(choice), least=least, precision=PRECISION if least > FEWEST else 2 * PRECISION
        )
        if (latency.spread or 0.0) > _NOISE:
            hint = "" if latency.cpu else ", or with --threads 1, which counts CPU time"
            raise TargetMissed(
                f"--target {target}: the median of {latency.runs} runs is known to within "
                f"{share(latency.spread or 0.0, 1)} only, which is too noisy to tell 5 %; measure on a "
                f"quieter machine{hint}"
            )
        return choice, latency

    fraction = target.amount / whole if target.absolute else target.amount
    pursuit = _Pursuit(target, fraction, bill, curves, allowed, measured, progress)
    choice, latency = pursuit.run()
    tried = tuple(round(reached(target, one), 4) for _, one in pursuit.seen.values())
    return choice, Aim(str(target), len(tried) - 1, tried, latency.spread or 0.0, found.stairs)


def confirm(target: Target, race: Race, model: onnx.ModelProto) -> Latency:
    """Measure what is to be written once more; three times as long if it is not where it should be.

    Raises:
        TargetMissed: the target is missed.
    """
    for least in (2 * FEWEST, 6 * FEWEST):
        latency = race.against(model, least=least)
        if within(target, latency):
            return latency
    raise TargetMissed(
        f"--target {target} was missed: measured once more it came out at {_place(target, latency)}, "
        f"to within {share(latency.spread or 0.0, 1)}; try again, or on a quieter machine"
    )


@dataclass
class _Pursuit:
    """The way to a target: what was tried, and between which limits of the bill it lies."""

    target: Target
    fraction: float
    bill: Bill
    curves: Mapping[Atom, NDArray[np.float64]]
    allowed: Mapping[Atom, Sequence[int]]
    measure: Callable[[Mapping[Atom, int], int], tuple[Choice, Latency]]
    progress: Progress
    seen: dict[tuple[int, ...], tuple[Choice, Latency]] = field(default_factory=dict)

    def run(self) -> tuple[Choice, Latency]:
        """The first choice that is well within the target, or the best of those that are within it.

        First the limit of the bill is corrected by what was measured.  Where the way down leaps over the
        target, or the tables mislead, other groups are asked to give or to take a few channels.
        """
        whole = self.bill.total({})
        low, high, limit = 0.0, whole, whole * _GOAL * self.fraction
        while len(self.seen) < _TRIES and high - low > _CLOSE * whole:
            counts = self.counts(limit)
            choice, latency = self.at(counts)
            value = reached(self.target, latency)
            if within(self.target, latency, _MARGIN):
                choice, latency = self.at(counts, again=True)
                value = reached(self.target, latency)
                if within(self.target, latency, _MARGIN / 2):
                    return choice, latency
            cost = self.bill.total(counts)
            if value > _GOAL:
                if counts == self.least and value > 1:
                    raise self.out_of_reach(latency)
                high = min(high, cost)
            else:
                low = max(low, limit)
            limit = cost * _GOAL / value
            if not low < limit < high:
                limit = (low + high) / 2
        while len(self.seen) < _MOST and not self.inside and (aside := self.aside()) is not None:
            self.at(aside)
        for choice, _ in sorted(self.inside, key=lambda pair: abs(reached(self.target, pair[1]) - _GOAL)):
            choice, latency = self.at(choice.asked, again=True)
            if within(self.target, latency):
                return choice, latency
        raise self.missed()

    @property
    def inside(self) -> list[tuple[Choice, Latency]]:
        """What was tried and is within the target."""
        return [pair for pair in self.seen.values() if within(self.target, pair[1])]

    def nearest(self) -> list[tuple[Choice, Latency]]:
        """The slowest that is fast enough, and the fastest that is not."""
        found = sorted(self.seen.values(), key=lambda pair: reached(self.target, pair[1]))
        above = [pair for pair in found if reached(self.target, pair[1]) > 1]
        return found[: len(found) - len(above)][-1:] + above[:1]

    def aside(self) -> dict[Atom, int] | None:
        """What was not tried, differs in one group from one of the nearest, and should be within the target.

        That which loses least, None where there is none.
        """
        found: list[tuple[float, dict[Atom, int]]] = []
        for choice, latency in self.nearest():
            counts, value = choice.asked, reached(self.target, latency)
            cost = self.bill.total(counts)
            for atom, steps in self.allowed.items():
                terms = [self.bill.terms[j] for j in self.bill.touching[atom]]
                around = sum(term(counts) for term in terms)
                for other in (counts | {atom: n} for n in steps):
                    guess = value * (cost + sum(term(other) for term in terms) - around) / cost
                    if 1 - _SHORT <= guess <= 1 and self.key(other) not in self.seen:
                        found.append((self.loss(other), other))
        return min(found, key=lambda pair: pair[0])[1] if found else None

    def loss(self, counts: Mapping[Atom, int]) -> float:
        """What is lost by keeping so many channels."""
        return float(sum(self.curves[atom][atom.size - n] for atom, n in counts.items()))

    def key(self, counts: Mapping[Atom, int]) -> tuple[int, ...]:
        """Counts in the order of the groups."""
        return tuple(counts[atom] for atom in self.allowed)

    @property
    def least(self) -> dict[Atom, int]:
        """The fewest channels that all groups may keep."""
        return {atom: steps[-1] for atom, steps in self.allowed.items()}

    def counts(self, limit: float) -> dict[Atom, int]:
        """Channels kept for a bill within a limit, the least where even that is above it."""
        try:
            return allocate(self.bill, self.curves, self.allowed, limit)
        except InputError:
            return self.least

    def at(self, counts: Mapping[Atom, int], *, again: bool = False) -> tuple[Choice, Latency]:
        """What comes of so many channels, measured once, or again and longer."""
        key = self.key(counts)
        if again:
            self.progress(f"measuring candidate {len(self.seen)} again")
            self.seen[key] = self.measure(counts, 3 * FEWEST)
        elif key not in self.seen:
            last = [_place(self.target, latency) for _, latency in self.seen.values()][-1:]
            before = f" after {last[0]} for {self.target}" if last else ""
            self.progress(f"measuring candidate {len(self.seen) + 1}{before}")
            self.seen[key] = self.measure(counts, FEWEST)
        return self.seen[key]

    def out_of_reach(self, latency: Latency) -> InputError:
        """Even the least is too slow."""
        left, before = duration(latency.after_ms), duration(latency.before_ms)
        return InputError(
            f"--target {self.target} can't be met: {left} of {before} are left where every group is at its "
            "least; see what is held with --ratio 0.5 --dry-run -v, or try --round-to 1"
        )

    def missed(self) -> TargetMissed:
        """Nothing tried is within the target."""
        places = " and ".join(_place(self.target, latency) for _, latency in self.nearest())
        return TargetMissed(
            f"--target {self.target} was missed: nearest are {places}, for time comes in steps; "
            "try another target, or another --round-to"
        )


def _place(target: Target, latency: Latency) -> str:
    """The time reached, in the target's unit."""
    return duration(latency.after_ms) if target.absolute else f"{latency.ratio or inf:.3f} of the original's"
