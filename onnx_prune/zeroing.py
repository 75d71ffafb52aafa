"""Surgery on single weights: zeros written where a mask says so, everything else as it was, and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune import tensors
from onnx_prune.bits import Bits
from onnx_prune.coupling import Coupling
from onnx_prune.draft import Draft, Edit, start
from onnx_prune.errors import ProofFailed
from onnx_prune.graph import Graph
from onnx_prune.stored import Stored

Array = NDArray[Any]
Values = Callable[[str], Array | None]


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found equal to its definition.

    Attributes:
        untouched: how many tensors have the bytes that they had.
        zeros: for each masked tensor how many zeros it has now.
        were: how many it had.
        cleared: how many weights that were not zero its mask removes.
    """

    untouched: int
    zeros: Mapping[str, int]
    were: Mapping[str, int]
    cleared: Mapping[str, int]


def zero_out(coupling: Coupling, bits: Mapping[str, Bits], values: Values | None = None) -> Draft:
    """The model with every weight zero that its mask removes.

    Args:
        coupling: the analysed original, left as it is.
        bits: the mask of each tensor that takes part.
        values: new values of a tensor before it is masked, in its own type; None leaves the original's.

    Returns:
        The draft; tensors of which everything stays, and that get no new values, are not touched.
    """
    stored = Stored(coupling)

    def change(name: str) -> Edit | None:
        mask = bits.get(name)
        fresh = values is not None and values(name) is not None
        if mask is None or (not fresh and mask.kept == np.prod(mask.shape, dtype=np.int64)):
            return None

        def apply(array: Array) -> Array:
            found = None if values is None else values(name)
            new = np.array(array if found is None else found)
            np.copyto(new, stored.zero(name), where=~mask.keep())
            return new

        return Edit(apply, mask.shape)

    return start(coupling.graph, change)


def check(
    coupling: Coupling, draft: Draft, bits: Mapping[str, Bits], values: Values | None = None
) -> Checked:
    """Require that a draft is the original with its weights masked, and nothing else.

    Every tensor is read again, one at a time: the bytes of those without a mask are compared, and of
    those with one the values that stay; what goes has to equal the tensor's zero.

    Args:
        coupling: the analysed original.
        draft: what `zero_out` made of it.
        bits: the masks.
        values: as for `zero_out`.

    Raises:
        ProofFailed: something differs, which is a bug of ours.
    """
    graph, stored = coupling.graph, Stored(coupling)
    before, after = graph.weights, Graph(draft.model, graph.folder).weights
    before = {name: tensor for name, tensor in before.items() if name not in graph.frozen}
    if list(before) != list(after):
        raise ProofFailed("the masked model has other tensors than the original")
    zeros: dict[str, int] = {}
    were: dict[str, int] = {}
    cleared: dict[str, int] = {}
    for name, tensor in before.items():
        made = draft.content.get(name)
        if name not in bits:
            if tensor != after[name] and (made is None or not _same(made(), stored.array(name))):
                raise ProofFailed(f"tensor {name!r} has no mask and has changed")
            continue
        old = stored.array(name)
        new = made() if made is not None else tensors.read(after[name], graph.folder)
        found = None if values is None else values(name)
        want = old if found is None else found
        keep, blank = bits[name].keep(), stored.zeros(name, new)
        if new.dtype != old.dtype or not blank[~keep].all() or not _same(new[keep], want[keep]):
            raise ProofFailed(f"tensor {name!r} is not its mask times its weights")
        empty = stored.zeros(name, old)
        zeros[name], were[name] = int(blank.sum()), int(empty.sum())
        cleared[name] = int((~keep & ~empty).sum())
    for one, other in zip(graph.model.graph.node, draft.model.graph.node, strict=True):
        if one != other and _bare(one) != _bare(other):
            raise ProofFailed(f"node {one.name!r} has changed")
    return Checked(len(before) - len(zeros), zeros, were, cleared)


def _same(one: Array, other: Array) -> bool:
    """Whether two arrays have the same bytes, not-a-number and -0 among them."""
    return np.array_equal(tensors.payload(one), tensors.payload(other))


def _bare(node: onnx.NodeProto) -> onnx.FunctionProto:
    """A node, and all nodes in its bodies, without the data of their tensors."""
    bare = onnx.FunctionProto(node=[node])
    for tensor in tensors.tensors(bare):
        tensors.clear(tensor)
    return bare
