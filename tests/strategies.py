"""Hypothesis strategies for axes, plans and shapes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from math import prod as product

import numpy as np
from hypothesis import strategies as st

from onnx_prune.axis import Atom, Axis, Mask, cat, prod
from onnx_prune.relation import Shape

SIZES = (1, 2, 3, 4, 6)


@st.composite
def axes_of(draw: st.DrawFn, n: int, pool: list[Atom], depth: int = 2) -> Axis:
    """An axis of size `n`, of new atoms (which `pool` gains) and of those in `pool`."""
    old = [atom for atom in pool if atom.size == n]
    kind = draw(st.sampled_from(["atom", "prod", "cat"])) if depth and n > 1 else "atom"
    if kind == "prod":
        part = draw(st.sampled_from([d for d in range(1, n + 1) if n % d == 0]))
        return prod(draw(axes_of(part, pool, depth - 1)), draw(axes_of(n // part, pool, depth - 1)))
    if kind == "cat":
        at = draw(st.integers(1, n - 1))
        return cat(draw(axes_of(at, pool, depth - 1)), draw(axes_of(n - at, pool, depth - 1)))
    chosen = draw(st.sampled_from([None, *old]))
    if chosen is not None:
        return chosen
    pool.append(Atom(n, f"a{len(pool)}", draw(st.sampled_from([None, None, None, "held"]))))
    return pool[-1]


@st.composite
def equations(draw: st.DrawFn, most: int = 4) -> list[tuple[Axis, Axis]]:
    """Pairs of axes of equal size, over shared atoms."""
    pool: list[Atom] = []
    found = []
    for _ in range(draw(st.integers(1, most))):
        n = draw(st.sampled_from([0, 1, 2, 4, 6, 8, 12, 24]))
        found.append((draw(axes_of(n, pool)), draw(axes_of(n, pool))))
    return found


@st.composite
def sound_equations(draw: st.DrawFn) -> list[tuple[Axis, Axis]]:
    """Pairs that some grouping satisfies: each side groups one and the same run of fresh factors."""
    found: list[tuple[Axis, Axis]] = []
    names = [Atom(draw(st.sampled_from([2, 3, 4])), f"f{j}") for j in range(3)]
    whole = product(atom.size for atom in names)
    top = Atom(whole, "top")
    for k in range(draw(st.integers(2, 4))):
        cuts = sorted(draw(st.sets(st.integers(1, len(names) - 1))))
        bounds = [0, *cuts, len(names)]
        parts = [Atom(product(atom.size for atom in names[a:b]), f"p{k}{a}") for a, b in pairwise(bounds)]
        found.append((top, prod(*parts)))
        if draw(st.booleans()):
            held = draw(st.sampled_from(parts))
            found.append((held, Atom(held.size, "held", "held")))
    return found


@st.composite
def plans(draw: st.DrawFn, atoms: Iterable[Atom]) -> dict[Atom, Mask]:
    """A mask for each atom, at least one channel stays."""
    plan = {}
    for atom in atoms:
        mask = np.array(draw(st.lists(st.booleans(), min_size=atom.size, max_size=atom.size)), np.bool_)
        mask[draw(st.integers(0, atom.size - 1))] = True
        plan[atom] = mask
    return plan


@st.composite
def groupings(draw: st.DrawFn, sizes: list[int]) -> Shape:
    """A shape that groups a run of factors, with dims of size one in between."""
    shape: list[int] = []
    for n in sizes:
        joined, ones = draw(st.booleans()), draw(st.integers(0, 1))
        if shape and joined:
            shape[-1] *= n
        else:
            shape += [1] * ones + [n]
    return tuple(shape)


@st.composite
def views(draw: st.DrawFn) -> tuple[Shape, Shape]:
    """Two shapes with as many elements; now and then in another order, so that they do not line up."""
    sizes = draw(st.lists(st.sampled_from([2, 3, 4, 5]), max_size=5))
    other = draw(st.permutations(sizes)) if draw(st.booleans()) else sizes
    return draw(groupings(sizes)), draw(groupings(other))
