"""The proof: the cut model computes what the masked original computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune.coupling import Coupling
from onnx_prune.cut import Plan, cut
from onnx_prune.errors import ProofFailed
from onnx_prune.mask import masked
from onnx_prune.runtime import Session, random_feeds

Array = NDArray[Any]
TOLERANCE = {onnx.TensorProto.FLOAT16: 2e-2, onnx.TensorProto.BFLOAT16: 1e-1}
_FLOAT = 1e-4


@dataclass(frozen=True, slots=True)
class Proof:
    """What was compared and how far apart it was.

    Attributes:
        error: the largest difference, relative to the largest value of the same tensor.
        tolerance: what was allowed.
        outputs: names of the tensors compared.
        runs: number of input sets, one for each assignment of the dynamic axes.
    """

    error: float
    tolerance: float
    outputs: tuple[str, ...]
    runs: int


def difference(got: Array, want: Array) -> float:
    """Largest absolute difference relative to the largest absolute value; infinite if shapes differ."""
    if got.shape != want.shape:
        return float("inf")
    if got.size == 0 or got.dtype == object:
        return 0.0 if np.array_equal(got, want) else float("inf")
    a, b = got.astype(np.float64), want.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    gap = np.abs(a - b)[~same].max()
    scale = np.abs(b[np.isfinite(b)]).max(initial=0.0)
    return float(gap / scale) if np.isfinite(gap) and scale else float("inf")
