"""One layer on its own, at several widths: a model for each, all in one, and the time that each takes."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnx_prune.axes.axis import Atom, atoms, count
from onnx_prune.axes.restate import restated
from onnx_prune.coupling import Bound, Coupling
from onnx_prune.kept import size_kept
from onnx_prune.runtime import RunError, Session, random_feeds

Counts = Mapping[Atom, int]
Shape = tuple[int, ...]
_POINT = re.compile(r"point(\d+)\.")
_WARM, _FEWEST, _MOST = 2, 3, 9
_SECONDS = 1.5


@dataclass(frozen=True)
class Layer:
    """A node with all that it takes to run it at other widths.

    Attributes:
        coupling: the analysed model.
        bound: the node.
        shapes: of all tensors before the cut.
    """

    coupling: Coupling
    bound: Bound
    shapes: Mapping[str, Shape]

    def kept(self, counts: Counts) -> dict[str, Shape]:
        """The shapes of its tensors when so many channels stay."""
        node, axes = self.bound.node, self.coupling.axes
        whole = {group.atom for group in self.coupling.groups}
        keys = {name: self.coupling.key(node, k) for k, name in enumerate(node.inputs)}
        found = {}
        for name in filter(None, (*node.inputs, *node.outputs)):
            dims = axes.get(keys.get(name, name))
            shape = self.shapes[name]
            found[name] = (
                shape
                if dims is None
                else tuple(size_kept(axis, n, counts, whole) for axis, n in zip(dims, shape, strict=True))
            )
        return found

    def at(self, counts: Counts) -> onnx.NodeProto:
        """The node with the attributes that follow the cut."""
        proto = onnx.NodeProto()
        proto.CopyFrom(self.bound.node.proto)
        masks = {atom: np.arange(atom.size) < n for atom, n in counts.items() if n < atom.size}
        for restate in self.bound.relation.restate:
            axes = [axis for axis in restate.axes if axis is not None]
            if not isinstance(restate.target, str) or not any(a in masks for x in axes for a in atoms(x)):
                continue
            value = self.bound.node.attrs.get(restate.target)
            new: Any = restate.value
            if value is not None:
                new = restated(np.asarray(value), restate.form, restate.axes, masks).tolist()
            elif restate.form != "implied":
                new = [count(axis, counts) for axis in axes]
            kept = [a for a in proto.attribute if a.name != restate.target]
            del proto.attribute[:]
            proto.attribute.extend([*kept, helper.make_attribute(restate.target, new)])
        return proto

    def signature(self, grid: Sequence[Counts]) -> tuple[object, ...]:
        """What two layers have in common that take as long at all widths of a grid."""
        bare, types = self.at({}), self.coupling.shapes.types
        names = [*bare.input, *bare.output]
        bare.ClearField("name")
        bare.ClearField("doc_string")
        bare.input[:], bare.output[:] = map(str, map(bool, bare.input)), map(str, map(bool, bare.output))
        weights = tuple(name in self.coupling.graph.weights for name in names)
        shapes = tuple(tuple(self.kept(counts).values()) for counts in grid)
        return bare.SerializeToString(deterministic=True), weights, shapes, tuple(map(types.get, names))


def times(layer: Layer, grid: Sequence[Counts], threads: int) -> list[float] | None:
    """Milliseconds of a layer at each of several widths, None where onnxruntime can't run it alone.

    What is timed is the node itself, as onnxruntime optimises it: without the reordering of channels before
    and after it, which neighbours in a whole model save each other.

    Args:
        layer: the layer.
        grid: channels kept of the groups around it, for each point.
        threads: intra-op threads.
    """
    try:
        model = _points(layer, grid)
        feeds = random_feeds(model.graph.input, {v.name: _shape(v) for v in model.graph.input})
        session = Session(model, optimize=True, threads=threads, profile=True)
        session.run(feeds)
        runs = _WARM + _runs(session, feeds)
        for _ in range(runs - _WARM):
            session.run(feeds)
    except (RunError, KeyError):  # a type that is not known
        return None
    found: dict[str, list[float]] = {}
    for label, took in session.profiled():
        if _POINT.match(label):
            found.setdefault(label, []).append(took)
    total: dict[int, float] = {}
    for label, all_runs in found.items():
        point = int(label.removeprefix("point").partition(".")[0])
        # the profile knows time on the wall only: nothing shortens it, and others on the machine lengthen it
        total[point] = total.get(point, 0.0) + min(all_runs[_WARM:])
    return [total[j] for j in range(len(grid))] if len(total) == len(grid) else None


def _runs(session: Session, feeds: Mapping[str, Any]) -> int:
    """How often to run for the time that there is."""
    began = time.perf_counter()
    session.run(feeds)
    return int(np.clip(_SECONDS / max(time.perf_counter() - began, 1e-6), _FEWEST, _MOST))


def _points(layer: Layer, grid: Sequence[Counts]) -> onnx.ModelProto:
    """A model that has the layer once at each point of a grid."""
    graph, types = layer.coupling.graph, layer.coupling.shapes.types
    nodes, inputs, outputs, weights = [], [], [], []
    for j, counts in enumerate(grid):
        node, shapes = layer.at(counts), layer.kept(counts)
        names = layer.bound.node.inputs, layer.bound.node.outputs
        for k, name in enumerate(names[0]):
            if not name:
                continue
            node.input[k] = f"point{j}.in{k}"
            if name in graph.weights:
                array = graph.array(name)[tuple(slice(n) for n in shapes[name])]
                weights.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), node.input[k]))
            else:
                inputs.append(helper.make_tensor_value_info(node.input[k], types[name], shapes[name]))
        for k, name in enumerate(names[1]):
            if name:
                node.output[k] = f"point{j}.out{k}"
                outputs.append(helper.make_tensor_value_info(node.output[k], types[name], None))
        node.name = f"point{j}."
        nodes.append(node)
    return helper.make_model(
        helper.make_graph(nodes, "layer", inputs, outputs, weights),
        opset_imports=list(graph.model.opset_import),
        ir_version=graph.model.ir_version,
    )


def _shape(value: onnx.ValueInfoProto) -> Shape:
    return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
