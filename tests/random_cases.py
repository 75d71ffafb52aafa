"""A move of a random model: any node of the cases by which the registry is tested, inside of a network."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, defs, numpy_helper

from tests import commute
from tests.commute import Case
from tests.random_graphs import MICROSOFT, Builder, Value, at
from tests.random_layers import scaled

_NARROW = {"Acos", "Acosh", "Asin", "Atanh"}  # not a number outside of where they are defined
_MOST = 2000  # elements of an operand


def _usable(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype == np.float32 and 1 < array.size <= _MOST


@cache
def _cases() -> list[Case]:
    # these import the strategies, which import this
    from tests import cases_compute as compute
    from tests import test_rules_attention as attention
    from tests import test_rules_fused as fused
    from tests import test_rules_matrix as matrix
    from tests import test_rules_shape as shape

    found = (*compute.MADE, *shape.CASES, *matrix.CASES, *fused.CASES, *attention.CASES)
    return [
        case
        for case in found
        if case.domain in ("", MICROSOFT) and case.op not in _NARROW and any(map(_usable, case.arrays))
    ]


def cased(b: Builder, x: Value) -> Value:
    """One of the cases by which the rules are tested, one of its operands made by a layer."""
    case = b.pick(_cases())
    b.need(
        b.kind == TensorProto.FLOAT
        and (bool(case.domain) or _version(case, b.opset) == _version(case, case.opset))
    )
    arrays = [None if array is None else np.asarray(array) for array in case.arrays]
    try:
        results = commute.run(case, arrays, case.attrs)
    except commute.RefusedError:
        results = []
    b.need(bool(results) and _usable(results[0]) and bool(np.isfinite(results[0]).all()))
    k = b.pick([k for k, array in enumerate(arrays) if _usable(array)])
    names = [
        "" if array is None else _made(b, array) if j == k else b.constant(array, array.dtype)
        for j, array in enumerate(arrays)
    ]
    attrs = {
        name: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for name, value in case.attrs.items()
        if not (isinstance(value, list) and not value)
    }
    told = {"types": results, "domain": case.domain} if case.domain else {}
    y, *_ = b.put(case.op, names, case.outputs, **told, **attrs)
    b.need(y.shape == results[0].shape)  # onnx infers a wrong shape where Einsum widens a size of one
    wide = [j for j, n in enumerate(y.shape) if n != 1]
    return at(y, b.pick(wide[::-1]))


def _version(case: Case, opset: int) -> int:
    try:
        return int(defs.get_schema(case.op, opset, "").since_version)
    except defs.SchemaError:
        return -1


def _made(b: Builder, array: NDArray[Any]) -> str:
    """An operand of the array's shape, one of whose dims a layer has made."""
    dim = b.pick([j for j, n in enumerate(array.shape) if n > 1])
    others = [n for j, n in enumerate(array.shape) if j != dim]
    entry = b.input((*others, 3), len(others))
    n = array.shape[dim]
    y = b.one("MatMul", [entry, b.weight([3, n], scaled(3))]) if others else entry
    b.need(bool(others))
    perm = list(range(len(others)))
    y = b.one("Transpose", [y], perm=[*perm[:dim], len(others), *perm[dim:]])
    if (array > 0).all():
        y = b.one("Add", [b.one("Abs", [y]), b.scalar(0.3)])
    return y.name
