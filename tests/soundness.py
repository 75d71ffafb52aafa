"""The property of whole models: what is cut computes what is masked, by the proof and without it.

The check beside the proof shares nothing with it but the axes: *every* float tensor of the original is
masked where it is made, whether or not anything needs it, and both models run in two engines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnx_prune.analyse import couple
from onnx_prune.coupling import Coupling
from onnx_prune.kept import Plan, masks
from onnx_prune.model.graph import Graph, weight_of
from onnx_prune.proof import order
from onnx_prune.proof.prove import NotProved, prove
from onnx_prune.proof.randomness import random_nodes
from onnx_prune.runtime import random_feeds
from onnx_prune.settings import Budget
from onnx_prune.shape.shapes import Shapes
from tools.attempt import attempt

Array = NDArray[Any]
_FLOAT, _HALF = 1e-4, 2e-2  # of the largest value
_TO_FLOAT = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a model that is sound.

    Attributes:
        status: "proved", "nothing" where nothing can be cut, or why there is no proof.
        groups: how many groups can be cut.
        cut: how many were.
        engines: how many engines agreed beside the proof, one for each set of inputs.
    """

    status: str
    groups: int
    cut: int = 0
    engines: int = 0


def check(model: onnx.ModelProto, budget: Budget) -> Verdict:
    """Assert that the model is cut as its masked original computes.

    Raises:
        ProofFailed: the proof found a difference.
        AssertionError: an engine did.
    """
    coupling = couple(Graph(model))
    groups = len(coupling.groups)
    plan, draft, _ = attempt(coupling, budget)
    if draft is None:
        return Verdict("nothing", groups)
    small = draft.whole()
    onnx.checker.check_model(small, full_check=True)
    status = "proved"
    try:
        prove(coupling, plan, small)
    except NotProved as reason:
        status = str(reason)
    mixed = any(group.mixed for group in coupling.groups if group.atom in plan)
    # random numbers differ from run to run; integers that stand for floats are zero at their zero point
    other = bool(random_nodes(coupling.graph)) or any(
        (bound.relation.reads or bound.relation.writes) and bound.node.op not in _TO_FLOAT
        for bound in coupling.bound
    )
    made = {name for node in coupling.graph.nodes for name in node.outputs if name}
    known = made <= coupling.shapes.types.keys() & coupling.shapes.known.keys()
    nested = bool(coupling.graph.bodies)  # what a body makes can't be masked from outside
    engines = independent(coupling, plan, small) if known and not (mixed or other or nested) else 0
    return Verdict(status, groups, len(plan), engines)


def independent(coupling: Coupling, plan: Plan, small: onnx.ModelProto) -> int:
    """Compare in both engines, at each assignment of the dynamic axes; how often that was possible."""
    watch, count = order.watch(coupling, plan), 0
    allowed, jumpy = _HALF if watch.half else _FLOAT, _behind_jumps(coupling, watch)
    outputs = [name for name in watch.outputs if name not in jumpy]
    for shapes in filter(None, (coupling.shapes, coupling.probe)):
        masked = everywhere(coupling, plan, shapes)
        feeds = random_feeds(coupling.graph.inputs, shapes.inputs, seed=7)
        first: dict[str, Array] = {}
        for engine in (_onnxruntime, _reference):
            try:
                want = engine(masked, feeds)
            except _Unable:
                continue
            if first and not all(_close(want[name], first[name], allowed) for name in outputs):
                continue  # one of the two computes an operator wrongly, and can't judge
            first = first or want
            got = engine(small, feeds)
            for name in outputs:
                _require_equal(got[name], want[name], f"{name} in {engine.__name__}", allowed)
            count += 1
    return count


def everywhere(coupling: Coupling, plan: Plan, shapes: Shapes) -> onnx.ModelProto:
    """The original with every float tensor masked as soon as it is there."""
    source, model = coupling.graph.model, onnx.ModelProto()
    model.CopyFrom(source)
    del model.graph.node[:], model.graph.value_info[:]

    def mask(name: str, key: str, target: str) -> bool:
        """Make `target` the tensor `name`, masked as `key` is."""
        kind = shapes.types.get(weight_of(key)) or coupling.graph.weights[weight_of(key)].data_type
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        shape = shapes.known[key] if key in shapes.known else tuple(coupling.graph.dims(weight_of(key)))
        found = masks(coupling, key, plan, shape)
        if key in coupling.unmasked or dtype.kind != "f" or all(m is None for m in found):
            return False
        keep = np.ones(shape, np.bool_)
        for dim, row in enumerate(found):
            if row is not None:
                keep &= row.reshape([-1 if j == dim else 1 for j in range(len(shape))])
        for suffix, array in ((".keep", keep), (".zero", np.zeros((), dtype))):
            model.graph.initializer.append(numpy_helper.from_array(array, target + suffix))
        model.graph.node.append(
            helper.make_node("Where", [target + ".keep", name, target + ".zero"], [target])
        )
        return True

    renamed: dict[str, str] = {}
    shared = {weight_of(key) for key in coupling.copies.values()}
    for tensor in source.graph.initializer:
        if tensor.name not in shared and mask(tensor.name, tensor.name, f"{tensor.name}.masked"):
            renamed[tensor.name] = f"{tensor.name}.masked"
    for node in coupling.graph.nodes:
        proto = model.graph.node.add()
        proto.CopyFrom(node.proto)
        del model.graph.node[-1]
        for k, name in enumerate(node.inputs):
            proto.input[k] = renamed.get(name, name)
            key = coupling.copies.get((node.index, k))
            if key and mask(name, key, f"{name}.{node.index}.{k}"):
                proto.input[k] = f"{name}.{node.index}.{k}"
        model.graph.node.append(proto)
        for name in node.outputs if node.op != "Constant" or node.outputs[0] not in shared else ():
            if name and mask(name, name, f"{name}.masked"):
                renamed[name] = f"{name}.masked"
    return model


class _Unable(Exception):
    """The engine lacks an operator."""


def _onnxruntime(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    names = [value.name for value in model.graph.output]
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as error:  # it has an exception class for each status code
        raise _Unable(str(error)) from error


def _reference(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    names = [value.name for value in model.graph.output]
    with np.errstate(all="ignore"):
        try:
            return dict(zip(names, ReferenceEvaluator(model).run(names, dict(feeds)), strict=True))
        except Exception as error:  # it has no exception of its own for what it lacks
            raise _Unable(str(error)) from error


def _behind_jumps(coupling: Coupling, watch: order.Watch) -> set[str]:
    """Tensors that a rounding may move by more than a rounding."""
    found: set[str] = set()
    for node in coupling.graph.nodes:
        reads = set(node.inputs)
        if reads & found or (reads.intersection(watch.seams) and watch.jumping.intersection(node.outputs)):
            found.update(node.outputs)
    return found


def _close(got: Array, want: Array, allowed: float) -> bool:
    try:
        _require_equal(got, want, "", allowed)
    except AssertionError:
        return False
    return True


def _require_equal(got: Array, want: Array, where: str, allowed: float) -> None:
    assert got.shape == want.shape, f"{where}: {got.shape}, not {want.shape}"
    assert got.dtype == want.dtype, f"{where}: {got.dtype}, not {want.dtype}"
    finite = np.isfinite(want)
    np.testing.assert_array_equal(np.isfinite(got), finite, where)
    scale = np.abs(want[finite]).max(initial=0.0)
    gap = np.abs(got[finite].astype(np.float64) - want[finite]).max(initial=0.0)
    assert gap <= allowed * scale, f"{where}: differs by {gap / scale if scale else gap:.1e}"
