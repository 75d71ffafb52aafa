"""One solver that knows no operator: it makes axes equal by splitting atoms as little as possible.

Atoms that meet are joined (union-find); an atom that meets a product or a concatenation is from
then on written as that; two concatenations are cut at each other's borders, two products at each
other's factors.  What cannot line up is held, with the sentence why; nothing here raises for a
valid model.  Held is absorbing: where one side is wholly held, the other becomes held and nothing
is bound.

    >>> solver, c, h, d = Solver(), Atom(12, "c"), Atom(3, "h"), Atom(4, "d")
    >>> solver.unify(c, prod(h, d))
    >>> print(solver.resolve(c))
    (h d)
"""

from __future__ import annotations

from collections import deque

from onnx_prune.axes.axis import (
    Atom,
    Axis,
    Bundle,
    Cat,
    Prod,
    Weave,
    atoms,
    bearing,
    cat,
    firsts,
    prod,
    size,
    weave,
)

MAX_SPLITS = 64
EMPTY = "an axis of size zero"
TANGLED = "its axis meets a rearrangement of itself"
UNLIKE = "its channels are shuffled in two ways that do not line up"


class Solver:
    """Equalities between axes, solved one by one in the order they are told."""

    def __init__(self) -> None:
        self._parent: dict[Atom, Atom] = {}
        self._tree: dict[Atom, Axis] = {}
        self._held: dict[Atom, str] = {}
        self._mixed: dict[Atom, str] = {}
        self._gave_up: str | None = None
        self.dealt: list[tuple[Axis, ...]] = []  # what of parts lies before each cut of a weave
        self.fixed: list[Atom] = []  # single channels that have to stay

    def find(self, atom: Atom) -> Atom:
        """The atom that stands for all that were joined with `atom`."""
        root = atom
        while (above := self._parent.get(root)) is not None:
            root = above
        while atom is not root:
            self._parent[atom], atom = root, self._parent[atom]
        return root

    def resolve(self, axis: Axis) -> Axis:
        """`axis` written in the atoms that nothing defines further."""
        match axis:
            case Atom():
                root = self.find(axis)
                tree = self._tree.get(root)
                if tree is None:
                    return root
                self._tree[root] = solved = self.resolve(tree)
                return solved
            case _:
                before = [self.resolve(part) for part in axis.before] if isinstance(axis, Weave) else []
                parts = [self.resolve(part) for part in axis.parts]
                if not before and all(new is old for new, old in zip(parts, axis.parts, strict=True)):
                    return axis
                match axis:
                    case Prod():
                        return prod(*parts)
                    case Cat():
                        return cat(*parts)
                    case Weave():
                        return weave(parts, before)
                return Bundle(tuple(parts))

    def hold(self, axis: Axis, why: str) -> None:
        """Nothing on this axis may be cut or moved; the first reason given for a channel run is kept."""
        for atom in bearing(self.resolve(axis)):
            self._held.setdefault(atom, why)

    def mix(self, axis: Axis, why: str) -> None:
        """Cutting this axis changes a statistic; the first reason given is kept."""
        for atom in atoms(self.resolve(axis)):
            self._mixed.setdefault(atom, why)

    def held(self, atom: Atom) -> str | None:
        """Why a resolved atom is held, or None if it is free."""
        return self._held.get(atom) or atom.held

    def mixed(self, atom: Atom) -> str | None:
        """Whose statistic cutting a resolved atom changes, or None."""
        return self._mixed.get(atom) or atom.mixed

    def unify(self, left: Axis, right: Axis) -> str | None:
        """Make two axes the same, or hold what cannot be: then the sentence why is returned."""
        self._gave_up = None
        todo, splits = [(left, right)], 0
        while todo:
            a, b = map(self.resolve, todo.pop())
            if a == b:
                continue
            if size(a) != size(b):
                self._give_up(a, b, f"axes of sizes {size(a)} and {size(b)} meet")
            elif not size(a):
                self._give_up(a, b, EMPTY)
            elif (why := self._wholly_held(a)) is not None:
                self._hold_with(b, a, why)
            elif (why := self._wholly_held(b)) is not None:
                self._hold_with(a, b, why)
            elif isinstance(a, Atom) and isinstance(b, Atom):
                self._join(a, b)
            elif isinstance(a, Atom):
                self._define(a, b)
            elif isinstance(b, Atom):
                self._define(b, a)
            elif splits > MAX_SPLITS:
                self._give_up(a, b, TANGLED)
            elif isinstance(a, Weave | Bundle) and _alike(a, b):
                todo += reversed(list(zip(a.parts, b.parts, strict=True)))
            elif isinstance(a, Prod) and isinstance(b, Prod):
                splits += self._factors(a, b, todo)
            elif isinstance(a, Bundle) or isinstance(b, Bundle) or Cat not in (type(a), type(b)):
                self._give_up(a, b, UNLIKE)
            else:
                splits += self._parts(a, b, todo)
        return self._gave_up

    def _wholly_held(self, axis: Axis) -> str | None:
        why = None
        for atom in bearing(axis):
            reason = self.held(atom)
            if reason is None and atom.size != 1:
                return None
            why = why or reason
        return why

    def _hold_with(self, axis: Axis, other: Axis, why: str) -> None:
        """Hold an axis that meets one that is held, where single channels need no reason to be."""
        self.hold(axis, why)
        self.fixed += [atom for atom in bearing(other) if atom.size == 1]

    def _give_up(self, a: Axis, b: Axis, why: str) -> None:
        self._gave_up = why
        self.hold(a, why)
        self.hold(b, why)

    def _mark(self, axis: Axis, held: str | None, mixed: str | None) -> None:
        if held:
            self.hold(axis, held)
        if mixed:
            self.mix(axis, mixed)

    def _join(self, a: Atom, b: Atom) -> None:
        self._parent[b] = a
        self._mark(a, self.held(b), self.mixed(b))

    def _define(self, atom: Atom, tree: Axis) -> None:
        """From now on `atom` is written as `tree`."""
        if any(leaf is atom for leaf in bearing(tree)):
            self._give_up(atom, tree, TANGLED)
            return
        held, mixed = self.held(atom), self.mixed(atom)
        self._tree[atom] = tree
        self._mark(tree, held, mixed)

    def _factors(self, a: Prod, b: Prod, todo: list[tuple[Axis, Axis]]) -> int:
        """Line two products up from the tail, splitting the longer factor; the number of splits."""
        left, right, splits = list(a.parts), list(b.parts), 0
        pairs: list[tuple[Axis, Axis]] = []
        while left:  # and so is the other, of the same size
            x, y = self.resolve(left.pop()), self.resolve(right.pop())
            if isinstance(x, Prod) or isinstance(y, Prod):
                left.extend(x.parts if isinstance(x, Prod) else (x,))
                right.extend(y.parts if isinstance(y, Prod) else (y,))
                continue
            if size(x) == size(y):
                pairs.append((x, y))
                continue
            if size(x) < size(y):
                x, y, left, right = y, x, right, left
            outer, rest = divmod(size(x), size(y))
            splits += 1
            if isinstance(x, Cat) and all(size(part) % size(y) == 0 for part in x.parts):
                heads = [Atom(size(part) // size(y), "h") for part in x.parts]
                pairs += [(part, self._prod(head, y)) for part, head in zip(x.parts, heads, strict=True)]
                left.append(cat(*heads))
            elif isinstance(x, Atom) and not rest:
                front, tail = Atom(outer, x.name), Atom(size(y), x.name)
                self._define(x, prod(front, tail))
                left.append(front)
                pairs.append((tail, y))
            else:
                self._give_up(a, b, f"groupings by {size(x)} and by {size(y)} do not line up")
                return splits
        todo += reversed(pairs)
        return splits

    def _parts(self, a: Axis, b: Axis, todo: list[tuple[Axis, Axis]]) -> int:
        """Line two concatenations up from the front, splitting the longer part."""
        left: deque[Axis] = deque([a])
        right: deque[Axis] = deque([b])
        splits = 0
        pairs: list[tuple[Axis, Axis]] = []
        while left:  # and so is the other, of the same size
            x, y = self.resolve(left.popleft()), self.resolve(right.popleft())
            if isinstance(x, Cat) or isinstance(y, Cat):
                left.extendleft(reversed(x.parts) if isinstance(x, Cat) else (x,))
                right.extendleft(reversed(y.parts) if isinstance(y, Cat) else (y,))
                continue
            if size(x) == size(y):
                pairs.append((x, y))
                continue
            if size(x) < size(y):
                x, y, left, right = y, x, right, left
            splits += 1
            if splits > MAX_SPLITS:
                self._give_up(a, b, TANGLED)
                return splits
            first, second = self._split(x, size(y))
            left.appendleft(second)
            pairs.append((first, y))
        todo += reversed(pairs)
        return splits

    def _split(self, axis: Axis, at: int) -> tuple[Axis, Axis]:
        """The axis as two runs, the first of size `at`; its atoms are split where they must."""
        axis = self.resolve(axis)
        if at == 0 or at == size(axis):
            empty = Atom(0)
            return (empty, axis) if at == 0 else (axis, empty)
        match axis:
            case Atom():
                front, tail = Atom(at, axis.name), Atom(axis.size - at, axis.name)
                self._define(axis, cat(front, tail))
                return front, tail
            case Cat():
                before: list[Axis] = []
                parts = list(axis.parts)
                while size(parts[0]) <= at:
                    at -= size(parts[0])
                    before.append(parts.pop(0))
                first, second = self._split(parts[0], at)
                return cat(*before, first), cat(second, *parts[1:])
            case Weave():
                pairs = [self._split(p, n) for p, n in zip(axis.parts, firsts(axis, at), strict=True)]
                some, others = zip(*pairs, strict=True)
                until = tuple(map(cat, axis.before, some)) if axis.before else some
                self.dealt.append(until)
                return weave(some, axis.before), weave(others, until)
            case _:
                assert isinstance(axis, Prod)  # a bundle never stands beside anything
                head, inner = axis.parts[0], prod(*axis.parts[1:])
                whole, rest = divmod(at, size(inner))
                first, second = self._split(head, whole)
                if not rest:
                    return self._prod(first, inner), self._prod(second, inner)
                middle, last = self._split(second, 1)
                low, high = self._split(self._prod(middle, inner), rest)
                return cat(self._prod(first, inner), low), cat(high, self._prod(last, inner))

    def _prod(self, *parts: Axis) -> Axis:
        """The product of `parts`; factors of one channel, which it does not have, have to stay."""
        self.fixed += [atom for part in parts if size(part) == 1 for atom in atoms(part)]
        return prod(*parts)


def _alike(a: Weave | Bundle, b: Axis) -> bool:
    """Whether two axes deal out, or bundle, parts of the same sizes alike."""
    if not isinstance(b, Weave | Bundle):
        return False
    if isinstance(a, Weave) and isinstance(b, Weave) and a.before != b.before:
        return False
    return list(map(size, a.parts)) == list(map(size, b.parts))  # never of a weave and a bundle of one size
