"""Cutting commutes with running: the property that every rule must have.

`check` runs one node on operands that are masked, and on operands that are cut and with restated
sizes.  The second result must be the first at the positions that stay; where the rule says that a
masked channel is zero, the first must be zero elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnx_prune.axes.axis import Atom, Mask, atoms, keep, size
from onnx_prune.axes.relation import Code, Dims, Op, Relation, Shape
from onnx_prune.axes.restate import restated
from onnx_prune.codes import spread
from onnx_prune.rules import relate

Array = NDArray[Any]
Plan = Mapping[Atom, Mask]
Rule = Callable[[Op], Relation | None]
KNOWN = 64  # elements of a constant that an engine looks into
IR_VERSION = 10


class RefusedError(Exception):
    """Neither onnxruntime nor onnx's reference implementation runs the node."""


@dataclass(frozen=True)
class Case:
    """One node with its operands.

    Attributes:
        op: operator.
        arrays: operands, None for one left out.
        attrs: attributes; tensors as arrays.
        opset: version of the domain.
        outputs: how many results are asked for.
        unknown: operands whose values the rule may not see, however small.
        cut: how many atoms its rule must be able to cut, None where that is not said.
        domain: of the operator, ONNX's own by default; the opset is that of ONNX's own.
    """

    op: str
    arrays: Sequence[Any]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 21
    outputs: int = 1
    unknown: tuple[int, ...] = ()
    cut: int | None = None
    domain: str = ""

    def __str__(self) -> str:
        shapes = " ".join("_" if a is None else "x".join(map(str, a.shape)) or "scalar" for a in self.arrays)
        attrs = "-".join(f"{k}={v}" for k, v in self.attrs.items())
        return f"{self.domain}{self.op}{self.opset}-{shapes}-{attrs}-{self.outputs}"


