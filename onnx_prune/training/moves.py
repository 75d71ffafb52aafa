"""How the values of a framework's parameter lie in a tensor of the exported model.

Exporters transpose (a Linear's weight, Keras's HWIO kernels), reshape (a depthwise kernel, a bias that is
broadcast), and permute rows (a Dense layer behind a Flatten of another layout, the gates of an LSTM).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_MOST_DIMS = 5  # dims of a parameter that are tried in every order
_SAMPLE = 32


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """The way of a parameter's values into a stored tensor; dims of size 1 count for nothing.

    Attributes:
        dims: the parameter's dims in the order in which the tensor has them.
        order: where each row of the tensor along `along` lies in the parameter; None if all lie as they are.
        along: a dim of the tensor without its dims of size 1.

    Example:
        >>> kernel = np.arange(6).reshape(2, 3)
        >>> move = Move((1, 0))
        >>> move.forth(kernel, (3, 2)).tolist()
        [[0, 3], [1, 4], [2, 5]]
        >>> (move.back(move.forth(kernel, (3, 2)), (2, 3)) == kernel).all()
        np.True_
    """

    dims: tuple[int, ...]
    order: NDArray[np.intp] | None = None
    along: int = 0

    def forth(self, parameter: Array, shape: tuple[int, ...]) -> Array:
        """The parameter as a tensor of this shape."""
        moved = squeezed(parameter).transpose(self.dims)
        if self.order is not None:
            moved = moved.take(self.order, self.along)
        return moved.reshape(shape)

    def back(self, tensor: Array, shape: tuple[int, ...]) -> Array:
        """What belongs to each element of a tensor, such as whether it stays, in the parameter's shape."""
        bare = squeezed(np.empty(shape, np.bool_)).shape
        if self.order is not None:
            tensor = squeezed(tensor).take(np.argsort(self.order), self.along)
        moved = tensor.reshape([bare[j] for j in self.dims])
        return moved.transpose(np.argsort(self.dims).tolist()).reshape(shape)

    @property
    def plain(self) -> bool:
        """Whether the values lie as they are."""
        return self.order is None and self.dims == tuple(range(len(self.dims)))


def squeezed(array: Array) -> Array:
    """The array without its dims of size 1."""
    return array.reshape([n for n in array.shape if n != 1])


def straight(shape: tuple[int, ...]) -> Move:
    """The move of a parameter of this shape that changes nothing."""
    return Move(tuple(range(sum(n != 1 for n in shape))))


def fingerprint(array: Array) -> bytes:
    """The same for the same values of one type in any order, and for hardly anything else.

    Example:
        >>> fingerprint(np.array([1.0, 2.0])) == fingerprint(np.array([[2.0], [1.0]]))
        True
    """
    values = np.sort(array.reshape(-1) + array.dtype.type(0))  # -0.0 becomes 0.0
    return hashlib.sha256(values.tobytes()).digest()


def candidates(shape: tuple[int, ...], to: tuple[int, ...]) -> Iterator[Move]:
    """Every order of dims worth trying, the plainest first, those that merge or split dims last."""
    bare = [n for n in shape if n != 1]
    goal = [n for n in to if n != 1]
    if len(bare) > _MOST_DIMS:
        yield straight(shape)
        return
    every = list(permutations(range(len(bare))))
    yield from (Move(dims) for dims in every if [bare[j] for j in dims] == goal)
    yield from (Move(dims) for dims in every if [bare[j] for j in dims] != goal)


