"""The nodes of a model in one row, those inside the bodies of If, Loop and Scan among them.

What is made inside a body is called `node/attribute/name` here; what a body reads from outside keeps its
name, and so does what a loop carries along unchanged.  A value crosses the border of a body in a node of
its own, which has a rule like any other:

    If            then, else, condition -> result
    Loop.enter    at first, after a step -> as the body sees it
    Loop.count    limit or condition -> number of the step or condition, as the body sees it
    Loop          at first, after a step, what stops it... -> at last
    Loop.stack    of a step, what stops it... -> of all steps
    Scan.enter, Scan, Scan.stack
    Scan.slice    of all steps -> of one step, as the body sees it

Bodies of other operators are not looked into.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, helper

from onnx_prune.model import tensors
from onnx_prune.model.nodes import Body, Node, Place, Slot, bodies_of, body_of, graph_at

# What is looked into: how many inputs and outputs each body has where the node has this many.
# Scan of opset 8, which had a batch axis, has another number.
_BORDERS: dict[str, Callable[[int, int], dict[str, tuple[int, int]]]] = {
    "If": lambda _, made: {"then_branch": (0, made), "else_branch": (0, made)},
    "Loop": lambda given, made: {"body": (max(given, 2), 1 + made)},
    "Scan": lambda given, made: {"body": (given, made)},
}
_Operand = tuple[str, Slot]


def flatten(graph: GraphProto) -> tuple[list[Node], list[Body]]:
    """All nodes of a main graph in order, and the bodies that some stand in, outer ones first."""
    row = _Row(graph)
    row.walk(Body((), "", {}))
    return row.nodes, row.bodies


def attributes(proto: NodeProto) -> dict[str, Any]:
    """Attributes as Python values, a tensor as an array; a Constant's, which may be large, is not read."""
    found = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
    if proto.op_type != "Constant":
        found |= {k: tensors.read(v) for k, v in found.items() if isinstance(v, onnx.TensorProto)}
    return found


class _Border(NamedTuple):
    """A node with bodies: as it stands in the record, and with the names used here."""

    record: NodeProto
    proto: NodeProto
    place: Place

    def operand(self, k: int) -> _Operand:
        """Operand `k` of the node."""
        return _at(self.proto.input, k), Slot(self.place, k)


class _Inside(NamedTuple):
    """A body with its inputs and outputs by the names used here."""

    body: Body
    inputs: list[str]
    outputs: list[_Operand]


