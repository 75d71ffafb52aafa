"""Elementwise operators: every axis passes through; a dim of size 1 that broadcasts is not coupled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from onnx import TensorProto

from onnx_prune.axes.axis import Atom
from onnx_prune.axes.pattern import pattern
from onnx_prune.axes.relation import NEVER, Op, Relation, Shape, Zero, letters
from onnx_prune.errors import Misfit
from onnx_prune.rules import rule

# Types in which zero has no representation of its own: "0" is a string, e8m0 holds powers of two.
WITHOUT_ZERO = {TensorProto.STRING, 24}


def align(shape: Shape, dims: Sequence[Atom]) -> tuple[Atom, ...]:
    """The dims of an operand that broadcasts, as numpy does, against `dims`.

    >>> print(*align((3, 1), letters((2, 3, 4))))
    b 1

    Raises:
        Misfit: the shape does not broadcast.
    """
    near = dims[max(len(dims) - len(shape), 0) :]
    if len(near) != len(shape) or any(n not in (1, atom.size) for n, atom in zip(shape, near, strict=True)):
        raise Misfit(f"a tensor of shape {shape} does not broadcast to {tuple(atom.size for atom in dims)}")
    return tuple(atom if atom.size == n else Atom(1, "1") for n, atom in zip(shape, near, strict=True))


def broadcast(op: Op, zero: Zero, divisors: tuple[int, ...] = ()) -> Relation:
    """The relation of operands that all broadcast against the one result."""
    dims = letters(op.out())
    operands = tuple(None if shape is None else align(shape, dims) for shape in op.ins)
    return Relation(operands, (dims,), zero=zero, divisors=divisors)


def every(op: Op, operands: Iterable[int]) -> Zero:
    """Every operand must be zero, but for constants that leave a zero as it is.

    Those are the zero itself, and what is below it under Max (so a Relu may be written) or above
    it under Min.
    """
    harmless = {"Max": np.less_equal, "Min": np.greater_equal}.get(op.type, np.equal)

    def known(k: int) -> bool:
        value = op.value(k)
        return value is not None and value.dtype.kind in "biuf" and bool(np.all(harmless(value, 0)))

    return tuple((k,) for k in operands if not known(k))


@rule(
    *("Abs", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Elu", "Erf", "Floor", "Gelu"),
    *("HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Mish", "Neg", "Relu", "Round", "Selu", "Sign"),
    *("Sin", "Sinh", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
)
def unary(op: Op) -> Relation:
    """a... -> a...

    >>> print(unary(Op("Relu", ((2, 3),), ((2, 3),))))
    a0 a1 -> a0 a1
    """
    return pattern(op, "a... -> a...", zero=((0,),))


@rule("CastLike")
def cast_like(op: Op) -> Relation:
    """a..., b... -> a...

    Of the second operand only the type is taken.

    >>> print(cast_like(Op("CastLike", ((2, 3), (4,)), ((2, 3),))))
    a0 a1, b0 -> a0 a1
    """
    return replace(pattern(op, "a..., b... -> a...", zero=((0,),)), unread=(1,))


@rule("Acos", "BitwiseNot", "Cos", "Cosh", "Exp", "Not", "Sigmoid", "Softplus")
def unary_without_zero(op: Op) -> Relation:
    """a... -> a...

    >>> print(unary_without_zero(Op("Sigmoid", ((2, 3),), ((2, 3),))))
    a0 a1 -> a0 a1
    """
    return pattern(op, "a... -> a...", zero=NEVER)


@rule("Acosh", "Log", "Reciprocal")
def unary_undefined_at_zero(op: Op) -> Relation:
    """a... -> a...

    >>> print(unary_undefined_at_zero(Op("Log", ((2, 3),), ((2, 3),))))
    a0 a1 -> a0 a1
    """
    return replace(pattern(op, "a... -> a...", zero=NEVER), divisors=(0,))


def _within_bounds(op: Op) -> bool:
    """Whether Clip leaves a zero alone; bounds were attributes up to opset 10."""
    for name, k, leaves in (("min", 1, np.less_equal), ("max", 2, np.greater_equal)):
        if name in op.attrs:
            bound = np.asarray(op.attrs[name])
        elif not op.has(k):
            continue
        elif (value := op.value(k)) is not None:
            bound = value
        else:
            return False
        if not np.all(leaves(bound, 0)):
            return False
    return True


# For each operator whose attributes or bounds decide about f(0): whether f(0) = 0.
AT_ZERO: dict[str, Callable[[Op], bool]] = {
    "BitCast": lambda op: op.integer("to") not in WITHOUT_ZERO,
    "Cast": lambda op: op.integer("to") not in WITHOUT_ZERO,
    "Clip": _within_bounds,
    # The mask is True where nothing is dropped.
    "Dropout": lambda op: len(op.outs) < 2 or op.outs[1] is None,
    "HardSigmoid": lambda op: bool(op.attrs.get("beta", 0.5) <= 0),
    "Shrink": lambda op: bool(op.attrs.get("lambd", 0.5) >= 0 or op.attrs.get("bias", 0.0) == 0),
}


@rule(*AT_ZERO)
def unary_with_settings(op: Op) -> Relation:
    """a... -> a..., a...

    The second result is the mask of Dropout.

    >>> print(unary_with_settings(Op("Clip", ((2, 3), (), ()), ((2, 3),))))
    a0 a1, _, _ -> a0 a1
    >>> print(unary_with_settings(Op("Dropout", ((2, 3),), ((2, 3), (2, 3)))))
    a0 a1 -> a0 a1, a0 a1
    """
    return pattern(op, "a... -> a..., a...", zero=((0,),) if AT_ZERO[op.type](op) else NEVER)


@rule("PRelu")
def prelu(op: Op) -> Relation:
    """a..., a... -> a...

    >>> print(prelu(Op("PRelu", ((2, 3, 4), (3, 1)), ((2, 3, 4),))))
    a b c, b 1 -> a b c
    """
    return broadcast(op, ((0,),))


@rule("And", "BitwiseAnd", "Mul", "SwiGLU")
def product(op: Op) -> Relation:
    """a..., a... -> a...

    >>> print(product(Op("Mul", ((2, 3, 4), (3, 1)), ((2, 3, 4),))))
    a b c, b 1 -> a b c
    """
    return broadcast(op, ((0, 1),))


@rule(
    *("Add", "BitwiseOr", "BitwiseXor", "Greater", "Less", "Max", "Mean", "Min", "Or", "Sub", "Sum", "Xor"),
)
def total(op: Op) -> Relation:
    """a..., a..., ... -> a...

    >>> print(total(Op("Add", ((2, 3), (4, 1, 3)), ((4, 2, 3),))))
    b c, a 1 c -> a b c
    >>> relu = Op("Max", ((2, 3), ()), ((2, 3),), values=(None, np.zeros(())))
    >>> print(total(relu), total(relu).zero)
    a b, () -> a b ((0,),)
    """
    return broadcast(op, every(op, range(len(op.ins))))


@rule("Equal", "GreaterOrEqual", "LessOrEqual")
def comparison(op: Op) -> Relation:
    """a..., a... -> a...

    >>> print(comparison(Op("Equal", ((2, 3), (1,)), ((2, 3),))))
    a b, 1 -> a b
    """
    return broadcast(op, NEVER)


@rule("Div", "Mod")
def quotient(op: Op) -> Relation:
    """a..., a... -> a...

    >>> print(quotient(Op("Div", ((2, 3), (2, 1)), ((2, 3),))))
    a b, a 1 -> a b
    """
    return broadcast(op, ((0,),), divisors=(1,))


@rule("BitShift")
def shift(op: Op) -> Relation:
    """a..., a... -> a...

    >>> print(shift(Op("BitShift", ((2, 3), (2, 3)), ((2, 3),))))
    a b, a b -> a b
    """
    return broadcast(op, ((0,),))


@rule("Pow")
def power(op: Op) -> Relation:
    """a..., a... -> a...

    Zero stays zero under an exponent known to be positive; 0 to the power of 0 is 1.

    >>> square = Op("Pow", ((2, 3), ()), ((2, 3),), values=(None, np.float32(2)))
    >>> print(power(square), power(square).zero)
    a b, () -> a b ((0,),)
    """
    exponent = op.value(1)
    positive = exponent is not None and bool(np.all(exponent > 0))
    return broadcast(op, ((0,),) if positive else NEVER, divisors=(1,) if positive else (0, 1))


@rule("Where")
def where(op: Op) -> Relation:
    """a..., a..., a... -> a...

    >>> print(where(Op("Where", ((3,), (2, 3), ()), ((2, 3),))))
    b, a b, () -> a b
    """
    return broadcast(op, every(op, (1, 2)))