def run(case: Case, arrays: Sequence[Array | None], attrs: Mapping[str, Any]) -> list[Array]:
    """The node's results in onnxruntime or, where that has no such operator, in onnx's reference."""
    names = ["" if array is None else f"x{k}" for k, array in enumerate(arrays)]
    feeds = {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
    node = helper.make_node(case.op, names, [f"y{k}" for k in range(case.outputs)], domain=case.domain)
    for name, value in attrs.items():
        tensor = numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        kind = onnx.AttributeProto.INTS if isinstance(value, list) and not value else None
        node.attribute.append(helper.make_attribute(name, tensor, attr_type=kind))
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    graph = helper.make_graph([node], "g", inputs, [onnx.ValueInfoProto(name=name) for name in node.output])
    imports = [helper.make_opsetid("", case.opset)]
    if case.domain:
        imports.append(helper.make_opsetid(case.domain, 1))
    model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [np.asarray(y) for y in session.run(None, feeds)]
    except Exception as refusal:  # onnxruntime has an exception class for each status code
        try:
            return [np.asarray(y) for y in ReferenceEvaluator(model).run(None, feeds)]
        except Exception as error:
            raise RefusedError(f"{case.op}: {refusal}; {error}") from error


def describe(case: Case, arrays: Sequence[Array | None], results: Sequence[Array]) -> Op:
    """What a rule is told of the node: an engine folds small constants, the data are none."""

    def known(k: int, array: Array | None) -> bool:
        if array is None or array.size > KNOWN or k in case.unknown:
            return False
        return k > 0 or (array.dtype.kind == "i" and array.ndim < 2)

    return Op(
        case.op,
        tuple(None if array is None else array.shape for array in arrays),
        tuple(y.shape for y in results),
        case.attrs,
        tuple(array if known(k, array) else None for k, array in enumerate(arrays)),
        case.opset,
    )


def cuttable(relation: Relation, *, mixed: bool = False) -> list[Atom]:
    """The atoms that a rule allows to cut, in the order in which they stand."""
    sides = (*relation.operands, *relation.results)
    found = dict.fromkeys(atom for dims in sides if dims for axis in dims for atom in atoms(axis))
    return [a for a in found if a.size > 1 and not a.held and (mixed or not a.mixed)]


def draw(found: Sequence[Atom], rng: np.random.Generator) -> dict[Atom, Mask]:
    """A random mask for each atom; at least one channel goes and one stays."""
    plan = {}
    for atom in found:
        mask = rng.random(atom.size) < 0.6
        stays, goes = rng.choice(atom.size, 2, replace=False)
        mask[stays], mask[goes] = True, False
        plan[atom] = mask
    return plan


def kept(dims: Dims, plan: Plan) -> tuple[Array, ...]:
    """An index that takes from a tensor what stays."""
    return np.ix_(*(np.flatnonzero(keep(axis, plan)) for axis in dims))


def masked(array: Array, dims: Dims, plan: Plan, fill: Array | int = 0) -> Array:
    """`array` with what means zero in place of what goes: selected, since NaN times zero is NaN."""
    inside = np.zeros(array.shape, np.bool_)
    inside[kept(dims, plan)] = True
    return np.where(inside, array, np.asarray(fill).astype(array.dtype)).astype(array.dtype)


def zero_of(
    codes: Sequence[Code], at: int, operands: Sequence[Array | None], results: Sequence[Array], shape: Shape
) -> Array:
    """What means zero in an operand or a result: its zero points."""
    for code in codes:
        if code.at == at and code.zero is not None and not code.bits:
            tensors = operands if code.zero >= 0 else results
            k = code.zero if code.zero >= 0 else ~code.zero
            zero = tensors[k] if k < len(tensors) else None
            if zero is not None:
                return spread(zero, code, shape)
    return np.zeros((), np.int8)


def zeros_claimed(relation: Relation, arrays: Sequence[Array | None], atom: Atom) -> list[frozenset[int]]:
    """The sets of operands of which the rule says: masked channels of `atom` in them make zero of results."""

    def carries(k: int) -> bool:
        dims = relation.operands[k] if k < len(relation.operands) else None
        return dims is not None and any(atom is leaf for axis in dims for leaf in atoms(axis))

    def there(k: int) -> bool:
        return k < len(arrays) and arrays[k] is not None

    if any(carries(k) for k in relation.divisors):
        return []
    if not relation.zero:
        return [frozenset(range(len(arrays)))]
    open_ = [clause for clause in relation.zero if all(map(there, clause))]  # one left out meets its clause
    return list(map(frozenset, product(*(filter(carries, clause) for clause in open_))))


def check(case: Case, *, rule: Rule | None = None, trials: int = 3) -> int:
    """Assert that cutting the node commutes with running it.

    Args:
        case: the node.
        rule: the rule to test, the operator's own by default; another to plant a fault.
        trials: how many plans are drawn.

    Returns:
        How many atoms were cut.

    Raises:
        RefusedError: nothing here runs the node as it is.
        AssertionError: cutting and masking differ, or there is no rule.
    """
    arrays = [None if array is None else np.asarray(array) for array in case.arrays]
    op = describe(case, arrays, run(case, arrays, case.attrs))
    relation = rule(op) if rule else relate(op, case.domain)
    assert relation is not None, f"no rule for {case.op}"
    for sides, shapes in ((relation.operands, op.ins), (relation.results, op.outs)):
        for dims, shape in zip(sides, shapes, strict=True):
            assert dims is None or tuple(map(size, dims)) == shape, f"{relation} does not fit {shape}"
    rng = np.random.default_rng(len(case.op))
    found = cuttable(relation)
    random = case.op == "Dropout" and len(arrays) > 2  # in training mode
    for _ in range(trials if found else 0):
        plan = draw(found, rng)
        expected = _run_masked(case, arrays, relation, plan)
        got = _run_cut(case, arrays, relation, plan)
        for y, z, dims in zip(expected, got, relation.results, strict=True):
            if dims is not None:
                stays = y[kept(dims, plan)]
                assert stays.shape == z.shape, f"{case.op} {relation}: {z.shape}, {stays.shape} should stay"
                assert stays.dtype == z.dtype, f"{case.op} {relation}: {z.dtype} was {stays.dtype}"
                if not random:
                    equal(z, stays, f"{case.op} {relation}: cut and masked differ")
    for atom in cuttable(relation, mixed=True):
        for only in zeros_claimed(relation, arrays, atom) if not random else ():
            plan = draw([atom], rng)
            results = _run_masked(case, arrays, relation, plan, only | set(relation.zeroed))
            for k, (y, dims) in enumerate(zip(results, relation.results, strict=True)):
                if dims is not None:
                    zero = zero_of(relation.writes, k, arrays, results, y.shape)
                    blank = masked(y, dims, plan, zero)
                    equal(y, blank, f"{case.op} {relation}: {atom} is not zero when masked")
    return len(found)


def _run_masked(
    case: Case,
    arrays: Sequence[Array | None],
    relation: Relation,
    plan: Plan,
    only: Collection[int] | None = None,
) -> list[Array]:
    """Results of operands that are zero where nothing is kept; divisors are one there.

    What says where things are, or how to read them, follows the cut, and masking it means nothing.
    """
    blank = [
        array
        if array is None or dims is None or k in relation.unmasked or (only is not None and k not in only)
        else masked(
            array,
            dims,
            plan,
            1 if k in relation.divisors else zero_of(relation.reads, k, arrays, (), array.shape),
        )
        for k, (array, dims) in enumerate(zip(arrays, relation.operands, strict=True))
    ]
    try:
        return run(case, blank, case.attrs)
    except RefusedError as error:
        raise AssertionError(f"{case.op} {relation} does not run masked: {error}") from error


def _run_cut(case: Case, arrays: Sequence[Array | None], relation: Relation, plan: Plan) -> list[Array]:
    small = [
        array if array is None or dims is None else np.asarray(array[kept(dims, plan)])
        for array, dims in zip(arrays, relation.operands, strict=True)
    ]
    attrs = dict(case.attrs)
    _restate(relation, plan, small, attrs)
    try:
        return run(case, small, attrs)
    except RefusedError as error:
        raise AssertionError(f"{case.op} {relation} does not run cut: {error}") from error


def _restate(relation: Relation, plan: Plan, arrays: list[Array | None], attrs: dict[str, Any]) -> None:
    """Rewrite, in place, the operands and attributes that follow the cut."""
    for follower in relation.restate:
        if follower.form == "implied":  # an attribute that was left out says what it meant
            if any(atom in plan for axis in follower.axes if axis is not None for atom in atoms(axis)):
                attrs[str(follower.target)] = follower.value
            continue
        default = np.array([0 if axis is None else size(axis) for axis in follower.axes], np.int64)
        target = follower.target
        if isinstance(target, str):
            value = np.asarray(attrs.get(target, default))
            attrs[target] = restated(value, follower.form, follower.axes, plan).tolist()
            continue
        arrays += [None] * (target + 1 - len(arrays))
        present = arrays[target]
        if present is None:
            attrs.pop("num_outputs", None)
        value = default if present is None else present
        arrays[target] = restated(value, follower.form, follower.axes, plan)


def equal(got: Array, expected: Array, message: str) -> None:
    """Equal up to rounding, with a message that says what was compared."""
    if got.dtype.kind in "fcV":  # V: the types that numpy itself has not, bfloat16 and narrower
        wide = np.complex128 if got.dtype.kind == "c" else np.float64
        a, b = got.astype(wide), expected.astype(wide)
        scale = float(np.abs(b[np.isfinite(b)]).max(initial=0))
        tolerance = 1e-2 if got.dtype == np.float16 or got.dtype.kind == "V" else 1e-5
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale, err_msg=message)
    else:
        np.testing.assert_array_equal(got, expected, err_msg=message)
