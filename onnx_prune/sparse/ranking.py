"""Which single weights stay: counts from what was asked for, scores, and exactly so many zeros.

Zeros that are there already count: they go first, so that a pruned and retrained model can be pruned
further.  One tensor at a time is in memory, unless the user's scores are.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod as product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune.errors import InputError
from onnx_prune.model import pieces
from onnx_prune.model.pieces import Runs
from onnx_prune.real import numbers
from onnx_prune.sparse import granularity, saliency, select
from onnx_prune.sparse.bits import Bits, Mask
from onnx_prune.sparse.edges import Edge, Measure, Measured, Scores, edges
from onnx_prune.sparse.granularity import Pattern
from onnx_prune.sparse.sparsity import Sparsity
from onnx_prune.sparse.stored import Stored
from onnx_prune.sparse.weights import Weight, matches
from onnx_prune.words import plain

Array = NDArray[Any]
Score = Callable[[Weight], Scores]


def taking(weights: Sequence[Weight], asked: Sparsity) -> list[Weight]:
    """The weights that are left after what the user spares."""
    ends = {"first": {"first", "both"}, "last": {"last", "both"}, "both": {"first", "last", "both"}}
    spared = ends[asked.spare] if asked.spare else set()
    return [
        weight
        for weight in weights
        if weight.end not in spared and not any(matches(weight, glob) for glob in asked.ignore)
    ]


def scorer(stored: Stored, asked: Sparsity, parent: Mapping[str, Bits]) -> Score:
    """How the weights of one tensor are scored, in its stored shape.

    Args:
        stored: the tensors.
        asked: the criterion, or the user's scores.
        parent: masks of an earlier round; what they removed goes first, as zeros do.
    """
    given = None if asked.scores is None else _given(asked.scores)
    in_pieces = given is None and asked.criterion not in ("lamp", "random") and not parent
    in_pieces = in_pieces and granularity.parse(asked.pattern).kind == "unstructured"

    def score(weight: Weight) -> Scores:
        if in_pieces and stored.plain(weight.name):
            return Measured(weight.shape, lambda: stored.array(weight.name), _magnitude)
        if given is not None:
            found = _of(given, weight)
        elif asked.criterion == "random":
            found = saliency.random(stored.array(weight.name), weight.name, asked.seed)
        else:
            measure = saliency.lamp if asked.criterion == "lamp" else saliency.magnitude
            found = measure(stored.real(weight.name))
        if given is not None or asked.criterion == "random":
            found[stored.zeros(weight.name)] = -np.inf
        if weight.name in parent:
            found = np.where(parent[weight.name].keep(), found, -np.inf)
        return found

    return score


class Ranked:
    """The mask that all but the lowest scores stay, which are made as the weights are read.

    Where they end is found shortly before, so that a tensor is read from the disk once.

    Args:
        shape: of the tensor.
        measure: see `Measured`.
        edge: finds where the lowest scores end.
        removes: how many they are, where that is known.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        measure: Measure,
        edge: Callable[[Runs], Edge],
        removes: int | None = None,
    ) -> None:
        self.shape, self.removes = shape, removes
        self._measure, self._find = measure, edge

    def prepare(self, values: Runs) -> Edge:
        """See `Mask.prepare`."""
        return self._find(values)

    def part(self, part: slice, values: Array, found: Edge, spare: Array) -> NDArray[np.bool_]:
        """See `Mask.part`."""
        gone = pieces.scratch("gone", values.size, np.bool_)
        gone = found.goes(self._measure(values, spare), part.start, gone)
        return np.logical_not(gone, out=gone)


def _ranked(weight: Weight, measure: Measure, count: int) -> Ranked:
    """The mask that so many weights of one tensor go."""

    def find(values: Runs) -> Edge:
        return edges(lambda: [Measured(weight.shape, lambda: values, measure)], count, weight.size)[0]

    return Ranked(weight.shape, measure, find, count)


def _magnitude(values: Array, out: Array | None) -> Array:
    """The scores of some values; where no array is given, in memory that the next ones take."""
    real = numbers(values)
    if real is not values:
        out = real
    elif out is None:
        out = pieces.scratch("magnitude", values.size, values.dtype).reshape(values.shape)
    return saliency.magnitude(real, out)


