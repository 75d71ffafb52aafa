"""Which weights stay by what their layers read: Wanda, RIA and SparseGPT on the user's inputs.

Inputs of layers are tapped in onnxruntime while the data stream through the model.  Wanda and RIA need
the norm of every input, and one pass for all layers.  SparseGPT needs second moments, inputs by inputs,
and takes one layer after the other, each reading what the layers before it now make of the data: memory
holds the moments of the largest layer, beside the model that onnxruntime runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune.calibration import data as calibration
from onnx_prune.calibration import taps
from onnx_prune.calibration.data import Calibration
from onnx_prune.calibration.gram import Gram
from onnx_prune.calibration.linear import Linear, linear
from onnx_prune.coupling import Coupling
from onnx_prune.model import tensors
from onnx_prune.sparse import granularity, ranking, saliency, select, sparsegpt
from onnx_prune.sparse.bits import Bits, Mask
from onnx_prune.sparse.granularity import Pattern
from onnx_prune.sparse.sparsegpt import Runs
from onnx_prune.sparse.sparsity import Sparsity
from onnx_prune.sparse.spool import Spool
from onnx_prune.sparse.stored import Unpacked
from onnx_prune.sparse.weights import Weight, matches

Array = NDArray[Any]
Bool = NDArray[np.bool_]
_ROWS, _ROWS_PER_INPUT = 50_000, 20  # rows of a layer that are enough to know its moments


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What was decided.

    Attributes:
        bits: which weights of each tensor stay.
        values: new values of the tensors that got some.
        by_magnitude: tensors that no layer reads in a way that could be calibrated.
        samples: how many samples were seen.
    """

    masks: dict[str, Mask]
    values: Spool
    by_magnitude: tuple[str, ...]
    samples: int


def calibrate(
    coupling: Coupling,
    weights: Sequence[Weight],
    asked: Sparsity,
    pattern: Pattern,
    parent: Mapping[str, Bits],
) -> Calibrated:
    """Rank weights by what they are multiplied with; SparseGPT changes those that stay, too.

    Args:
        coupling: the analysed model.
        weights: those that take part.
        asked: the criterion, how much is to go, and the data.
        pattern: unstructured or N:M.
        parent: masks of an earlier round.

    Raises:
        InputError: the data are not usable, or do not fit the model.
        RunError: onnxruntime can't run the model.
    """
    assert asked.data is not None
    data = calibration.load(asked.data, coupling.graph, coupling.shapes.inputs)
    return _Calibration(coupling, list(weights), asked, pattern, parent, data).run()


