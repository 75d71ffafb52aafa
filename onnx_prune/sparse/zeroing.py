"""Surgery on single weights: zeros written where a mask says so, everything else as it was, and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune.coupling import Coupling
from onnx_prune.draft import Draft, Edit, start
from onnx_prune.errors import ProofFailed
from onnx_prune.model import tensors
from onnx_prune.model.graph import Graph
from onnx_prune.sparse.bits import Bits
from onnx_prune.sparse.stored import Stored

Array = NDArray[Any]
_CHUNK = 1 << 22  # weights; a multiple of eight
Values = Callable[[str], Array | None]


@dataclass(frozen=True, slots=True)
class Count:
    """What became of one tensor.

    Attributes:
        zeros: how many zeros it has now.
        before: how many it had.
        cleared: how many weights that were not zero its mask removes.
    """

    zeros: int
    before: int
    cleared: int


@dataclass
class Zeroed:
    """The masked model.

    Attributes:
        draft: it; every masked tensor is checked as it is made.
        counts: for each tensor that was made what became of it.
    """

    draft: Draft
    counts: dict[str, Count] = field(default_factory=dict)


def zero_out(coupling: Coupling, bits: Mapping[str, Bits], values: Values | None = None) -> Zeroed:
    """The model with every weight zero that its mask removes.

    A tensor is read once, as it is written or filled in, and checked then: so one is in memory at a time.

    Args:
        coupling: the analysed original, left as it is.
        bits: the mask of each tensor that takes part.
        values: new values of a tensor before it is masked, in its own type; None leaves the original's.

    Raises:
        ProofFailed: now, or as a tensor is made: it is not what it should be, which is a bug of ours.
    """
    stored = Stored(coupling)
    counts: dict[str, Count] = {}

    def change(name: str) -> Edit | None:
        mask = bits.get(name)
        if mask is None:
            return None

        def apply(array: Array) -> Array:
            fresh = None if values is None else values(name)
            zero = stored.zero(name)
            new = _masked(array if fresh is None else fresh, mask, zero)
            counts[name] = inspect(zero, name, mask, array, new, fresh)
            return new

        return Edit(apply, mask.shape)

    zeroed = Zeroed(start(coupling.graph, change), counts)
    require_untouched(coupling, zeroed.draft, bits)
    return zeroed


def inspect(zero: Array, name: str, mask: Bits, old: Array, new: Array, fresh: Array | None = None) -> Count:
    """Require that a tensor is its mask times its weights, and count its zeros; some weights at a time.

    Args:
        zero: what means zero in it, to be broadcast.
        name: of the tensor.
        mask: which weights stay.
        old: the tensor as it was.
        new: the tensor as it is to be written.
        fresh: the values it was to get, the old ones unless given.

    Raises:
        ProofFailed: a weight that goes is not zero, or one that stays has other bytes.
    """
    right = new.dtype == old.dtype and new.shape == old.shape == mask.shape
    points = np.broadcast_to(zero, new.shape).reshape(-1) if zero.ndim else zero
    flat = [a.reshape(-1) for a in (old, new, old if fresh is None else fresh)]
    zeros = before = cleared = 0
    for first in range(0, new.size if right else 0, _CHUNK):
        part = slice(first, first + _CHUNK)
        keep = np.unpackbits(mask.packed[first // 8 : (first + _CHUNK) // 8]).view(np.bool_)
        was, now, wanted = (a[part] for a in flat)
        keep, point = keep[: now.size], points[part] if zero.ndim else zero
        blank, empty = np.asarray(now == point), np.asarray(was == point)
        right = right and bool((blank | keep).all()) and not (_differ(now, wanted) & keep).any()
        zeros, before = zeros + int(np.count_nonzero(blank)), before + int(np.count_nonzero(empty))
        cleared += int(np.count_nonzero(~(keep | empty)))
    if not right:
        raise ProofFailed(f"tensor {name!r} is not its mask times its weights")
    return Count(zeros, before, cleared)


def require_untouched(coupling: Coupling, draft: Draft, bits: Mapping[str, Bits]) -> int:
    """Require that a draft is the original but for the tensors that have a mask.

    Args:
        coupling: the analysed original.
        draft: what was made of it.
        bits: the masks.

    Returns:
        How many tensors have no mask.

    Raises:
        ProofFailed: something else has changed, which is a bug of ours.
    """
    graph = coupling.graph
    before = {name: tensor for name, tensor in graph.weights.items() if name not in graph.frozen}
    after = Graph(draft.model, graph.folder).weights
    if list(before) != list(after):
        raise ProofFailed("the masked model has other tensors than the original")
    others = before.keys() - bits.keys()
    for name in others:
        made = draft.content.get(name)
        if before[name] != after[name] and (made is None or not _same(made(), graph.array(name))):
            raise ProofFailed(f"tensor {name!r} has no mask and has changed")
    for one, other in zip(graph.model.graph.node, draft.model.graph.node, strict=True):
        if one != other and _bare(one) != _bare(other):
            raise ProofFailed(f"node {one.name!r} has changed")
    return len(others)


def _masked(array: Array, mask: Bits, zero: Array) -> Array:
    """A tensor with zeros where its mask removes, some weights at a time."""
    new = np.array(array)
    if zero.ndim or zero.tobytes().strip(b"\0"):
        np.copyto(new, zero, where=~mask.keep())
        return new
    flat = _bits(new.reshape(-1))  # four times as fast as choosing: all bits of a zero are 0
    for first in range(0, flat.size, _CHUNK):
        part = flat[first : first + _CHUNK]
        part *= np.unpackbits(mask.packed[first // 8 : (first + _CHUNK) // 8])[: part.size]
    return new


def _differ(one: Array, other: Array) -> Array:
    """Where two arrays have other bytes."""
    return np.asarray(_bits(one) != _bits(other))


def _bits(array: Array) -> Array:
    """Numbers as the unsigned integers of the same bytes."""
    return array.view(f"u{array.dtype.itemsize}")


def _same(one: Array, other: Array) -> bool:
    """Whether two arrays have the same bytes, not-a-number and -0 among them."""
    if one.dtype.kind == "O":
        return np.array_equal(one, other)
    return np.array_equal(tensors.payload(one), tensors.payload(other))


def _bare(node: onnx.NodeProto) -> onnx.FunctionProto:
    """A node, and all nodes in its bodies, without the data of their tensors."""
    bare = onnx.FunctionProto(node=[node])
    for tensor in tensors.tensors(bare):
        tensors.clear(tensor)
    return bare
