"""How the weights of each layer are spread before and after, read from the models themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from onnx_prune.html import chart
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
    found = {}
    for key, weights in layers.items():
        counts = histogram(_pairs(weights, before, after))
        if any(counts.before):
            found[key] = Spread(counts.reach, counts.before, None if after is None else counts.after)
    return found


def _pairs(weights: Iterable[str], before: Graph, after: Graph | None) -> Iterator[tuple[Array, Array]]:
    for name in weights:
        old = before.array(name) if len(before.dims(name)) > 1 else None
        if old is not None and old.dtype.kind == "f":
            yield old, after.array(name) if after is not None and name in after.weights else old[:0]


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
