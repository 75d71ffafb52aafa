"""How many channels a layer may keep, and which groups' counts follow from those of others."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import floor
from typing import Literal

from onnx_prune.axes.axis import Atom
from onnx_prune.axes.deals import Web
from onnx_prune.coupling import Coupling, Group
from onnx_prune.settings import Budget

EPSILON = 1e-9  # 0.3 * 10 is 2.9999999999999996, and means 3


def removed(ratio: float, size: int) -> int:
    """How many of `size` channels a ratio removes.

    >>> removed(0.3, 10), removed(0.5, 7)
    (3, 3)
    """
    return floor(ratio * size + EPSILON)


def least_of(size: int, budget: Budget) -> int:
    """The fewest channels that so many may be cut to."""
    return min(size, max(1, budget.min_channels, size - removed(budget.max_ratio, size)))


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


def step_of(whole: int, widths: Collection[int], budget: Budget) -> int:
    """The multiple that an axis is rounded to, of those that leave it a choice.

    13 groups of 8 channels meet no multiple of 16 by channels per group, but one of 4: "auto" is
    content with that, unless the whole axis meets the larger one.
    """
    step = multiple(whole, budget.round_to)
    while budget.round_to == "auto" and whole % step and all(n % step or n == whole for n in widths):
        step //= 2
    return step


@dataclass(frozen=True)
class Leads:
    """Of the groups around shuffles on end one leads, and the counts of the others follow.

    Attributes:
        webs: those of which all groups may be cut.
        budget: what was asked for.
    """

    webs: tuple[Web, ...] = ()
    budget: Budget = field(default_factory=Budget)

    @classmethod
    def of(cls, coupling: Coupling, groups: Sequence[Group], budget: Budget) -> Leads:
        """Those among the groups that may be cut."""
        free = {group.atom for group in groups}
        return cls(tuple(web for web in coupling.webs if free.issuperset(web.atoms)), budget)

    @cached_property
    def leader(self) -> dict[Atom, Atom]:
        """The leader of each atom that has one; its own, if it leads."""
        return {atom: web.leader for web in self.webs for atom in web.atoms}

    def alone(self, groups: Sequence[Group]) -> list[Group]:
        """The groups that follow no other."""
        return [group for group in groups if self.leader.get(group.atom, group.atom) is group.atom]

    def followers(self, group: Group, groups: Sequence[Group]) -> list[Group]:
        """The group, and those of `groups` that follow it."""
        if group.atom not in self.leader:
            return [group]
        return [other for other in groups if self.leader.get(other.atom) is group.atom]

    def spread(self, counts: Mapping[Atom, int], *, rounded: bool = True) -> Mapping[Atom, int]:
        """The counts of all groups where the leaders have these; others are handed on.

        Args:
            counts: of the groups that follow no other; those that are left out keep all.
            rounded: whether layers meet their multiple.
        """
        if not self.webs:
            return counts
        spread = dict(counts)
        budget = self.budget if rounded else replace(self.budget, round_to=1)
        for web in self.webs:
            kept = counts.get(web.leader, web.leader.size)
            if (web, kept, rounded) not in self._known:
                whole = {atom: atom.size for atom in web.atoms}
                self._known[web, kept, rounded] = (
                    whole
                    if kept == web.leader.size
                    else web.near(
                        kept / web.leader.size,
                        lambda n: least_of(n, budget),
                        lambda n: step_of(n, range(1, n + 1), budget),
                    )
                )
            spread |= self._known[web, kept, rounded]
        return spread

    @cached_property
    def _known(self) -> dict[tuple[Web, int, bool], dict[Atom, int]]:
        return {}
