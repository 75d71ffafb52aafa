"""What the analysis of a graph says, as data: groups of channels that must go together, and why the
rest stays whole.  `onnx_prune.analyse` finds it out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from onnx_prune.axes.axis import Atom, Axis, Prod
from onnx_prune.axes.deals import Web
from onnx_prune.axes.relation import Dims, Relation
from onnx_prune.codes import Coded
from onnx_prune.model.graph import Graph, weight_of
from onnx_prune.model.nodes import Node
from onnx_prune.shape.fold import Folded
from onnx_prune.shape.shapes import Shapes

Role = Literal["producer", "consumer", "other"]
Site = tuple[str, int]  # a tensor's key, and one of its dimensions


@dataclass(frozen=True, slots=True)
class Member:
    """One dimension of one weight that a group stands on.

    Attributes:
        weight: name of the initializer (or of the Constant node's output).
        key: name of the copy that one user reads, where a vector is shared; else the weight's.
        dim: the dimension.
        role: "producer" if the slices make the group's channels (a convolution's filters),
            "consumer" if they read them, "other" for biases, norms and depthwise filters.
    """

    weight: str
    key: str
    dim: int
    role: Role


@dataclass(frozen=True, slots=True)
class Group:
    """Channels that can only be removed together: an equivalence class of atoms.

    Attributes:
        name: its first producer's weight and dimension.
        atom: the resolved atom; its size is the number of channels.
        members: the dimensions of weights that it stands on.
        mixed: whose statistic a cut changes, None for an exact group.
    """

    name: str
    atom: Atom
    members: tuple[Member, ...]
    mixed: str | None = None

    @property
    def size(self) -> int:
        """Number of channels."""
        return self.atom.size


@dataclass(frozen=True, slots=True)
class Held:
    """A dimension of a weight (or a part of it) that stays whole, and why."""

    weight: str
    dim: int
    size: int
    why: str


@dataclass(frozen=True, slots=True)
class Bound:
    """A node with its relation written in resolved atoms.

    Attributes:
        node: the node.
        relation: its relation.
        letters: the same over the node's own atoms, which say what this node alone couples.
        exposed: operands that have to be zero where masked, and are not by themselves.
        mixed: atoms that the node takes a statistic over.
    """

    node: Node
    relation: Relation
    letters: Relation
    exposed: tuple[int, ...] = ()
    mixed: frozenset[Atom] = frozenset()


@dataclass(frozen=True)
class Coupling:
    """All that analysis found out about a graph.

    Attributes:
        graph: the graph.
        shapes: shapes at the first assignment of the dynamic axes.
        probe: shapes at the second, None where nothing is dynamic.
        folded: the shape arithmetic.
        axes: for every tensor (and every private copy of a shared vector) an axis a dimension.
        bound: the nodes that have a relation.
        groups: what can be cut.
        held: what can't.
        heads: atoms that count attention heads: both run-time factors of a contraction carry them.
        copies: (node index, operand index) to the key of its private copy.
        codes: by key, how tensors of integers that stand for numbers are read.
        unmasked: keys of operands that say where or how to read; they are cut but never masked.
        reasons: why each atom that is held is.
        origins: for each reason to hold or mix an axis where it arises, (key, dim) pairs.
        webs: groups whose counts depend on each other, though they keep different channels.
    """

    graph: Graph
    shapes: Shapes
    probe: Shapes | None
    folded: Folded
    axes: dict[str, Dims]
    bound: tuple[Bound, ...]
    groups: tuple[Group, ...]
    held: tuple[Held, ...]
    heads: frozenset[Atom]
    copies: dict[tuple[int, int], str]
    codes: dict[str, Coded] = field(default_factory=dict)
    unmasked: frozenset[str] = frozenset()
    reasons: Mapping[Atom, str] = field(default_factory=dict)
    origins: Mapping[str, Collection[Site]] = field(default_factory=dict)
    webs: tuple[Web, ...] = ()

    def key(self, node: Node, k: int) -> str:
        """The name under which `axes` has operand `k` of `node`."""
        return self.copies.get((node.index, k), node.inputs[k])

    def keys(self, name: str) -> list[str]:
        """The names under which `axes` has a tensor: its own, or those of its private copies."""
        copies = [key for key in self.copies.values() if weight_of(key) == name]
        return copies if copies else [name]


def products(coupling: Coupling) -> Iterator[Prod]:
    """Every product of at least two atoms that stands on an axis."""
    seen: set[Axis] = set()

    def walk(axis: Axis) -> Iterator[Prod]:
        if axis in seen or isinstance(axis, Atom):
            return
        seen.add(axis)
        if isinstance(axis, Prod):
            yield axis
        for part in axis.parts:
            yield from walk(part)

    for dims in coupling.axes.values():
        for axis in dims:
            yield from walk(axis)
