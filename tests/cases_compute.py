"""Nodes with their operands, for the rules of computing operators."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from tests.commute import Array, Case


def floats(*shape: int, seed: int = 0) -> Array:
    """Numbers in (0.1, 1), so that every function is finite on them."""
    return (0.1 + 0.9 * np.random.default_rng(seed + sum(shape)).random(shape)).astype(np.float32)


def signed(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)


def ints(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed + sum(shape)).integers(1, 9, shape)


def bools(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed + sum(shape)).random(shape) < 0.5


def axes(*values: int) -> Array:
    return np.array(values, np.int64)


UNARY = [
    *("Abs", "Acos", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp"),
    *("Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "Mish"),
    *("Neg", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus"),
    *("Softsign", "Sqrt", "Tan", "Tanh", "ThresholdedRelu", "Bernoulli", "RandomNormalLike"),
    "RandomUniformLike",
]
BROADCAST = {
    "Add": floats,
    "And": bools,
    "BitwiseAnd": ints,
    "BitwiseOr": ints,
    "BitwiseXor": ints,
    "Div": ints,
    "Equal": ints,
    "Greater": floats,
    "GreaterOrEqual": floats,
    "Less": floats,
    "LessOrEqual": floats,
    "Max": floats,
    "Mean": floats,
    "Min": floats,
    "Mod": ints,
    "Mul": floats,
    "Or": bools,
    "Pow": floats,
    "Sub": floats,
    "Sum": floats,
    "Xor": bools,
}
SHAPES = [
    ((3, 5), (3, 5)),
    ((2, 3, 5), (3, 1)),
    ((2, 1, 5), (4, 1, 3, 1)),
    ((3, 5), ()),
    ((), ()),
    ((1,), (6,)),
]
REDUCE = [
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSum", "ReduceSumSquare"),
]


def elementwise_cases() -> Iterator[Case]:
    for name in UNARY:
        yield Case(name, [floats(3, 5)])
        yield Case(name, [floats()])
    yield Case("Acosh", [1 + floats(3, 5)])
    yield Case("Not", [bools(3, 5)])
    yield Case("BitwiseNot", [ints(3, 5)])
    yield Case("Swish", [signed(3, 5)], {"alpha": 0.5}, 24)
    yield Case("SwiGLU", [signed(3, 5), signed(3, 5, seed=1)], {"alpha": 0.5}, 28)
    yield Case("HardSigmoid", [signed(3, 5)], {"beta": -0.1})
    yield Case("Shrink", [signed(3, 5)], {"lambd": 0.2, "bias": 0.3})
    yield Case("Shrink", [signed(3, 5)], {"lambd": -0.2, "bias": 0.3})
    yield Case("Cast", [signed(3, 5)], {"to": onnx.TensorProto.INT32})
    yield Case("Cast", [signed(3, 5)], {"to": onnx.TensorProto.BOOL}, 7)
    yield Case("CastLike", [signed(3, 5), np.ones(1, np.int64)], cut=2)
    yield Case("CastLike", [signed(), signed(3, 5).astype(np.float16)], cut=2)
    yield Case("BitCast", [signed(3, 5)], {"to": onnx.TensorProto.INT32}, 26)
    for opset in (7, 10):
        yield Case("Dropout", [signed(3, 5)], {"ratio": 0.3}, opset, 2)
        yield Case("Clip", [signed(3, 5)], {"min": -0.5, "max": 0.5}, opset)
        yield Case("Clip", [signed(3, 5)], {"min": 0.25}, opset)
    yield Case("Dropout", [signed(3, 5)])
    yield Case("Dropout", [signed(3, 5), np.float32(0.5), np.bool_(True)], {}, 13, 2)
    yield Case("Dropout", [signed(3, 5), np.float32(0.5), np.bool_(True)], {}, 13)
    yield Case("Clip", [signed(3, 5), np.float32(0), np.float32(6)], {}, 11)
    yield Case("Clip", [signed(3, 5), None, np.float32(-0.5)], {}, 13)
    yield Case("Clip", [signed(3, 5)], {}, 13)
    yield Case("PRelu", [signed(2, 3, 5), signed(3, 1)])
    yield Case("PRelu", [signed(2, 3, 5), signed(1)])
    for name, make in BROADCAST.items():
        for left, right in SHAPES:
            yield Case(name, [make(*left), make(*right, seed=1)])
    yield Case("Pow", [floats(3, 5), np.float32(2)])
    yield Case("Pow", [floats(3, 5), np.float32(0)])
    yield Case("Pow", [floats(3, 5), floats(5)])
    yield Case("Mod", [floats(3, 5), floats(5, seed=1)], {"fmod": 1})
    yield Case("BitShift", [ints(3, 5).astype(np.uint8), ints(5).astype(np.uint8)], {"direction": "LEFT"})
    for name in ("Max", "Min"):
        yield Case(name, [signed(3, 5), np.float32(0)])
        yield Case(name, [signed(3, 5), np.float32(-1)])
        yield Case(name, [signed(3, 5), np.float32(6), signed(3, 1)])
    for name in ("Mean", "Sum"):
        yield Case(name, [signed(3, 5), signed(5), signed(3, 1)])
        yield Case(name, [signed(3, 5)])
    yield Case("Where", [bools(5), signed(3, 5), signed(3, 1)])
    yield Case("Where", [bools(3, 5), signed(3, 5), np.float32(0)])
    yield Case("Where", [bools(3, 5), signed(3, 5), np.float32(7)])
    yield Case("Where", [bools(4, 1, 5), signed(3, 1), signed(4, 3, 5)])


def linear_cases() -> Iterator[Case]:
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        left, right = ((3, 5), (5, 3))[a], ((5, 7), (7, 5))[b]
        for bias in ((7,), (3, 7), (1, 7), (3, 1), (1,), ()):
            attrs = {"transA": a, "transB": b, "alpha": 0.5, "beta": 2.0}
            yield Case("Gemm", [signed(*left), signed(*right), signed(*bias)], attrs)
        yield Case("Gemm", [signed(*left), signed(*right)], {"transA": a, "transB": b}, 11)
    yield Case("Gemm", [signed(3, 5), signed(5, 7), signed(7)], {}, 7)
    for left, right in (
        ((3, 5), (5, 7)),
        ((5,), (5, 7)),
        ((3, 5), (5,)),
        ((5,), (5,)),
        ((2, 3, 5), (5, 7)),
        ((2, 4, 3, 5), (2, 4, 5, 7)),
        ((2, 1, 3, 5), (4, 5, 7)),
        ((5,), (4, 5, 7)),
        ((4, 3, 5), (5,)),
        ((1, 5), (5, 1)),
    ):
        yield Case("MatMul", [signed(*left), signed(*right)])
    for equation, *shapes in (
        ("bi,oi->bo", (2, 5), (3, 5)),
        ("bhqd, bhkd -> bhqk", (2, 3, 4, 5), (2, 3, 6, 5)),
        ("...ij,...jk", (2, 3, 5), (4, 2, 5, 6)),
        ("...ij,jk->...ik", (4, 2, 3, 5), (5, 6)),
        ("i...j,j...->i...", (3, 2, 5), (5, 2)),
        ("ij", (3, 5)),
        ("ba", (3, 5)),
        ("ij->", (3, 5)),
        ("ij->j", (3, 5)),
        ("iij->ij", (3, 3, 5)),
        ("...ii->...", (4, 3, 3)),
        ("Ab,bC->AC", (3, 5), (5, 4)),
        ("i,j->ij", (3,), (5,)),
        ("bij,bjk->bik", (1, 3, 5), (4, 5, 6)),
        ("ab,bc,cd->ad", (2, 3), (3, 4), (4, 5)),
    ):
        yield Case("Einsum", [signed(*s) for s in shapes], {"equation": equation}, 12)


def conv_cases() -> Iterator[Case]:
    for group, kernel in ((1, (9, 6, 3, 3)), (3, (9, 2, 3, 3)), (6, (12, 1, 3, 3))):
        image, bias = signed(2, 6, 8, 8), signed(kernel[0])
        attrs = {"group": group, "pads": [1] * 4}
        yield Case("Conv", [image, signed(*kernel), bias], attrs)
        yield Case("Conv", [image, signed(*kernel)], attrs, 7)
        offset, mask = signed(2, 18, 8, 8), floats(2, 9, 8, 8)
        yield Case("DeformConv", [image, signed(*kernel), offset, bias, mask], attrs, 19)
        yield Case("DeformConv", [image, signed(*kernel), offset, None, mask], attrs, 22)
        yield Case(
            "DeformConv", [image, signed(*kernel), signed(2, 36, 8, 8), bias], attrs | {"offset_group": 2}, 19
        )
    for group, kernel in ((1, (6, 4, 3)), (2, (6, 4, 3)), (6, (6, 1, 3))):
        arrays = [signed(2, 6, 8), signed(*kernel), signed(group * kernel[1])]
        yield Case("ConvTranspose", arrays, {"group": group})
        yield Case("ConvTranspose", arrays[:2], {"group": group, "strides": [2]}, 7)


def norm_cases() -> Iterator[Case]:
    for shape in ((4, 6), (4, 6, 3), (2, 6, 3, 5)):
        stats = [floats(6, seed=k) for k in range(4)]
        yield Case("BatchNormalization", [signed(*shape), *stats], {"epsilon": 1e-3}, 9)
        yield Case("BatchNormalization", [signed(*shape), *stats], {}, 15)
        yield Case("BatchNormalization", [signed(*shape), *stats], {"training_mode": 1}, 15, 3)
    yield Case("BatchNormalization", [signed(2, 6, 3), *stats], {}, 7)
    for shape in ((2, 6, 3), (2, 6, 3, 5)):
        yield Case("InstanceNormalization", [signed(*shape), floats(6), floats(6, seed=1)])
    yield Case("LRN", [signed(2, 6, 3, 5)], {"size": 3})
    for groups in (1, 2, 3, 6):
        attrs = {"num_groups": groups}
        yield Case("GroupNormalization", [signed(2, 6, 3, 5), floats(6), floats(6, seed=1)], attrs, 21)
        yield Case("GroupNormalization", [signed(2, 6, 3), floats(groups), floats(groups, seed=1)], attrs, 18)
    for axis, affine in ((-1, (5,)), (1, (3, 5)), (2, (5,)), (0, (4, 3, 5))):
        layer = [signed(4, 3, 5), floats(*affine), floats(*affine, seed=1)]
        yield Case("LayerNormalization", layer, {"axis": axis}, 17, 3)
        yield Case("LayerNormalization", layer[:2], {"axis": axis}, 17)
        yield Case("RMSNormalization", layer[:2], {"axis": axis}, 23)
    yield Case("LayerNormalization", [signed(4, 3, 5), floats(1), floats(5)], {}, 17)
    for p in (1, 2):
        yield Case("LpNormalization", [signed(4, 3, 5)], {"axis": 1, "p": p})
        yield Case("LpNormalization", [signed(4, 3, 5)], {"p": p}, 22)
    yield Case("MeanVarianceNormalization", [signed(4, 3, 5, 2)])
    yield Case("MeanVarianceNormalization", [signed(4, 3, 5, 2)], {"axes": [1]})


def pool_cases() -> Iterator[Case]:
    for shape in ((2, 6, 8), (2, 6, 8, 9)):
        space = len(shape) - 2
        attrs = {"kernel_shape": [3] * space, "strides": [2] * space, "pads": [1] * 2 * space}
        for name in ("AveragePool", "LpPool", "MaxPool"):
            yield Case(name, [signed(*shape)], attrs, 18)
        yield Case("MaxPool", [signed(*shape)], attrs, 12, 2)
        for name in ("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"):
            yield Case(name, [signed(*shape)], {}, 21)
    yield Case("AveragePool", [signed(2, 6, 8)], {"kernel_shape": [3], "count_include_pad": 1}, 7)
    rois = np.array([[0, 0, 0, 5, 5], [1, 1, 1, 6, 7]], np.float32)
    yield Case("MaxRoiPool", [signed(2, 6, 8, 9), rois], {"pooled_shape": [2, 2]})
    align = {"output_height": 2, "output_width": 3, "sampling_ratio": 2}
    for opset, mode in ((10, "avg"), (16, "max"), (16, "avg")):
        yield Case("RoiAlign", [signed(2, 6, 8, 9), rois[:, 1:], axes(0, 1)], align | {"mode": mode}, opset)
    for opset, mode in ((16, "bilinear"), (20, "linear"), (20, "nearest")):
        for padding in ("zeros", "border", "reflection"):
            attrs = {"mode": mode, "padding_mode": padding}
            yield Case("GridSample", [signed(2, 6, 8, 9), signed(2, 4, 3, 2)], attrs, opset)
    yield Case(
        "MaxUnpool",
        [signed(1, 2, 2), axes(0, 2, 4, 6).reshape(1, 2, 2)],
        {"kernel_shape": [2], "strides": [2]},
    )
    yield Case("AffineGrid", [signed(2, 2, 3), axes(2, 3, 4, 5)], {}, 20)


def reduce_cases() -> Iterator[Case]:
    for name in REDUCE:
        new = 13 if name == "ReduceSum" else 18
        for dims in ([1], [-1], [0, 2], [0, 1, 2]):
            for kept in (0, 1):
                yield Case(name, [floats(4, 3, 5)], {"axes": dims, "keepdims": kept}, 7)
                yield Case(name, [floats(4, 3, 5), axes(*dims)], {"keepdims": kept}, new)
        yield Case(name, [floats(4, 3, 5)], {}, 11)
        yield Case(name, [floats(4, 3, 5)], {"keepdims": 0}, 21)
        yield Case(name, [floats()], {}, 21)
        yield Case(name, [floats(4, 3, 5), axes()], {}, 21)
    yield Case("ReduceSum", [floats(4, 3, 5), axes()], {"noop_with_empty_axes": 1}, 21)
    yield Case("ReduceMax", [floats(4, 3, 5)], {"noop_with_empty_axes": 1}, 21)
    yield Case("ReduceSum", [floats(4, 0, 5)], {"axes": [1]}, 11)
    yield Case("ReduceProd", [floats(4, 0, 5)], {"axes": [1]}, 11)
    for name in ("ArgMax", "ArgMin"):
        yield Case(name, [signed(4, 3, 5)], {}, 7)
        yield Case(name, [signed(4, 3, 5)], {"axis": -1, "keepdims": 0}, 13)
    yield Case("TopK", [signed(4, 3, 5)], {"k": 2}, 7, 2)
    yield Case("TopK", [signed(4, 3, 5), axes(2)], {"axis": 1}, 11, 2)
    yield Case("TopK", [signed(4, 3, 5), axes(2)], {"axis": 0}, 24)
    for name in ("Softmax", "LogSoftmax", "Hardmax"):
        for axis in (0, 1, 2):
            yield Case(name, [signed(4, 3, 5)], {"axis": axis}, 11)
            yield Case(name, [signed(4, 3, 5)], {"axis": axis}, 13)
        yield Case(name, [signed(4, 3, 5)], {}, 7)
        yield Case(name, [signed(4, 3, 5)], {}, 21)
    for flags in ({}, {"exclusive": 1}, {"reverse": 1}):
        yield Case("CumSum", [signed(4, 3, 5), np.array(1)], flags, 14)
        yield Case("CumProd", [signed(4, 3, 5), np.array(-1)], flags, 26)


MADE = [*elementwise_cases(), *linear_cases(), *conv_cases(), *norm_cases(), *pool_cases(), *reduce_cases()]
