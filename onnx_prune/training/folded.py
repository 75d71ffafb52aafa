"""Find the normalizations that an exporter folded into the layer before, or into two vectors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune.training.moves import Move, scaled, straight
from onnx_prune.training.norms import EPSILONS, Norm, owner
from onnx_prune.training.pieces import Piece
from onnx_prune.training.stored import Stored

Array = NDArray[Any]
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Fold:
    """What one fold explains.

    Attributes:
        pieces: by parameter, what stays of it.
        claimed: names of the tensors that hold it.
    """

    pieces: Mapping[str, Piece]
    claimed: frozenset[str]


def scales(parameter: Array, tensor: Array) -> Iterator[tuple[Move, Array, int]]:
    """How a kernel was scaled by output channel: the move, the factors, and the dim of channels.

    Several dims qualify where all factors are equal.

    Example:
        >>> kernel = np.arange(1.0, 7).reshape(2, 3)
        >>> [(factors.tolist(), dim) for _, factors, dim in scales(kernel, kernel * [[2.0], [3.0]])]
        [([2.0, 3.0], 0)]
    """
    if parameter.ndim > 1 and tensor.ndim > 1:
        for along in dict.fromkeys((0, 1, tensor.ndim - 1)):
            found = scaled(parameter, tensor, along)
            if found is not None:
                yield *found, along


def folds(
    kernels: Collection[str],
    parameters: Mapping[str, Array],
    tensors: Sequence[Stored],
    normal: Sequence[Norm],
) -> Iterator[Fold]:
    """Kernels that a normalization scaled.

    Args:
        kernels: names of the parameters to look at.
        parameters: all of them by name, in order.
        tensors: of the model, those not known to be anything else.
        normal: all normalizations.
    """
    position = {name: at for at, name in enumerate(parameters)}
    free, open_tensors = list(normal), list(tensors)
    for name in kernels:
        at = position[name]
        # Untrained ones are all alike: the first after the layer is the likeliest.
        after = [norm for norm in free if norm.at > at]
        before = [norm for norm in free if norm.at < at]
        explained = _explained(parameters[name], open_tensors, [*after, *reversed(before)])
        if explained is None:
            continue  # weight normalization scales too, and does not commute with a cut
        tensor, norm, move, factors, along = explained
        free.remove(norm)
        open_tensors.remove(tensor)
        bias = owner(name)[0] + "bias"
        own = parameters.get(bias, np.zeros(0))
        biased = own.shape == factors.shape
        pieces = {name: Piece(tensor.name, "folded", move)}
        for vector in (*norm.names, *([bias] if biased else [])):
            pieces[vector] = Piece(tensor.name, "folded", None, along)
        shift = norm.shift + ((own if biased else 0.0) - norm.mean) * factors
        added = _near(tensor, [t for t in tensors if _close(t, shift)])
        yield Fold(pieces, frozenset({tensor.name, *added}))


def _explained(
    parameter: Array, tensors: Sequence[Stored], normal: Sequence[Norm]
) -> tuple[Stored, Norm, Move, Array, int] | None:
    """The tensor that a kernel and a norm make, and how."""
    for tensor in tensors:
        if tensor.values is not None:
            for move, factors, along in scales(parameter, tensor.values):
                for norm in normal:
                    if norm.epsilon(factors) is not None:
                        return tensor, norm, move, factors, along
    return None


def derived(
    normal: Sequence[Norm],
    tensors: Sequence[Stored],
    likeliest: Callable[[str, Sequence[Stored]], Stored],
) -> Iterator[Fold]:
    """Normalizations of which the model has what they multiply with and what they add.

    Args:
        normal: the normalizations, in order.
        tensors: in which they may be.
        likeliest: which of several tensors of equal values holds a parameter.
    """
    for norm in normal:
        for epsilon in EPSILONS:
            scale, shift = norm.factors(epsilon)
            found = [tensor for tensor in tensors if _close(tensor, scale, 1e-5)]
            if found:
                tensor, move = likeliest(norm.names[0], found), straight(scale.shape)
                pieces = {name: Piece(tensor.name, "computed", move) for name in norm.names}
                added = _near(tensor, [t for t in tensors if _close(t, shift)])
                yield Fold(pieces, frozenset({tensor.name, *added}))
                break


def _close(tensor: Stored, values: Array, tolerance: float = _TOLERANCE) -> bool:
    if tensor.values is None or tensor.values.size != values.size or max(tensor.shape) != values.size:
        return False
    off = np.abs(tensor.values.reshape(-1).astype(np.float64) - values).max()
    return bool(off <= tolerance * max(np.abs(values).max(), 1e-6))


def _near(tensor: Stored, among: Sequence[Stored]) -> set[str]:
    """The name of the one that is read where a tensor is, or nearest after it."""
    at = min(tensor.readers, default=0)
    ranked = sorted(among, key=lambda t: min((abs(i - at) + 1e6 * (i < at) for i in t.readers), default=1e9))
    return {ranked[0].name} if ranked else set()
