"""What the layers that read a group's channels get to see: one pass over the calibration data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune.axes.axis import Atom, atoms, owner
from onnx_prune.calibration import taps
from onnx_prune.calibration.countdown import Countdown
from onnx_prune.calibration.data import Calibration, count
from onnx_prune.calibration.gram import Gram
from onnx_prune.calibration.linear import Linear, linear
from onnx_prune.coupling import Bound, Coupling
from onnx_prune.model.graph import Graph
from onnx_prune.real import real
from onnx_prune.settings import Progress

Array = NDArray[Any]
Statistics = Mapping[int, Gram]
WIDEST = 6000  # inputs of a row above which their products are not summed
_ROWS, _ROWS_A_COLUMN = 10_000, 20
_PIECE = 1 << 24  # numbers that are in rows at once


@dataclass(frozen=True)
class Reader:
    """A layer that sums over the channels of a group.

    Attributes:
        layer: the layer.
        matrix: its weight as matrices, shape (groups, results, width).
        blocks: for each channel of the group the columns that read it, shape (channels, columns).
        weight: what an error of its result counts beside those of other layers.
    """

    layer: Linear
    matrix: Array
    blocks: NDArray[np.intp]
    weight: float = 1.0

    @property
    def width(self) -> int:
        """Inputs of a row."""
        return int(self.matrix.shape[2])


def readers(coupling: Coupling) -> dict[Atom, list[Reader]]:
    """For each group's atom the layers with constant weights that sum over its channels."""
    found: dict[Atom, list[Reader]] = {group.atom: [] for group in coupling.groups}
    for bound in coupling.bound:
        layer = linear(coupling.graph, bound.node, behind=True)
        if layer is None or coupling.key(bound.node, layer.weight) in coupling.codes:
            continue
        matrix = layer.matrix(real(coupling, layer.stored))
        for atom, columns in _columns(coupling, bound, layer).items():
            if atom in found:
                found[atom].append(Reader(layer, matrix, columns))
    return found


def _columns(coupling: Coupling, bound: Bound, layer: Linear) -> dict[Atom, NDArray[np.intp]]:
    """For each atom that the node sums over, the columns of its matrices by channel."""
    dims, shape = bound.relation.operands[layer.weight], coupling.graph.dims(layer.stored)
    if dims is None:
        return {}
    dim, found = layer.inner(shape), {}
    axis = dims[layer.inner_operand(shape)]
    for atom in dict.fromkeys(atoms(axis)):
        positions, channels = owner(axis, atom)
        if len(set(positions.tolist())) < len(positions):
            continue  # a position that belongs to two channels
        of = np.full(shape[dim], -1)
        of[positions] = channels
        mine = of[layer.columns(dim, shape)]
        order = np.argsort(mine, kind="stable")
        found[atom] = order[np.count_nonzero(mine < 0) :].reshape(atom.size, -1)
    return found


def need(layers: Sequence[Linear], graph: Graph, *, diagonal: bool = False) -> int:
    """Bytes of the sums for some layers."""
    kinds = {(layer.source, layer.geometry): layer for layer in layers}
    total = 0
    for layer in kinds.values():
        width = _width(layer, graph)
        total += 8 * layer.groups * width * (1 if diagonal or width > WIDEST else width)
    return total


def _width(layer: Linear, graph: Graph) -> int:
    shape = graph.dims(layer.stored)
    return int(np.prod(shape, dtype=np.int64)) // layer.results_of(shape)


def measure(
    graph: Graph,
    layers: Sequence[Linear],
    calibration: Calibration,
    *,
    diagonal: bool = False,
    progress: Progress = lambda stage: None,
) -> dict[int, Gram]:
    """Sums over what each layer reads, of the model as it is.

    Layers that read the same rows share one Gram.  At most 10,000 rows are summed, or 20 for each of their
    numbers where that is more, drawn evenly from all samples; the same ones on every run.

    Args:
        graph: the model.
        layers: the layers.
        calibration: inputs to run it on.
        diagonal: sum squares only, not products; also done for rows of more than 6,000 numbers.
        progress: told how far it is.

    Returns:
        By index of the layer's node its Gram.

    Raises:
        RunError: onnxruntime can't run the model.
    """
    kinds: dict[tuple[object, ...], list[Linear]] = {}
    for layer in layers:
        kinds.setdefault((layer.source, layer.geometry), []).append(layer)
    alike = list(kinds.values())
    grams = [Gram(diagonal=diagonal or _width(same[0], graph) > WIDEST) for same in alike]
    names = list(dict.fromkeys(same[0].source for same in alike))
    ticks = Countdown(progress, "reading the layers' inputs", len(calibration.feeds))
    for j, values in enumerate(taps.stream(graph.model, names, calibration.feeds, graph.folder)):
        for (first, *_), gram in zip(alike, grams, strict=True):
            x, width = values[first.source], _width(first, graph)
            share = calibration.samples / count(calibration.feeds[j])
            for pick in picked(first.count(x.shape), share, first.groups * width, j):
                gram.add(first.rows(x, pick))
        ticks.step()
    return {layer.node.index: gram for same, gram in zip(alike, grams, strict=True) for layer in same}


def picked(rows: int, share: float, width: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """Indices of the rows of one set that count, in pieces that fit in memory.

    Args:
        rows: how many the set has.
        share: how many times as many all sets have.
        width: numbers in a row.
        seed: of the choice.
    """
    most = max(_ROWS, _ROWS_A_COLUMN * width) / share
    if rows <= most:
        chosen = np.arange(rows)
    else:
        rng = np.random.default_rng([20221213, seed])
        chosen = np.sort(rng.choice(rows, int(most), replace=False))
    yield from np.array_split(chosen, max(1, -(-len(chosen) * width // _PIECE)))
