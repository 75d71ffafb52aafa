"""Cutting commutes with running: the check that every rule must pass on real arrays.

The operands of a node are masked to zero where nothing is kept, and cut there; the cut result must
be the masked result at the kept positions.  Where a rule claims that masked channels of a result are
zero, they must be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from onnx_prune.axis import Atom, Axis, Mask, atoms, keep
from onnx_prune.relation import Dims, Op, Relation, Restate
from onnx_prune.rules import relate

Array = NDArray[Any]
Plan = Mapping[Atom, Mask]
Rule = Callable[[Op], Relation | None]
RANDOM = {"Bernoulli", "RandomNormalLike", "RandomUniformLike"}
IR_VERSION = 10


class Unrunnable(Exception):
    """Neither onnxruntime nor onnx's reference implementation runs the node."""


def run(
    op_type: str, arrays: Sequence[Array | None], attrs: Mapping[str, Any], opset: int, outputs: int
) -> list[Array]:
    """Run one node, in onnxruntime or, where it has no such operator, in onnx's reference."""
    names = ["" if a is None else f"x{k}" for k, a in enumerate(arrays)]
    node = onnx.helper.make_node(op_type, names, [f"y{k}" for k in range(outputs)], **attrs)
    feeds = {name: a for name, a in zip(names, arrays, strict=True) if a is not None}
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in feeds.items()
        ],
        [onnx.helper.make_empty_tensor_value_info(f"y{k}") for k in range(outputs)],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=IR_VERSION
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        return list(session.run(None, feeds))
    except Exception as refusal:  # onnxruntime has an exception class for each status code
        try:
            return [np.asarray(y) for y in ReferenceEvaluator(model).run(None, feeds)]
        except Exception as error:
            raise Unrunnable(f"{op_type}: {refusal}; {error}") from error


def free_atoms(relation: Relation, *, mixed: bool = False) -> list[Atom]:
    """The atoms that a rule allows to cut, in the order in which they stand."""
    sides = (relation.operands, relation.results)
    found = {a: None for side in sides for dims in side if dims for axis in dims for a in atoms(axis)}
    return [a for a in found if a.held is None and (mixed or a.mixed is None) and a.size > 1]


def grid(dims: Dims, plan: Plan) -> Mask:
    """Which elements of a tensor stay."""
    mask = np.ones((), np.bool_)
    for axis in dims:
        mask = np.logical_and.outer(mask, keep(axis, plan))
    return mask


def cut(array: Array, dims: Dims | None, plan: Plan) -> Array:
    """The kept part of a tensor."""
    for j, axis in enumerate(dims or ()):
        array = np.compress(keep(axis, plan), array, axis=j)
    return array


def masked(arrays: Sequence[Array | None], relation: Relation, plan: Plan) -> list[Array | None]:
    """Operands that are zero where nothing is kept; divisors are one there."""
    return [
        array
        if array is None or dims is None
        else np.where(grid(dims, plan), array, np.array(k in relation.divisors, array.dtype))
        for k, (array, dims) in enumerate(zip(arrays, relation.operands, strict=True))
    ]


def restated(value: Any, restate: Restate, plan: Plan) -> Any:
    """Sizes, positions or indices as they are after the cut."""
    entries = np.ravel(np.asarray(value))
    axes = restate.axes * len(entries) if restate.form == "indices" else restate.axes
    fresh = [
        int(n) if axis is None else _follow(int(n), axis, restate.form, plan)
        for n, axis in zip(entries, axes, strict=True)
    ]
    if isinstance(value, np.ndarray):
        return np.array(fresh, value.dtype).reshape(value.shape)
    return fresh if isinstance(value, list | tuple) else fresh[0]


def _follow(n: int, axis: Axis, form: str, plan: Plan) -> int:
    mask = keep(axis, plan)
    return int(mask.sum() if form == "sizes" else mask[:n].sum())


def claimed(relation: Relation, arrays: Sequence[Array | None], atom: Atom) -> bool:
    """Whether the rule says that results are zero where all operands of a channel are."""

    def carries(k: int) -> bool:
        dims = relation.operands[k] if k < len(relation.operands) else None
        return dims is not None and any(a is atom for axis in dims for a in atoms(axis))

    def met(k: int) -> bool:
        return k >= len(arrays) or arrays[k] is None or carries(k)

    if any(carries(k) for k in relation.divisors):
        return False
    return all(any(map(met, clause)) for clause in relation.zero)


