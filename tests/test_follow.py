"""Sizes that a model computes follow the cut: what they say is worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_prune.cut import cut
from onnx_prune.follow import CannotRestate
from onnx_prune.proof.prove import prove
from onnx_prune.runtime import Session
from tests.graphs import Array, analyse, build, group_of, initializers, keeping, node, noise

FOUR = (0, 2, 3, 5)  # of six channels


def computing(
    dims: Sequence[int | str], entries: str, op: str = "Reshape(a, r)", strides: Sequence[int] = ()
) -> onnx.ModelProto:
    """A convolution to six channels, and an operand `r` computed of its sizes.

    Args:
        dims: shape of the input.
        entries: of `r`, each a product of numbers and of sizes, "d0" the convolution's first.
        op: what makes `f`, which is summed.
        strides: of the convolution.
    """
    weights: dict[str, Array] = {"w1": noise(6, 2, *(1 for _ in dims[2:]))}
    made: list[Any] = [node("a = Conv(x, w1)", strides=strides or None), "s = Shape(a)"]
    for name in sorted({factor for entry in entries.split() for factor in entry.split("*")}):
        if name.startswith("d"):
            weights[f"at{name}"] = np.array([int(name[1:])])
            made.append(f"{name} = Gather(s, at{name})")
        elif name.isdigit():
            weights[name] = np.array([int(name)])
    parts = []
    for entry in entries.split():
        part, *factors = entry.split("*")
        for factor in factors:
            made.append(f"{part}.{factor} = Mul({part}, {factor})")
            part = f"{part}.{factor}"
        parts.append(part)
    made += [node(f"r = Concat({', '.join(parts)})", axis=0), f"f = {op}"]
    made.append(node("y = ReduceSum(f)", keepdims=0))
    return build(made, weights, {"x": dims}, {"y": ()})


def inserted(small: onnx.ModelProto) -> list[str]:
    """The operators of nodes that the original did not have: their names are the names of their results."""
    return [n.op_type for n in small.graph.node if n.name]


def said(small: onnx.ModelProto, k: int, shape: tuple[int, ...]) -> list[int]:
    """What operand `k` of the node that makes `f` says for an input of this shape."""
    model = onnx.ModelProto()
    model.CopyFrom(small)
    [reader] = [n for n in model.graph.node if n.output[0] == "f"]
    if reader.input[k] in initializers(model):
        return [*map(int, initializers(model)[reader.input[k]])]
    model.graph.output.append(helper.make_tensor_value_info(reader.input[k], TensorProto.INT64, None))
    return [*map(int, Session(model).run({"x": noise(*shape)})[-1])]


IMAGE, VOLUME = ("n", 2, "h", "w"), ("n", 2, "d", "h", "w")
SHAPE_GATHER = ["Shape", "Gather"]


@pytest.mark.parametrize(
    ("dims", "entries", "shape", "expected", "nodes"),
    [
        # comes out right by itself
        (IMAGE, "d0 d1 d2*d3", (5, 2, 7, 9), [5, 4, 63], []),
        # says it with 0 and -1
        (IMAGE, "d0 6 d2*d3", (5, 2, 7, 9), [0, 4, -1], []),
        (IMAGE, "d0*6 d2*d3", (5, 2, 7, 9), [20, 63], [*SHAPE_GATHER, "Mul", "Gather", "Concat"]),
        # multiples of one, two and three dims of the input, and what was right beside them
        (IMAGE, "d0*6 d2 d3", (5, 2, 7, 9), [20, 7, 9], [*SHAPE_GATHER, "Mul", "Gather", "Gather", "Concat"]),
        (
            IMAGE,
            "d0*6*d2 d3",
            (5, 2, 7, 9),
            [140, 9],
            [*SHAPE_GATHER, "Mul", *SHAPE_GATHER, "Mul", "Gather", "Concat"],
        ),
        (
            VOLUME,
            "d0*6*d2*d3 d4",
            (5, 2, 3, 7, 9),
            [420, 9],
            [*SHAPE_GATHER, "Mul", *SHAPE_GATHER, "Mul", *SHAPE_GATHER, "Mul", "Gather", "Concat"],
        ),
        # a literal among the dynamic ones
        (IMAGE, "d0 1 6 d2 d3", (5, 2, 7, 9), [5, 1, 4, 7, 9], ["Gather", "Gather", "Gather", "Concat"]),
    ],
)
def test_a_computed_shape(
    dims: tuple[int | str, ...], entries: str, shape: tuple[int, ...], expected: list[int], nodes: list[str]
) -> None:
    coupling = analyse(computing(dims, entries))
    plan = keeping(group_of(coupling, "w1", 0), *FOUR)
    small = cut(coupling, plan).whole()
    assert said(small, 1, shape) == expected
    assert inserted(small) == nodes
    assert prove(coupling, plan, small).error < 1e-5


def convolved(*nodes: Any, dims: Sequence[int | str], opset: int = 17, **weights: Array) -> onnx.ModelProto:
    """A convolution to six channels, and what comes of them."""
    own = {"w1": noise(6, 2, *(1 for _ in dims[2:]))} | weights
    return build(["a = Conv(x, w1)", *nodes], own, {"x": dims}, {"y": ()}, opset=opset)


SUM = node("y = ReduceSum(f)", keepdims=0)


def given_at_run_time() -> onnx.ModelProto:
    """The zeros of a shape come from the image, so that nothing folds."""
    model = convolved(
        node("low = ReduceMin(x)", keepdims=0),
        "none = Mul(low, zero)",
        node("whole = Cast(none)", to=TensorProto.INT64),
        "r = Add(whole, base)",
        "f = Reshape(a, r)",
        SUM,
        dims=(1, 2, 8, 8),
        zero=np.zeros(1, np.float32),
        base=np.array([1, 384]),
    )
    model.graph.value_info.append(helper.make_tensor_value_info("f", TensorProto.FLOAT, (1, 384)))
    return model


def elsewhere() -> onnx.ModelProto:
    """A shape of something else, whose halved height is doubled by a third of the channels."""
    return convolved(
        node("p = MaxPool(x)", kernel_shape=[1, 1], strides=[2, 1]),
        *("s = Shape(a)", "t = Shape(p)", "channels = Gather(s, one)", "two = Div(channels, three)"),
        *("n = Gather(t, zero)", "h = Gather(t, second)", "w = Gather(t, three)"),
        *(
            "half = Mul(n, two)",
            "all = Mul(half, h)",
            node("r = Concat(all, w)", axis=0),
            "f = Reshape(p, r)",
        ),
        *(node("q = ReduceSum(f)", keepdims=0), node("o = ReduceSum(a)", keepdims=0), "y = Add(q, o)"),
        dims=IMAGE,
        **{name: np.array([n]) for n, name in enumerate(("zero", "one", "second", "three"))},
    )


def scaled(dims: Sequence[int | str], *entries: int) -> onnx.ModelProto:
    """Divided by a product of sizes, as attention is by the width of a head."""
    return convolved(
        "s = Shape(a)",
        "some = Gather(s, entries)",
        node("count = ReduceProd(some)", keepdims=0),
        node("number = Cast(count)", to=TensorProto.FLOAT),
        "f = Div(a, number)",
        SUM,
        dims=dims,
        entries=np.array(entries),
    )


@pytest.mark.parametrize(
    ("model", "channels", "message"),
    [
        (
            computing(IMAGE, "d0*6*d2 d3", strides=(2, 1)),
            FOUR,
            "r of Reshape f is dynamic in a way that is not understood",
        ),
        (elsewhere(), FOUR, "r of Reshape f is dynamic in a way that is not understood"),
        (given_at_run_time(), FOUR, "Reshape f gets r at run time"),
        (scaled(IMAGE, 0, 1), FOUR, "number of Div f depends on what is cut"),
        (
            convolved("f = Squeeze(a)", SUM, dims=("n", 2, 1, 8)),
            [3],
            "Squeeze f would squeeze out what is cut to one channel",
        ),
    ],
)
def test_what_can_not_follow(model: onnx.ModelProto, channels: Sequence[int], message: str) -> None:
    coupling = analyse(model)
    group = group_of(coupling, "w1", 0)
    with pytest.raises(CannotRestate) as caught:
        cut(coupling, keeping(group, *channels))
    assert str(caught.value) == message
    assert caught.value.atoms == {group.atom}


@pytest.mark.parametrize("dims", [(1, 2, 8, 8), IMAGE])
def test_a_number_that_a_size_gave_stays(dims: tuple[int | str, ...]) -> None:
    """It is no size where it is read."""
    coupling = analyse(scaled(dims, 1))
    plan = keeping(group_of(coupling, "w1", 0), *FOUR)
    small = cut(coupling, plan).whole()
    assert initializers(small)["f.operand1"].tolist() == [6]
    assert [n.op_type for n in small.graph.node] == ["Conv", "Div", "ReduceSum"]
    assert prove(coupling, plan, small).error < 1e-5


@pytest.mark.parametrize(
    ("dims", "channels", "opset", "axes"),
    [
        ((3, 2, 1, 8), [3], 17, [2]),
        ((3, 2, 1, 8), [3], 11, [2]),
        ((1, 2, 1, 8), [3], 17, [0, 2]),
        ((3, 2, 1, 8), FOUR, 17, None),
        (("n", 2, 1, 8), FOUR, 17, None),
    ],
)
def test_squeeze_names_its_dims_where_there_is_one_more(
    dims: tuple[int | str, ...], channels: Sequence[int], opset: int, axes: list[int] | None
) -> None:
    coupling = analyse(convolved("f = Squeeze(a)", SUM, dims=dims, opset=opset))
    plan = keeping(group_of(coupling, "w1", 0), *channels)
    small = cut(coupling, plan).whole()
    squeeze = small.graph.node[1]
    if opset < 13:
        assert [list(attribute.ints) for attribute in squeeze.attribute] == [axes]
    else:
        found = [initializers(small)[name].tolist() for name in squeeze.input[1:]]
        assert found == ([] if axes is None else [axes])
    assert prove(coupling, plan, small).error < 1e-5


def test_names_that_the_model_has_are_not_used_again() -> None:
    """It was pruned before, or is out to get us."""
    model = computing(IMAGE, "d0*6 d2 d3")
    taken = ["f.Shape0", "f.Gather1", "f.Gather1_", "f.Mul2", "f.Concat5", "f.operand1"]
    model.graph.node.extend(node(f"{name} = Relu(a)") for name in taken)
    coupling = analyse(model)
    plan = keeping(group_of(coupling, "w1", 0), *FOUR)
    small = cut(coupling, plan).whole()
    names = [name for n in small.graph.node for name in n.output] + list(initializers(small))
    assert len(names) == len(set(names))
    assert said(small, 1, (5, 2, 7, 9)) == [20, 7, 9]