def rank(weights: Sequence[Weight], asked: Sparsity, pattern: Pattern, score: Score) -> dict[str, Mask]:
    """Which weights of each tensor stay.

    Args:
        weights: those that take part.
        asked: how much is to go, and where.
        pattern: what goes together.
        score: gives the scores of a weight; the highest stay.
    """
    special = {w.name: r for w in weights for glob, r in asked.layer_ratios if matches(w, glob)}
    counts = {w.name: select.portion(special.get(w.name, asked.asked), w.size) for w in weights}
    plain_weights = [w for w in weights if w.name not in special]
    if asked.criterion == "erk" and asked.scores is None and plain_weights:
        dense = select.erdos_renyi_kernel([w.shape for w in plain_weights], asked.asked)
        counts |= dict(zip((w.name for w in plain_weights), dense, strict=True))
    found: dict[str, Mask] = {}
    if asked.ranks_together:
        found = _together(plain_weights, asked.asked, pattern, score)
    for weight in weights:
        if weight.name not in found:
            ratio = special.get(weight.name, asked.asked)
            found[weight.name] = mask(weight, score, pattern, counts[weight.name], ratio)
    return {weight.name: found[weight.name] for weight in weights}


def mask(weight: Weight, score: Score, pattern: Pattern, count: int, ratio: float) -> Mask:
    """Which weights of one tensor stay, in its stored shape.

    Args:
        weight: the weight.
        score: gives its scores.
        pattern: what goes together.
        count: how many weights go where each goes on its own.
        ratio: the fraction of blocks or channels that goes; at least one channel stays.
    """
    scores = score(weight)
    if pattern.kind == "unstructured":
        if isinstance(scores, Measured) and count:
            return _ranked(weight, scores.measure, count)
        return Bits.of(~select.lowest(scores, count))
    assert not isinstance(scores, Measured)
    matrix = weight.layout.matrix(scores)
    if pattern.kind == "n:m":
        keep = granularity.n_of_m(matrix, pattern.rows, pattern.columns)
    else:
        units = granularity.units(pattern, matrix)
        most = units.size - 1 if pattern.kind == "channel" else units.size
        lowest = select.lowest(units, min(select.portion(ratio, units.size), most))
        keep = granularity.spread(pattern, ~lowest, matrix.shape)
    return Bits.of(np.asarray(weight.layout.stored(keep)))


def _together(weights: Sequence[Weight], ratio: float, pattern: Pattern, score: Score) -> dict[str, Mask]:
    """The masks where the units of all tensors are ranked together."""

    def passes() -> Iterable[Scores]:
        for weight in weights:
            scores = score(weight)
            if pattern.kind == "block":
                assert not isinstance(scores, Measured)
                scores = granularity.units(pattern, weight.layout.matrix(scores))
            yield scores
            del scores  # before those of the next weight are made

    blocks = pattern.kind == "block"
    total = sum(scores.size for scores in passes()) if blocks else sum(w.size for w in weights)
    count = select.portion(ratio, total)
    if count == 0:
        return {w.name: Bits.of(np.ones(w.shape, np.bool_)) for w in weights}
    found: dict[str, Mask] = {}
    for weight, edge, scores in zip(weights, edges(passes, count, total), passes(), strict=True):
        if isinstance(scores, Measured):
            found[weight.name] = Ranked(weight.shape, scores.measure, lambda _, edge=edge: edge)  # type: ignore[misc]
            continue
        keep = ~edge.goes(scores.reshape(-1)).reshape(scores.shape)
        if blocks:
            shape = (weight.layout.outputs, weight.layout.positions, weight.layout.summed)
            keep = np.asarray(weight.layout.stored(granularity.spread(pattern, keep, shape)))
        found[weight.name] = Bits.of(keep)
        del scores, keep  # before those of the next weight are made
    return found


def _given(source: Path | Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    if isinstance(source, Mapping):
        return source
    try:
        with np.load(source, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except OSError as error:
        raise InputError(f"cannot read the scores {source}: {error.strerror or error}") from None
    except (ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error):
        raise InputError(
            f"the scores {source} are not an .npz file of numbers; write one with numpy.savez"
        ) from None


def _of(given: Mapping[str, NDArray[Any]], weight: Weight) -> Array:
    found = given.get(weight.name)
    if found is None:
        raise InputError(
            f"scores: none for {plain(weight.name)!r}; give an array of that name, or --ignore it"
        )
    if found.shape != weight.shape:
        raise InputError(
            f"scores: {plain(weight.name)!r} has {list(found.shape)}, its weight {list(weight.shape)}"
        )
    if found.dtype.kind not in "biuf" or np.isnan(found).any():
        raise InputError(f"scores: {plain(weight.name)!r} has scores that are not numbers")
    assert found.size == product(weight.shape)
    return found.astype(np.float64)
