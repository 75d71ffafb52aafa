"""How much a channel matters: one pure function a criterion, from weights to a score a channel.

Every criterion takes the coupling and a group and returns float64 scores, shape (group.size,);
channels with higher scores stay.  `CRITERIA` has them by name.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from onnx_prune import plugins
from onnx_prune.axes.axis import owner
from onnx_prune.coupling import Coupling, Group, Member
from onnx_prune.errors import InputError
from onnx_prune.model import pieces, threads
from onnx_prune.real import real
from onnx_prune.words import plain

Scores = NDArray[np.float64]
Criterion = Callable[[Coupling, Group], Scores]
_Box = tuple[slice, slice]
_CACHED = 1 << 15  # weights in float64 at a time, which stay in the cache


def l1(coupling: Coupling, group: Group) -> Scores:
    """L1 norm of the filters that produce each channel: sum of |w| over all producers.

    Li et al. 2017, "Pruning Filters for Efficient ConvNets", section 3.1.
    """
    return _sum(coupling, group, _producers(group), 1)


def l2(coupling: Coupling, group: Group) -> Scores:
    """L2 norm of the filters that produce each channel, over all producers together."""
    return np.sqrt(_sum(coupling, group, _producers(group), 2))


def group_l1(coupling: Coupling, group: Group) -> Scores:
    """Mean over all coupled slices of their L1 norm, each member normalised to mean 1.

    Fang et al. 2023, "DepGraph", section 3.3, with every member normalised on its own, so that a
    wide consumer does not drown the filters.
    """
    return _group_norm(coupling, group, 1)


def group_l2(coupling: Coupling, group: Group) -> Scores:
    """Mean over all coupled slices of their L2 norm, each member normalised to mean 1."""
    return _group_norm(coupling, group, 2)


def fpgm(coupling: Coupling, group: Group) -> Scores:
    """Sum of the distances to all other filters: the nearest to the geometric median goes first.

    He et al. 2019, "Filter Pruning via Geometric Median", equation 4.
    """
    total = np.zeros(group.size)
    for member in _producers(group):
        filters = _filters(coupling, group, member)
        squares = (filters**2).sum(1)
        gram = squares[:, None] + squares[None, :] - 2 * filters @ filters.T
        total += np.sqrt(np.maximum(gram, 0)).sum(1)
    return total


def bn_scale(coupling: Coupling, group: Group) -> Scores:
    """Sum of |gamma| over the group's BatchNormalization scales; `l1` where it has none.

    Liu et al. 2017, "Network Slimming", section 3.
    """
    scales = [m for m in group.members if _is_bn_scale(coupling, m)]
    return _sum(coupling, group, scales, 1) if scales else l1(coupling, group)


def random(coupling: Coupling, group: Group) -> Scores:
    """Uniform noise, the same on every run: the control for every other criterion."""
    index = coupling.groups.index(group)
    return np.random.default_rng([20170217, index]).random(group.size)


def given(source: Path | Mapping[str, NDArray[Any]]) -> Criterion:
    """Scores that the user computed: one array a group, under the name of one of its weights.

    Args:
        source: a .npz file or a mapping; an array named `conv1.weight` scores the channels that
            this weight produces (or else reads), shape (group.size,).

    Returns:
        A criterion; it raises InputError for a group that has no scores, or a wrong number of them.
    """
    arrays = source if isinstance(source, Mapping) else _load(source)

    def score(coupling: Coupling, group: Group) -> Scores:
        for member in _producers(group):
            found = arrays.get(member.weight)
            if found is None:
                continue
            values = np.asarray(found).ravel()
            if values.size != group.size:
                raise InputError(
                    f"scores: {member.weight} has {values.size} scores, its group has {group.size} channels"
                )
            if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
                raise InputError(f"scores: {member.weight} has scores that are not finite numbers")
            return values.astype(np.float64)
        names = ", ".join(dict.fromkeys(m.weight for m in _producers(group)))
        raise InputError(f"scores: none for the group of {names}; name one array after one of them")

    return score


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except OSError as error:
        raise InputError(f"cannot read the scores {path}: {error.strerror or error}") from None
    except (ValueError, TypeError, AttributeError, EOFError, BadZipFile, zlib.error):
        raise InputError(
            f"the scores {path} are not an .npz file of numbers; write one with numpy.savez"
        ) from None


CRITERIA: dict[str, Criterion] = {
    "l1": l1,
    "l2": l2,
    "group-l1": group_l1,
    "group-l2": group_l2,
    "fpgm": fpgm,
    "bn-scale": bn_scale,
    "random": random,
}


def named(name: str) -> Criterion:
    """The criterion of that name, one of `CRITERIA` or of another package's.

    Returns:
        A criterion; that of another package raises InputError where its scores are no scores.
    """
    if name in CRITERIA:
        return CRITERIA[name]
    function = plugins.criterion(name)

    def score(coupling: Coupling, group: Group) -> Scores:
        values = np.asarray(function(coupling, group))
        if values.shape != (group.size,) or values.dtype.kind not in "biuf" or not np.isfinite(values).all():
            raise InputError(
                f"the criterion {plain(name)!r} has to give {group.size} finite numbers for the group of "
                f"{plain(group.name)}, and gave an array of {values.dtype} of shape {values.shape}"
            )
        return values.astype(np.float64)

    return score


def channel_norms(weight: NDArray[Any], dim: int, power: int) -> Scores:
    """Sum of |w| ** power over all dims but one, in float64.

    >>> channel_norms(np.array([[1.0, -2.0], [3.0, 0.0]]), 0, 1)
    array([3., 3.])
    >>> channel_norms(np.array([[1.0, -2.0], [3.0, 0.0]]), 1, 2)
    array([10.,  4.])
    """
    outer, n = int(np.prod(weight.shape[:dim])), weight.shape[dim]
    blocks = weight.reshape(outer, n, int(np.prod(weight.shape[dim + 1 :])))
    inner, runs = blocks.shape[2], pieces.Runs(weight)
    buffers = pieces.Buffers(np.dtype(np.float64), max(inner, _CACHED))

    def sums(box: _Box) -> Scores:
        start, shape = (box[0].start * n + box[1].start) * inner, blocks[box].shape
        block = runs[start : start + int(np.prod(shape))].reshape(shape)
        found = np.zeros(shape[1])
        for inside in _boxes(block.shape, _CACHED):
            part = buffers.take(block[inside].shape)
            # the hot spot of ranking: every weight once, in double precision, so that no order of sums shows
            np.copyto(part, block[inside], casting="unsafe")
            np.abs(part, out=part)
            lines = part if power == 1 else part**power
            found[inside[1]] += (lines[:, :, 0] if inner == 1 else lines.sum(2)).sum(0)
            buffers.give(part)
        return found

    total = np.zeros(n)
    boxes = _boxes(blocks.shape, pieces.length(weight.size))
    for (_, channels), found in zip(boxes, threads.in_order(sums, boxes), strict=True):
        total[channels] += found
    return total


def _boxes(shape: tuple[int, ...], most: int) -> list[_Box]:
    """An array of three dims in row-major order: a few rows at a time, or a few channels of one row.

    >>> _boxes((2, 3, 4), 8)
    [(slice(0, 1, None), slice(0, 2, None)), (slice(0, 1, None), slice(2, 3, None)), \
(slice(1, 2, None), slice(0, 2, None)), (slice(1, 2, None), slice(2, 3, None))]
    """
    outer, n, inner = shape
    step = max(1, min(n, most // max(inner, 1)))
    rows = max(1, most // max(n * inner, 1)) if step == n else 1
    return [
        (slice(row, min(row + rows, outer)), slice(first, min(first + step, n)))
        for row in range(0, outer, rows)
        for first in range(0, n, step)
    ]


def _producers(group: Group) -> list[Member]:
    """The members that make the channels; where none does, those that read them, then the rest."""
    for role in ("producer", "consumer", "other"):
        found = [m for m in group.members if m.role == role]
        if found:
            return found
    return []


def _sum(coupling: Coupling, group: Group, members: Iterable[Member], power: int) -> Scores:
    total = np.zeros(group.size)
    for member in members:
        norms = channel_norms(real(coupling, member.key), member.dim, power)
        positions, channels = owner(coupling.axes[member.key][member.dim], group.atom)
        total += np.bincount(channels, norms[positions], group.size)
    return total


def _group_norm(coupling: Coupling, group: Group, power: int) -> Scores:
    total = np.zeros(group.size)
    for member in group.members:
        norms = _sum(coupling, group, [member], power) ** (1 / power)
        total += norms / (norms.mean() or 1.0)
    return total / len(group.members)


def _filters(coupling: Coupling, group: Group, member: Member) -> Scores:
    """The filters of one producer as rows, shape (group.size, weights a channel)."""
    weight = np.moveaxis(real(coupling, member.key), member.dim, 0)
    rows = weight.reshape(weight.shape[0], -1).astype(np.float64)
    positions, channels = owner(coupling.axes[member.key][member.dim], group.atom)
    order = np.argsort(channels, kind="stable")
    return rows[positions[order]].reshape(group.size, -1)


def _is_bn_scale(coupling: Coupling, member: Member) -> bool:
    graph = coupling.graph
    return any(
        graph.nodes[node].op == "BatchNormalization" and k == 1
        for node, k in graph.uses.get(member.weight, ())
        if coupling.key(graph.nodes[node], k) == member.key
    )
