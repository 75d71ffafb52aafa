"""Hypothesis strategies for axes, plans, shapes and whole models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise
from math import prod as product

import numpy as np
import onnx
from hypothesis import assume, reject
from hypothesis import strategies as st
from onnx import TensorProto

from onnx_prune.axes.axis import Atom, Axis, Mask, cat, prod
from onnx_prune.axes.relation import Shape
from onnx_prune.settings import ATTENTION, Budget
from tests.random_graphs import Builder, Size, Value
from tests.random_layers import head
from tests.random_moves import LAYERS, OTHERS, Move
from tests.random_shapes import join

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


# Models


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    """A valid model of some layers, joined and bent by what stands between them in real networks."""
    opset = draw(st.sampled_from([17, 21, 13, 11, 9, 18, 23]))
    kind = draw(st.sampled_from([TensorProto.FLOAT] * 6 + [TensorProto.DOUBLE, TensorProto.FLOAT16]))
    b = Builder(draw, opset, kind, draw(st.integers(0, 2**16)))
    batch: Size = b.pick([2, "n"])
    width = b.pick([3, 4, 8])
    steps: Size = b.pick([3, 4, "s"])
    entry = b.input(*b.pick([((batch, width), 1), ((batch, steps, width), 2), ((batch, width, 4, 6), 1)]))
    live = [entry]
    for _ in range(draw(st.integers(3, 9))):
        _grow(b, live, LAYERS)
        for _ in range(draw(st.integers(0, 2))):
            _grow(b, live, OTHERS)
    last = [value for value in live[1:] if not any(value.name in node.input for node in b.nodes)]
    found = [b.attempt(partial(head, b, value)) for value in last[-3:]]
    outputs = list(dict.fromkeys(value for value in found if value is not None))
    assume(outputs)
    model = b.model(outputs)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        reject()
    return model


def _grow(b: Builder, live: list[Value], moves: Sequence[Move]) -> None:
    """Add one tensor made from those that are there."""
    for _ in range(3):
        source = live[-min(b.pick([1, 1, 1, 1, 1, 2, 3]), len(live))]
        if len(live) > 2 and b.chance(8):
            move: Move = partial(join, y=live[-min(b.pick([2, 3, 4, 5]), len(live))])
        else:
            move = b.pick(moves)
        made = b.attempt(partial(move, b, source))
        if made is not None:
            live.append(made)
            return


@st.composite
def budgets(draw: st.DrawFn) -> Budget:
    """What is asked of the cut."""
    return Budget(
        ratio=draw(st.sampled_from([0.5, 0.25, 0.75])),
        across=draw(st.integers(0, 4)) == 4,
        round_to=draw(st.sampled_from([1, 2])),
        mixed=draw(st.integers(0, 4)) == 4,
        attention=draw(st.sampled_from(ATTENTION)),
    )
