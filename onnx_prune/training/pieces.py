"""Which part of a parameter is which part of a stored tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune.training.moves import Move

Array = NDArray[Any]
Keep = Mapping[int, NDArray[np.intp]]


@dataclass(frozen=True, slots=True)
class Part:
    """A run of rows of an array.

    Attributes:
        dim: along which they lie.
        start: the first of them.
        stop: the one after the last.
    """

    dim: int
    start: int
    stop: int

    def of(self, array: Array) -> Array:
        """The rows, as a view."""
        return array[(slice(None),) * self.dim + (slice(self.start, self.stop),)]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Where the values of a parameter, or of a part of it, are in the exported model.

    Attributes:
        tensor: the stored tensor's name.
        how: how it was found, a word or two for the report.
        move: how the values lie there; None if only what stays along `channels` is the same.
        channels: the tensor's dim that the parameter, then a vector, has an entry for each channel of.
        inside: the part of the parameter that is there; None for all of it.
        within: the part of the tensor in which it is; None for all of it.
    """

    tensor: str
    how: str
    move: Move | None
    channels: int = 0
    inside: Part | None = None
    within: Part | None = None

    def brought(self, mask: Array, parameter: Array) -> None:
        """Write what stays of the tensor, as booleans in its shape, into the mask of the parameter."""
        mask = mask if self.within is None else self.within.of(mask)
        target = parameter if self.inside is None else self.inside.of(parameter)
        if self.move is None:
            others = tuple(j for j in range(mask.ndim) if j != self.channels)
            target[...] = mask.any(others).reshape(target.shape)
        else:
            target[...] = self.move.back(mask, target.shape)


def spread(keep: Keep, shape: tuple[int, ...]) -> Array:
    """What a cut leaves of a tensor, as booleans in its shape.

    Example:
        >>> spread({1: np.array([0, 2])}, (1, 3)).tolist()
        [[True, False, True]]
    """
    mask = np.ones(shape, np.bool_)
    for dim, stays in keep.items():
        along = np.zeros(shape[dim], np.bool_)
        along[stays] = True
        mask &= along.reshape([-1 if j == dim else 1 for j in range(len(shape))])
    return mask


def gathered(mask: Array) -> dict[int, NDArray[np.intp]] | None:
    """What stays along each dim of a tensor, None if that is no cut along its dims.

    Example:
        >>> gathered(np.array([[True, False, True]])), gathered(np.eye(2, dtype=bool))
        ({1: array([0, 2])}, None)
    """
    keep = {}
    for dim in range(mask.ndim):
        along = mask.any(tuple(j for j in range(mask.ndim) if j != dim))
        if not along.all():
            keep[dim] = np.flatnonzero(along)
    return keep if np.array_equal(spread(keep, mask.shape), mask) else None
