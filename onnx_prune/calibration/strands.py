"""Pairs of factors whose basis is free: a layer's results, moved about at most, and what multiplies them.

Whether a layer's results come to a product as they are is not read off operators but tried: results are
replaced with numbers that count them, and what arrives has to be those numbers, whatever the position in
the sequence.  A norm, an activation or a rotary embedding in between changes them, and the pair is left
alone; what an attention makes of values that are the same at every position is the value itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune.axes.axis import Atom, atoms
from onnx_prune.calibration import taps
from onnx_prune.calibration.frontier import moving
from onnx_prune.calibration.linear import Linear, Product, linear
from onnx_prune.calibration.measure import Reader, readers
from onnx_prune.coupling import Bound, Coupling
from onnx_prune.roles import operands_with
from onnx_prune.runtime import Feeds, RunError, Session

Array = NDArray[Any]
Blocks = NDArray[np.intp]
_EVEN = 1e-3  # how far off what arrives may be, relative


@dataclass(frozen=True, slots=True)
class Factor:
    """An operand of a product, as blocks of dims that a basis mixes: one a head.

    Attributes:
        name: the tensor.
        dims: its dims that count heads; may be none.
        dim: its dim that is summed over.
        blocks: which results of the layers in front arrive, shape (heads, dims of a head).
    """

    name: str
    dims: tuple[int, ...]
    dim: int
    blocks: Blocks

    def heads(self, value: Array) -> Array:
        """The tensor as rows for each head, shape (heads, rows, dims of a head)."""
        rest = tuple(j for j in range(value.ndim) if j not in (*self.dims, self.dim))
        turned = value.transpose(*self.dims, *rest, self.dim)
        return turned.reshape(len(self.blocks), -1, value.shape[self.dim])


@dataclass(frozen=True, slots=True)
class Meeting:
    """Two operands of one node that both vary: queries and keys."""

    left: Factor
    right: Factor


@dataclass(frozen=True, slots=True)
class Projection:
    """What varies and a layer that reads it: values and the output projection.

    Attributes:
        reader: the layer.
        blocks: which results of the layers in front it reads, shape (heads, dims of a head).
    """

    reader: Reader
    blocks: Blocks


Pair = Meeting | Projection


@dataclass(frozen=True, slots=True)
class Strand:
    """All products over the channels of one group, and the layers in front of them.

    Attributes:
        atom: the group's.
        makers: the layers that make the channels; their results are counted through.
        pairs: the products.
    """

    atom: Atom
    makers: tuple[Linear, ...]
    pairs: tuple[Pair, ...]


def strands(coupling: Coupling, wanted: Sequence[Atom], feeds: Feeds) -> Iterator[Strand]:
    """The groups all of whose products have a free basis.

    Args:
        coupling: the analysed model.
        wanted: atoms of groups that are worth a look.
        feeds: one set of inputs to try it on.

    Raises:
        RunError: onnxruntime can't run the model.
    """
    behind = readers(coupling)
    varying = {*moving(coupling.graph.model), *(value.name for value in coupling.graph.inputs)}
    for atom in wanted:
        ends = [bound for bound in coupling.bound if atom in bound.relation.contracted()]
        meetings = [bound for bound in ends if _both_vary(varying, bound, atom)]
        layers = behind[atom]
        makers = _makers(coupling, atom)
        if not makers or not ends or len(meetings) + len(layers) != len(ends):
            continue
        names = [bound.node.inputs[k] for bound in meetings for k in (0, 1)]
        counted = _count(coupling, makers, [*names, *(r.layer.source for r in layers)], feeds)
        found = [
            *(_meeting(bound, atom, counted) for bound in meetings),
            *(_projection(reader, counted) for reader in layers),
        ]
        pairs = tuple(pair for pair in found if pair is not None)
        if len(pairs) == len(found) and _apart(pairs):
            yield Strand(atom, makers, pairs)


def _both_vary(varying: Collection[str], bound: Bound, atom: Atom) -> bool:
    """Whether a node multiplies two tensors that vary with the inputs, and does nothing else."""
    names = bound.node.inputs
    varies = len(names) == 2 and all(name in varying for name in names)
    return varies and not bound.node.inner and operands_with(bound.relation, atom) == 2


def _makers(coupling: Coupling, atom: Atom) -> tuple[Linear, ...]:
    """The layers whose results carry an atom that they do not read."""
    found = []
    for bound in coupling.bound:
        layer = linear(coupling.graph, bound.node, behind=True)
        result = bound.relation.results[0] if layer else None
        carries = any(a is atom for axis in result or () for a in atoms(axis))
        read = bound.relation.operands[layer.data] if layer else None
        reads = any(a is atom for axis in read or () for a in atoms(axis))
        if layer and carries and not reads:
            found.append(layer)
    return tuple(found) if all(isinstance(layer, Product) for layer in found) else ()


def _count(
    coupling: Coupling, makers: Sequence[Linear], names: Sequence[str], feeds: Feeds
) -> Mapping[str, Array | None]:
    """Which result of the layers stands where in some tensors; None where it is none of them.

    Results are counted from 0, those of the second layer after those of the first.
    """
    graph = coupling.graph
    values = next(taps.stream(graph.model, [m.result for m in makers], [feeds], graph.folder))
    widths = [maker.results_of(graph.dims(maker.stored)) for maker in makers]
    numbers = np.arange(1.0, sum(widths) + 1)
    drawn = np.random.default_rng(20250101).standard_normal(sum(widths))
    given = [*graph.model.graph.input, *taps.described(values, list(values))]
    wanted = list(dict.fromkeys(names))
    session = Session(taps.part(graph.model, given, wanted), graph.folder)

    def run(marks: Array) -> list[Array]:
        fed, start = dict(feeds), 0
        for maker, width in zip(makers, widths, strict=True):
            value = values[maker.result]
            own = maker.spread(marks[start : start + width]).astype(value.dtype)
            fed[maker.result] = np.ascontiguousarray(np.broadcast_to(own, value.shape))
            start += width
        return session.run({name: fed[name] for name in session.inputs}, wanted)

    marks = (np.zeros_like(drawn), np.ones_like(drawn), numbers, drawn)
    try:
        arrived = zip(wanted, *map(run, marks), strict=True)
    except RunError:  # numbers of that size mean something there, such as a place that is looked up
        return dict.fromkeys(wanted)
    return {name: _arrived(drawn, *found) for name, *found in arrived}


def _arrived(drawn: Array, base: Array, ones: Array, numbers: Array, other: Array) -> Array | None:
    """The count of the result that stands at each place, None unless all are results times one factor."""
    ones, numbers, other = (value.astype(np.float64) - base for value in (ones, numbers, other))
    factor = ones.ravel()[0] if ones.size else 0.0
    if not factor or not np.isfinite(numbers).all() or np.abs(ones / factor - 1).max() > _EVEN:
        return None
    count = np.rint(numbers / factor).astype(np.intp) - 1
    if count.min() < 0 or count.max() >= len(drawn):
        return None
    # numbers alone could be sums or means of others, or be clipped below zero
    return count if np.abs(other / factor - drawn[count]).max() < _EVEN * np.abs(drawn).max() else None


def _meeting(bound: Bound, atom: Atom, counted: Mapping[str, Array | None]) -> Meeting | None:
    """The heads of both operands, in the same order."""
    left, right = (counted[name] for name in bound.node.inputs)
    one, other = bound.letters.operands
    if left is None or right is None or one is None or other is None:
        return None
    where = [[j for j, axis in enumerate(dims or ()) if axis is atom] for dims in bound.relation.operands]
    if any(len(places) != 1 for places in where):
        return None
    shared = [axis for axis in one if axis in other and axis in (bound.letters.results[0] or ())]
    heads = [axis for axis in shared if _varies(left, one.index(axis))]
    found = []
    for name, counts, dims, (dim,) in zip(bound.node.inputs, (left, right), (one, other), where, strict=True):
        places = tuple(dims.index(axis) for axis in heads)
        blocks = _blocks(counts, places, dim)
        if blocks is None:
            return None
        found.append(Factor(name, places, dim, blocks))
    return Meeting(*found) if found[0].blocks.shape == found[1].blocks.shape else None


def _varies(counts: Array, dim: int) -> bool:
    return bool((counts != counts.take([0], dim)).any())


def _blocks(counts: Array, heads: tuple[int, ...], dim: int) -> Blocks | None:
    """Counts by head and dim, None if they vary with anything else."""
    kept = (*heads, dim)
    rest = tuple(j for j in range(counts.ndim) if j not in kept)
    if any(_varies(counts, j) for j in rest):
        return None
    turned = counts.transpose(*rest, *heads, dim)
    return np.asarray(turned[(0,) * len(rest)].reshape(-1, counts.shape[dim]))


def _projection(reader: Reader, counted: Mapping[str, Array | None]) -> Projection | None:
    counts = counted[reader.layer.source]
    if counts is None or reader.layer.groups != 1:
        return None
    rows = reader.layer.rows(counts)[0]
    if (rows != rows[:1]).any():
        return None
    return Projection(reader, rows[0][reader.blocks.T])


def _apart(pairs: Sequence[Pair]) -> bool:
    """Whether no result is mixed in two ways, as those of a key that several queries share would be."""
    used = np.concatenate([block.ravel() for pair in pairs for block in sides(pair)])
    return len(np.unique(used)) == len(used)


def sides(pair: Pair) -> tuple[Blocks, ...]:
    """The blocks of results that a pair mixes."""
    return (pair.left.blocks, pair.right.blocks) if isinstance(pair, Meeting) else (pair.blocks,)
