"""Cutting commutes with running: the property that every rule must have.

`check` runs one node twice in onnxruntime: on operands that are masked, and on operands that are
cut and with restated sizes.  The second result must be the first at the positions that stay, and
where the rule says that a masked channel is zero, the first must be zero elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_prune.axis import Atom, Mask, atoms, keep, size
from onnx_prune.relation import Dims, Op, Relation
from onnx_prune.restate import restated
from onnx_prune.rules import relate

Array = NDArray[Any]
KNOWN = 64


class RefusedError(Exception):
    """The node itself, before anything is cut, is not what onnxruntime runs."""


def run(
    op_type: str,
    arrays: Sequence[Array | None],
    attrs: Mapping[str, Any],
    opset: int,
    outputs: int,
    domain: str = "",
) -> list[Array]:
    """The results of one node in onnxruntime, without graph optimisations."""
    names = ["" if array is None else f"x{k}" for k, array in enumerate(arrays)]
    feeds = {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
    node = helper.make_node(op_type, names, [f"y{k}" for k in range(outputs)], domain=domain)
    for name, value in attrs.items():
        tensor = numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        kind = onnx.AttributeProto.INTS if isinstance(value, list) and not value else None
        node.attribute.append(helper.make_attribute(name, tensor, attr_type=kind))
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    graph = helper.make_graph([node], "g", inputs, [onnx.ValueInfoProto(name=name) for name in node.output])
    imports = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(y) for y in session.run(None, feeds)]


def describe(
    op_type: str,
    arrays: Sequence[Array | None],
    attrs: Mapping[str, Any],
    opset: int,
    results: Sequence[Array],
    unknown: Collection[int] = (),
) -> Op:
    """What a rule is told of the node; operands in `unknown` are run-time values however small."""
    return Op(
        op_type,
        tuple(None if array is None else array.shape for array in arrays),
        tuple(y.shape for y in results),
        attrs,
        tuple(
            None if array is None or array.size > KNOWN or k in unknown else array
            for k, array in enumerate(arrays)
        ),
        opset,
    )


def draw(relation: Relation, seed: int) -> dict[Atom, Mask]:
    """A random mask for each atom that may be cut; at least one channel goes and one stays."""
    rng = np.random.default_rng(seed)
    sides = (*relation.operands, *relation.results)
    found = dict.fromkeys(atom for dims in sides if dims for axis in dims for atom in atoms(axis))
    plan = {}
    for atom in found:
        if atom.size > 1 and not atom.held and not atom.mixed:
            mask = rng.random(atom.size) < 0.6
            stays, goes = rng.choice(atom.size, 2, replace=False)
            mask[stays], mask[goes] = True, False
            plan[atom] = mask
    return plan


def kept(dims: Dims, plan: Mapping[Atom, Mask]) -> tuple[Array, ...]:
    """An index that takes from a tensor what stays."""
    return np.ix_(*(np.flatnonzero(keep(axis, plan)) for axis in dims))


def masked(array: Array, dims: Dims, plan: Mapping[Atom, Mask]) -> Array:
    """`array` with zeros in place of what goes: selected, since NaN times zero is NaN."""
    inside = np.zeros(array.shape, np.bool_)
    inside[kept(dims, plan)] = True
    return np.where(inside, array, np.zeros((), array.dtype)).astype(array.dtype)


def zero_when_masked(relation: Relation, atom: Atom) -> bool:
    """Whether the rule says that a masked channel of `atom` is zero in the results."""

    def carries(k: int) -> bool:
        dims = relation.operands[k] if k < len(relation.operands) else None
        return dims is not None and any(atom is leaf for axis in dims for leaf in atoms(axis))

    def absent(k: int) -> bool:
        return k >= len(relation.operands)

    if any(carries(k) for k in relation.divisors):
        return False
    return all(any(carries(k) or absent(k) for k in clause) for clause in relation.zero)


def check(
    op_type: str,
    arrays: Sequence[Array | None],
    attrs: Mapping[str, Any] | None = None,
    opset: int = 21,
    outputs: int = 1,
    relation: Relation | None = None,
    seed: int = 0,
    domain: str = "",
    unknown: Collection[int] = (),
) -> int:
    """Assert that cutting the node commutes with running it.

    Args:
        op_type: operator.
        arrays: operands, None where one is left out.
        attrs: attributes; tensors as arrays.
        opset: version of the default domain.
        outputs: number of results.
        relation: the relation to test instead of the rule's own, to plant faults.
        seed: of the random masks.
        domain: of the operator.
        unknown: operands whose values the rule may not see.

    Returns:
        How many atoms were cut.

    Raises:
        RefusedError: onnxruntime does not run the node as it is.
        AssertionError: cutting and masking differ, or there is no rule.
    """
    attrs = attrs or {}
    try:
        whole = run(op_type, arrays, attrs, opset, outputs, domain)
    except Exception as error:
        raise RefusedError(str(error)) from error
    op = describe(op_type, arrays, attrs, opset, whole, unknown)
    relation = relation or relate(op, domain)
    assert relation is not None, f"no rule for {op_type}"
    for sides, shapes in ((relation.operands, op.ins), (relation.results, op.outs)):
        for dims, shape in zip(sides, shapes, strict=True):
            assert dims is None or tuple(map(size, dims)) == shape, f"{relation} does not fit {shape}"
    plan = draw(relation, seed)
    if not plan:
        return 0
    blank, small = list(arrays), list(arrays)
    followers = {follower.target for follower in relation.restate}
    for k, (array, dims) in enumerate(zip(arrays, relation.operands, strict=True)):
        if array is not None and dims is not None:
            small[k] = np.asarray(array[kept(dims, plan)])
            # what is restated says where things are: it follows the cut, masking it means nothing
            blank[k] = array if k in followers else masked(array, dims, plan)
    try:
        expected = run(op_type, blank, attrs, opset, outputs, domain)
    except Exception as error:
        raise AssertionError(f"{op_type} {relation} does not run masked: {error}") from error
    after = dict(attrs)
    restate(relation, plan, small, after)
    try:
        got = run(op_type, small, after, opset, outputs, domain)
    except Exception as error:
        raise AssertionError(f"{op_type} {relation} does not run cut: {error}") from error
    for y, z, dims in zip(expected, got, relation.results, strict=True):
        if dims is None:
            continue
        stays = y[kept(dims, plan)]
        assert stays.shape == z.shape, f"{op_type} {relation}: {z.shape} where {stays.shape} should stay"
        equal(z, stays, f"{op_type} {relation}: cut and masked differ")
        for atom in plan:
            if zero_when_masked(relation, atom):
                only = {atom: plan[atom]}
                equal(y, masked(y, dims, only), f"{op_type} {relation}: {atom} is not zero when masked")
    return len(plan)


def equal(got: Array, expected: Array, message: str) -> None:
    """Equal up to rounding, with a message that says what was compared."""
    if got.dtype.kind in "fc":
        scale = float(np.abs(expected[np.isfinite(expected)]).max(initial=0))
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * scale, err_msg=message)
    else:
        np.testing.assert_array_equal(got, expected, err_msg=message)


def restate(
    relation: Relation, plan: Mapping[Atom, Mask], arrays: list[Array | None], attrs: dict[str, Any]
) -> None:
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
