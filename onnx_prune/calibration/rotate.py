"""Attention's factors in a better basis before channels are chosen, `onnx_prune.calibration.balance`.

The model computes the same as before, which is checked by running both; but the first dims of each head
carry the most, and the last can go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune.calibration import balance, taps
from onnx_prune.calibration.balance import Basis
from onnx_prune.calibration.biases import Biases
from onnx_prune.calibration.countdown import Countdown
from onnx_prune.calibration.data import Calibration
from onnx_prune.calibration.gram import Gram
from onnx_prune.calibration.measure import measure, need
from onnx_prune.calibration.strands import Meeting, Pair, Projection, Strand, sides, strands
from onnx_prune.coupling import Coupling, Group
from onnx_prune.model import tensors
from onnx_prune.model.graph import Graph
from onnx_prune.proof.compare import difference
from onnx_prune.real import numbers
from onnx_prune.runtime import Session
from onnx_prune.settings import Progress

Array = NDArray[Any]
_EQUAL = 1e-4  # of the outputs' largest value


@dataclass(frozen=True, slots=True)
class Rotated:
    """A model in another basis.

    Attributes:
        model: the new model; the old one is as it was.
        scores: for each group that has a new basis, by name, the relative error that leaving out a channel
            and all after it makes, summed over the products.
    """

    model: onnx.ModelProto
    scores: Mapping[str, NDArray[np.float64]]


def rotate(
    coupling: Coupling,
    groups: Sequence[Group],
    calibration: Calibration,
    *,
    memory: int = 1 << 62,
    progress: Progress = lambda stage: None,
) -> Rotated | None:
    """The model with the factors of its products in the basis that the calibration data ask for.

    Args:
        coupling: the analysed model.
        groups: those that are to lose channels.
        calibration: inputs to run the model on.
        memory: bytes of sums held at once; where that is too little the data are run through again.
        progress: told how far it is.

    Returns:
        The new model, None where no basis is free, or none that the weights' precision carries.

    Raises:
        RunError: onnxruntime can't run the model.
    """
    graph = coupling.graph
    progress("looking for products that no basis is set for")
    found = strands(coupling, [group.atom for group in groups], calibration.feeds[0])
    free = [strand for strand in found if _writable(coupling, strand)]
    bases = _bases(graph, [pair for strand in free for pair in strand.pairs], calibration, memory, progress)
    turned = [(strand, [next(bases) for _ in strand.pairs]) for strand in free]
    if not turned:
        return None
    model = _turn(graph, turned)
    if not _equal(graph, model, calibration):
        turned = [one for one in turned if _equal(graph, _turn(graph, [one]), calibration)]
        model = _turn(graph, turned)
        if not turned or not _equal(graph, model, calibration):
            return None
    names = {group.atom: group.name for group in groups}
    return Rotated(model, {names[strand.atom]: _curve(bases) for strand, bases in turned})


def _writable(coupling: Coupling, strand: Strand) -> bool:
    """Whether every weight and bias on it is a float constant that nothing else reads."""
    graph = coupling.graph
    biases = Biases(graph)
    readers = [pair.reader.layer for pair in strand.pairs if isinstance(pair, Projection)]
    held = filter(None, (biases.holder(maker) for maker in strand.makers))
    names = [*(layer.stored for layer in (*strand.makers, *readers)), *held]
    vectors = not any(biases.refusal(maker) for maker in strand.makers)
    return vectors and all(
        name in graph.weights
        and len(graph.uses.get(name, ())) == 1
        and name not in graph.captured
        and name not in coupling.codes
        and tensors.dtype_of(graph.weights[name]).kind == "f"
        for name in names
    )


def _bases(
    graph: Graph, pairs: Sequence[Pair], calibration: Calibration, memory: int, progress: Progress
) -> Iterator[list[Basis]]:
    """For each product the bases of its heads."""
    meetings = [pair for pair in pairs if isinstance(pair, Meeting)]
    moments = iter(_moments(graph, meetings, calibration, progress))
    grams: dict[int, Gram] = {}
    for j, pair in enumerate(pairs):
        if isinstance(pair, Meeting):
            yield [balance.products(q, k) for q, k in zip(*next(moments), strict=True)]
            continue
        layer = pair.reader.layer
        if layer.node.index not in grams:
            layers = [layer]
            for other in pairs[j + 1 :]:
                if isinstance(other, Projection) and need([*layers, other.reader.layer], graph) <= memory:
                    layers.append(other.reader.layer)
            grams = measure(graph, layers, calibration, progress=progress)
        covariance = grams[layer.node.index].covariance[0]
        columns, matrix = pair.reader.blocks.T, pair.reader.matrix[0].astype(np.float64)
        yield [balance.projections(covariance[np.ix_(c, c)], matrix[:, c]) for c in columns]


def _moments(
    graph: Graph, pairs: Sequence[Meeting], calibration: Calibration, progress: Progress
) -> list[tuple[Array, Array]]:
    """Second moments of the left factors and covariances of the right ones, shape (heads, d, d)."""
    if not pairs:
        return []
    factors = [factor for pair in pairs for factor in (pair.left, pair.right)]
    grams = [Gram() for _ in factors]
    ticks = Countdown(progress, "reading queries and keys", len(calibration.feeds))
    names = list(dict.fromkeys(factor.name for factor in factors))
    for values in taps.stream(graph.model, names, calibration.feeds, graph.folder):
        for factor, gram in zip(factors, grams, strict=True):
            gram.add(factor.heads(values[factor.name]))
        ticks.step()
    found = []
    for left, right in zip(grams[::2], grams[1::2], strict=True):
        mean = left.mean
        found.append((left.covariance + mean[:, :, None] * mean[:, None, :], right.covariance))
    return found


def _turn(graph: Graph, turned: Sequence[tuple[Strand, list[list[Basis]]]]) -> onnx.ModelProto:
    """A copy of the model with new weights."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    fresh = Graph(model, graph.folder)
    for strand, bases in turned:
        rows = [
            layer.matrix(numbers(graph.array(layer.stored)))[0].astype(np.float64) for layer in strand.makers
        ]
        held = [Biases(graph).holder(layer) for layer in strand.makers]
        added = [
            numbers(graph.array(name)).astype(np.float64).ravel() if name else np.zeros(len(own))
            for name, own in zip(held, rows, strict=True)
        ]
        matrix, bias = np.concatenate(rows), np.concatenate(added)
        for pair, heads in zip(strand.pairs, bases, strict=True):
            mixes = ([basis.left for basis in heads], [basis.right for basis in heads])
            for blocks, mix in zip(sides(pair), mixes, strict=False):
                for block, change in zip(blocks, mix, strict=True):
                    matrix[block], bias[block] = change @ matrix[block], change @ bias[block]
            if isinstance(pair, Projection):
                _project(fresh, pair, heads)
        ends = np.cumsum([len(own) for own in rows])[:-1]
        parts = zip(strand.makers, held, np.split(matrix, ends), np.split(bias, ends), strict=True)
        for layer, name, own, shift in parts:
            _fill(fresh, layer.stored, layer.fold(own[None], graph.dims(layer.stored)))
            if name:
                _fill(fresh, name, shift.reshape(graph.dims(name)))
    return model


