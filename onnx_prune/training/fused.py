"""Find parameters that exporters divided among several tensors, or joined in one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune.training.moves import Move, find
from onnx_prune.training.pieces import Part, Piece
from onnx_prune.training.stored import Stored

Array = NDArray[Any]
_MOST_DIMS = 4


def fused(parameters: Mapping[str, Array], tensors: Sequence[Stored]) -> dict[str, tuple[Piece, ...]]:
    """Parameters that are whole in pieces, or are a piece.

    Args:
        parameters: those that were not found.
        tensors: those in which nothing was found, with their values.

    Example:
        >>> qkv = np.arange(12.0).reshape(6, 2)
        >>> parts = [Stored(name, (2, 2), qkv[at : at + 2].T) for name, at in (("q", 0), ("k", 2), ("v", 4))]
        >>> [(piece.tensor, piece.inside.start) for piece in fused({"in_proj": qkv}, parts)["in_proj"]]
        [('q', 0), ('k', 2), ('v', 4)]
    """
    found: dict[str, tuple[Piece, ...]] = {}
    taken: set[tuple[str, int]] = set()
    for name, array in parameters.items():
        pieces = _divided(array, tensors) or _joined(array, tensors, taken) or _stacked(array, tensors, taken)
        if pieces:
            found[name] = pieces
            taken |= {(p.tensor, p.within.start) for p in pieces if p.within is not None}
    return found


def _divided(array: Array, tensors: Sequence[Stored]) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    covered: dict[int, set[int]] = {}
    for tensor in tensors:
        assert tensor.values is not None
        for dims, dim, start in _places(array, tensor.values, inside=True):
            along, rows = dims[dim], set(range(start, start + tensor.shape[dim]))
            if not rows & covered.setdefault(along, set()):
                covered[along] |= rows
                pieces.append(
                    Piece(tensor.name, "part", Move(dims), inside=Part(along, min(rows), max(rows) + 1))
                )
                break
    for along, rows in covered.items():
        if len(rows) == array.shape[along]:
            return tuple(p for p in pieces if p.inside is not None and p.inside.dim == along)
    return ()


def _joined(array: Array, tensors: Sequence[Stored], taken: set[tuple[str, int]]) -> tuple[Piece, ...]:
    for tensor in tensors:
        assert tensor.values is not None
        for dims, dim, start in _places(array, tensor.values, inside=False):
            if (tensor.name, start) not in taken:
                part = Part(dim, start, start + array.shape[dims[dim]])
                return (Piece(tensor.name, "part", Move(dims), within=part),)
    return ()


def _stacked(array: Array, tensors: Sequence[Stored], taken: set[tuple[str, int]]) -> tuple[Piece, ...]:
    """One of several equally large parts of a tensor, rows in any order: the gates of a recurrent layer."""
    for tensor in tensors:
        assert tensor.values is not None
        parts, rest = divmod(tensor.values.size, array.size)
        if rest or parts < 2:
            continue
        for dim in (j for j, n in enumerate(tensor.shape) if n % parts == 0):
            width = tensor.shape[dim] // parts
            for start in range(0, tensor.shape[dim], width):
                part = Part(dim, start, start + width)
                move = None if (tensor.name, start) in taken else find(array, part.of(tensor.values))
                if move is not None:
                    return (Piece(tensor.name, "part", move, within=part),)
    return ()


def _places(array: Array, tensor: Array, *, inside: bool) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """Where one is in the other: the order of the parameter's dims, the tensor's dim, and the first row."""
    if array.ndim != tensor.ndim or not 1 <= array.ndim <= _MOST_DIMS or 1 in array.shape:
        return
    for dims in permutations(range(array.ndim)):
        moved = array.transpose(dims)
        large, small = (moved, tensor) if inside else (tensor, moved)
        differing = [j for j in range(moved.ndim) if large.shape[j] != small.shape[j]]
        if len(differing) == 1 and small.shape[differing[0]] < large.shape[differing[0]]:
            dim = differing[0]
            for start in _starts(np.moveaxis(large, dim, 0), np.moveaxis(small, dim, 0)):
                yield dims, dim, start


def _starts(large: Array, small: Array) -> Iterator[int]:
    first = large[: len(large) - len(small) + 1]
    alike = (first == small[0]).reshape(len(first), -1).all(1)
    for start in np.flatnonzero(alike).tolist():
        if np.array_equal(large[start : start + len(small)], small):
            yield start
