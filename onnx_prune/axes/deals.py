"""How many channels the parts of shuffles keep, so that those that stay can be dealt out as before.

Where a row that was dealt out from some parts is cut in two, the parts are, too, and which of their channels
lie before that place must not change: if that many stay before it, the parts have equally many of them, but
for those whose turn came once more.  Such a condition is a `Deal`.  Shuffles on end make a web of them;
`Web.counts` finds numbers that meet all, from the last shuffle back to the first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import floor

from onnx_prune.axes.axis import Atom, Axis, Bundle, Cat, Prod, Weave, atoms, count, size

_EPSILON = 1e-9
_SHARES = (0.9, 0.7, 0.5, 0.3, 0.1)
_OFF = 0.05  # how far from them the leader may be, in parts of its size, if that is a channel at all


@dataclass(frozen=True, slots=True)
class Deal:
    """What parts have been dealt out up to some place.

    Attributes:
        parts: for each what of it lies before that place.
        whole: whether that is all: then they have to be equally many.
    """

    parts: tuple[Axis, ...]
    whole: bool = False

    def fits(self, counts: Mapping[Atom, int]) -> bool:
        """Whether they are the first to be dealt out, so many channels being kept.

        >>> a, b = Atom(3), Atom(2)
        >>> [Deal((a, b)).fits({a: n}) for n in (1, 2, 3)], Deal((a, b), whole=True).fits({a: 3})
        ([False, True, True], False)
        """
        kept = [count(part, counts) for part in self.parts]
        return kept == sorted(kept, reverse=True) and kept[0] - kept[-1] <= (not self.whole)


@dataclass(frozen=True, slots=True)
class Web:
    """Runs of channels whose numbers depend on each other.

    Attributes:
        atoms: the runs.
        deals: the conditions, in the order of the graph.
        axes: those on which only the runs stand; at least one channel of each has to stay.
    """

    atoms: tuple[Atom, ...]
    deals: tuple[Deal, ...]
    axes: tuple[Axis, ...] = ()

    def fits(self, counts: Mapping[Atom, int]) -> bool:
        """Whether all conditions are met where so many channels are kept."""
        return all(deal.fits(counts) for deal in self.deals) and all(
            count(axis, counts) for axis in self.axes
        )

    def counts(self, width: Callable[[int], int]) -> dict[Atom, int] | None:
        """How many channels each run keeps.

        Args:
            width: from the size of a part of a shuffle to how many of its channels stay.

        Returns:
            The counts, some of them perhaps 0, or None if none were found that meet all conditions.

        >>> a, b, c = Atom(2), Atom(4), Atom(2)
        >>> [*Web((a, b, c), (Deal((Cat((a, c)), b), whole=True),)).counts(lambda n: n // 2).values()]
        [1, 1, 2]
        """
        found: dict[Atom, int] = {}
        free = set(self.atoms)
        for deal in reversed(self.deals):
            if deal.whole:
                kept = [width(size(part)) for part in deal.parts]
            elif all(atom in found or atom not in free for part in deal.parts for atom in atoms(part)):
                continue
            else:
                kept = _turns(0, width(sum(map(size, deal.parts))), len(deal.parts))
            if not all(_assign(part, n, found, free) for part, n in zip(deal.parts, kept, strict=True)):
                return None
        found |= {atom: atom.size for atom in self.atoms if atom not in found}
        return found if self.fits(found) else None

    @property
    def leader(self) -> Atom:
        """The run that is asked how many stay: the largest, the first of them."""
        return max(self.atoms, key=size)

    @property
    def pliant(self) -> bool:
        """Whether counts are found near any share that may be asked for."""
        for share in _SHARES:
            counts = self.near(share, lambda n: 1, lambda n: 1)
            if abs(counts[self.leader] - share * self.leader.size) > max(_OFF * self.leader.size, 0.75):
                return False
        return True

    def near(self, share: float, least: Callable[[int], int], step: Callable[[int], int]) -> dict[Atom, int]:
        """Counts that keep about a share of every part.

        Args:
            share: of the channels.
            least: from the size of a part to the fewest channels that may stay.
            step: from the size of a part to the multiple that it is rounded to, ties upward.
        """
        most = max(size(part) for deal in self.deals for part in deal.parts)
        whole = {atom: atom.size for atom in self.atoms}
        for multiple in (step, lambda n: 1):  # a rounding that leaves all whole is no answer
            for off in sorted(range(1 - most, most), key=abs):
                found = self.counts(partial(_width, share, off, least, multiple))
                if found and found != whole:
                    return found
        return whole


def _width(share: float, off: int, least: Callable[[int], int], step: Callable[[int], int], n: int) -> int:
    """About a share of `n`, so many steps off."""
    return min(n, max((floor(share * n / step(n) + 0.5 + _EPSILON) + off) * step(n), least(n)))


def webs(
    deals: Sequence[Deal], free: Collection[Atom], axes: Iterable[Iterable[Axis]] = ()
) -> tuple[Web, ...]:
    """The conditions, those together that have runs in common.

    Args:
        deals: in the order of the graph.
        free: atoms that may be cut.
        axes: of all tensors.
    """
    found: list[dict[Atom, None]] = []
    for deal in deals:
        mine = dict.fromkeys(a for part in deal.parts for a in atoms(part) if a in free)
        joined = [web for web in found if not web.keys().isdisjoint(mine)]
        found = [web for web in found if web not in joined]
        found.append({atom: None for web in (*joined, mine) for atom in web})
    there = dict.fromkeys(axis for dims in axes for axis in dims) if found else {}
    return tuple(
        Web(
            tuple(web),
            tuple(dict.fromkeys(d for d in deals if any(a in web for part in d.parts for a in atoms(part)))),
            tuple(axis for axis in there if web.keys() >= set(atoms(axis))),
        )
        for web in found
        if web
    )


def _assign(axis: Axis, kept: int, found: dict[Atom, int], free: set[Atom]) -> bool:
    """Let so many channels of the axis stay, runs without a count sharing what is left; whether they can."""
    if all(atom in found or atom not in free for atom in atoms(axis)):
        return count(axis, found) == kept
    match axis:
        case Atom():
            found[axis] = kept
            return 0 <= kept <= axis.size
        case Bundle():
            return all(_assign(part, kept, found, free) for part in axis.parts)
        case Weave():
            start = sum(count(part, found) for part in axis.before)
            turns = _turns(start, start + kept, len(axis.parts))
            return all(_assign(part, n, found, free) for part, n in zip(axis.parts, turns, strict=True))
        case Prod():
            return False
        case Cat():
            return _share(axis.parts, kept, found, free)


def _share(parts: Sequence[Axis], kept: int, found: dict[Atom, int], free: set[Atom]) -> bool:
    open_ = [p for p in parts if any(atom in free and atom not in found for atom in atoms(p))]
    kept -= sum(count(p, found) for p in parts if p not in open_)
    total = sum(map(size, open_))
    for part in open_:
        n = round(kept * size(part) / total)
        if not _assign(part, n, found, free):
            return False
        kept, total = kept - n, total - size(part)
    return True


def _turns(start: int, stop: int, width: int) -> list[int]:
    """How often it is the turn of each of `width` parts from one place to another."""
    return [(stop - j - 1) // width - (start - j - 1) // width for j in range(width)]