def find(parameter: Array, tensor: Array) -> Move | None:
    """How a tensor was made of a parameter, if it holds the same values.

    Args:
        parameter: of the framework.
        tensor: of the exported model.

    Example:
        >>> kernel = np.arange(12.0).reshape(3, 4)
        >>> find(kernel, kernel.T).dims, find(kernel, kernel[[2, 0, 1]]).order.tolist(), find(kernel, -kernel)
        ((1, 0), [2, 0, 1], None)
    """
    if parameter.size != tensor.size or parameter.size == 0:
        return None
    parameter = parameter.astype(tensor.dtype, copy=False)
    for move in candidates(parameter.shape, tensor.shape):
        if _agree(parameter, tensor, move):
            return move
    bare, goal = squeezed(parameter), squeezed(tensor)
    for move in candidates(parameter.shape, tensor.shape):
        moved = bare.transpose(move.dims)
        if moved.shape != goal.shape:
            return None
        for along in range(goal.ndim):
            if (order := _reordered(moved, goal, along)) is not None:
                return Move(move.dims, order, along)
    return None


def scaled(parameter: Array, tensor: Array, along: int = 0) -> tuple[Move, Array] | None:
    """How a tensor was made of a parameter, if each of its rows is one of the parameter's, times a number.

    Args:
        parameter: of the framework, a kernel.
        tensor: of the exported model, a kernel into which a normalization was folded.
        along: the tensor's dim of output channels.

    Returns:
        The move, and the factors, of shape (channels,); None if that is not how it was made.

    Example:
        >>> kernel = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 7.0]])
        >>> scaled(kernel.T, kernel * [[2.0], [-1.0]])[1].tolist()
        [2.0, -1.0]
    """
    channels = tensor.shape[along]
    if parameter.size != tensor.size or tensor.size < 2 * channels:
        return None  # a row of one value is any other, times a number
    goal = np.moveaxis(tensor, along, 0).reshape(channels, -1).astype(np.float64)
    tolerance = 64 * float(np.finfo(tensor.dtype).eps) if tensor.dtype.kind == "f" else 1e-2
    sample = np.moveaxis(np.arange(tensor.size).reshape(tensor.shape), along, 0)[0].reshape(-1)[:_SAMPLE]
    for move in candidates(parameter.shape, tensor.shape):
        head = _picked(parameter, move, sample)[None].astype(np.float64)
        if _factors(head, goal[:1, : len(sample)], tolerance) is None:
            continue
        rows = np.moveaxis(move.forth(parameter, tensor.shape), along, 0).reshape(channels, -1)
        factors = _factors(rows.astype(np.float64), goal, tolerance)
        if factors is not None and np.any(factors):
            return move, factors
    return None


def _factors(rows: Array, goal: Array, tolerance: float) -> Array | None:
    at = np.abs(rows).argmax(1)
    largest = rows[np.arange(len(rows)), at]
    there = goal[np.arange(len(rows)), at]
    factors = np.divide(there, largest, out=np.zeros_like(there), where=largest != 0)
    off = np.abs(goal - factors[:, None] * rows).max(1)
    return factors if (off <= tolerance * np.abs(there)).all() else None


def _agree(parameter: Array, tensor: Array, move: Move) -> bool:
    """Whether two arrays hold the same; a few elements tell most of those apart that do not."""
    at = np.linspace(0, tensor.size - 1, min(_SAMPLE, tensor.size)).astype(np.intp)
    if not np.array_equal(_picked(parameter, move, at), tensor.reshape(-1)[at]):
        return False
    return np.array_equal(move.forth(parameter, tensor.shape), tensor)


def _picked(parameter: Array, move: Move, at: Array) -> Array:
    """What a move brings to some positions of the tensor."""
    moved = squeezed(parameter).transpose(move.dims)
    return moved[np.unravel_index(at, moved.shape)] if moved.ndim else moved.reshape(1)[at]


def _reordered(moved: Array, goal: Array, along: int) -> NDArray[np.intp] | None:
    """Which rows of one array make the other."""
    one, other = _rows(moved, along), _rows(goal, along)
    first, second = np.argsort(one, kind="stable"), np.argsort(other, kind="stable")
    if not np.array_equal(one[first], other[second]):
        return None
    order = np.empty(len(one), np.intp)
    order[second] = first
    return order


def _rows(array: Array, along: int) -> Array:
    rows = np.ascontiguousarray(np.moveaxis(array, along, 0).reshape(array.shape[along], -1) + 0)
    return rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize))).reshape(-1)
