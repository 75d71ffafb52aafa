"""How the weights of each layer are spread before and after, read from the models themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from numpy.typing import NDArray

from onnx_prune.html import chart
from onnx_prune.model import tensors
from onnx_prune.model.graph import Graph
from onnx_prune.sparse.histogram import REACH, histogram

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Spread:
    """Counts of weights that are not zero, in standard deviations of what they were.

    Attributes:
        reach: where the first and the last bin end.
        before: counts.
        after: counts; None where nothing came out.
    """

    reach: float
    before: tuple[int, ...]
    after: tuple[int, ...] | None


def spreads(layers: Mapping[str, Iterable[str]], before: Graph, after: Graph | None) -> dict[str, Spread]:
    """How the weights of each layer are spread; vectors and integers are left out.

    Args:
        layers: the weights of each.
        before: the original.
        after: what came out; None where nothing did.
    """
    left = None if after is None else _readers(after)
    found = {}
    for key, weights in layers.items():
        counts = histogram(_pairs(weights, before, left))
        if any(counts.before):
            found[key] = Spread(counts.reach, counts.before, None if after is None else counts.after)
    return found


def _pairs(
    weights: Iterable[str], before: Graph, left: Mapping[str, Callable[[], Array]] | None
) -> Iterator[tuple[Array, Array]]:
    for name in weights:
        old = before.array(name) if len(before.dims(name)) > 1 else None
        if old is not None and old.dtype.kind == "f":
            yield old, left[name]() if left is not None and name in left else old[:0]


def _readers(graph: Graph) -> dict[str, Callable[[], Array]]:
    """How to read each weight; of one that is stored sparsely, what is not zero."""
    found: dict[str, Callable[[], Array]] = {name: partial(graph.array, name) for name in graph.weights}
    for sparse in graph.model.graph.sparse_initializer:
        found[sparse.values.name] = partial(tensors.read, sparse.values, graph.folder)
    return found


def overall(found: Iterable[Spread]) -> Spread | None:
    """All of them together; None where there are none."""
    every = list(found)
    if not every:
        return None
    before = tuple(map(sum, zip(*(one.before for one in every), strict=True)))
    after = [one.after for one in every if one.after is not None]
    return Spread(REACH, before, tuple(map(sum, zip(*after, strict=True))) if after else None)


def drawings(found: Mapping[str, Spread]) -> dict[str, str]:
    """Each as SVG, no larger than a word."""
    return {key: chart.thumbnail(one.before, one.after) for key, one in found.items()}
