"""How much a channel matters on real inputs: criteria that look at what the layers behind a group read.

As those of `onnx_prune.criteria` they return float64 scores, shape (group.size,), and the highest stay.  They
take the layers that sum over the group's channels and the statistics of those layers' inputs as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune import criteria
from onnx_prune.axes.axis import Atom
from onnx_prune.calibration import obs
from onnx_prune.calibration.data import Calibration
from onnx_prune.calibration.gain import gains, weights
from onnx_prune.calibration.measure import Reader, Statistics, measure, need, readers
from onnx_prune.coupling import Coupling, Group
from onnx_prune.criteria import Scores
from onnx_prune.settings import Progress

Array = NDArray[Any]
Score = Callable[[Sequence[Reader], Statistics], Scores]


def block_obs(layers: Sequence[Reader], statistics: Statistics) -> Scores:
    """Relative error of the layers behind, once a channel and all that matter less are gone.

    Greedy block-OBS, see `onnx_prune.calibration.obs`.  Sorted, the scores are the group's error curve, in
    which each layer has its weight.
    """
    parts = [obs.part(statistics[r.layer.node.index], r.matrix, r.blocks) for r in layers]
    width = max(reader.width for reader in layers)
    return obs.eliminate(parts, len(layers[0].blocks), width, [reader.weight for reader in layers])


def activation(layers: Sequence[Reader], statistics: Statistics) -> Scores:
    """Mean square of the channel's values, as each layer behind reads them, over that of all channels."""
    return _sum(layers, lambda r: np.ones_like(r.matrix).sum(1) * statistics[r.layer.node.index].energy)


def wanda(layers: Sequence[Reader], statistics: Statistics) -> Scores:
    """Weight norm times input norm, |W_j| |x_j|, squared and summed over what reads the channel.

    Sun et al. 2023, "A Simple and Effective Pruning Approach for Large Language Models", equation 1, for
    whole channels; squares, so that the columns of a channel add up.
    """
    return _sum(layers, lambda r: _weights(r) * statistics[r.layer.node.index].energy)


def flap(layers: Sequence[Reader], statistics: Statistics) -> Scores:
    """Weight norm times fluctuation, |W_j|^2 var(x_j): what a new bias can't make up for.

    An et al. 2024, "Fluctuation-based Adaptive Structured Pruning for Large Language Models", equation 5.
    """
    return _sum(layers, lambda r: _weights(r) * statistics[r.layer.node.index].variance)


def _weights(reader: Reader) -> Array:
    return np.asarray(np.square(reader.matrix, dtype=np.float64).sum(1))


def _sum(layers: Sequence[Reader], columns: Callable[[Reader], Array]) -> Scores:
    """Columns summed by channel, each layer's as a share of its whole."""
    total = np.zeros(len(layers[0].blocks))
    for reader in layers:
        own = columns(reader).sum(0)[reader.blocks].sum(1)
        total += own / (own.sum() or 1.0)
    return total


@dataclass(frozen=True, slots=True)
class Criterion:
    """A criterion, and whether squares of the inputs are enough for it."""

    score: Score
    diagonal: bool = True


CALIBRATED: Mapping[str, Criterion] = {
    "obs": Criterion(block_obs, diagonal=False),
    "activation": Criterion(activation),
    "wanda": Criterion(wanda),
    "flap": Criterion(flap),
}


def rank(
    coupling: Coupling,
    groups: Sequence[Group],
    name: str,
    calibration: Calibration,
    *,
    compared: bool = False,
    memory: int = 1 << 62,
    progress: Progress = lambda stage: None,
) -> tuple[dict[Atom, Scores], tuple[Group, ...]]:
    """Scores of all groups by a criterion of `CALIBRATED`.

    Args:
        coupling: the analysed model.
        groups: what is ranked.
        name: the criterion.
        calibration: inputs to run the model on.
        compared: whether the scores of one group are to be compared with those of others: each layer then has
            a weight by how far its errors reach, see `onnx_prune.calibration.gain`.
        memory: bytes of sums held at once; where that is too little the data are run through again.
        progress: told how far it is.

    Returns:
        Scores by atom, and the groups that no layer with constant weights sums over: those have the
        scores of `l1`.

    Raises:
        RunError: onnxruntime can't run the model.
    """
    criterion = CALIBRATED[name]
    behind: Mapping[Atom, Sequence[Reader]] = readers(coupling)
    scores: dict[Atom, Scores] = {}
    alone = tuple(group for group in groups if not behind[group.atom])
    scores.update((group.atom, criteria.l1(coupling, group)) for group in alone)
    rest = [group for group in groups if behind[group.atom]]
    if compared and not criterion.diagonal and rest:
        behind = _weighted(coupling, rest, behind, calibration, progress)
    for part in _parts(coupling, rest, behind, memory, diagonal=criterion.diagonal):
        layers = [reader.layer for group in part for reader in behind[group.atom]]
        found = measure(coupling.graph, layers, calibration, diagonal=criterion.diagonal, progress=progress)
        for group in part:
            progress(f"ranking {group.name}")
            scores[group.atom] = criterion.score(behind[group.atom], found)
    return scores, alone


def _weighted(
    coupling: Coupling,
    groups: Sequence[Group],
    behind: Mapping[Atom, Sequence[Reader]],
    calibration: Calibration,
    progress: Progress,
) -> dict[Atom, list[Reader]]:
    """The layers behind some groups with what their errors count."""
    layers = [reader.layer for group in groups for reader in behind[group.atom]]
    counts = weights(gains(coupling.graph, layers, calibration, progress=progress))
    return {
        group.atom: [replace(r, weight=counts[r.layer.node.index]) for r in behind[group.atom]]
        for group in groups
    }


def _parts(
    coupling: Coupling,
    groups: Sequence[Group],
    behind: Mapping[Atom, Sequence[Reader]],
    memory: int,
    *,
    diagonal: bool,
) -> Iterator[list[Group]]:
    """Groups whose sums fit in memory together; at least one at a time."""
    part: list[Group] = []
    for group in groups:
        layers = [reader.layer for g in (*part, group) for reader in behind[g.atom]]
        if part and need(layers, coupling.graph, diagonal=diagonal) > memory:
            yield part
            part = []
        part.append(group)
    if part:
        yield part
