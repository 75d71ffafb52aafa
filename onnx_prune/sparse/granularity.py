"""What goes together when single weights are zeroed: elements, N of M, blocks, or whole filters.

All functions work on a weight as (outputs, positions, summed), see `onnx_prune.sparse.orientation`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnx_prune.errors import InputError
from onnx_prune.words import plain

Array = NDArray[Any]
Bool = NDArray[np.bool_]
FORMS = "unstructured, N:M such as 2:4, block:RxC such as block:4x1, or channel"


@dataclass(frozen=True, slots=True)
class Pattern:
    """What goes together.

    Attributes:
        kind: "unstructured": each weight on its own.  "n:m": of each `columns` weights in a row along what
            is summed over, at each position, at most `rows` stay (of a last, shorter run too).  "block":
            blocks of `rows` outputs by `columns` inputs at each position.  "channel": whole outputs.
        rows: N, or the height of a block.
        columns: M, or the width of a block.
    """

    kind: Literal["unstructured", "n:m", "block", "channel"] = "unstructured"
    rows: int = 1
    columns: int = 1

    def __str__(self) -> str:
        match self.kind:
            case "n:m":
                return f"{self.rows}:{self.columns}"
            case "block":
                return f"block:{self.rows}x{self.columns}"
            case kind:
                return kind


UNSTRUCTURED = Pattern()


def parse(text: str) -> Pattern:
    """Read a pattern as the user writes it.

    Raises:
        InputError: it is none.

    Example:
        >>> parse("2:4"), str(parse("block:4x1"))
        (Pattern(kind='n:m', rows=2, columns=4), 'block:4x1')
        >>> parse("4:2")
        Traceback (most recent call last):
        onnx_prune.errors.InputError: pattern '4:2': 4 of 2 can't stay; write N:M with 0 < N < M, such as 2:4
    """
    if text in ("unstructured", "channel"):
        return Pattern("channel" if text == "channel" else "unstructured")
    if found := re.fullmatch(r"(\d{1,9}):(\d{1,9})", text):
        n, m = map(int, found.groups())
        if not 0 < n < m:
            raise InputError(
                f"pattern {text!r}: {n} of {m} can't stay; write N:M with 0 < N < M, such as 2:4"
            )
        return Pattern("n:m", n, m)
    if found := re.fullmatch(r"block:(\d{1,9})x(\d{1,9})", text):
        rows, columns = map(int, found.groups())
        if rows and columns:
            return Pattern("block", rows, columns)
    raise InputError(f"unknown pattern {plain(text)!r}: it is {FORMS}")


def n_of_m(scores: Array, n: int, m: int) -> Bool:
    """Keep the `n` highest of each `m` scores along the last dim; on a tie the first.

    A last run shorter than `m` is as if filled up with zeros: `n` of it may stay.

    Example:
        >>> n_of_m(np.array([[3.0, 1, 2, 2, 5, 6, 7]]), 2, 4).astype(int)
        array([[1, 0, 1, 0, 0, 1, 1]])
    """
    length = scores.shape[-1]
    whole = length - length % m
    keep = np.ones(scores.shape, np.bool_)
    for part, width in ((slice(0, whole), m), (slice(whole, length), length - whole)):
        if width > n:
            runs = scores[..., part].reshape(-1, width)
            order = np.argsort(-runs, axis=1, kind="stable")
            kept = np.zeros(runs.shape, np.bool_)
            np.put_along_axis(kept, order[:, :n], True, axis=1)
            keep[..., part] = kept.reshape(scores[..., part].shape)
    return keep


def units(pattern: Pattern, scores: Array) -> Array:
    """The mean score of each block, or of each output.

    Args:
        pattern: "block" or "channel".
        scores: of the elements, shape (outputs, positions, summed).

    Returns:
        Shape (blocks of outputs, positions, blocks of inputs), or (outputs, 1, 1); the last block may be
        smaller than the others.

    Example:
        >>> units(parse("block:2x1"), np.array([[[1.0, 2]], [[3, 4]], [[5, 6]]])).tolist()
        [[[2.0, 3.0]], [[5.0, 6.0]]]
    """
    if pattern.kind == "channel":
        return np.asarray(scores.mean((1, 2), keepdims=True))
    outputs, _, summed = scores.shape
    rows, columns = np.arange(0, outputs, pattern.rows), np.arange(0, summed, pattern.columns)
    total = np.add.reduceat(np.add.reduceat(scores, rows, 0), columns, 2)
    heights = np.diff(np.append(rows, outputs))[:, None, None]
    return np.asarray(total / (heights * np.diff(np.append(columns, summed))))


def spread(pattern: Pattern, keep: Bool, shape: tuple[int, ...]) -> Bool:
    """The mask of the elements from that of the blocks.

    Args:
        pattern: "block" or "channel".
        keep: for each unit whether it stays, shaped as `units` returns them.
        shape: (outputs, positions, summed).
    """
    if pattern.kind == "block":
        keep = keep.repeat(pattern.rows, 0)[: shape[0]].repeat(pattern.columns, 2)[:, :, : shape[2]]
    return np.broadcast_to(keep, shape)
