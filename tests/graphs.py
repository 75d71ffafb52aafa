"""Small graphs written as text, for tests of coupling, choosing and surgery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_prune import criteria, cut
from onnx_prune.analyse import couple
from onnx_prune.axes.axis import Atom, Mask
from onnx_prune.coupling import Coupling, Group
from onnx_prune.model.graph import Graph
from onnx_prune.proof.prove import prove

Array = NDArray[Any]
Dims = Sequence[int | str]


def noise(*shape: int, seed: int = 0) -> Array:
    """Weights without a zero in them."""
    rng = np.random.default_rng([seed, *shape])
    return (np.sign(rng.standard_normal(shape)) * rng.uniform(0.1, 1, shape)).astype(np.float32)


def node(text: str, name: str = "", **attrs: Any) -> onnx.NodeProto:
    """A node from "y = Op(a, b)"; several results before the equals sign, a domain before the operator."""
    results, _, call = text.partition(" = ")
    op, _, operands = call.rstrip(")").partition("(")
    domain, _, op = op.rpartition(".")
    inputs = [operand.strip() for operand in operands.split(",")] if operands else []
    return helper.make_node(op, inputs, results.split(", "), name or None, domain=domain, **attrs)


def build(
    nodes: Sequence[onnx.NodeProto | str],
    weights: Mapping[str, Array],
    inputs: Mapping[str, Dims],
    outputs: Mapping[str, Dims],
    *,
    opset: int = 17,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model with float inputs and outputs."""

    def values(named: Mapping[str, Dims]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in named.items()]

    graph = helper.make_graph(
        [node(n) if isinstance(n, str) else n for n in nodes],
        "graph",
        values(inputs),
        values(outputs),
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def analyse(model: onnx.ModelProto) -> Coupling:
    return couple(Graph(model))


def group_of(coupling: Coupling, weight: str, dim: int) -> Group:
    """The one group that stands on a dimension of a weight."""
    [group] = [g for g in coupling.groups if any((m.weight, m.dim) == (weight, dim) for m in g.members)]
    return group


def groups_of(coupling: Coupling) -> set[tuple[int, frozenset[tuple[str, int]]]]:
    """Size and places of every group."""
    return {(g.size, frozenset((m.weight, m.dim) for m in g.members)) for g in coupling.groups}


def places(*pairs: tuple[str, int]) -> frozenset[tuple[str, int]]:
    """Dimensions of weights that a group stands on, to compare with those of `groups_of`."""
    return frozenset(pairs)


def why(coupling: Coupling, weight: str, dim: int) -> set[str]:
    """The reasons why a dimension of a weight is held."""
    return {h.why for h in coupling.held if (h.weight, h.dim) == (weight, dim)}


def keeping(group: Group, *channels: int) -> dict[Atom, Mask]:
    """A plan that keeps these channels of one group."""
    return {group.atom: np.isin(np.arange(group.size), channels)}


def halved(model: onnx.ModelProto) -> tuple[dict[str, int], float, onnx.ModelProto]:
    """Every group cut to half its channels: groups with their sizes, the proof's error, the smaller model."""
    coupling = analyse(model)
    plan = {}
    for group in coupling.groups:
        order = np.argsort(criteria.l1(coupling, group))
        plan[group.atom] = np.isin(np.arange(group.size), order[group.size // 2 :])
    small = cut.cut(coupling, plan).whole()
    proof = prove(coupling, plan, small)
    return {g.name: g.size for g in coupling.groups}, proof.error, small


def initializers(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
