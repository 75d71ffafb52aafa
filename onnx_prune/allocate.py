"""How many channels each group keeps so that a target is met at the least loss.

Channels go one step after another, always where the loss grows least for what is saved, until the target is
met; what the last step took too much is given back where it helps most.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod as product

import numpy as np
from numpy.typing import NDArray

from onnx_prune.axes.axis import Atom, atoms
from onnx_prune.choose import Choice, best_of, widths_of
from onnx_prune.cost import MACS, macs, repeats
from onnx_prune.coupling import Coupling, Group
from onnx_prune.errors import InputError
from onnx_prune.kept import size_kept
from onnx_prune.model import tensors
from onnx_prune.model.graph import weight_of
from onnx_prune.model.nodes import Node
from onnx_prune.settings import Budget, Target
from onnx_prune.widths import Leads, least_of, step_of
from onnx_prune.words import human

Counts = Mapping[Atom, int]
Shapes = Mapping[str, tuple[int, ...]]
Term = Callable[[Counts], float]
_FLOOR = 0.1
_RECOUNTS = 6  # of what would be written, at most
_NEAR = 0.005  # of the target, within which it is not counted again


@dataclass(frozen=True)
class Bill:
    """A cost as a sum of terms that each depend on the widths of few groups.

    Attributes:
        fixed: what does not depend on any.
        terms: functions of the channels kept.
        touching: for each atom the terms that it is in.
    """

    fixed: float
    terms: tuple[Term, ...]
    touching: Mapping[Atom, tuple[int, ...]]

    def total(self, counts: Counts) -> float:
        """The cost when so many channels are kept; atoms that are left out keep all."""
        return self.fixed + sum(term(counts) for term in self.terms)

    def led(self, leads: Leads) -> Bill:
        """The same in the counts of the groups that lead; those of the others follow."""
        if not leads.webs:
            return self

        def follow(term: Term) -> Term:
            return lambda counts: term(leads.spread(counts))

        touching: dict[Atom, tuple[int, ...]] = {}
        for atom, around in self.touching.items():
            leader = leads.leader.get(atom, atom)
            touching[leader] = tuple(dict.fromkeys((*touching.get(leader, ()), *around)))
        return Bill(self.fixed, tuple(map(follow, self.terms)), touching)


def bill(coupling: Coupling, kind: str, shapes: Shapes, free: Sequence[Group]) -> Bill:
    """What a model costs by the widths of its groups.

    Args:
        coupling: the analysed model.
        kind: "macs", "params" or "size", which is bytes of weights.
        shapes: of all tensors before the cut, for MACs.
        free: the groups whose widths may change.
    """
    graph, mine = coupling.graph, {group.atom for group in free}
    axes = {name: dims for name, dims in coupling.axes.items() if name == weight_of(name)}
    whole = {group.atom for group in coupling.groups}

    def kept(name: str, counts: Counts) -> tuple[int, ...]:
        if name not in axes:
            return shapes[name]
        return tuple(
            size_kept(axis, n, counts, whole) for axis, n in zip(axes[name], shapes[name], strict=True)
        )

    def around(names: Iterable[str]) -> set[Atom]:
        """The atoms that the sizes of these tensors depend on."""
        return {a for name in names for axis in axes.get(name, ()) for a in atoms(axis)} & mine

    times = repeats(graph, shapes)

    def work(node: Node) -> Term:
        names = [name for name in (*node.inputs, *node.outputs) if name in shapes]
        often = times[node.place.path]
        return lambda counts: often * macs(node, {name: kept(name, counts) for name in names})

    def stored(name: str, each: float) -> Term:
        return lambda counts: each * product(kept(name, counts))

    found: list[tuple[Term, set[Atom]]] = []
    if kind == "macs":
        for node in graph.nodes:
            if node.op in MACS:
                found.append((work(node), around((*node.inputs, *node.outputs))))
    else:
        for name, tensor in graph.weights.items():
            count = product(tensor.dims)
            each = 1.0 if kind == "params" else tensors.nbytes(tensor) / max(count, 1)
            if name not in graph.frozen and (kind == "size" or graph.is_parameter(name)):
                found.append((stored(name, each), around((name,))))
    terms = [(term, own) for term, own in found if own]
    touching: dict[Atom, tuple[int, ...]] = dict.fromkeys(mine, ())
    for j, (_, own) in enumerate(terms):
        for atom in own:
            touching[atom] += (j,)
    fixed = sum(term({}) for term, own in found if not own)
    return Bill(fixed, tuple(term for term, _ in terms), touching)


def curve(scores: NDArray[np.float64], *, cumulative: bool) -> NDArray[np.float64]:
    """The loss when 0, 1, 2, ... channels are gone, the lowest scores first; shape (channels + 1,).

    Args:
        scores: a score a channel.
        cumulative: whether a score is the loss itself once the channel and all below are gone, as
            those of `obs` are; otherwise they are summed, as shares of their sum.

    Example:
        >>> curve(np.array([3.0, 1.0]), cumulative=False), curve(np.array([3.0, 1.0]), cumulative=True)
        (array([0.  , 0.25, 1.  ]), array([0., 1., 3.]))
    """
    ascending = np.sort(scores)
    if not cumulative:
        shares = np.maximum(ascending, 0.0)
        ascending = np.cumsum(shares / (shares.sum() or 1.0))
    return np.concatenate([[0.0], ascending])


def as_left(coupling: Coupling, choice: Choice, budget: Budget, shapes: Shapes) -> Budget:
    """The budget with a target in place of its ratio: the parameters that a choice by the ratio leaves.

    Args:
        coupling: the analysed model.
        choice: what the ratio alone would keep.
        budget: what was asked for; its target, if it has one, holds.
        shapes: of all tensors before the cut.
    """
    if budget.target is not None:
        return budget
    costs = bill(coupling, "params", shapes, choice.groups)
    kept = {atom: int(mask.sum()) for atom, mask in choice.plan.items()}
    left = coupling.graph.params() - (costs.total({}) - costs.total(kept))
    return replace(budget, target=Target("params", left, True, f"params={left:.0f}"))


def widths_allowed(coupling: Coupling, groups: Sequence[Group], budget: Budget) -> dict[Atom, list[int]]:
    """The counts that each group may keep, from all down to the least; whole layers meet their multiple."""
    widths = widths_of(coupling)
    allowed = {}
    for group in groups:
        least = max(least_of(group.size, budget), int(np.ceil(_FLOOR * group.size)))
        choices = range(group.size, least - 1, -1)
        width = max(widths.get(group.atom, {group.size}))
        sizes = {k: k * width // group.size for k in choices}
        step = step_of(width, sizes.values(), budget)
        allowed[group.atom] = [k for k in choices if sizes[k] % step == 0 or k == group.size]
    return allowed


def allocate(
    bill: Bill,
    curves: Mapping[Atom, NDArray[np.float64]],
    allowed: Mapping[Atom, Sequence[int]],
    limit: float,
) -> dict[Atom, int]:
    """Channels kept by each group, so that the bill is at most `limit`.

    Args:
        bill: what is to be kept within the limit.
        curves: for each group its loss by channels removed, see `curve`.
        allowed: for each group the counts that it may keep, from all down.
        limit: the most that the bill may come to.

    Raises:
        InputError: not even the least counts meet it.
    """
    return _Allocation(bill, curves, allowed).run(limit)


def meet(
    coupling: Coupling,
    groups: Sequence[Group],
    scores: Mapping[Atom, NDArray[np.float64]],
    budget: Budget,
    *,
    shapes: Shapes,
    original: int,
    recount: Callable[[Choice], int] | None = None,
    errors: Collection[Atom] = (),
    losses: Mapping[Atom, NDArray[np.float64]] | None = None,
) -> Choice:
    """Which channels stay so that the budget's target is met.

    Args:
        coupling: the analysed model.
        groups: the groups that may be cut.
        scores: for each a score a channel; the highest stay.
        budget: what was asked for; it has a target.
        shapes: of all tensors before the cut.
        original: what the model costs before the cut, of the target's kind.
        recount: counts what is written of a choice, where that is more than what is left of the original's
            weights: new biases, private copies of shared vectors, records.
        errors: groups whose scores are losses already, see `curve`.
        losses: for each group its loss by channels removed, where that was measured.

    Raises:
        InputError: the target can't be met.
    """
    target = budget.target
    assert target is not None
    leads = Leads.of(coupling, groups, budget)
    alone = leads.alone(groups)
    costs = bill(coupling, target.kind, shapes, groups).led(leads)
    curves = losses or {g.atom: curve(scores[g.atom], cumulative=g.atom in errors) for g in alone}
    beside = original - costs.total({})
    allowed = widths_allowed(coupling, alone, budget)
    limit = target.amount if target.absolute else target.amount * original
    spare, found = 0.0, None
    for _ in range(_RECOUNTS):
        try:
            counts = allocate(costs, curves, allowed, limit - beside - spare)
        except InputError:
            least = costs.total({atom: steps[-1] for atom, steps in allowed.items()}) + beside + spare
            raise InputError(
                f"--target {target} can't be met: {human(least)} of {human(original)} are left where every "
                "group is at its least; see what is held with --dry-run -v, or try --round-to 1"
            ) from None
        counts = dict(leads.spread(counts))
        choice = Choice(best_of(groups, scores, counts), counts, tuple(groups))
        if recount is None:
            return choice
        whole = recount(choice)
        if whole <= limit:
            found = choice
            if whole >= (1 - _NEAR) * limit:
                break
        # where that comes out too large, what was spared before was too little in any case
        more = whole - costs.total(counts) - beside
        spare = more if whole <= limit else max(more, spare + whole - limit)
    return found or choice


class _Allocation:
    """Where each group stands on its way down."""

    def __init__(
        self,
        bill: Bill,
        curves: Mapping[Atom, NDArray[np.float64]],
        allowed: Mapping[Atom, Sequence[int]],
    ) -> None:
        self.bill, self.curves, self.allowed = bill, curves, allowed
        self.at = dict.fromkeys(allowed, 0)
        self.counts = {atom: steps[0] for atom, steps in allowed.items()}
        self.values = [term(self.counts) for term in bill.terms]
        self.total = bill.fixed + sum(self.values)
        sharing: dict[int, list[Atom]] = {}
        for atom in allowed:
            for j in bill.touching[atom]:
                sharing.setdefault(j, []).append(atom)
        self.around = {
            atom: list(dict.fromkeys(a for j in bill.touching[atom] for a in sharing[j])) for atom in allowed
        }

    def run(self, limit: float) -> dict[Atom, int]:
        prices = {atom: self.price(atom, 1) for atom in self.allowed}
        while self.total > limit:
            atom = min(prices, key=lambda a: prices[a], default=None)
            if atom is None or prices[atom] == np.inf:
                least = self.total
                raise InputError(f"{least:.3g} is left where every group is at its least")
            self.move(atom, 1)
            prices.update((a, self.price(a, 1)) for a in (atom, *self.around[atom]))
        while True:
            worth = {atom: self.worth(atom, limit) for atom in self.allowed}
            atom = max(worth, key=lambda a: worth[a], default=None)
            if atom is None or worth[atom] <= 0:
                return self.counts
            self.move(atom, -1)

    def change(self, atom: Atom, way: int) -> tuple[float, float] | None:
        """What one step changes: the loss and the bill; None where there is no step."""
        steps, j = self.allowed[atom], self.at[atom] + way
        if not 0 <= j < len(steps):
            return None
        loss, size = self.curves[atom], steps[0]
        after = self.counts | {atom: steps[j]}
        cost = sum(self.bill.terms[i](after) - self.values[i] for i in self.bill.touching[atom])
        return float(loss[size - steps[j]] - loss[size - self.counts[atom]]), cost

    def price(self, atom: Atom, way: int) -> float:
        """Loss for each unit saved by the next step down."""
        found = self.change(atom, way)
        return found[0] / -found[1] if found and found[1] < 0 else np.inf

    def worth(self, atom: Atom, limit: float) -> float:
        """Loss undone for each unit that a step back costs; 0 where it does not fit."""
        found = self.change(atom, -1)
        if found is None or self.total + found[1] > limit:
            return 0.0
        return -found[0] / max(found[1], 1e-9) if found[0] < 0 else 1e-12

    def move(self, atom: Atom, way: int) -> None:
        self.at[atom] += way
        self.counts[atom] = self.allowed[atom][self.at[atom]]
        for i in self.bill.touching[atom]:
            new = self.bill.terms[i](self.counts)
            self.total += new - self.values[i]
            self.values[i] = new
