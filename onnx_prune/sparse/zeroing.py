"""Surgery on single weights: zeros written where a mask says so, everything else as it was, and checked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune.coupling import Coupling
from onnx_prune.draft import Draft, Edit, start
from onnx_prune.errors import ProofFailed
from onnx_prune.model import pieces, tensors, threads
from onnx_prune.model.graph import Graph
from onnx_prune.model.pieces import Buffers, Pieces, Runs
from onnx_prune.sparse.bits import Mask, ones
from onnx_prune.sparse.packing import Packing
from onnx_prune.sparse.spool import Masks
from onnx_prune.sparse.stored import Unpacked

Array = NDArray[Any]
Bool = NDArray[np.bool_]
Values = Callable[[str], Array | None]


class Count(NamedTuple):
    """What became of one tensor, or of a run of it.

    Attributes:
        zeros: how many zeros it has now.
        before: how many it had.
        removed: how many weights its mask removes.
        cleared: how many of these were not zero.
    """

    zeros: int
    before: int
    removed: int
    cleared: int


@dataclass
class Zeroed:
    """The masked model.

    Attributes:
        draft: it; every masked tensor is checked as it is made.
        bits: the masks of the tensors that were made, where they are kept.
        counts: what became of these.
    """

    draft: Draft
    bits: Masks
    counts: dict[str, Count] = field(default_factory=dict)


def zero_out(
    coupling: Coupling, masks: Mapping[str, Mask], values: Values | None = None, *, keep: bool = True
) -> Zeroed:
    """The model with every weight zero that its mask removes.

    A tensor is read once, as it is written or filled in, and checked then, a piece at a time.

    Args:
        coupling: the analysed original, left as it is.
        masks: the mask of each tensor that takes part.
        values: new values of a tensor before it is masked, in its own type; None leaves the original's.
        keep: the masks are in `Zeroed.bits`, once they are known.

    Raises:
        ProofFailed: now, or as a tensor is made: it is not what it should be, which is a bug of ours.
    """
    stored = Unpacked(coupling)
    counts: dict[str, Count] = {}
    bits = Masks({name: stored.shape(name) for name in masks} if keep else {})
    order = [tensor.name for tensor in coupling.graph.model.graph.initializer if tensor.name in masks]
    begun = _Begun(stored, masks, values, order)

    def change(name: str) -> Edit | None:
        mask = masks.get(name)
        if mask is None:
            return None

        def in_pieces(_: Array) -> Iterator[Array]:
            found, first = [Count(0, 0, 0, 0)], 0
            for made in begun.pieces(name):
                bits.put(name, first, made.packed)
                found.append(made.count)
                first += made.new.size
                yield made.new
            counts[name] = Count(*map(sum, zip(*found, strict=True)))
            if mask.removes not in (None, counts[name].removed):
                raise ProofFailed(f"tensor {name!r} has another number of zeros than its mask was to make")
            bits.know(name)

        def apply(array: Array) -> Array:
            return Pieces(mask.shape, array.dtype, lambda: in_pieces(array))()

        def tell() -> Count:
            return counts[name]

        def hear(told: Count) -> None:
            counts[name] = told
            bits.know(name)

        packing = stored.packing(name)
        if packing is None:
            return Edit(apply, mask.shape, in_pieces, (tell, hear))
        return Edit(lambda array: _packed(name, packing, apply, array), coupling.graph.dims(name))

    zeroed = Zeroed(start(coupling.graph, change), bits, counts)
    require_untouched(coupling, zeroed.draft, masks)
    return zeroed


def _packed(name: str, packing: Packing, apply: Callable[[Array], Array], before: Array) -> Array:
    """The bytes of a tensor whose values share them; `apply` gives these, masked."""
    values = apply(before)
    after = packing.stored(values, before)
    if not np.array_equal(packing.values(after), values):
        raise ProofFailed(f"tensor {name!r} is not its mask times its weights")
    return after


@dataclass(frozen=True, slots=True)
class _Made:
    """A run of a masked tensor in memory that may be used again, its mask and what was counted."""

    memory: Buffers
    new: Array
    packed: NDArray[np.uint8]
    count: Count


class _Begun:
    """Masked tensors, a piece at a time: the next ones are begun while a tensor is at work.

    New values are not begun before they are asked for, since they are in memory whole.
    """

    def __init__(self, stored: Unpacked, masks: Mapping[str, Mask], values: Values | None, order: list[str]):
        self._stored, self._masks, self._values = stored, masks, values
        self._order = order if values is None else []
        self._left: deque[str] = deque()
        self._stream: Generator[Iterator[_Made], None, None] | None = None
        self._found: dict[str, Any] = {}  # by `Mask.prepare`
        self._memory: dict[np.dtype[Any], Buffers] = {}

    def pieces(self, name: str) -> Iterator[_Made]:
        """The pieces of one tensor; each is good until the next one is asked for."""
        if self._order and name == self._order[0] and threads.processors() > 1:
            self._stop()
            self._left, self._stream = deque(self._order), threads.ahead(self._begin, self._order)
        if self._stream is not None and self._left and name == self._left[0]:
            self._left.popleft()
            masked = next(self._stream)
        else:
            masked = self._masked(name)
        try:
            for made in masked:
                yield made
                made.memory.give(made.new)
        except BaseException:  # an error, or nobody asks for more
            self._stop()
            raise

    def _stop(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _begin(self, name: str) -> Iterator[_Made]:
        made = self._masked(name)
        first = list(islice(made, 1))  # by then several are on the way
        return chain(first, made)

    def _masked(self, name: str) -> Iterator[_Made]:
        """A tensor with zeros where its mask removes."""
        mask, zero = self._masks[name], self._stored.zero(name)
        old, fresh = Runs(self._stored.array(name)), None if self._values is None else self._values(name)
        fits = fresh is None or (fresh.shape, fresh.dtype) == (old.shape, old.dtype)
        if not fits or old.shape != mask.shape:
            raise ProofFailed(f"tensor {name!r} is not its mask times its weights")
        wanted = None if fresh is None else fresh.reshape(-1)
        points = np.broadcast_to(zero, old.shape).reshape(-1) if zero.ndim else None
        blank = points is None and not zero.tobytes().strip(b"\0")
        memory = self._memory.setdefault(old.dtype, Buffers(old.dtype, pieces.PIECE))
        if name not in self._found:
            self._found[name] = mask.prepare(old)
        found = self._found[name]

        def make(part: slice) -> _Made:
            was = old[part]
            now = was if wanted is None else wanted[part]
            new = memory.take(now.shape)
            keep, point = mask.part(part, was, found, new), zero if points is None else points[part]
            if blank:  # twice as fast as choosing: all bits of a zero are 0
                np.multiply(_bits(now), keep.view(np.uint8), out=_bits(new))
            else:
                new[:] = np.where(keep, now, point)
            return _Made(memory, new, *inspect(name, keep, was, new, now, point))

        yield from pieces.each(old.size, make)


def inspect(
    name: str, keep: Bool, old: Array, new: Array, fresh: Array, zero: Array
) -> tuple[NDArray[np.uint8], Count]:
    """Require that some weights are their mask times their values, and count their zeros.

    Args:
        name: of the tensor.
        keep: which weights stay.
        old: the weights as they were.
        new: the weights as they are to be written.
        fresh: the values they were to get, the old ones where there are no others.
        zero: what means zero in them, to be broadcast.

    Returns:
        The mask packed, and what was counted.

    Raises:
        ProofFailed: a weight that goes is not zero, or one that stays has other bytes.
    """
    if not new.dtype == old.dtype or not new.shape == old.shape == keep.shape:
        raise ProofFailed(f"tensor {name!r} is not its mask times its weights")
    flags = pieces.scratch("flags", 4 * keep.size, np.bool_).reshape(4, *keep.shape)
    flags[0] = keep
    np.equal(new, zero, out=flags[1])
    np.equal(old, zero, out=flags[2])
    np.not_equal(_bits(new), _bits(fresh), out=flags[3])
    # Packed, what follows takes next to no time, and few calls: at each the threads may have to wait in turn.
    packed = np.packbits(flags.reshape(4, -1), axis=1)
    kept, wrong = packed[0], packed[3]
    stays, zeros, before, _ = ones(packed).tolist()
    fine, either = ones(np.bitwise_or(kept, packed[1:3])).tolist()
    if fine < keep.size or (kept & wrong).any():
        raise ProofFailed(f"tensor {name!r} is not its mask times its weights")
    return kept, Count(zeros, before, keep.size - stays, keep.size - either)


def require_untouched(coupling: Coupling, draft: Draft, masks: Mapping[str, Mask]) -> int:
    """Require that a draft is the original but for the tensors that have a mask.

    Args:
        coupling: the analysed original.
        draft: what was made of it.
        masks: of the tensors that may change.

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
    others = before.keys() - masks.keys()
    for name in others:
        made = draft.content.get(name)
        if before[name] != after[name] and (made is None or not _same(made(), graph.array(name))):
            raise ProofFailed(f"tensor {name!r} has no mask and has changed")
    for one, other in zip(graph.model.graph.node, draft.model.graph.node, strict=True):
        if one != other and _bare(one) != _bare(other):
            raise ProofFailed(f"node {one.name!r} has changed")
    return len(others)


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
