"""The masked original: what a plan means, as a model that can be run.

Every weight is zeroed where the plan removes it.  Where a removed channel is not zero by itself (a
Sigmoid makes 0.5 of 0), the mask acts where the channel is read: a Where, not a product, because
NaN x 0 is NaN.  A node that takes a statistic over a cut axis (only with `--mixed`) sees the kept
channels alone, and its results are put back in their places among zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod as product
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from onnx_prune.axes.axis import Mask, Prod, atoms, keep, prod
from onnx_prune.codes import coded, lying, spread
from onnx_prune.coupling import Bound, Coupling
from onnx_prune.draft import Draft, Edit, rearrange, start
from onnx_prune.kept import Plan, masks
from onnx_prune.model.graph import weight_of
from onnx_prune.model.nodes import Place, names_read

Array = NDArray[Any]
# Integers that onnxruntime's Where selects; others take the way through int32.
_SELECTED = {onnx.TensorProto.UINT8, onnx.TensorProto.INT32, onnx.TensorProto.INT64}


def masked(coupling: Coupling, plan: Plan) -> Draft:
    """The original with everything that `plan` removes set to zero."""
    graph = coupling.graph
    shared = {weight_of(key) for key in coupling.copies.values()}

    def change(name: str) -> Edit | None:
        found = masks(coupling, name, plan)
        if name in shared or name in coupling.unmasked or all(mask is None for mask in found):
            return None  # each user of a shared vector gets its own, below
        return Edit(_zeroer(found, fill(coupling, name)), graph.dims(name))

    draft = start(graph, change)
    editor = _Editor(coupling, plan, draft)
    for (index, k), key in coupling.copies.items():
        found = masks(coupling, key, plan)
        if key not in coupling.unmasked and any(mask is not None for mask in found):
            value = _zeroer(found, fill(coupling, key))(graph.array(weight_of(key)))
            draft.rewire(graph.nodes[index], k, editor.constant(value))
    for bound in coupling.bound:
        if any(atom in plan for atom in bound.mixed):
            editor.on_kept(bound)
        else:
            for k in bound.exposed:
                editor.mask_operand(bound, k)
    rearrange(draft, before=editor.before, after=editor.after, dropped=draft.replaced)
    _drop_unread(draft, names_read(graph.model.graph.node))
    return draft


def _drop_unread(draft: Draft, before: Iterable[str]) -> None:
    """Remove initializers that were read and are no more: before IR version 4 onnxruntime refuses them."""
    graph = draft.model.graph
    unread = set(before).difference(names_read(graph.node), (value.name for value in graph.output))
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name in unread:
            draft.content.pop(graph.initializer[index].name, None)
            del graph.initializer[index]


def fill(coupling: Coupling, key: str) -> Array:
    """What means zero in a stored weight: its zero points where its reader has them stored."""
    found, graph = coupling.codes.get(key), coupling.graph
    if found is None or found.code.bits or found.zero not in graph.weights:
        return np.zeros((), np.int8)
    zero = graph.array(found.zero)
    return spread(zero, found.code, graph.dims(weight_of(key))) if zero.size else zero.sum()


def _zeroer(found: list[Mask | None], filling: Array) -> Callable[[Array], Array]:
    def zero(array: Array) -> Array:
        array = array.copy()
        source = np.broadcast_to(filling, array.shape)
        for dim, mask in enumerate(found):
            if mask is not None:
                gone = (slice(None),) * dim + (~mask,)
                array[gone] = source[gone]
        return array

    return zero


class _Editor:
    """Adds nodes around those of the original, in order."""

    def __init__(self, coupling: Coupling, plan: Plan, draft: Draft) -> None:
        self.coupling, self.plan, self.draft = coupling, plan, draft
        self.before: dict[Place, list[onnx.NodeProto]] = {}
        self.after: dict[Place, list[onnx.NodeProto]] = {}
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
        """Zero the removed channels of operand `k` where this node reads it.

        Those that it sums over, that is: the sum at another channel, which is removed as well, may be a
        divisor, and is not to become zero.
        """
        node = bound.node
        found = masks(self.coupling, self.coupling.key(node, k), self.plan)
        if k not in bound.relation.zeroed:
            summed, dims = bound.relation.contracted(), bound.relation.operands[k] or ()
            over = [not summed.isdisjoint(atoms(axis)) for axis in dims]
            found = [mask if counts else None for mask, counts in zip(found, over, strict=True)]
        if all(mask is None for mask in found):
            return
        before = self.before.setdefault(node.slot(k).place, [])
        blank = self._zero_point(before, bound, k, len(found))
        source = self.draft.operand(node, k)
        for dim, mask in enumerate(found):
            if mask is not None:
                tiled = self._tiled(before, source, bound, k, dim)
                source = self._where(before, source, mask, dim, len(found), node.inputs[k], blank, tiled)
        self.draft.rewire(node, k, source)

    def _tiled(self, nodes: list[onnx.NodeProto], source: str, bound: Bound, k: int, dim: int) -> str:
        """The mask of a dynamic axis, `(*batch heads)`: that of its static tail as often as it fits."""
        coupling, name = self.coupling, bound.node.inputs[k]
        sizes = [s.known[name][dim] for s in (coupling.shapes, coupling.probe) if s is not None]
        axis = coupling.axes[coupling.key(bound.node, k)][dim]
        if len(set(sizes)) == 1 or not isinstance(axis, Prod):
            return ""
        tail = keep(prod(*axis.parts[1:]), self.plan)
        shape, length, times, mask, spread = (self.name() for _ in range(5))
        rank = len(coupling.shapes.known[name])
        nodes += [
            helper.make_node("Shape", [source], [shape]),
            helper.make_node("Gather", [shape, self.constant(np.array([dim]))], [length]),
            helper.make_node("Div", [length, self.constant(np.array([tail.size]))], [times]),
            helper.make_node("Tile", [self.constant(tail), times], [mask]),
        ]
        wide = self.constant(np.array([-1 if j == dim else 1 for j in range(rank)]))
        nodes.append(helper.make_node("Reshape", [mask, wide], [spread]))
        return spread

    def _zero_point(self, nodes: list[onnx.NodeProto], bound: Bound, k: int, rank: int) -> str:
        """What means zero in operand `k` to this node, where that is not 0."""
        code = next((code for code in bound.relation.reads if code.at == k and not code.bits), None)
        found = coded(bound.node, code) if code else None
        if found is None or not found.zero or found.code.block > 1:
            return ""
        assert found.code.zero is not None
        zero = self.draft.operand(bound.node, found.code.zero)
        if found.code.axis is None:
            return zero
        known = self.coupling.shapes.known[found.zero]
        dims = lying(found.code.axis, known, rank) if product(known) > 1 else [1] * rank
        shape = self.constant(np.array(dims))
        target = self.name()
        nodes.append(helper.make_node("Reshape", [zero, shape], [target]))
        return target

    def on_kept(self, bound: Bound) -> None:
        """Let the node see the kept channels of its operands, and spread its results out again."""
        node = bound.node
        proto = self.draft.proto(node)
        before = self.before.setdefault(node.place, [])
        after = self.after.setdefault(node.place, [])
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
            target, proto.output[k] = proto.output[k], self.name()
            source = proto.output[k]
            for dim, mask in enumerate(found):
                if mask is not None:
                    places = np.maximum(np.cumsum(mask) - 1, 0)  # a removed channel reads any kept one
                    spread = self._gather(after, source, places, dim)
                    source = self._where(after, spread, mask, dim, len(found), name)
            after.append(helper.make_node("Identity", [source], [target]))

    def _gather(self, nodes: list[onnx.NodeProto], source: str, places: Array, dim: int) -> str:
        target = self.name()
        inputs = [source, self.constant(places.astype(np.int64))]
        nodes.append(helper.make_node("Gather", inputs, [target], axis=dim))
        return target

    def _where(
        self,
        nodes: list[onnx.NodeProto],
        source: str,
        mask: Mask,
        dim: int,
        rank: int,
        like: str,
        blank: str = "",
        tiled: str = "",
    ) -> str:
        """`source` with the removed channels of `dim` zeroed; `like` names a tensor of its type.

        Args:
            nodes: gains the nodes that do it.
            source: the tensor.
            mask: which channels stay.
            dim: their dim.
            rank: number of dims.
            like: a tensor of the same type.
            blank: a tensor that means zero, "" for 0 itself.
            tiled: the mask as a tensor made at run time, "" where it is a constant.
        """
        kind = self.coupling.shapes.types.get(like, onnx.TensorProto.FLOAT)
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        shape = [1] * rank
        shape[dim] = mask.size
        target = self.name()
        if self.coupling.graph.opsets.get("", 1) < 9:  # Where is younger
            inputs = [source, self.constant(mask.reshape(shape).astype(dtype))]
            nodes.append(helper.make_node("Mul", inputs, [target]))
        else:
            blank = blank or self.constant(np.zeros((), dtype))
            narrow = dtype.kind in "iu" and kind not in _SELECTED
            pair = [
                self._cast(nodes, name, onnx.TensorProto.INT32) if narrow else name
                for name in (source, blank)
            ]
            chosen = self.name() if narrow else target
            selects = tiled or self.constant(mask.reshape(shape))
            nodes.append(helper.make_node("Where", [selects, *pair], [chosen]))
            if narrow:
                nodes.append(helper.make_node("Cast", [chosen], [target], to=kind))
        return target

    def _cast(self, nodes: list[onnx.NodeProto], source: str, kind: int) -> str:
        target = self.name()
        nodes.append(helper.make_node("Cast", [source], [target], to=kind))
        return target
