"""Scores, counts and patterns against tables worked out on paper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from onnx_prune.errors import InputError
from onnx_prune.sparse import edges, granularity, saliency, select
from onnx_prune.sparse.bits import Bits
from onnx_prune.sparse.orientation import Layout

VALUES = np.array([[0.5, -1.0, 0.0], [2.0, -0.5, 0.5]], np.float32)


@pytest.mark.parametrize(
    ("count", "gone"),
    [
        (0, [[0, 0, 0], [0, 0, 0]]),
        (1, [[0, 0, 1], [0, 0, 0]]),  # the zero counts
        (2, [[0, 0, 1], [0, 0, 1]]),  # of three halves the last goes first
        (3, [[0, 0, 1], [0, 1, 1]]),
        (4, [[1, 0, 1], [0, 1, 1]]),
        (5, [[1, 1, 1], [0, 1, 1]]),
        (6, [[1, 1, 1], [1, 1, 1]]),
    ],
)
def test_magnitude_by_hand(count: int, gone: list[list[int]]) -> None:
    assert select.lowest(saliency.magnitude(VALUES), count).astype(int).tolist() == gone


def test_a_score_that_is_no_number_stays() -> None:
    scores = np.array([np.nan, 1.0, np.nan, 0.0])
    assert select.lowest(scores, 2).tolist() == [False, True, False, True]
    assert select.lowest(scores, 3).tolist() == [False, True, True, True]


@pytest.mark.parametrize("collect", [0, 1 << 19])
@pytest.mark.parametrize("kind", ["normal", "few values", "sorted", "with nan"])
def test_large_arrays_as_small_ones(kind: str, collect: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges, "_SAMPLE", 64)
    monkeypatch.setattr(edges, "_COLLECT", collect)
    rng = np.random.default_rng(0)
    scores = rng.standard_normal(5000)
    scores = {"few values": np.round(scores), "sorted": np.sort(scores)}.get(kind, scores)
    if kind == "with nan":
        scores[rng.integers(0, 5000, 3000)] = np.nan
    order = sorted(range(5000), key=lambda j: (np.isnan(scores[j]), np.nan_to_num(scores[j]), -j))
    for count in (1, 2, 700, 2500, 4999):
        assert set(np.flatnonzero(select.lowest(scores, count))) == set(order[:count])


def gone(tensors: list[np.ndarray], count: int) -> list[np.ndarray]:
    found = edges.edges(lambda: tensors, count, sum(map(np.size, tensors)))
    return [edge.goes(scores) for scores, edge in zip(tensors, found, strict=True)]


FLOATS = arrays(np.float64, st.integers(1, 40), elements=st.sampled_from([0.0, -0.0, 1.0, 2.5, -np.inf, 7.0]))


@given(st.lists(FLOATS, min_size=1, max_size=4), st.data())
def test_over_many_tensors_as_over_their_concatenation(
    tensors: list[np.ndarray], data: st.DataObject
) -> None:
    together = np.concatenate(tensors)
    count = data.draw(st.integers(1, together.size))
    found = np.concatenate(gone(tensors, count))
    assert found.tolist() == select.lowest(together, count).tolist()


def test_a_border_among_very_many_equal_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges, "_COLLECT", 3)
    tensors = [np.full(50, 2.0), np.full(50, 2.0), np.arange(5.0)]
    first, second, third = gone(tensors, 60)
    # 0 and 1 go, then of 101 twos the last 58: the one in the third, all of the second, seven of the first
    assert (first.sum(), second.sum(), third.sum()) == (7, 50, 3)
    assert first.tolist() == [False] * 43 + [True] * 7


@pytest.mark.parametrize("kind", ["alike", "by rows", "by tensors"])
def test_a_sample_says_where_the_border_is(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second pass is rare: of ranges of three standard errors a few in 1,000 miss."""
    looked: list[bool] = []
    between = edges._between

    def counting(*asked: Any) -> Any:
        found = between(*asked)
        looked.append(found is not None)
        return found

    monkeypatch.setattr(edges, "_between", counting)
    rng = np.random.default_rng(0)
    for _ in range(20):
        tensors = [np.abs(rng.standard_normal((500, 600), np.float32)) for _ in range(2)]
        if kind == "by rows":
            tensors = [tensor * rng.random((500, 1), np.float32) for tensor in tensors]
        if kind == "by tensors":
            tensors[1] *= 5
        gone(tensors, int(600_000 * rng.random()))
    assert looked == [True] * 20


# Squares 9, 4, 1: 9/9, 4/(4 + 9), 1/(1 + 4 + 9); the second tensor 4/4, 1/(1 + 4), 0.
def test_lamp_by_hand() -> None:
    np.testing.assert_allclose(saliency.lamp(np.array([3.0, -2, 1])), [1, 4 / 13, 1 / 14])
    np.testing.assert_allclose(saliency.lamp(np.array([1.0, 0, 2])), [1 / 5, 0, 1])
    np.testing.assert_allclose(
        saliency.lamp(np.array([1.0, 1])), [1, 1 / 2]
    )  # of equal ones the later is less
    assert saliency.lamp(np.zeros(2)).tolist() == [0, 0]


