"""From measured points to what each further channel costs, and to a share for each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnx_prune.axes.axis import Atom
from onnx_prune.coupling import Group
from onnx_prune.curves.sensitivity import Curve, Sensitivity
from onnx_prune.errors import InputError

_RUINED = 1e6  # the loss of an answer that is no number any more


def loss_of(curve: Curve) -> NDArray[np.float64]:
    """The loss with 0, 1, 2, ... channels of a group gone; shape (channels + 1,).

    The loss is the divergence of class scores, else the square of the relative error: either grows with the
    square of a small disturbance, so that those of several groups add up.  Between the points it is linear.
    A curve that bends down does so because answers that are wrong already can't become more wrong, which
    makes no further cut cheap: a slope counts as no less than those before it.

    Example:
        >>> from onnx_prune.curves.sensitivity import Point
        >>> loss_of(Curve("w:0", 4, (Point(1, 0.5, 0.1), Point(3, 2.0, 1.1))))
        array([0. , 0.1, 0.6, 1.1, 1.6])
        >>> loss_of(Curve("w:0", 4, (Point(2, 1.0, None), Point(3, 1.0, None))))
        array([0. , 0.5, 1. , 1.5, 2. ])
    """
    at = [0, *(point.removed for point in curve.points)]
    divergent = all(point.kl is not None for point in curve.points)
    losses = [0.0, *((point.kl or 0.0) if divergent else point.error**2 for point in curve.points)]
    losses = np.minimum(np.nan_to_num(losses, nan=_RUINED, posinf=_RUINED), _RUINED).tolist()
    slopes = np.maximum.accumulate(np.maximum(np.diff(losses) / np.diff(at), 0.0))
    if not slopes.size:
        return np.zeros(curve.size + 1)
    which = np.searchsorted(at, np.arange(1, curve.size + 1)) - 1
    return np.concatenate([[0.0], np.cumsum(slopes[np.minimum(which, len(slopes) - 1)])])


def losses(
    found: Sensitivity, groups: Sequence[Group], model_sha256: str
) -> Mapping[Atom, NDArray[np.float64]]:
    """The losses of the groups of a model by measured curves.

    Raises:
        InputError: they are of another model, or a group has none.
    """
    if found.model_sha256 != model_sha256:
        raise InputError("--sensitivity: the curves are of another model; measure this one")
    curves = found.by_name()
    lacking = [g.name for g in groups if g.name not in curves or curves[g.name].size != g.size]
    if lacking:
        raise InputError(
            f"--sensitivity: no curve for {lacking[0]}; measure with the same --mixed, --attention, --ignore"
        )
    return {group.atom: loss_of(curves[group.name]) for group in groups}
