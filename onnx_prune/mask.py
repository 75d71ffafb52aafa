"""The masked original: what a plan means, as a model that can be run.

Every weight is zeroed where the plan removes it.  Where a removed channel is not zero by itself (a
Sigmoid makes 0.5 of 0), the mask acts where the channel is read: a Where, not a product, because
NaN x 0 is NaN.  A node that takes a statistic over a cut axis (only with `--mixed`) sees the kept
channels alone, and its results are put back in their places among zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnx_prune.axis import Mask
from onnx_prune.coupling import Bound, Coupling
from onnx_prune.draft import Draft, Edit, rearrange, start
from onnx_prune.kept import Plan, masks

Array = NDArray[Any]


def masked(coupling: Coupling, plan: Plan) -> Draft:
    """The original with everything that `plan` removes set to zero."""
    graph = coupling.graph
    shared = {key.split("\0")[0] for key in coupling.copies.values()}
    restated = {  # positions and sizes are read, not multiplied: they stay what they are
        coupling.key(bound.node, r.target)
        for bound in coupling.bound
        for r in bound.relation.restate
        if isinstance(r.target, int) and r.target < len(bound.node.inputs)
    }

    def change(name: str) -> Edit | None:
        found = masks(coupling, name, plan)
        if name in shared or name in restated or all(mask is None for mask in found):
            return None  # each user of a shared vector gets its own, below
        return Edit(_zeroer(found), graph.dims(name))

    draft = start(graph, change)
    editor = _Editor(coupling, plan, draft)
    for (index, k), key in coupling.copies.items():
        found = masks(coupling, key, plan)
        if key not in restated and any(mask is not None for mask in found):
            value = _zeroer(found)(graph.array(key.split("\0")[0]))
            draft.model.graph.node[index].input[k] = editor.constant(value)
    for bound in coupling.bound:
        if any(atom in plan for atom in bound.mixed):
            editor.on_kept(bound)
        else:
            for k in bound.exposed:
                editor.mask_operand(bound, k)
    rearrange(draft, before=editor.before, after=editor.after, dropped=draft.replaced)
    return draft


def _zeroer(found: list[Mask | None]) -> Callable[[Array], Array]:
    def zero(array: Array) -> Array:
        array = array.copy()
        for dim, mask in enumerate(found):
            if mask is not None:
                array[(slice(None),) * dim + (~mask,)] = 0
        return array

    return zero


class _Editor:
    """Adds nodes around those of the original, in order."""

    def __init__(self, coupling: Coupling, plan: Plan, draft: Draft) -> None:
        self.coupling, self.plan, self.draft = coupling, plan, draft
        self.before: dict[int, list[onnx.NodeProto]] = {}
        self.after: dict[int, list[onnx.NodeProto]] = {}
        self.count = 0

    def name(self) -> str:
        self.count += 1
        return f"onnx_prune.mask.{self.count}"

    def constant(self, value: Array) -> str:
        name = self.name()
        tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
        self.draft.model.graph.initializer.append(tensor)
        return name

    def mask_operand(self, bound: Bound, k: int) -> None:
        """Zero the removed channels of operand `k` where this node reads it."""
        node = bound.node
        found = masks(self.coupling, self.coupling.key(node, k), self.plan)
        inputs = self.draft.model.graph.node[node.index].input
        before = self.before.setdefault(node.index, [])
        for dim, mask in enumerate(found):
            if mask is not None:
                inputs[k] = self._where(before, inputs[k], mask, dim, len(found), node.inputs[k])

    def on_kept(self, bound: Bound) -> None:
        """Let the node see the kept channels of its operands, and spread its results out again."""
        node = bound.node
        proto = self.draft.model.graph.node[node.index]
        before = self.before.setdefault(node.index, [])
        after = self.after.setdefault(node.index, [])
        for k, dims in enumerate(bound.relation.operands):
            if dims is None or not node.inputs[k]:
                continue
            for dim, mask in enumerate(masks(self.coupling, self.coupling.key(node, k), self.plan)):
                if mask is not None:
                    proto.input[k] = self._gather(before, proto.input[k], np.flatnonzero(mask), dim)
        for k, name in enumerate(node.outputs):
            found = masks(self.coupling, name, self.plan) if name else []
            if not any(mask is not None for mask in found):
                continue
            proto.output[k] = source = self.name()
            for dim, mask in enumerate(found):
                if mask is not None:
                    places = np.maximum(np.cumsum(mask) - 1, 0)  # a removed channel reads any kept one
                    spread = self._gather(after, source, places, dim)
                    source = self._where(after, spread, mask, dim, len(found), name)
            after.append(helper.make_node("Identity", [source], [name]))

    def _gather(self, nodes: list[onnx.NodeProto], source: str, places: Array, dim: int) -> str:
        target = self.name()
        inputs = [source, self.constant(places.astype(np.int64))]
        nodes.append(helper.make_node("Gather", inputs, [target], axis=dim))
        return target

    def _where(
        self, nodes: list[onnx.NodeProto], source: str, mask: Mask, dim: int, rank: int, like: str
    ) -> str:
        """`source` with the removed channels of `dim` zeroed; `like` names a tensor of its type."""
        kind = self.coupling.shapes.types.get(like, onnx.TensorProto.FLOAT)
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        shape = [1] * rank
        shape[dim] = mask.size
        target = self.name()
        if self.coupling.graph.opsets.get("", 1) < 9:  # Where is younger
            inputs = [source, self.constant(mask.reshape(shape).astype(dtype))]
            nodes.append(helper.make_node("Mul", inputs, [target]))
        else:
            inputs = [self.constant(mask.reshape(shape)), source, self.constant(np.zeros((), dtype))]
            nodes.append(helper.make_node("Where", inputs, [target]))
        return target
