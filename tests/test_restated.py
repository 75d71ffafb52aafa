"""Sizes and positions that a model writes down, after a cut: by hand, one row for each way of writing."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest

from onnx_prune.axes.axis import Atom, Axis, prod, weave
from onnx_prune.axes.restate import restated

C, D, E, F = Atom(4, "c"), Atom(3, "d"), Atom(2, "e"), Atom(2, "f")
STAYS = {C: [0, 2, 3], E: [1], F: [0]}
PLAN = {atom: np.isin(np.arange(atom.size), stays) for atom, stays in STAYS.items()}
FAR = 2**63 - 1


@pytest.mark.parametrize(
    ("form", "axes", "value", "expected"),
    [
        ("sizes", (C, None, D, prod(D, C)), [4, 7, 3, 12], [3, 7, 3, 9]),
        ("sizes", (C, C), [0, -1], [3, 3]),
        # as Reshape reads it
        ("shape", (C, C, C, D, None), [4, 0, -1, 3, 9], [3, 0, -1, 3, 9]),
        ("ones", (C, None), [4, 5], [3, 5]),
        ("positions", (C,) * 5, [0, 1, 2, 3, 4], [0, 1, 1, 2, 3]),
        ("positions", (C,) * 4, [-4, -3, -2, -1], [0, 1, 1, 2]),
        ("positions", (C, C, D, None), [FAR, -5, -1, -1], [FAR, -5, -1, -1]),
        ("indices", (C,), [[0, 2], [3, -1]], [[0, 1], [2, 2]]),
        ("indices", (C,), [-4, -2], [0, 1]),
        # as many channels, but in another order: e1 is the first now, then f0
        ("indices", (weave([E, F]),), [1, 2], [1, 0]),
        ("indices", (D,), [2, -1], [2, -1]),
        ("indices", (None,), [9, -1], [9, -1]),
    ],
)
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_restated(
    form: Literal["sizes", "shape", "positions", "indices", "ones"],
    axes: tuple[Axis | None, ...],
    value: list[Any],
    expected: list[Any],
    dtype: type[np.integer[Any]],
) -> None:
    far = np.iinfo(dtype).max
    given, want = (np.array(np.minimum(entries, far), dtype) for entries in (value, expected))
    before = given.copy()
    found = restated(given, form, axes, PLAN)
    assert (found.tolist(), found.dtype) == (want.tolist(), dtype)
    assert np.array_equal(given, before)