@dataclass
class _Row:
    graph: GraphProto
    nodes: list[Node] = field(default_factory=list)
    bodies: list[Body] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)

    def walk(self, body: Body) -> None:
        """Put the nodes of a body into the row."""
        open_ = {"If": self._if, "Loop": self._loop, "Scan": self._scan}
        graph = graph_at(self.graph, body.path)
        if not body.path:
            self.taken.update(_made(graph))
        for at, record in enumerate(graph.node):
            proto = _renamed(record, body) if body.path else record
            place = Place(body.path, at)
            if _is_open(record):
                open_[record.op_type](_Border(record, proto, place), body.names)
            else:
                names = tuple(proto.input), tuple(proto.output)
                index, inner = len(self.nodes), bool(body.path)
                node = Node(index, proto, attributes(proto), *names, place, inner, step=(proto,))
                self.nodes.append(node)

    def _if(self, border: _Border, names: Mapping[str, str]) -> None:
        branches = [self._inside(border, names, name) for name in ("then_branch", "else_branch")]
        for branch in branches:
            self.walk(branch.body)
        self._leave(
            border,
            [
                ("", [*(branch.outputs[j] for branch in branches), border.operand(0)], {})
                for j in range(len(border.proto.output))
            ],
        )

    def _loop(self, border: _Border, names: Mapping[str, str]) -> None:
        formals = body_of(border.record, "body").input
        count = len(formals) - 2
        carried = [(2 + j, 2 + j, 1 + j) for j in range(count)]
        inside = self._inside(border, names, "body", carried)
        for k, value in enumerate((np.array(0), np.array(True))):
            rank = len(formals[k].type.tensor_type.shape.dim)  # both may be vectors of one
            step = _constant(inside.inputs[k], value.reshape((1,) * rank))
            self._cross(border, ".count", [border.operand(k)], inside.inputs[k], [step])
        self._enter(border, inside, carried)
        self.walk(inside.body)
        stops = [border.operand(0), border.operand(1), inside.outputs[0]]
        self._leave(
            border,
            [("", [border.operand(2 + j), inside.outputs[1 + j], *stops], {}) for j in range(count)]
            + [(".stack", [end, *stops], {"axis": 0}) for end in inside.outputs[1 + count :]],
        )

    def _scan(self, border: _Border, names: Mapping[str, str]) -> None:
        said = attributes(border.record)
        count = max(len(border.proto.input) - int(said.get("num_scan_inputs", 0)), 0)
        carried = [(j, j, j) for j in range(count)]
        inside = self._inside(border, names, "body", carried)
        self._enter(border, inside, carried)
        for j, formal in enumerate(inside.inputs[count:]):
            axis = _at(said.get("scan_input_axes", ()), j, 0)
            first = _constant(f"{formal}/first", np.array(0))
            inputs = [border.proto.input[count + j], *first.output]
            step = [first, helper.make_node("Gather", inputs, [formal], axis=axis)]
            self._cross(border, ".slice", [border.operand(count + j)], formal, step, {"axis": axis})
        self.walk(inside.body)
        axes = said.get("scan_output_axes", ())
        self._leave(
            border,
            [("", [border.operand(j), inside.outputs[j]], {}) for j in range(count)]
            + [(".stack", [end], {"axis": _at(axes, j, 0)}) for j, end in enumerate(inside.outputs[count:])],
        )

    def _inside(
        self,
        border: _Border,
        names: Mapping[str, str],
        attribute: str,
        carried: Iterable[tuple[int, int, int]] = (),
    ) -> _Inside:
        """Name all that a body makes.

        Args:
            border: the node.
            names: what the names around it are called here.
            attribute: which body.
            carried: for each value that a loop carries its position among the node's operands, the
                body's inputs and the body's outputs.
        """
        graph = body_of(border.record, attribute)
        node = border.proto.name or next(filter(None, border.proto.output), "")
        prefix = f"{node}/{attribute}/"
        inside = dict(names)
        for name in _made(graph):
            inside[name] = prefix + name
            while inside[name] in self.taken:
                inside[name] += "_"
            self.taken.add(inside[name])
        for k, formal, end in carried:
            if graph.input[formal].name == graph.output[end].name:  # never changed
                inside[graph.input[formal].name] = border.proto.input[k]
        body = Body((*border.place.path, (border.place.at, attribute)), prefix, inside)
        self.bodies.append(body)
        end_of = Place(body.path, len(graph.node))
        outputs = [inside.get(value.name, value.name) for value in graph.output]
        return _Inside(
            body,
            [inside[value.name] for value in graph.input],
            [(name, Slot(end_of, k)) for k, name in enumerate(outputs)],
        )

    def _enter(self, border: _Border, inside: _Inside, carried: Iterable[tuple[int, int, int]]) -> None:
        for k, formal, end in carried:
            first, name = border.operand(k), inside.inputs[formal]
            if name != first[0]:
                step = helper.make_node("Identity", [first[0]], [name])
                self._cross(border, ".enter", [first, inside.outputs[end]], name, [step])

    def _cross(
        self,
        border: _Border,
        part: str,
        operands: Sequence[_Operand],
        result: str,
        step: Sequence[NodeProto],
        attrs: Mapping[str, Any] | None = None,
        inner: bool = True,
    ) -> None:
        names, slots = zip(*operands, strict=True)
        proto, place, index = border.proto, border.place, len(self.nodes)
        self.nodes.append(
            Node(index, proto, attrs or {}, names, (result,), place, inner, part, slots, tuple(step))
        )

    def _leave(
        self, border: _Border, results: Sequence[tuple[str, Sequence[_Operand], Mapping[str, Any]]]
    ) -> None:
        step, inner = [border.proto], bool(border.place.path)
        for result, (part, operands, attrs) in zip(border.proto.output, results, strict=True):
            if result:
                self._cross(border, part, operands, result, step, attrs, inner)
                step = []


def _is_open(record: NodeProto) -> bool:
    """Whether the node's bodies are looked into."""
    border = _BORDERS.get(record.op_type) if record.domain in ("", "ai.onnx") else None
    bodies = {a.name: (len(a.g.input), len(a.g.output)) for a in record.attribute if a.HasField("g")}
    return border is not None and bodies == border(len(record.input), len(record.output))


def _constant(name: str, value: Any) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(value))


def _at(values: Sequence[Any], j: int, default: Any = "") -> Any:
    return values[j] if j < len(values) else default


def _made(graph: GraphProto) -> dict[str, None]:
    """The names that a graph makes itself."""
    given = [value.name for value in graph.input] + [tensor.name for tensor in graph.initializer]
    return dict.fromkeys(given + [name for node in graph.node for name in node.output if name])


def _renamed(record: NodeProto, body: Body) -> NodeProto:
    """A copy of a node in a body with the names used here, where its own bodies read from outside too."""
    proto = NodeProto()
    proto.CopyFrom(record)
    if proto.name:
        proto.name = body.prefix + proto.name
    proto.output[:] = [body.names.get(name, name) for name in proto.output]
    waiting: list[tuple[NodeProto | GraphProto, Mapping[str, str]]] = [(proto, body.names)]
    while waiting:
        part, known = waiting.pop()
        if isinstance(part, NodeProto):
            part.input[:] = [known.get(name, name) for name in part.input]
            waiting += [(body, known) for body in bodies_of(part)]
            continue
        own = _made(part)
        known = {name: new for name, new in known.items() if name not in own}
        for value in part.output:
            value.name = known.get(value.name, value.name)
        waiting += [(node, known) for node in part.node]
    return proto
