"""The one place that decides which channels stay.

A product such as `(groups x channels per group)` is cut in one factor; counts follow from the ratio,
are then rounded so that whole layers keep a width that runs fast, and the best-scored channels stay.
Everything here is a pure function; ties go to the lower index.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_prune.axes.axis import Atom, Axis, Mask, Prod, atoms, count, size
from onnx_prune.coupling import Coupling, Group, products
from onnx_prune.errors import InputError
from onnx_prune.model.graph import weight_of
from onnx_prune.settings import Budget
from onnx_prune.widths import Leads, least_of, removed, step_of
from onnx_prune.words import plain

Scores = Mapping[Atom, NDArray[np.float64]]
NEAR = 0.1  # how far from the ratio, in parts of it, whole heads may end and still be preferred to dims


def candidates(coupling: Coupling, budget: Budget, barred: Collection[Atom] = ()) -> list[Group]:
    """The groups that may be cut together: no two of them are factors of one product.

    Of heads and head size `budget.attention` says which, "auto" heads where they come near the ratio;
    of other factors of a product the one whose cut, rounded, lands nearest the ratio is taken, on a tie
    the one with more channels, then the one that rules out fewest others.

    Args:
        coupling: the analysed model.
        budget: what was asked for.
        barred: atoms that turned out to be uncuttable.
    """
    free = [
        g
        for g in coupling.groups
        if (budget.mixed or g.mixed is None)
        and g.atom not in barred
        and not matches(coupling, g, budget.ignore)
    ]
    rivals, widths = _rivals(coupling, budget), widths_of(coupling)
    members = {g.atom: len(g.members) for g in free}

    def rank(group: Group) -> tuple[int, float, int, int]:
        against = rivals.get(group.atom, set())
        own = ratio_of(coupling, [group], budget)
        ratio = budget.ratio if own is None else own
        counts = {_rounded(group, ratio, width, budget) for width in widths.get(group.atom, {group.size})}
        off_target = max(abs(1 - kept / group.size - ratio) for kept in counts)
        return (
            preference(group, against, off_target / ratio if ratio else 0.0),
            off_target,
            -group.size,
            len(against),
        )

    def preference(group: Group, against: set[Atom], miss: float) -> int:
        """0 for what goes first, whatever its rivals are, and 2 for what goes last."""
        if group.atom not in coupling.heads:
            return 0 if budget.attention == "dims" else 1
        # key-value heads stand on more weights than the query heads that share them
        if any(members.get(rival, 0) > len(group.members) for rival in against & coupling.heads):
            return 2
        return 1 if budget.attention == "dims" or (budget.attention == "auto" and miss > NEAR) else 0

    chosen: set[Atom] = set()
    for group in sorted(free, key=rank):
        if not rivals.get(group.atom, set()) & chosen:
            chosen.add(group.atom)
    for web in coupling.webs:  # all or none
        if not chosen.issuperset(web.atoms):
            chosen.difference_update(web.atoms)
    return [g for g in free if g.atom in chosen]


def widths_of(coupling: Coupling) -> dict[Atom, set[int]]:
    """For each atom the sizes of the products on axes of weights that it is a factor of."""
    widths: dict[Atom, set[int]] = {}
    for name, dims in coupling.axes.items():
        for axis in dims if weight_of(name) in coupling.graph.weights else ():
            for part in axis.parts if isinstance(axis, Prod) else ():
                if isinstance(part, Atom):
                    widths.setdefault(part, set()).add(size(axis))
    return widths


def _rounded(group: Group, ratio: float, width: int, budget: Budget) -> int:
    """How many channels stay of one factor of an axis of `width`, which is rounded as a whole."""
    asked = group.size - removed(ratio, group.size)
    widths = {k: k * width // group.size for k in range(1, group.size + 1)}
    step = step_of(width, widths.values(), budget)
    fits = [k for k, n in widths.items() if n % step == 0 or n == width]
    return min(fits, key=lambda k: (abs(k - asked), -k))


def _rivals(coupling: Coupling, budget: Budget) -> dict[Atom, set[Atom]]:
    """For each atom those that may not be cut beside it: the other factors of its products."""
    rivals: dict[Atom, set[Atom]] = {}
    for product in products(coupling):
        parts = [set(atoms(part)) for part in product.parts]
        for mine in parts:
            others = set().union(*(part for part in parts if part is not mine)) - mine
            for atom in mine:
                head = atom in coupling.heads
                barred = {a for a in others if budget.attention != "both" or (a in coupling.heads) == head}
                rivals.setdefault(atom, set()).update(barred)
    return rivals


def matches(coupling: Coupling, group: Group, globs: Iterable[str]) -> bool:
    """Whether a glob matches a weight of the group or a node that reads one."""
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs for name in names(coupling, group))


def names(coupling: Coupling, group: Group) -> set[str]:
    """Names of the group's weights and of the nodes that read them."""
    graph = coupling.graph
    found = {m.weight for m in group.members}
    return found | {graph.nodes[i].proto.name for w in found for i, _ in graph.uses.get(w, ())}