# Dims (8, 2) and (8, 16): sums over products 10/16 and 24/128.  Half of 144 stay: a factor e with
# 16 * 10/16 e + 128 * 24/128 e = 72 is 72/34 and makes the first denser than 1: so it is dense, and
# 56 of the second's 128 stay.
def test_erdos_renyi_by_hand() -> None:
    assert select.erdos_renyi_kernel([(8, 2), (8, 16)], 0.5) == [0, 72]
    # 0.9: 14.4 of 144 stay, rounded up: 15 = 34 e; 10 e = 4.4 and 24 e = 10.6 stay
    assert select.erdos_renyi_kernel([(8, 2), (8, 16)], 0.9) == [12, 117]
    assert select.erdos_renyi_kernel([(4, 4)], 0.0) == [0]


def test_random_depends_on_name_and_seed() -> None:
    one = saliency.random(VALUES, "a")
    assert np.array_equal(one, saliency.random(VALUES, "a"))
    assert not np.array_equal(one, saliency.random(VALUES, "b"))
    assert not np.array_equal(one, saliency.random(VALUES, "a", 1))


# Kernel of 2 filters, 5 inputs, 2 positions: of each four inputs two stay, of the fifth alone it does.
def test_two_of_four_by_hand() -> None:
    row = [[4, 3, 2, 1, 9], [1, 2, 3, 4, 9]]
    scores = np.array([row, [[1, 1, 1, 1, 0], [0, 5, 0, 5, 0]]], float)
    keep = granularity.n_of_m(scores, 2, 4).astype(int).tolist()
    assert keep == [
        [[1, 1, 0, 0, 1], [0, 0, 1, 1, 1]],
        [[1, 1, 0, 0, 1], [0, 1, 0, 1, 1]],
    ]


def test_a_short_run_keeps_no_more_than_n() -> None:
    assert granularity.n_of_m(np.array([[1.0, 2, 3]]), 1, 4).astype(int).tolist() == [[0, 0, 1]]


# Blocks of 2 outputs by 2 inputs, 3 by 3 weights: the last ones are smaller, and means are compared.
def test_blocks_by_hand() -> None:
    pattern = granularity.parse("block:2x2")
    scores = np.array([[1, 1, 4], [1, 5, 4], [3, 3, 9]], float)[:, None, :]
    units = granularity.units(pattern, scores)
    assert units.tolist() == [[[2, 4]], [[3, 9]]]
    keep = granularity.spread(pattern, ~select.lowest(units, 2), scores.shape)[:, 0].astype(int)
    assert keep.tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 1]]


def test_channels_by_hand() -> None:
    pattern = granularity.parse("channel")
    scores = np.arange(12.0).reshape(3, 2, 2)
    assert granularity.units(pattern, scores).ravel().tolist() == [1.5, 5.5, 9.5]
    assert granularity.spread(pattern, np.array([[[False]], [[True]]]), (2, 1, 3))[:, 0].tolist() == [
        [False] * 3,
        [True] * 3,
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4:4", "pattern '4:4': 4 of 4 can't stay; write N:M with 0 < N < M, such as 2:4"),
        ("0:4", "pattern '0:4': 0 of 4 can't stay; write N:M with 0 < N < M, such as 2:4"),
        ("block:0x2", f"unknown pattern 'block:0x2': it is {granularity.FORMS}"),
        ("filter", f"unknown pattern 'filter': it is {granularity.FORMS}"),
    ],
)
def test_patterns_that_are_none(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        granularity.parse(text)
    assert str(error.value) == message


@given(st.lists(st.sampled_from(["out", "sum", "position"]), min_size=1, max_size=5), st.data())
def test_a_matrix_goes_back_to_where_it_came_from(parts: list[str], data: st.DataObject) -> None:
    sizes = [data.draw(st.integers(1, 3)) for _ in parts]
    layout = Layout(tuple(((n, part),) for n, part in zip(sizes, parts, strict=True)))  # type: ignore[misc]
    stored = np.arange(np.prod(sizes)).reshape(sizes)
    matrix = layout.matrix(stored)
    assert matrix.shape == (layout.outputs, layout.positions, layout.summed)
    assert np.array_equal(layout.stored(matrix), stored)


def test_bits_hold_a_mask() -> None:
    keep = np.arange(11).reshape(1, 11) % 3 == 0
    bits = Bits.of(keep)
    assert bits.packed.tolist() == [0b10010010, 0b01000000]
    assert np.array_equal(bits.keep(), keep)
    assert bits.kept == 4
    assert Bits.of(keep & False).within(bits)
    assert not bits.within(Bits.of(keep & False))
