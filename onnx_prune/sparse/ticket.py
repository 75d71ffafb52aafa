"""Lottery tickets: the mask of a trained network on the weights that it was trained from, and controls.

Frankle and Carbin 2019, "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks".
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune.analyse import couple
from onnx_prune.errors import InputError
from onnx_prune.model import tensors
from onnx_prune.model.sign import sign
from onnx_prune.sparse import maskfile
from onnx_prune.sparse.bits import Bits
from onnx_prune.sparse.maskfile import MaskFile
from onnx_prune.sparse.sparsify import sparsify
from onnx_prune.sparse.sparsity import Sparsity
from onnx_prune.sparse.stored import Unpacked, require_fit
from onnx_prune.sparse.zeroing import zero_out
from onnx_prune.stages import load, save
from onnx_prune.words import plain

Array = NDArray[Any]
_RANDOM, _REINIT = 1, 2  # so that the same seed does not give both controls the same numbers


@dataclass(frozen=True, slots=True)
class Ticket:
    """What `ticket` gives back.

    Attributes:
        model: the initial weights, masked.
        mask: which stay.
        kept: how many stay.
        size: of how many.
        notes: other things worth knowing, one sentence each.
    """

    model: onnx.ModelProto
    mask: MaskFile
    kept: int
    size: int
    notes: tuple[str, ...] = ()


def ticket(
    trained: str | Path | onnx.ModelProto,
    initial: str | Path | onnx.ModelProto,
    output: str | Path | None = None,
    asked: Sparsity | None = None,
    *,
    random_mask: int | None = None,
    reinit: int | None = None,
    save_mask: str | Path | None = None,
) -> Ticket:
    """Mask the initial (or early) weights of a network by its trained ones.

    Args:
        trained: the network after training.
        initial: the same network before, or early on.
        output: where the ticket is written; None writes nothing.
        asked: how the trained weights are ranked; `apply_mask` takes a mask file instead of ranking.
        random_mask: a seed: as many weights of every tensor stay, but others (a control).
        reinit: a seed: the initial values of every tensor that takes part are shuffled (a control).
        save_mask: where the mask is written.

    Raises:
        InputError: a model, an option or a file is not usable, or the two are not one network.
        NothingToPrune: no weight takes part.
    """
    asked = asked or Sparsity()
    (before, _), (after, _) = load(initial), load(trained)
    require_alike(after.model, before.model)
    mask = sparsify(trained, asked=replace(asked, validate=False)).mask
    if random_mask is not None:
        bits = {name: shuffled(b, name, random_mask) for name, b in mask.bits.items()}
        mask = replace(
            mask, bits=bits, manifest=replace(mask.manifest, criterion=f"random, seed {random_mask}")
        )
    coupling = couple(before, loose=False)
    require_fit(coupling, mask.bits, "the mask")
    stored = Unpacked(coupling)

    def values(name: str) -> Array | None:
        return None if reinit is None else permuted(stored.array(name), name, reinit)

    draft = zero_out(coupling, mask.bits, values).draft
    sign(draft.model, criterion=f"ticket by {mask.manifest.criterion}", sparsity=f"{mask.manifest.ratio:g}")
    if output is not None:
        save(before, draft, output, asked.external_data)
    if save_mask is not None:
        maskfile.write(mask, save_mask)
    kept, size = _counts(mask.bits)
    return Ticket(draft.whole(), mask, kept, size, before.notes)


def _counts(bits: Mapping[str, Bits]) -> tuple[int, int]:
    sizes = (int(np.prod(b.shape, dtype=np.int64)) for b in bits.values())
    return sum(b.kept for b in bits.values()), sum(sizes)


def shuffled(bits: Bits, name: str, seed: int) -> Bits:
    """A mask that keeps as many weights, others.

    Example:
        >>> mask = Bits.of(np.arange(8) < 3)
        >>> shuffled(mask, "w", 0).kept, shuffled(mask, "w", 0).packed == mask.packed
        (3, array([False]))
    """
    keep = bits.keep().reshape(-1)
    return Bits.of(_rng(_RANDOM, name, seed).permutation(keep).reshape(bits.shape))


def permuted(array: Array, name: str, seed: int) -> Array:
    """The same values in other places: another draw from whatever they were drawn from."""
    order = _rng(_REINIT, name, seed).permutation(array.size)
    return array.reshape(-1)[order].reshape(array.shape)


def _rng(what: int, name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([what, seed, zlib.crc32(name.encode(errors="surrogateescape"))])


def require_alike(trained: onnx.ModelProto, initial: onnx.ModelProto) -> None:
    """Require that two models are one network with two sets of weights.

    Raises:
        InputError: they differ; the first difference is named.
    """
    one, other = trained.graph, initial.graph
    for what in ("input", "output"):
        names = [[value.name for value in getattr(graph, what)] for graph in (one, other)]
        if names[0] != names[1]:
            raise _differs(f"{what}s {names[0]} and {names[1]}")
    for j, (left, right) in enumerate(zip(one.node, other.node, strict=False)):
        if _structure(left) != _structure(right):
            raise _differs(f"node {j}, {_label(left)} and {_label(right)}")
    if len(one.node) != len(other.node):
        raise _differs(f"{len(one.node)} nodes and {len(other.node)}")
    stored = [{t.name: t for t in graph.initializer} for graph in (one, other)]
    for name, tensor in stored[0].items():
        if name not in stored[1]:
            raise _differs(f"initializer {plain(name)!r}, which the initial model lacks")
        twin = stored[1][name]
        if tensor.dims != twin.dims or tensor.data_type != twin.data_type:
            raise _differs(f"initializer {plain(name)!r}, {list(tensor.dims)} and {list(twin.dims)}")
    if extra := stored[1].keys() - stored[0].keys():
        raise _differs(f"initializer {plain(min(extra))!r}, which the trained model lacks")


def _differs(what: str) -> InputError:
    return InputError(f"the trained and the initial model differ: {what}; export both in the same way")


def _label(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {plain(node.name or ', '.join(node.output))!r}"


def _structure(node: onnx.NodeProto) -> onnx.FunctionProto:
    """A node without the data of its tensors and without its doc string."""
    bare = onnx.FunctionProto(node=[node])
    bare.node[0].ClearField("doc_string")
    for tensor in tensors.tensors(bare):
        tensors.clear(tensor)
    return bare