def draws(found: Sequence[Atom], rng: np.random.Generator, count: int) -> Iterator[dict[Atom, Mask]]:
    """Plans that keep at least one channel and, the first one, remove at least one of each atom."""
    for trial in range(count):
        plan = {a: rng.random(a.size) < 0.6 for a in found}
        for a, mask in plan.items():
            mask[rng.integers(a.size)] = True
            if trial == 0 and mask.all():
                mask[rng.integers(a.size)] = False
        yield plan


def check(
    op_type: str,
    arrays: Sequence[Array | None],
    attrs: Mapping[str, Any] | None = None,
    opset: int = 21,
    *,
    outputs: int = 1,
    rule: Rule = relate,
    trials: int = 3,
) -> int:
    """Assert that cutting commutes with running; the number of atoms that were cut.

    Args:
        op_type: operator.
        arrays: operands, None for one left out.
        attrs: attributes.
        opset: version of the default domain.
        outputs: how many results are asked for.
        rule: the rule to check.
        trials: how many plans are drawn.

    Raises:
        Unrunnable: nothing here runs the node.
    """
    attrs = dict(attrs or {})
    arrays = [None if a is None else np.asarray(a) for a in arrays]
    whole = run(op_type, arrays, attrs, opset, outputs)
    # What an engine folds: scalars and integer vectors after the first operand.
    values = tuple(
        a if a is not None and k and (a.ndim == 0 or (a.ndim == 1 and a.dtype.kind == "i")) else None
        for k, a in enumerate(arrays)
    )
    ins = tuple(None if a is None else a.shape for a in arrays)
    relation = rule(Op(op_type, ins, tuple(y.shape for y in whole), attrs, values, opset))
    assert relation is not None, f"no rule for {op_type}"
    for dims, shape in zip(
        relation.operands + relation.results, ins + tuple(y.shape for y in whole), strict=True
    ):
        assert dims is None or shape is not None
        assert dims is None or tuple(keep(axis, {}).size for axis in dims) == shape, f"{relation}: {shape}"

    rng = np.random.default_rng(len(op_type))
    found = free_atoms(relation)
    random = op_type in RANDOM or (op_type == "Dropout" and len(arrays) > 2)
    for plan in draws(found, rng, trials):
        expected = run(op_type, masked(arrays, relation, plan), attrs, opset, outputs)
        smaller: list[Array | None] = [
            None if a is None else cut(a, dims, plan)
            for a, dims in zip(arrays, relation.operands, strict=True)
        ]
        fresh = dict(attrs)
        for restate in relation.restate:
            if isinstance(restate.target, str):
                if restate.target in fresh:
                    fresh[restate.target] = restated(fresh[restate.target], restate, plan)
            elif (operand := smaller[restate.target]) is not None:
                smaller[restate.target] = restated(operand, restate, plan)
        try:
            got = run(op_type, smaller, fresh, opset, outputs)
        except Unrunnable as error:
            raise AssertionError(f"{relation}: the cut node does not run: {error}") from error
        for dims, y, z in zip(relation.results, expected, got, strict=True):
            if not random:
                same(z, cut(y, dims, plan), str(relation))
            assert z.shape == cut(y, dims, plan).shape, f"{relation}: {z.shape}"

    for atom in free_atoms(relation, mixed=True):
        if random or not claimed(relation, arrays, atom):
            continue
        [plan] = draws([atom], rng, 1)
        for dims, y in zip(
            relation.results, run(op_type, masked(arrays, relation, plan), attrs, opset, outputs), strict=True
        ):
            if dims is not None:
                assert not np.any(y[~grid(dims, plan)]), f"{relation}: masked channels of {atom} are not zero"
    return len(found)


def same(got: Array, expected: Array, what: str) -> None:
    """Equal up to rounding."""
    assert got.shape == expected.shape, f"{what}: {got.shape} for {expected.shape}"
    assert got.dtype == expected.dtype, f"{what}: {got.dtype} for {expected.dtype}"
    kind = np.float64 if got.dtype.kind == "f" else got.dtype
    tolerance = {np.dtype(np.float16): 1e-2}.get(got.dtype, 1e-5)
    np.testing.assert_allclose(got.astype(kind), expected.astype(kind), tolerance, tolerance, err_msg=what)
