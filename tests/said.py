"""A node written as a line, and all that its rule says about it as lines of text.

    Conv 1x6x8 9x2x3 9 -> 1x9x6 {"group": 3}

A shape is "2x3", "()" for a scalar, "_" for what is left out; "2=1,-1" is a constant; "Softmax@11" is the
operator of that opset.
"""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune.axes.axis import Atom, atoms
from onnx_prune.axes.relation import CARRIED, NEVER, Code, Op, Relation, Shape, Zero


def node(text: str) -> Op:
    """Read a node."""
    text, brace, attrs = text.partition("{")
    left, _, right = text.partition("->")
    name, *operands = left.split()
    kind, _, opset = name.partition("@")
    shapes, values = zip(*map(_operand, operands), strict=True) if operands else ((), ())
    results = tuple(_operand(word)[0] for word in right.split())
    return Op(kind, shapes, results, literal_eval(brace + attrs or "{}"), values, int(opset or 21))


def _operand(word: str) -> tuple[Shape | None, NDArray[Any] | None]:
    said, _, numbers = word.partition("=")
    if said == "_":
        return None, None
    shape = () if said == "()" else tuple(map(int, said.split("x")))
    return shape, np.array(literal_eval(f"[{numbers}]")).reshape(shape) if numbers else None


def statement(relation: Relation) -> list[str]:
    """What a rule says: its axes, when a zero stays zero, what else follows from a cut, and the reasons."""
    return [
        str(relation),
        *([] if relation.zero == CARRIED else [_zero(relation.zero)]),
        *(
            f"{what} {' '.join(map(str, operands))}"
            for what, operands in (
                ("divided by", relation.divisors),
                ("needs zeros in", relation.zeroed),
                ("does not read", relation.unread),
            )
            if operands
        ),
        *(
            f"{follower.target} {follower.form} {' '.join(map(_said, follower.axes))}"
            + ("" if follower.value is None else f" {follower.value:.3g}")
            for follower in relation.restate
        ),
        *(f"operand {_code(code)}" for code in relation.reads),
        *(f"result {_code(code)}" for code in relation.writes),
        *_reasons(relation),
    ]


def _zero(zero: Zero) -> str:
    if zero == NEVER:
        return "never zero"
    return "zero if " + " and ".join("|".join(map(str, clause)) for clause in zero)


def _said(axis: Any) -> str:
    return "_" if axis is None else str(axis)


def _code(code: Code) -> str:
    more = {"axis": code.axis, "block": code.block, "bits": code.bits}
    said = [f"{name} {value}" for name, value in more.items() if value != getattr(Code(0, 0, 0), name)]
    return " ".join([f"{code.at}: scale {code.scale} zero {code.zero}", *said])


def _reasons(relation: Relation) -> Iterator[str]:
    found: dict[str, list[str]] = {}
    sides: Sequence[Any] = (*relation.operands, *relation.results)
    met: dict[Atom, None] = dict.fromkeys(
        atom
        for dims in (*sides, *(follower.axes for follower in relation.restate))
        for axis in dims or ()
        if axis is not None
        for atom in atoms(axis)
    )
    for atom in met:
        for reason in (atom.held, atom.mixed):
            if reason:
                found.setdefault(reason, []).append(atom.name or "?")
    for reason, names in found.items():
        yield f"{' '.join(names)}: {reason}"
