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
from onnx_prune.sparse import granularity, saliency, select
from onnx_prune.sparse.bits import Bits
from onnx_prune.sparse.granularity import Pattern
from onnx_prune.sparse.sparsity import Sparsity
from onnx_prune.sparse.stored import Stored
from onnx_prune.sparse.weights import Weight, matches
from onnx_prune.words import plain

Array = NDArray[Any]
Score = Callable[[Weight], Array]


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

    def score(weight: Weight) -> Array:
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


def rank(weights: Sequence[Weight], asked: Sparsity, pattern: Pattern, score: Score) -> dict[str, Bits]:
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
    found: dict[str, Bits] = {}
    if asked.ranks_together:
        found = _together(plain_weights, asked.asked, pattern, score)
    for weight in weights:
        if weight.name not in found:
            found[weight.name] = Bits.of(
                mask(
                    weight, score(weight), pattern, counts[weight.name], special.get(weight.name, asked.asked)
                )
            )
    return {weight.name: found[weight.name] for weight in weights}


def mask(weight: Weight, scores: Array, pattern: Pattern, count: int, ratio: float) -> NDArray[np.bool_]:
    """Which weights of one tensor stay, in its stored shape.

    Args:
        weight: the weight.
        scores: in its stored shape.
        pattern: what goes together.
        count: how many weights go where each goes on its own.
        ratio: the fraction of blocks or channels that goes; at least one channel stays.
    """
    if pattern.kind == "unstructured":
        return ~select.lowest(scores, count)
    matrix = weight.layout.matrix(scores)
    if pattern.kind == "n:m":
        keep = granularity.n_of_m(matrix, pattern.rows, pattern.columns)
    else:
        units = granularity.units(pattern, matrix)
        gone = select.portion(ratio, units.size)
        gone = min(gone, units.size - 1) if pattern.kind == "channel" else gone
        keep = granularity.spread(pattern, ~select.lowest(units, gone), matrix.shape)
    return np.asarray(weight.layout.stored(keep))


def _together(weights: Sequence[Weight], ratio: float, pattern: Pattern, score: Score) -> dict[str, Bits]:
    """The masks where the units of all tensors are ranked together."""

    def passes() -> Iterable[Array]:
        for weight in weights:
            scores = score(weight)
            if pattern.kind == "block":
                scores = granularity.units(pattern, weight.layout.matrix(scores))
            yield scores
            del scores  # before those of the next weight are made

    total = sum(map(np.size, passes())) if pattern.kind == "block" else sum(w.size for w in weights)
    count = select.portion(ratio, total)
    if count == 0:
        return {w.name: Bits.of(np.ones(w.shape, np.bool_)) for w in weights}
    border = select.border(passes, count)
    found = {}
    for weight, gone in zip(weights, select.below(passes(), border), strict=True):
        keep = ~gone
        if pattern.kind == "block":
            shape = (weight.layout.outputs, weight.layout.positions, weight.layout.summed)
            keep = np.asarray(weight.layout.stored(granularity.spread(pattern, keep, shape)))
        found[weight.name] = Bits.of(keep)
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