@dataclass
class _Calibration:
    coupling: Coupling
    weights: list[Weight]
    asked: Sparsity
    pattern: Pattern
    parent: Mapping[str, Bits]
    data: Calibration
    masks: dict[str, Mask] = field(default_factory=dict)
    values: Spool = field(default_factory=Spool)

    def run(self) -> Calibrated:
        graph = self.coupling.graph
        self.stored = Unpacked(self.coupling)
        readers = {w.name: self._readers(w) for w in self.weights}
        ready = [w for w in self.weights if readers[w.name]]
        rest = [w for w in self.weights if not readers[w.name]]
        if rest:
            score = ranking.scorer(self.stored, self.asked, self.parent)
            self.masks |= ranking.rank(rest, self.asked, self.pattern, score)
        if self.asked.criterion == "sparsegpt":
            model = onnx.ModelProto()
            model.CopyFrom(graph.model)
            for weight in sorted(ready, key=lambda w: min(index for index, _ in w.readers)):
                self.asked.progress(f"ranking {weight.name}")
                self._solve(weight, readers[weight.name], self._fitted(model, readers[weight.name]))
                _replace(model, weight.name, self.values[weight.name])
        elif ready:
            found = self._grams(graph.model, [readers[w.name] for w in ready], diagonal=True)
            for weight, gram in zip(ready, found, strict=True):
                self._score(weight, readers[weight.name][0], gram)
        masks = {w.name: self.masks[w.name] for w in self.weights}
        return Calibrated(masks, self.values, tuple(w.name for w in rest), self.data.samples)

    def _readers(self, weight: Weight) -> list[Linear]:
        """The layers that read a weight, all of them products of it as it is stored, or none."""
        graph = self.coupling.graph
        nodes = [graph.nodes[index] for index, _ in weight.readers]
        if any(node.inner for node in nodes) or weight.name in self.coupling.codes:
            return []
        found = [linear(graph, node) for node in nodes]
        whole = [layer for layer in found if layer is not None and layer.stored == weight.name]
        alike = {layer.matrix(np.empty(weight.shape, np.int8)).shape for layer in whole}
        return whole if len(whole) == len(nodes) and len(alike) == 1 else []

    def _grams(
        self, model: onnx.ModelProto, layers: Sequence[Sequence[Linear]], *, diagonal: bool
    ) -> list[Gram]:
        """Sums over what each group of layers reads, in one pass."""
        found = [Gram(diagonal=diagonal) for _ in layers]
        names = list(dict.fromkeys(layer.source for group in layers for layer in group))
        for values in taps.stream(model, names, self.data.feeds, self.coupling.graph.folder):
            for gram, group in zip(found, layers, strict=True):
                for layer in group:
                    x = np.asarray(values[layer.source], np.float32)
                    gram.add(layer.rows(x, self._picked(layer, x.shape)))
        return found

    def _fitted(self, model: onnx.ModelProto, layers: Sequence[Linear]) -> Gram:
        """Sums over what layers read in a model, and what they make of it in the original."""
        gram, folder = Gram(), self.coupling.graph.folder
        now = taps.stream(model, [layer.source for layer in layers], self.data.feeds, folder)
        names = [layer.result for layer in layers]
        then = taps.stream(self.coupling.graph.model, names, self.data.feeds, folder)
        for inputs, outputs in zip(now, then, strict=True):
            for layer in layers:
                x = np.asarray(inputs[layer.source], np.float32)
                pick = self._picked(layer, x.shape)
                gram.add(layer.rows(x, pick), layer.results(outputs[layer.result], pick))
        return gram

    def _picked(self, layer: Linear, shape: tuple[int, ...]) -> Array | None:
        """Evenly spread rows where there are more than it takes; None for all."""
        width = self._width(layer)
        most = max(_ROWS, _ROWS_PER_INPUT * width) // len(self.data.feeds) + 1
        count = layer.count(shape)
        return None if count <= most else np.linspace(0, count - 1, most).astype(np.intp)

    def _width(self, layer: Linear) -> int:
        return int(layer.matrix(np.empty(self.coupling.graph.dims(layer.stored), np.int8)).shape[2])

    def _order(self, weight: Weight, layer: Linear) -> Array:
        """The columns of a layer's matrix, inputs side by side at each position: runs lie along inputs."""
        width = self._width(layer)
        inputs = weight.layout.summed
        return np.arange(width).reshape(inputs, width // inputs).T.ravel()

    def _forced(self, weight: Weight, layer: Linear) -> Bool:
        """Weights that are gone already: zeros, and what an earlier round removed."""
        gone = self.stored.zeros(weight.name)
        if weight.name in self.parent:
            gone = gone | ~self.parent[weight.name].keep()
        return np.asarray(layer.matrix(gone.astype(np.int8)) != 0)

    def _bias(self, layers: Sequence[Linear], shape: tuple[int, ...]) -> Array | None:
        """What the layers add to their products, shape (groups, results); None if it is no such thing."""
        found = []
        for layer in layers:
            inputs = layer.node.inputs
            name = inputs[layer.bias] if layer.bias is not None and layer.bias < len(inputs) else ""
            if name and name not in self.stored:
                return None
            bias = layer.scale * self.stored.real(name).ravel() if name else np.zeros(1)
            if bias.size not in (1, shape[0] * shape[1]):
                return None
            found.append(np.broadcast_to(bias, (shape[0] * shape[1],)).reshape(shape[:2]))
        return found[0] if all(np.array_equal(bias, found[0]) for bias in found) else None

    def _count(self, weight: Weight) -> int:
        ratio = self.asked.asked
        for glob, special in self.asked.layer_ratios:
            ratio = special if matches(weight, glob) else ratio
        return select.portion(ratio, weight.size)

    def _score(self, weight: Weight, layer: Linear, gram: Gram) -> None:
        """Wanda or RIA: ranked within each output."""
        matrix = layer.matrix(self.stored.real(weight.name))
        norms = np.sqrt(gram.energy * gram.count)
        measure = saliency.wanda if self.asked.criterion == "wanda" else saliency.ria
        scores = np.stack([measure(part, norm) for part, norm in zip(matrix, norms, strict=True)])
        scores[self._forced(weight, layer)] = -np.inf
        rows = scores.reshape(-1, scores.shape[2])
        if self.pattern.kind == "n:m":
            order = self._order(weight, layer)
            keep = np.empty(rows.shape, np.bool_)
            runs = rows[:, order].reshape(len(rows), -1, weight.layout.summed)
            keep[:, order] = granularity.n_of_m(runs, self.pattern.rows, self.pattern.columns).reshape(
                rows.shape
            )
        else:
            keep = within_rows(rows, self._count(weight))
        folded = layer.fold(keep.reshape(scores.shape).astype(np.float32), weight.shape)
        self.masks[weight.name] = Bits.of(folded != 0)

    def _solve(self, weight: Weight, layers: Sequence[Linear], gram: Gram) -> None:
        """SparseGPT, group by group."""
        layer = layers[0]
        array = self.stored.array(weight.name)
        matrix = layer.matrix(self.stored.real(weight.name).astype(np.float64))
        forced, order = self._forced(weight, layer), self._order(weight, layer)
        mean = gram.mean
        moments = gram.covariance + mean[..., None] * mean[:, None, :]
        if (bias := self._bias(layers, matrix.shape)) is not None:
            wanted = gram.target_mean - bias
            products = gram.cross + mean[..., None] * wanted[:, None, :]
            matrix = np.stack(
                [sparsegpt.refit(*each) for each in zip(matrix, moments, products, strict=True)]
            )
        new, keep = np.empty(matrix.shape), np.empty(matrix.shape, np.bool_)
        runs = None
        if self.pattern.kind == "n:m":
            runs = Runs(self.pattern.rows, self.pattern.columns, weight.layout.summed)
        total, done = self._count(weight), 0
        for g in range(len(matrix)):
            count = total * (g + 1) // len(matrix) - done
            done += count
            inputs = moments[g][np.ix_(order, order)]
            solved = sparsegpt.solve(matrix[g][:, order], inputs, count, runs, forced[g][:, order])
            new[g][:, order], keep[g][:, order] = solved.values, solved.keep
        self.masks[weight.name] = Bits.of(layer.fold(keep.astype(np.float32), weight.shape) != 0)
        self.values[weight.name] = np.asarray(layer.fold(new, weight.shape)).astype(array.dtype)


def within_rows(scores: Array, count: int) -> Bool:
    """Keep all but `count`, as many in each row as the others; the first rows lose what is left over.

    Example:
        >>> within_rows(np.array([[3.0, 1, 2], [9, 8, 7]]), 3).astype(int)
        array([[1, 0, 0],
               [1, 1, 0]])
    """
    each, over = divmod(count, len(scores))
    order = np.argsort(-scores, axis=1, kind="stable")
    keep = np.ones(scores.shape, np.bool_)
    gone = (
        np.arange(scores.shape[1])[None] >= scores.shape[1] - each - (np.arange(len(scores)) < over)[:, None]
    )
    np.put_along_axis(keep, order, ~gone, axis=1)
    return keep


def _replace(model: onnx.ModelProto, name: str, array: Array) -> None:
    """Give a stored tensor of the main graph new values."""
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensors.fill(tensor, array)
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output[0] == name:
            tensors.fill(next(a.t for a in node.attribute if a.name == "value"), array)
