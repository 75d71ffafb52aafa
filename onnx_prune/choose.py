"""The one place that decides which channels stay.

A product such as `(groups x channels per group)` is cut in one factor; counts follow from the ratio,
are then rounded so that whole layers keep a width that runs fast, and the best-scored channels stay.
Everything here is a pure function; ties go to the lower index.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from math import floor
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnx_prune.axis import Atom, Axis, Cat, Mask, Prod, atoms, size
from onnx_prune.coupling import Coupling, Group, products
from onnx_prune.settings import Budget

Scores = Mapping[Atom, NDArray[np.float64]]
_EPSILON = 1e-9  # 0.3 * 10 is 2.9999999999999996, and means 3


def candidates(coupling: Coupling, budget: Budget) -> list[Group]:
    """The groups that may be cut together: no two of them are factors of one product."""
    free = [
        g
        for g in coupling.groups
        if (budget.mixed or g.mixed is None) and not matches(coupling, g, budget.ignore)
    ]
    rivals: dict[Atom, set[Atom]] = {}
    for product in products(coupling):
        factors = set(atoms(product)) if len(product.parts) > 1 else set()
        for part in product.parts:
            mine = set(atoms(part))
            for atom in mine:
                rivals.setdefault(atom, set()).update(factors - mine)

    def off_target(group: Group) -> float:
        ratio = ratio_of(coupling, group, budget)
        return abs(floor(ratio * group.size + _EPSILON) / group.size - ratio)

    chosen: set[Atom] = set()
    def blocked(group: Group) -> int:
        return len(rivals.get(group.atom, ()))

    for group in sorted(free, key=lambda g: (off_target(g), -g.size, blocked(g))):
        if not rivals.get(group.atom, set()) & chosen:
            chosen.add(group.atom)
    return [g for g in free if g.atom in chosen]


def matches(coupling: Coupling, group: Group, globs: Iterable[str]) -> bool:
    """Whether a glob matches a weight of the group or a node that reads one."""
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs for name in names(coupling, group))


def names(coupling: Coupling, group: Group) -> set[str]:
    """Names of the group's weights and of the nodes that read them."""
    graph = coupling.graph
    found = {m.weight for m in group.members}
    return found | {graph.nodes[i].proto.name for w in found for i, _ in graph.uses.get(w, ())}


def ratio_of(coupling: Coupling, group: Group, budget: Budget) -> float:
    """The ratio that holds for one group."""
    ratio = budget.ratio
    for glob, special in budget.layer_ratios:
        if matches(coupling, group, [glob]):
            ratio = special
    return ratio


def choose(coupling: Coupling, scores: Scores, budget: Budget) -> dict[Atom, Mask]:
    """Which channels of each group stay; groups that stay whole are left out."""
    groups = candidates(coupling, budget)
    counts = _global_counts(groups, scores, budget) if budget.across else {}
    for group in groups:
        if group.atom not in counts or any(matches(coupling, group, [g]) for g, _ in budget.layer_ratios):
            ratio = ratio_of(coupling, group, budget)
            counts[group.atom] = group.size - floor(ratio * group.size + _EPSILON)
    for group in groups:
        floor_ = max(1, min(budget.min_channels, group.size), _least(group.size, budget.max_ratio))
        counts[group.atom] = max(floor_, counts[group.atom])
    asked = dict(counts)
    _round(coupling, counts, budget)
    del asked
    plan = {}
    for group in groups:
        kept = counts[group.atom]
        if kept < group.size:
            mask = np.zeros(group.size, np.bool_)
            mask[np.argsort(-scores[group.atom], kind="stable")[:kept]] = True
            plan[group.atom] = mask
    return plan


def _least(n: int, max_ratio: float) -> int:
    return n - floor(max_ratio * n + _EPSILON)


def _global_counts(groups: Sequence[Group], scores: Scores, budget: Budget) -> dict[Atom, int]:
    """Channels kept when all are ranked together, each group's scores divided by their mean."""
    order = []
    for rank, group in enumerate(groups):
        own = scores[group.atom] / (scores[group.atom].mean() or 1.0)
        order += [(float(s), rank, j) for j, s in enumerate(own)]
    counts = {g.atom: g.size for g in groups}
    left = floor(budget.ratio * len(order) + _EPSILON)
    for _, rank, _ in sorted(order):
        group = groups[rank]
        least = max(1, budget.min_channels, _least(group.size, budget.max_ratio))
        if left and counts[group.atom] > least:
            counts[group.atom] -= 1
            left -= 1
    return counts


def multiple(width: int, round_to: int | Literal["auto"]) -> int:
    """The multiple that a layer of `width` channels is rounded to.

    "auto" depends on the width alone, so that a model is cut the same on every host: onnxruntime's
    convolutions run in blocks of 16 (8 on AVX2), and a width that is no multiple of 4 leaves the
    blocked layout.

    >>> [multiple(n, "auto") for n in (256, 64, 48, 24)]
    [16, 16, 8, 4]
    """
    if round_to != "auto":
        return round_to
    return 16 if width >= 64 else 8 if width >= 32 else 4


def _round(coupling: Coupling, counts: dict[Atom, int], budget: Budget) -> None:
    """Round whole axes to a multiple, each by the group that moves its width least."""
    if budget.round_to == 1:
        return
    axes: dict[Axis, None] = {}
    for name, dims in coupling.axes.items():
        if name.split("\0")[0] in coupling.graph.weights:
            axes.update((axis, None) for axis in dims if any(a in counts for a in atoms(axis)))
    done: set[Atom] = set()
    for axis in sorted(axes, key=lambda axis: sum(a in counts for a in atoms(axis))):
        step = multiple(size(axis), budget.round_to)
        free = [a for a in dict.fromkeys(atoms(axis)) if a in counts and a not in done]
        done.update(free)
        kept = _kept(axis, counts)
        if kept % step == 0 or not free:
            continue
        best = None
        for atom in free:
            for count in range(1, atom.size + 1):
                new = _kept(axis, counts | {atom: count})
                if new % step == 0 or new == size(axis):
                    rank = (abs(new - kept), -new, abs(count - counts[atom]))
                    best = min(best, (rank, atom.size, count, atom), key=lambda b: b[:3]) if best else (
                        rank, atom.size, count, atom)
        if best is not None:
            counts[best[3]] = best[2]


def _kept(axis: Axis, counts: Mapping[Atom, int]) -> int:
    match axis:
        case Atom():
            return counts.get(axis, axis.size)
        case Cat():
            return sum(_kept(part, counts) for part in axis.parts)
        case Prod():
            total = 1
            for part in axis.parts:
                total *= _kept(part, counts)
            return total