def require_matches(coupling: Coupling, budget: Budget) -> None:
    """Raise InputError for a glob that matches nothing: most likely it is misspelt."""
    graph = coupling.graph
    known = {*graph.weights, *(node.proto.name for node in graph.nodes)}
    for option, globs in (("ignore", budget.ignore), ("layer-ratio", [g for g, _ in budget.layer_ratios])):
        for glob in globs:
            if not fnmatch.filter(known, glob):
                raise InputError(
                    f"--{option} {plain(glob)!r} matches no weight and no node; --dry-run -v shows names"
                )


def ratio_of(coupling: Coupling, groups: Sequence[Group], budget: Budget) -> float | None:
    """The ratio that groups which are cut alike have of their own, None where they have none."""
    ratio = None
    for glob, special in budget.layer_ratios:
        if any(matches(coupling, group, [glob]) for group in groups):
            ratio = special
    return ratio


@dataclass(frozen=True, slots=True)
class Choice:
    """What was decided.

    Attributes:
        plan: for each group that is cut, which channels stay; shape (size,).
        asked: for each group that could be cut, how many channels the ratio alone would keep.
        groups: those groups.
    """

    plan: dict[Atom, Mask]
    asked: dict[Atom, int]
    groups: tuple[Group, ...]

    @property
    def removed(self) -> int:
        """Channels removed over all groups."""
        return sum(int((~mask).sum()) for mask in self.plan.values())

    @property
    def asked_removed(self) -> int:
        """Channels that the ratio alone would remove."""
        return sum(g.size - self.asked[g.atom] for g in self.groups)


def choose(coupling: Coupling, scores: Scores, budget: Budget, groups: Sequence[Group]) -> Choice:
    """Which channels of each group stay.

    Args:
        coupling: the analysed model.
        scores: for each group's atom a score a channel, shape (size,); the highest stay.
        budget: what was asked for.
        groups: the groups that may be cut, see `candidates`.
    """
    leads = Leads.of(coupling, groups, budget)
    alone = leads.alone(groups)
    asked = _global_counts(alone, scores, budget) if budget.across else {}
    for group in alone:
        ratio = ratio_of(coupling, leads.followers(group, groups), budget)
        if group.atom not in asked or ratio is not None:
            asked[group.atom] = group.size - removed(budget.ratio if ratio is None else ratio, group.size)
        asked[group.atom] = max(least_of(group.size, budget), asked[group.atom])
    counts = dict(leads.spread(asked))
    least = {group.atom: least_of(group.size, budget) for group in alone}
    _round(coupling, counts, budget, least, leads.leader)
    return Choice(best_of(groups, scores, counts), dict(leads.spread(asked, rounded=False)), tuple(groups))


def best_of(groups: Sequence[Group], scores: Scores, counts: Mapping[Atom, int]) -> dict[Atom, Mask]:
    """The plan that keeps the highest scores of each group; groups that stay whole are left out."""
    return {g.atom: best(scores[g.atom], counts[g.atom]) for g in groups if counts[g.atom] < g.size}


def best(scores: NDArray[np.float64], count: int) -> Mask:
    """The channels with the highest scores.

    >>> best(np.array([1.0, 3.0, 3.0, 2.0]), 2)
    array([False,  True,  True, False])
    """
    mask = np.zeros(len(scores), np.bool_)
    mask[np.argsort(-scores, kind="stable")[:count]] = True
    return mask


def _global_counts(groups: Sequence[Group], scores: Scores, budget: Budget) -> dict[Atom, int]:
    """Channels kept when all are ranked together, each group's scores divided by their mean size."""
    order = []
    for rank, group in enumerate(groups):
        own = scores[group.atom] / (np.abs(scores[group.atom]).mean() or 1.0)
        order += [(float(s), rank, j) for j, s in enumerate(own)]
    counts = {g.atom: g.size for g in groups}
    left = removed(budget.ratio, len(order))
    for _, rank, _ in sorted(order):
        group = groups[rank]
        if left and counts[group.atom] > least_of(group.size, budget):
            counts[group.atom] -= 1
            left -= 1
    return counts


def _round(
    coupling: Coupling,
    counts: dict[Atom, int],
    budget: Budget,
    least: Mapping[Atom, int],
    settled: Collection[Atom],
) -> None:
    """Round whole axes to a multiple, each by the group that moves its width least.

    Axes on which fewer groups stand come first; what they settled is not moved again.  No group
    falls below its least count.
    """
    axes: dict[Axis, None] = {}
    for name, dims in coupling.axes.items():
        if weight_of(name) in coupling.graph.weights:
            axes.update((axis, None) for axis in dims if any(a in counts for a in atoms(axis)))
    done = set(settled)
    for axis in sorted(axes, key=lambda axis: sum(a in counts for a in atoms(axis))):
        width, whole = count(axis, counts), size(axis)
        free = [a for a in dict.fromkeys(atoms(axis)) if a in counts and a not in done]
        done.update(free)
        mine = {a: counts[a] for a in atoms(axis) if a in counts}
        moves = {
            (j, k): count(axis, mine | {atom: k})
            for j, atom in enumerate(free)
            for k in range(least[atom], atom.size + 1)
        }
        step = step_of(whole, moves.values(), budget)
        nearest = [
            (abs(new - width), -new, abs(k - counts[free[j]]), j, k)
            for (j, k), new in moves.items()
            if new % step == 0 or new == whole
        ]
        if width % step and nearest:
            *_, j, k = min(nearest)
            counts[free[j]] = k
