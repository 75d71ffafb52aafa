"""Random models: a builder that puts node after node, each checked by onnx as it is put."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod as product
from typing import Any, TypeVar

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, TypeProto, defs, helper, numpy_helper, shape_inference

Size = int | str  # a name stands for a dynamic axis
Shape = tuple[Size, ...]
T = TypeVar("T")
MOST = 20_000  # elements of a tensor
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
MICROSOFT = "com.microsoft"


class RefusedError(Exception):
    """A move does not fit where it was tried; what it put is taken back."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor that further nodes may read.

    Attributes:
        name: its name.
        shape: its dims.
        channel: the dim that layers work on.
        kind: its element type.
    """

    name: str
    shape: Shape
    channel: int
    kind: int = TensorProto.FLOAT

    @property
    def rank(self) -> int:
        """Number of dims."""
        return len(self.shape)

    @property
    def width(self) -> int:
        """Number of channels."""
        return self.fixed(self.channel)

    def fixed(self, dim: int) -> int:
        """The size of a dim that is not dynamic."""
        size = self.shape[dim]
        if isinstance(size, str):
            raise RefusedError("the dim is dynamic")
        return size


class Builder:
    """A model that grows.

    Args:
        draw: Hypothesis' source of choices.
        opset: version of ONNX's operators.
        kind: element type of floats.
        seed: of all weights.
    """

    def __init__(self, draw: st.DrawFn, opset: int, kind: int, seed: int) -> None:
        self.draw, self.opset, self.kind = draw, opset, kind
        self.rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.inputs: list[Value] = []
        self.weights: list[TensorProto] = []
        self.types: dict[str, TypeProto] = {}
        self.count = 0

    # Choices; the first option is the simplest, which failures shrink to.

    def pick(self, options: Sequence[T]) -> T:
        """One of some things."""
        if not options:
            raise RefusedError("nothing to choose from")
        return self.draw(st.sampled_from(options))

    def chance(self, one_in: int) -> bool:
        """True once in so many times."""
        return self.draw(st.integers(0, one_in - 1)) == one_in - 1

    def need(self, condition: bool) -> None:
        """Give the move up unless it fits."""
        if not condition:
            raise RefusedError("the move does not fit here")

    def order(self, n: int) -> list[int]:
        """A permutation."""
        return self.draw(st.permutations(range(n)))

    def divisor(self, n: int) -> int:
        """A divisor of `n` that is neither 1 nor `n`."""
        return self.pick([d for d in range(2, n) if n % d == 0])

    # Tensors

    def name(self, stem: str = "t") -> str:
        """A fresh name."""
        self.count += 1
        return f"{stem}{self.count}"

    def input(self, shape: Shape, channel: int, kind: int | None = None) -> Value:
        """A graph input."""
        value = Value(self.name("input"), shape, channel, self.kind if kind is None else kind)
        self.inputs.append(value)
        self.types[value.name] = helper.make_tensor_type_proto(value.kind, shape)
        return value

    def array(self, shape: Sequence[int], spread: float = 1.0, mean: float = 0.0) -> NDArray[Any]:
        """Random floats of the model's type."""
        dtype = helper.tensor_dtype_to_np_dtype(self.kind)
        return (mean + spread * self.rng.standard_normal(tuple(shape))).astype(dtype)

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """A constant, as an initializer or as a node."""
        name = self.name("c")
        tensor = numpy_helper.from_array(np.asarray(values, dtype), name)
        self.types[name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        if self.chance(4):
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.weights.append(tensor)
        return name

    def scalar(self, number: float) -> str:
        """A float constant without dims."""
        return self.constant(number, helper.tensor_dtype_to_np_dtype(self.kind))

    def weight(self, shape: Sequence[int], spread: float = 1.0, mean: float = 0.0) -> str:
        """A weight: a new one, one that is there already, or one behind a few nodes."""
        self.need(product(shape) <= MOST)
        if self.chance(6):
            alike = [
                t
                for t in self.weights
                if tuple(t.dims) == tuple(shape) and t.data_type == self.kind and shape
            ]
            if alike:
                return self.pick(alike).name
        array = self.array(shape, spread, mean)
        if len(shape) > 1 and self.chance(6):
            return self.pick(_WRAPS)(self, array)
        return self.constant(array, array.dtype)

    # Nodes

    def put(
        self,
        op: str,
        inputs: Sequence[Value | str],
        outputs: int = 1,
        *,
        result: Shape | None = None,
        types: Sequence[NDArray[Any]] = (),
        like: Value | None = None,
        domain: str = "",
        **attrs: Any,
    ) -> list[Value]:
        """Add a node; what is an attribute in one opset and an operand in another may be given by name.

        Args:
            op: operator.
            inputs: operands.
            outputs: how many results it has.
            result: shape of the first result, where onnx cannot tell.
            types: arrays like the results, where onnx is not asked at all.
            like: a tensor of the result's type, where onnx is not asked at all.
            domain: the operator's; onnx knows nothing of another than its own.
            attrs: attributes.

        Raises:
            RefusedError: onnx finds the node wrong, or the result too large.
        """
        names = [x if isinstance(x, str) else x.name for x in inputs]
        results = [self.name() for _ in range(outputs)]
        if types:
            self.nodes.append(helper.make_node(op, names, results, domain=domain, **attrs))
            kinds = [helper.np_dtype_to_tensor_dtype(array.dtype) for array in types]
            made = [helper.make_tensor_type_proto(k, a.shape) for k, a in zip(kinds, types, strict=True)]
            self.types.update(zip(results[1:], made[1:], strict=True))
            return [self._made(results[0], made[0], inputs)]
        if like is not None:
            self.nodes.append(helper.make_node(op, names, results, **attrs))
            return [self._made(results[0], self.types[like.name], inputs)]
        if domain:
            self.nodes.append(helper.make_node(op, names, results, domain=domain, **attrs))
            kind = helper.make_tensor_type_proto(self.kind, result)
            return [self._made(name, kind, inputs) for name in results]
        try:
            schema = defs.get_schema(op, self.opset, "")
        except defs.SchemaError as error:
            raise RefusedError(str(error)) from None
        for key in [key for key in attrs if key not in schema.attributes]:
            at = [formal.name for formal in schema.inputs].index(key)
            names += [""] * (at + 1 - len(names))
            value = attrs.pop(key)
            names[at] = value if isinstance(value, str) else self.constant(value)
        node = helper.make_node(op, names, results, **attrs)
        stored = {t.name: t for t in self.weights}
        stored |= {n.output[0]: n.attribute[0].t for n in self.nodes if n.op_type == "Constant"}
        try:
            types = shape_inference.infer_node_outputs(
                schema,
                node,
                {name: self.types[name] for name in names if name},
                {name: stored[name] for name in names if name in stored},
                opset_imports=[helper.make_opsetid("", self.opset)],
                ir_version=10,
            )
        except (shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError) as error:
            raise RefusedError(str(error)) from None
        self.nodes.append(node)
        if result is not None:
            types[results[0]] = helper.make_tensor_type_proto(types[results[0]].tensor_type.elem_type, result)
        return [self._made(name, types.get(name), inputs) for name in results]

    def one(self, op: str, inputs: Sequence[Value | str], **kwargs: Any) -> Value:
        """Add a node with one result."""
        return self.put(op, inputs, **kwargs)[0]

    def _made(self, name: str, kind: TypeProto | None, inputs: Sequence[Value | str]) -> Value:
        self.need(kind is not None)
        assert kind is not None
        dims = [d.dim_value or d.dim_param for d in kind.tensor_type.shape.dim]
        self.need(kind.tensor_type.HasField("shape") and all(dims))
        self.need(product(n if isinstance(n, int) else 2 for n in dims) <= MOST)
        self.types[name] = kind
        like = next((x for x in inputs if isinstance(x, Value)), None)
        channel = min(like.channel if like else 0, max(len(dims) - 1, 0))
        return Value(name, tuple(dims), channel, kind.tensor_type.elem_type)

    def attempt(self, move: Callable[[], T]) -> T | None:
        """What the move makes; None, with nothing changed, where it does not fit."""
        nodes, weights, inputs = len(self.nodes), len(self.weights), len(self.inputs)
        try:
            return move()
        except RefusedError:
            del self.nodes[nodes:], self.weights[weights:], self.inputs[inputs:]
            return None

    def model(self, outputs: Sequence[Value]) -> onnx.ModelProto:
        """The model, without what no output needs."""
        needed, nodes = {value.name for value in outputs}, []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                nodes.append(node)
                needed.update(node.input)
                needed.update(name for a in node.attribute for n in a.g.node for name in n.input)
        imports = [helper.make_opsetid("", self.opset)]
        if any(node.domain for node in nodes):
            imports.append(helper.make_opsetid(MICROSOFT, 1))

        def info(value: Value) -> onnx.ValueInfoProto:
            return onnx.ValueInfoProto(name=value.name, type=self.types[value.name])

        graph = helper.make_graph(
            nodes[::-1],
            "random",
            [info(value) for value in self.inputs if value.name in needed],
            [info(value) for value in outputs],
            [tensor for tensor in self.weights if tensor.name in needed],
        )
        return helper.make_model(graph, opset_imports=imports, ir_version=10)


def _transposed(b: Builder, array: NDArray[Any]) -> str:
    perm = [*range(1, array.ndim), 0]
    stored = b.constant(np.ascontiguousarray(array.transpose(perm)), array.dtype)
    return b.one("Transpose", [stored], perm=np.argsort(perm).tolist()).name


def _reshaped(b: Builder, array: NDArray[Any]) -> str:
    stored = b.constant(array.reshape(array.shape[0], -1), array.dtype)
    return b.one("Reshape", [stored], shape=list(array.shape)).name


def _identity(b: Builder, array: NDArray[Any]) -> str:
    return b.one("Identity", [b.constant(array, array.dtype)]).name


def _cast(b: Builder, array: NDArray[Any]) -> str:
    return b.one("Cast", [b.constant(array, np.float16)], to=b.kind).name


def _scaled(b: Builder, array: NDArray[Any]) -> str:
    return b.one(
        "Mul", [b.constant(array, array.dtype), b.constant(np.full(array.shape[-1:], 0.5), array.dtype)]
    ).name


def _quantized(b: Builder, array: NDArray[Any]) -> str:
    b.need(b.kind == TensorProto.FLOAT and b.opset >= 13)
    axis = b.pick([0, array.ndim - 1])
    scale = np.abs(array).max(tuple(j for j in range(array.ndim) if j != axis)) / 127 + 1e-6
    wide = scale.reshape([-1 if j == axis else 1 for j in range(array.ndim)])
    stored = b.constant(np.round(array / wide), np.int8)
    operands = [stored, b.constant(scale, np.float32), b.constant(np.zeros(scale.size), np.int8)]
    return b.one("DequantizeLinear", operands, axis=axis).name


def _joined(b: Builder, array: NDArray[Any]) -> str:
    at = array.shape[0] // 2
    b.need(at > 0)
    return b.one(
        "Concat", [b.constant(array[:at], array.dtype), b.constant(array[at:], array.dtype)], axis=0
    ).name


def _normed(b: Builder, array: NDArray[Any]) -> str:
    """Weight normalisation, not folded."""
    stored = b.constant(array, array.dtype)
    dims = list(range(1, array.ndim))
    size = b.one("ReduceL2", [stored], axes=dims, keepdims=1)
    gain = b.weight([array.shape[0]] + [1] * len(dims), 0.2, 1.0)
    return b.one("Mul", [b.one("Div", [stored, size]), gain]).name


_WRAPS = (_normed, _identity, _transposed, _reshaped, _cast, _scaled, _quantized, _joined)


def at(value: Value, channel: int) -> Value:
    """The same tensor, its channels on another dim."""
    return replace(value, channel=channel % max(value.rank, 1))
