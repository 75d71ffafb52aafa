"""Accuracy without training: every layer behind a cut is fitted to what the original said there.

Layers are taken in order.  Each reads what the pruned model computes, all layers before it being mended
already, and is fitted to what the original computes (asymmetric and sequential, as in He, Zhang, Sun 2017).
Where its result is added to another branch, it makes up for that branch's error as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune.axes.axis import atoms
from onnx_prune.calibration.biases import Biases
from onnx_prune.calibration.countdown import Countdown
from onnx_prune.calibration.data import Calibration, count
from onnx_prune.calibration.frontier import Frontier, moving
from onnx_prune.calibration.gram import Gram
from onnx_prune.calibration.linear import OPERATORS, Linear, linear
from onnx_prune.calibration.measure import WIDEST, picked
from onnx_prune.calibration.refit import Fit, Kind, Rows, fit
from onnx_prune.calibration.residual import Residual, residual
from onnx_prune.cost import MACS
from onnx_prune.coupling import Bound, Coupling
from onnx_prune.draft import Draft, rearrange
from onnx_prune.kept import Plan, slicer, stays
from onnx_prune.model import tensors
from onnx_prune.model.graph import Graph
from onnx_prune.model.nodes import Node, Place
from onnx_prune.proof.randomness import random_nodes
from onnx_prune.runtime import RunError
from onnx_prune.settings import Progress

Array = NDArray[Any]
Method = Literal["lstsq", "bias", "bn"]


@dataclass(frozen=True, slots=True)
class Refit:
    """What became of one layer.

    Attributes:
        layer: its weight.
        kind: "refitted", "bias" (only its bias is new) or "unchanged".
        why: why it was not refitted, "" where it was.
        before: mean squared error of its result on held-out samples, relative to the result's variance.
        after: the same with what was written.
        lam: the ridge parameter that was chosen.
    """

    layer: str
    kind: Kind
    why: str = ""
    before: float | None = None
    after: float | None = None
    lam: float = 0.0


@dataclass(frozen=True, slots=True)
class Recovery:
    """What recovery did.

    Attributes:
        method: "lstsq", "bias" or "bn".
        layers: what became of each layer behind a cut, in order.
        samples: number of samples it saw.
        source: where they are from.
        synthetic: whether they were made up.
    """

    method: Method
    layers: tuple[Refit, ...]
    samples: int
    source: str
    synthetic: bool

    def number(self, kind: Kind) -> int:
        """How many layers it did that to."""
        return sum(layer.kind == kind for layer in self.layers)


def recover(
    coupling: Coupling,
    plan: Plan,
    small: onnx.ModelProto,
    calibration: Calibration,
    method: Method = "lstsq",
    *,
    memory: int = 1 << 62,
    progress: Progress = lambda stage: None,
) -> Recovery:
    """Fit the layers of a cut model to the original, in place.

    Args:
        coupling: the analysed original.
        plan: which channels stay.
        small: the cut model, whole; its weights change.
        calibration: unlabelled inputs.
        method: "lstsq" fits weights and biases, "bias" biases alone, "bn" the statistics of every
            BatchNormalization.
        memory: bytes of intermediate values kept in memory; what is beyond goes to a temporary file.
        progress: told how far it is.

    Returns:
        What became of each layer.

    Raises:
        RunError: onnxruntime can't run one of the models in pieces, or they draw random numbers.
    """
    if random_nodes(coupling.graph):
        raise RunError("it draws random numbers")
    pass_ = _Pass(coupling, plan, small, calibration, method, memory)
    return pass_.run(progress)


def drifted(coupling: Coupling, plan: Plan) -> set[str]:
    """Tensors of the cut model that are not what they are in the original, at the channels that stay.

    A layer that only loses filters still computes the others; one that sums over fewer channels does not.
    """
    bounds = {bound.node.index: bound for bound in coupling.bound}
    found: set[str] = set()
    for node in coupling.graph.nodes:
        bound = bounds.get(node.index)
        if (bound and _loses(coupling, bound, plan)) or found.intersection(node.inputs):
            found.update(filter(None, node.outputs))
    return found


def _loses(coupling: Coupling, bound: Bound, plan: Plan) -> bool:
    """Whether the node sums over channels that are cut, or takes a statistic over them."""
    if set(plan) & (bound.relation.contracted() | bound.mixed):
        return True
    layer = linear(coupling.graph, bound.node, behind=True)
    dims = bound.relation.operands[layer.weight] if layer else None
    if layer is None or dims is None:
        return False  # an axis that both sides of a tied weight stand on is in the result as well
    return any(atom in plan for atom in atoms(dims[layer.inner_operand(coupling.graph.dims(layer.stored))]))


class _Pass:
    def __init__(
        self,
        coupling: Coupling,
        plan: Plan,
        small: onnx.ModelProto,
        calibration: Calibration,
        method: Method,
        memory: int,
    ) -> None:
        self.coupling, self.plan, self.small = coupling, plan, small
        self.calibration, self.method = calibration, method
        self.graph = Graph(small, coupling.graph.folder)
        self.biases = Biases(self.graph)
        self.drifted = drifted(coupling, plan)
        self.tasks: dict[str, Linear | Node | Refit] = {}
        self.sums: dict[str, Residual] = {}
        self._find()
        feeds = calibration.feeds
        fitted = {name: task for name, task in self.tasks.items() if not isinstance(task, Refit)}
        wanted = [self.sums[n].total if n in self.sums else n for n in fitted] if method != "bn" else []
        self.original = Frontier(coupling.graph.model, wanted, feeds, coupling.graph.folder, memory // 2)
        sources = list(map(_source, fitted.values()))
        others = [found.other for found in self.sums.values()]
        self.pruned = Frontier(
            small, [*sources, *others], feeds, coupling.graph.folder, memory // 2, self.biases.after
        )

    def _find(self) -> None:
        """The layers behind a cut, and where their results are summed up."""
        original = moving(self.coupling.graph.model)
        order, given = moving(self.small), {value.name for value in self.graph.inputs}
        for node in self.coupling.graph.nodes:
            name = next(filter(None, node.outputs), "")
            if name not in self.drifted or name not in original or name not in order:
                continue
            mine = self.graph.makers[name]
            if self.method == "bn":
                if mine.op == "BatchNormalization":
                    self.tasks[name] = mine
                continue
            layer = linear(self.graph, mine, behind=True)
            if layer is None or linear(self.coupling.graph, node, behind=True) is None:
                still = [k for k in mine.inputs[1:] if k and k not in order and k not in given]
                if mine.op in MACS and still:
                    why = "its weight is computed" if mine.op in OPERATORS else f"{mine.op} can't be fitted"
                    self.tasks[name] = Refit(still[0], "unchanged", why)
                continue
            self.tasks[name] = layer
            found = residual(self.graph, name, partial(self._is_before, order, order[name]))
            if found is not None and found.total in original and self.method == "lstsq":
                self.sums[name] = found

    def _is_before(self, order: dict[str, int], at: int, name: str) -> bool:
        """Whether a tensor is off, and computed before the node at that index."""
        return name in self.drifted and order.get(name, at) < at

    def run(self, progress: Progress) -> Recovery:
        layers = []
        ticks = Countdown(progress, "recovering layers", len(self.tasks))
        for name, task in self.tasks.items():
            layers.append(task if isinstance(task, Refit) else self._mend(name, task))
            ticks.step()
        after = {Place((), at): nodes for at, nodes in self.biases.after.items()}
        rearrange(Draft(self.small), before={}, after=after, dropped=set())
        found = self.calibration
        return Recovery(self.method, tuple(layers), found.samples, found.source, found.synthetic)

    def _mend(self, name: str, task: Linear | Node) -> Refit:
        return self._renormalise(task) if isinstance(task, Node) else self._refit(name, task)

    def _refit(self, name: str, layer: Linear) -> Refit:
        """Fit one layer, and write what came out."""
        shared = self._shared(layer)
        if shared:
            return Refit(layer.stored, "unchanged", shared)
        train, held = self._sums(name, layer)
        weight = self.graph.array(layer.stored)
        matrix = layer.matrix(weight)
        bias = self.biases.of(layer)
        found = fit(train, held, matrix, bias.reshape(matrix.shape[0], -1))
        why = "" if found.kind == "refitted" else self._why(found)
        if found.kind == "refitted":
            new = layer.fold(found.matrix, weight.shape).astype(weight.dtype)
            tensors.fill(self.graph.weights[layer.stored], np.ascontiguousarray(new))
        if found.kind != "unchanged":
            self.biases.write(layer, found.bias.ravel())
        return Refit(layer.stored, found.kind, why, found.before, found.after, found.lam)

    def _why(self, found: Fit) -> str:
        if self.method == "bias":
            return "" if found.kind == "bias" else "its mean is right"
        return f"no better than {'a new bias' if found.kind == 'bias' else 'before'} on held-out samples"

    def _shared(self, layer: Linear) -> str:
        """Why the layer's weight may not change, "" where it may."""
        if len(self.graph.uses[layer.stored]) > 1 or layer.stored in self.graph.captured:
            return "its weight has other users"
        kind = tensors.dtype_of(self.graph.weights[layer.stored])
        return self.biases.refusal(layer) if kind.kind == "f" else f"its weight is {kind.name}"

    def _sums(self, name: str, layer: Linear) -> tuple[Gram | Rows, Gram | Rows]:
        """Sums over what the layer reads now and what it should say, most samples and those held out."""
        found = self.sums.get(name)
        target = found.total if found else name
        self.original.advance(self.original.index[target] + 1)
        self.pruned.advance(self.pruned.index[name])
        width = int(np.prod(self.graph.dims(layer.stored), dtype=np.int64))
        width //= layer.results_of(self.graph.dims(layer.stored))
        sums: list[Gram | Rows] = []
        total = self._rows(layer)
        for _ in range(2):
            if self.method == "bias":
                sums.append(Gram(diagonal=True))
            else:
                sums.append(Rows() if total < width or width > WIDEST else Gram())
        for j, feed in enumerate(self.calibration.feeds):
            x = self.pruned.value(layer.source, j)
            y = self._target(target, found, j)
            share = self.calibration.samples / count(feed)
            rows = layer.count(x.shape)
            if width > WIDEST:
                share = max(share, share * total / WIDEST) if total > WIDEST else share
            for pick in picked(rows, share, layer.groups * width, j):
                sums[self.calibration.is_held_out(j)].add(layer.rows(x, pick), layer.results(y, pick))
        self.original.forget(target)
        return sums[0], sums[1]

    def _rows(self, layer: Linear) -> int:
        """Rows of all sets together."""
        sets = range(len(self.calibration.feeds))
        return sum(layer.count(self.pruned.value(layer.source, j).shape) for j in sets)

    def _target(self, name: str, found: Residual | None, j: int) -> Array:
        """What the layer should say for set `j`, at the channels that stay."""
        whole = self.original.value(name, j)
        y = slicer(stays(self.coupling, name, self.plan, whole.shape))(whole)
        if found is None:
            return y
        other = self.pruned.value(found.other, j)
        return found.undo(y.astype(np.float32) - other.astype(np.float32))

    def _renormalise(self, node: Node) -> Refit:
        """Give a BatchNormalization the mean and variance of what it reads now."""
        names = node.inputs[3:5]
        if any(len(self.graph.uses[n]) > 1 or n not in self.graph.weights for n in names):
            return Refit(node.inputs[1], "unchanged", "its statistics have other users")
        self.pruned.advance(self.pruned.index[node.outputs[0]])
        gram = Gram(diagonal=True)
        for j in range(len(self.calibration.feeds)):
            x = np.moveaxis(self.pruned.value(node.inputs[0], j), 1, -1)
            gram.add(x.reshape(1, -1, x.shape[-1]))
        for name, value in zip(names, (gram.mean[0], gram.variance[0]), strict=True):
            tensor = self.graph.weights[name]
            tensors.fill(tensor, value.astype(tensors.dtype_of(tensor)))
        return Refit(node.inputs[1], "refitted")


def _source(task: Linear | Node) -> str:
    return task.inputs[0] if isinstance(task, Node) else task.source
