"""Random operators, replaced by fixed arrays wherever two models are compared.

A random tensor of the original and its cut counterpart have different sizes, so no seed makes them
agree.  In both models the operator becomes an input of the graph; the full-size array is drawn once,
and the cut model is fed the part of it that stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnx_prune.coupling import Coupling
from onnx_prune.kept import Plan, slicer, stays
from onnx_prune.model.graph import Graph
from onnx_prune.model.nodes import Node
from onnx_prune.shape.shapes import Shapes

Array = NDArray[Any]
Shape = tuple[int, ...]
_PREFIX = "onnx_prune.random."
_SEED = 1


def _normal(node: Node, shape: Shape, rng: np.random.Generator) -> Array:
    return rng.normal(node.attrs.get("mean", 0.0), node.attrs.get("scale", 1.0), shape)


def _uniform(node: Node, shape: Shape, rng: np.random.Generator) -> Array:
    return rng.uniform(node.attrs.get("low", 0.0), node.attrs.get("high", 1.0), shape)


def _coin(node: Node, shape: Shape, rng: np.random.Generator) -> Array:
    return rng.integers(0, 2, shape)


def _first_classes(node: Node, shape: Shape, rng: np.random.Generator) -> Array:
    return np.zeros(shape, np.int64)  # class 0 exists whatever the operand's width


def _dropped(node: Node, shape: Shape, rng: np.random.Generator) -> Array:
    return 2.0 * rng.integers(0, 2, shape)  # half of the elements, the others scaled by 1 / (1 - 0.5)


DRAWS: dict[str, Callable[[Node, Shape, np.random.Generator], Array]] = {
    "RandomNormal": _normal,
    "RandomNormalLike": _normal,
    "RandomUniform": _uniform,
    "RandomUniformLike": _uniform,
    "Bernoulli": _coin,
    "Multinomial": _first_classes,
    "Dropout": _dropped,
}


def random_nodes(graph: Graph) -> list[Node]:
    """The random nodes of the main graph, Dropout only where it may be in training mode."""
    return [node for node in graph.nodes if node.op in DRAWS and not node.inner and not _inert(graph, node)]


def _inert(graph: Graph, node: Node) -> bool:
    """Whether a Dropout does nothing: no training mode, or one that is the constant False."""
    if node.op != "Dropout":
        return False
    mode = node.inputs[2] if len(node.inputs) > 2 else ""
    return not mode or (mode in graph.weights and not graph.array(mode).any())


def pinned(model: onnx.ModelProto, nodes: Sequence[Node], types: dict[str, int]) -> None:
    """Replace random nodes by graph inputs, in place; those inside subgraphs get a fixed seed.

    Args:
        model: a cut or masked model; it has the original's node outputs.
        nodes: the original's random nodes.
        types: element type (TensorProto.DataType) of their outputs; a node without one comes after what
            the runtime lacks, and stays.
    """
    names = {node.outputs[0] for node in nodes} & types.keys()
    fresh: list[onnx.NodeProto] = []
    for node in model.graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                _seed(body)
        if node.output and node.output[0] in names:
            fresh += _replacement(node)
            kind = types[node.output[0]]
            info = helper.make_tensor_value_info(_PREFIX + node.output[0], kind, None)
            model.graph.input.append(info)
        else:
            fresh.append(node)
    if nodes:
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in fresh]
        del model.graph.node[:]
        model.graph.node.extend(copies)


def _replacement(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    source = _PREFIX + node.output[0]
    if node.op_type != "Dropout":
        yield helper.make_node("Identity", [source], [node.output[0]])
        return
    yield helper.make_node("Mul", [node.input[0], source], [node.output[0]])
    if len(node.output) > 1 and node.output[1]:
        yield helper.make_node("Cast", [source], [node.output[1]], to=onnx.TensorProto.BOOL)


def _seed(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.op_type in DRAWS and all(a.name != "seed" for a in node.attribute):
            seed = _SEED if node.op_type == "Dropout" else float(_SEED)
            node.attribute.append(helper.make_attribute("seed", seed))
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                _seed(body)


def draws(nodes: Sequence[Node], shapes: Shapes, seed: int = 0) -> dict[str, Array]:
    """Full-size arrays for the inputs that `pinned` makes.

    Args:
        nodes: the original's random nodes.
        shapes: the assignment of the dynamic axes; it knows the shape of every random output, unless the
            runtime lacks an operator on the way there.
        seed: the same seed gives the same arrays.

    Returns:
        Arrays by input name; Dropout's hold 0 or 2 and are multiplied with its operand.
    """
    rng = np.random.default_rng([seed, len(nodes)])
    return {
        _PREFIX + node.outputs[0]: DRAWS[node.op](node, shapes.known[node.outputs[0]], rng).astype(
            helper.tensor_dtype_to_np_dtype(shapes.types[node.outputs[0]])
        )
        for node in nodes
        if node.outputs[0] in shapes.known and node.outputs[0] in shapes.types
    }


def kept(drawn: dict[str, Array], coupling: Coupling, plan: Plan) -> dict[str, Array]:
    """What stays of the arrays that `draws` made, for the cut model."""
    return {
        name: slicer(stays(coupling, name.removeprefix(_PREFIX), plan, array.shape))(array)
        for name, array in drawn.items()
    }
