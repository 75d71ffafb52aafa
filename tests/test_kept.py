"""Weights that are cut a piece at a time: the pieces, one after the other, are the weight cut as a whole."""

from __future__ import annotations

from math import prod as product
from typing import Any

import numpy as np
import pytest

from onnx_prune import kept
from onnx_prune.model import pieces


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a quarter of an array, of 8 to 32 elements; longer rows are cut row by row."""
    monkeypatch.setattr(pieces, "PIECE", 16)
    monkeypatch.setattr(pieces, "_LEAST", 8)


@pytest.mark.parametrize(
    ("shape", "found", "lengths"),
    [
        # a quarter of all: 5 rows of 4; or 8, where a quarter is less
        ((20, 4), [None, None], [20, 20, 20, 20]),
        ((20, 4), [[0, 4, 5, 6, 15, 19], None], [8, 8, 0, 8]),
        ((20, 4), [None, [3, 0]], [10, 10, 10, 10]),
        ((20, 4), [[0, 4, 5, 6, 15, 19], [2, 1, 3]], [6, 6, 0, 6]),
        ((20,), [[0, 4, 5, 6, 7, 15, 19]], [5, 1, 1]),
        # 32, where a quarter is more: 2 rows of 12
        ((11, 2, 6), [None, None, None], [24, 24, 24, 24, 24, 12]),
        ((11, 2, 6), [[1, 2, 3, 9], [1], [0, 5]], [2, 4, 0, 0, 2, 0]),
        ((11, 2, 6), [[1, 2, 3, 9], None, [0, 5]], [4, 8, 0, 0, 4, 0]),
        ((11, 2, 6), [None, [1], [0, 5]], [4, 4, 4, 4, 4, 2]),
        # one row of 8, or of 16, which are not too many
        ((3, 8), [None, [7]], [1, 1, 1]),
        ((4, 16), [None, [7, 9]], [2, 2, 2, 2]),
        # rows of 20 are cut by themselves, as arrays of their own
        ((3, 20), [[0, 2], list(range(12))], [8, 4, 0, 8, 4, 0]),
        ((3, 20), [None, None], [8, 8, 4] * 3),
        ((2, 3, 20), [[1], [2, 0], [0, 19]], [1, 0, 1] * 2),
        ((2, 2, 12), [None, [1], None], [0, 12, 0, 12]),
        # at once: rows in another order, no element, no dim
        ((20, 4), [[5, 4, 19], None], [12]),
        ((3, 0), [[0, 2], None], [0]),
        ((), [], [1]),
    ],
)
def test_pieces_of_a_cut_weight(
    shape: tuple[int, ...], found: list[list[int] | None], lengths: list[int]
) -> None:
    array = np.arange(product(shape), dtype=np.int16).reshape(shape)
    stays = [places if places is None else np.array(places) for places in found]
    made = [piece.ravel().copy() for piece in kept.in_pieces(stays)(array)]
    want: Any = array
    for dim, places in enumerate(found):
        want = want if places is None else np.take(want, places, dim)
    assert np.concatenate(made).tolist() == want.ravel().tolist()
    assert [piece.size for piece in made] == lengths
    assert {piece.dtype for piece in made} == {array.dtype}


def test_a_piece_takes_the_place_of_the_one_before() -> None:
    found = kept.in_pieces([None, np.array([0, 2])])(np.zeros((20, 4)))
    first = next(found)
    assert all(np.shares_memory(first, piece) for piece in found)
