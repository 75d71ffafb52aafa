"""A node of a model, and where in the record it stands: in the main graph, or in a body inside a node."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from onnx import GraphProto, NodeProto

Path = tuple[tuple[int, str], ...]


class Place(NamedTuple):
    """A position in the record.

    Attributes:
        path: from the main graph down to the graph that holds it: positions of nodes, and which body.
        at: position among the nodes of that graph; their number stands for the graph's end.
    """

    path: Path
    at: int


class Slot(NamedTuple):
    """Where the name of an operand is written: in a node, or at its graph's end as one of the outputs."""

    place: Place
    k: int


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One node, or one crossing of a body's border.

    Attributes:
        index: its position in the row, which is a topological order.
        proto: the record; inside a body a copy with the names that are used here.
        attrs: attributes as Python values.
        inputs: names of operands, "" where one is left out.
        outputs: names of results, "" where one is left out.
        place: where it stands in the record.
        inner: whether its results exist inside a body alone.
        part: which crossing it is, ".enter"; "" for nodes, and where results leave a body.
        slots: where the operands of a crossing are written; () for nodes.
        step: what computes its results once, all bodies being laid out for one step.
    """

    index: int
    proto: NodeProto
    attrs: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    place: Place
    inner: bool = False
    part: str = ""
    slots: tuple[Slot, ...] = ()
    step: tuple[NodeProto, ...] = ()

    @property
    def type(self) -> str:
        """Operator type, without its domain."""
        return self.proto.op_type + self.part

    @property
    def op(self) -> str:
        """Operator type, with its domain unless that is ONNX's own."""
        return self.type if self.domain == "" else f"{self.domain}.{self.type}"

    @property
    def domain(self) -> str:
        """Operator domain, "" for ONNX's own."""
        return "" if self.proto.domain == "ai.onnx" else self.proto.domain

    @property
    def label(self) -> str:
        """How the node is called in messages."""
        kind = self.op.removesuffix(self.part)
        return f"{kind} {self.proto.name or next(filter(None, self.proto.output), '')}".strip()

    @property
    def crossing(self) -> bool:
        """Whether it is no node of its own but a value that crosses the border of a body."""
        return bool(self.slots)

    @property
    def closed(self) -> list[GraphProto]:
        """The bodies that it runs and that are not looked into."""
        return [] if self.crossing else bodies_of(self.proto)

    def slot(self, k: int) -> Slot:
        """Where the name of operand `k` is written."""
        return self.slots[k] if self.slots else Slot(self.place, k)


@dataclass(frozen=True, slots=True)
class Body:
    """A graph inside a node.

    Attributes:
        path: where it is.
        prefix: what the names of what it makes begin with.
        names: what its names, and those outside that it sees, are called among the nodes.
    """

    path: Path
    prefix: str
    names: Mapping[str, str]


def bodies_of(proto: NodeProto) -> list[GraphProto]:
    """The graphs among a node's attributes."""
    single = [a.g for a in proto.attribute if a.HasField("g")]
    return single + [graph for a in proto.attribute for graph in a.graphs]


def body_of(proto: NodeProto, attribute: str) -> GraphProto:
    """The body under the name of an attribute."""
    return next(a.g for a in proto.attribute if a.name == attribute)


def graph_at(graph: GraphProto, path: Path) -> GraphProto:
    """The body at the end of a path that starts in `graph`."""
    for at, attribute in path:
        graph = body_of(graph.node[at], attribute)
    return graph


def within(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """The nodes and all in the bodies inside them."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        for body in bodies_of(node):
            waiting += body.node


def names_read(nodes: Iterable[NodeProto]) -> Iterator[str]:
    """Every name that nodes or bodies inside them read, a body's outputs too; again where read again."""
    for node in within(nodes):
        yield from filter(None, node.input)
        for body in bodies_of(node):
            yield from (value.name for value in body.output)