def _project(fresh: Graph, pair: Projection, heads: Sequence[Basis]) -> None:
    """Give the layer that reads values the other side of their basis."""
    layer = pair.reader.layer
    matrix = layer.matrix(numbers(fresh.array(layer.stored)))[0].astype(np.float64)
    for columns, basis in zip(pair.reader.blocks.T, heads, strict=True):
        matrix[:, columns] = matrix[:, columns] @ basis.right.T
    _fill(fresh, layer.stored, layer.fold(matrix[None], fresh.dims(layer.stored)))


def _fill(fresh: Graph, name: str, value: Array) -> None:
    tensor = fresh.weights[name]
    tensors.fill(tensor, np.ascontiguousarray(value.astype(tensors.dtype_of(tensor))))


def _equal(graph: Graph, model: onnx.ModelProto, calibration: Calibration) -> bool:
    """Whether two models answer the same."""
    feeds = calibration.feeds[0]
    want, got = (Session(m, graph.folder).run(feeds) for m in (graph.model, model))
    return all(difference(a, b) <= _EQUAL for a, b in zip(got, want, strict=True))


def _curve(bases: Sequence[Sequence[Basis]]) -> NDArray[np.float64]:
    """What is lost of the products with a channel and all after it, each product relative to its whole."""
    energies = [np.sum([basis.energy for basis in heads], axis=0) for heads in bases]
    tails = [energy[::-1].cumsum()[::-1] / (energy.sum() or 1.0) for energy in energies]
    return np.asarray(np.sum(tails, axis=0), np.float64)
