"""Inputs at sizes that the analysis has not seen: batch, sequence and image size all varied at once."""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np

from onnx_prune.coupling import Coupling
from onnx_prune.proof.compare import varies
from onnx_prune.runtime import RunError, Session, random_feeds

Shape = tuple[int, ...]
_BATCHES = (1, 4, 6, 8)
_SIZES = (24, 5, 1, 16, 40, 8, 3, 32)  # times what the analysed sizes are multiples of
_DRAWS: tuple[dict[str, Any], ...] = ({}, {"scale": 0.1}, {"scale": 0.01}, {"fill": 1}, {"fill": 0})


def assignments(coupling: Coupling) -> Iterator[dict[str, Shape]]:
    """Input shapes other than the two that were analysed; none where nothing is dynamic.

    Axes that had the same sizes at both are one symbol, and stay equal.
    """
    shapes, probe = coupling.shapes, coupling.probe
    places: dict[tuple[int, int], int] = {}  # the sizes at both, and the first dim that has them
    for name, shape in shapes.inputs.items():
        for j, pair in enumerate(zip(shape, probe.inputs[name] if probe else shape, strict=True)):
            if pair[0] != pair[1]:
                places.setdefault(pair, j)
    for turn in range(len(_SIZES)) if places else ():
        sizes = {}
        for k, ((first, second), j) in enumerate(places.items()):
            choices = _BATCHES if j == 0 else _SIZES
            step = 1 if j == 0 else gcd(first, second)
            sizes[first, second] = step * choices[(turn + k) % len(choices)]
        yield {
            name: tuple(sizes.get(pair, pair[0]) for pair in zip(shape, probe.inputs[name], strict=True))
            for name, shape in shapes.inputs.items()
            if probe is not None
        }


def further(
    coupling: Coupling, count: int, folder: Path | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Inputs at `count` other sizes that the original takes, as `prove` wants them.

    Args:
        coupling: the analysed original.
        count: how many are wanted.
        folder: where external data are.

    Returns:
        The inputs, fewer than `count` where the original takes no more; and what it refused, in words.
    """
    found: list[dict[str, Any]] = []
    refused: list[str] = []
    session = None
    for turn, shapes in enumerate(assignments(coupling)):
        if len(found) == count:
            break
        session = session or Session(coupling.graph.model, folder)
        try:
            found.append(_answered(session, coupling, shapes, turn))
        except RunError as error:
            sizes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
            refused.append(f"the original refuses {sizes}: {error}")
    return found, refused


def _answered(session: Session, coupling: Coupling, shapes: dict[str, Shape], seed: int) -> dict[str, Any]:
    """The first inputs of these shapes with a finite, varying answer; or the last that run at all."""
    ran: dict[str, Any] | None = None
    failure: RunError | None = None
    for draw in _DRAWS:
        feeds = random_feeds(coupling.graph.inputs, shapes, seed, **draw)
        try:
            answer = session.run(feeds)
        except RunError as error:
            failure = failure or error
            continue
        ran = feeds
        if all(varies(np.asarray(value)) for value in answer):
            break
    if ran is None:
        assert failure is not None
        raise failure
    return ran
