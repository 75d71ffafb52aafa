"""Graphs with If, Loop and Scan in them, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.graphs import Array, Dims, build, node, noise


def body(
    name: str,
    nodes: Sequence[onnx.NodeProto | str],
    inputs: Mapping[str, Dims],
    outputs: Mapping[str, Dims],
    weights: Mapping[str, Array] | None = None,
    kinds: Mapping[str, int] | None = None,
) -> onnx.GraphProto:
    """The graph inside a node; floats but for those in `kinds`."""

    def values(named: Mapping[str, Dims]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(n, (kinds or {}).get(n, TensorProto.FLOAT), d)
            for n, d in named.items()
        ]

    made = [numpy_helper.from_array(array, key) for key, array in (weights or {}).items()]
    own = [node(n) if isinstance(n, str) else n for n in nodes]
    return helper.make_graph(own, name, values(inputs), values(outputs), made)


def branching(
    then: Sequence[onnx.NodeProto | str],
    other: Sequence[onnx.NodeProto | str],
    weights: Mapping[str, Array],
    inner: tuple[Mapping[str, Array], Mapping[str, Array]] = ({}, {}),
) -> onnx.ModelProto:
    """`t` or `e` of 8 channels, whichever the sum of x says, then a matrix."""
    bodies = {
        "then_branch": body("then", then, {}, {"t": (2, 8)}, inner[0]),
        "else_branch": body("else", other, {}, {"e": (2, 8)}, inner[1]),
    }
    nodes = [
        node("s = ReduceSum(x)", keepdims=0),
        "c = Greater(s, zero)",
        node("f = If(c)", "pick", **bodies),
        "y = MatMul(f, w)",
    ]
    every = {"zero": np.float32(0), "w": noise(8, 3), **weights}
    return build(nodes, every, {"x": (2, 4)}, {"y": (2, 3)})


def two_branches() -> onnx.ModelProto:
    return branching(
        ["t = MatMul(x, w1)"], ["e = MatMul(x, w2)"], {"w1": noise(4, 8), "w2": noise(4, 8, seed=1)}
    )


def stepping(
    nodes: Sequence[onnx.NodeProto | str],
    inputs: Mapping[str, Dims],
    outputs: Mapping[str, Dims],
    weights: Mapping[str, Array] | None = None,
) -> onnx.GraphProto:
    """The body of a Loop that reads one step of x as `now` and does not stop by itself."""
    kinds = {"i": TensorProto.INT64, "go": TensorProto.BOOL, "on": TensorProto.BOOL}
    first = ["on = Identity(go)", "now = Gather(x, i)"]
    return body(
        "step", [*first, *nodes], {"i": (), "go": (), **inputs}, {"on": (), **outputs}, weights, kinds
    )


def looping(
    step: Sequence[onnx.NodeProto | str],
    weights: Mapping[str, Array],
    *,
    first: str = "h0",
    before: Sequence[onnx.NodeProto | str] = (),
    inner: Mapping[str, Array] | None = None,
    batch: int | str = 2,
) -> onnx.ModelProto:
    """Five steps over x (time batch channels): `next` from `h` and `now`, which is given out as `out` too."""
    loop = stepping(
        [*step, "out = Identity(next)"], {"h": (batch, 8)}, {"next": (batch, 8), "out": (batch, 8)}, inner
    )
    nodes = [*before, node(f"last, all = Loop(five, yes, {first})", "rnn", body=loop), "y = MatMul(all, w)"]
    every = {"five": np.array(5), "yes": np.array(True), "w": noise(8, 3), **weights}
    return build(nodes, every, {"x": (5, batch, 4)}, {"y": (5, batch, 3)})


def recurrent() -> onnx.ModelProto:
    return looping(
        ["a = MatMul(now, wi)", "b = MatMul(h, wh)", "c = Add(a, b)", "next = Tanh(c)"],
        {"wi": noise(4, 8), "h0": np.zeros((2, 8), np.float32)},
        inner={"wh": noise(8, 8, seed=1) / 4},
    )


def scanning(slices: int = 0, stacks: int = 0) -> onnx.ModelProto:
    """As `recurrent`, from the last step to the first, with steps along any axis."""
    step = body(
        "step",
        ["a = MatMul(now, wi)", "b = MatMul(h, wh)", "c = Add(a, b)", "next = Tanh(c)", "out = Relu(next)"],
        {"h": (2, 8), "now": (2, 6)},
        {"next": (2, 8), "out": (2, 8)},
    )
    scan = node(
        "last, all = Scan(h0, m)",
        "rnn",
        body=step,
        num_scan_inputs=1,
        scan_input_axes=[slices],
        scan_output_axes=[stacks],
        scan_input_directions=[1],
    )
    order = [0, 1, 2]
    order.insert(stacks % 3, order.pop(0))  # (time batch channels) to what Scan gives
    turned = [1, 0, 2] if slices else [0, 1, 2]
    before = [node("x1 = Transpose(x)", perm=turned), "m = MatMul(x1, w0)"]
    nodes = [*before, scan, node("z = Transpose(all)", perm=np.argsort(order).tolist()), "y = MatMul(z, w)"]
    weights = {"w0": noise(4, 6), "wi": noise(6, 8), "wh": noise(8, 8, seed=1) / 4, "w": noise(8, 3)}
    weights["h0"] = np.zeros((2, 8), np.float32)
    return build(nodes, weights, {"x": (5, 2, 4)}, {"y": (5, 2, 3)})
