"""How much a single weight matters: one pure function a criterion, from values to a score each.

Scores have the shape of the values; weights with higher scores stay.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_SEED = 20170217


def magnitude(values: Array, out: Array | None = None) -> Array:
    """|w|, put into `out` where it is given.

    Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks", section 3.
    """
    return np.absolute(values, out=out)


def lamp(values: Array) -> Array:
    """w^2 over the sum of the squares of all weights of the tensor that are no smaller.

    The largest weight of every tensor has score 1, so that no tensor loses all of its weights when
    tensors are ranked together.

    Lee et al. 2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning", equation 4.

    Example:
        >>> lamp(np.array([3.0, -1, 2])).round(4).tolist()
        [1.0, 0.0714, 0.3077]
    """
    flat = np.abs(values.reshape(-1))
    order = _ascending(flat)
    squares = flat[order].astype(np.float64) ** 2
    rest = np.cumsum(squares[::-1])[::-1]
    scores = np.empty(flat.size)
    scores[order] = np.divide(squares, rest, out=np.zeros_like(squares), where=rest > 0)
    return scores.reshape(values.shape)


def _ascending(sizes: Array) -> NDArray[np.intp]:
    """The places of flat numbers of no sign from the smallest up; of equal ones the later first."""
    last = sizes.size - 1
    if sizes.dtype != np.float32 or last >> 32:
        return last - np.argsort(sizes[::-1], kind="stable")
    # Bits of such floats ascend as they do.  Sorting them with their places is ten times as fast as argsort.
    keys = sizes.view(np.uint32).astype(np.uint64) << np.uint64(32)
    keys |= np.arange(last, -1, -1, dtype=np.uint64)
    keys.sort()
    return last - (keys & np.uint64(0xFFFFFFFF)).astype(np.intp)


def random(values: Array, name: str, seed: int = 0) -> Array:
    """Uniform noise, the same for the same name and seed: the control for every other criterion."""
    rng = np.random.default_rng([_SEED, seed, zlib.crc32(name.encode(errors="surrogateescape"))])
    return rng.random(values.shape, np.float32)


def wanda(values: Array, norms: Array) -> Array:
    """|w| times the L2 norm of the input that it multiplies.

    Sun et al. 2024, "A Simple and Effective Pruning Approach for Large Language Models", equation 1;
    scores are compared within each output.

    Args:
        values: the weight as rows of outputs, shape (outputs, inputs).
        norms: of each input over the calibration data, shape (inputs,).

    Example:
        >>> wanda(np.array([[1.0, -2], [3, 0]]), np.array([10.0, 1])).tolist()
        [[10.0, 2.0], [30.0, 0.0]]
    """
    return np.abs(values) * norms


def ria(values: Array, norms: Array, power: float = 0.5) -> Array:
    """The weight's share of its column and of its row, times the norm of its input to a power.

    Zhang et al. 2024, "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language
    Models", equations 2 and 3 (relative importance and activations).

    Args:
        values: shape (outputs, inputs).
        norms: of each input, shape (inputs,).
        power: of the norm; 0.5 in the paper.

    Example:
        >>> ria(np.array([[1.0, -3], [1, 0]]), np.array([4.0, 1])).tolist()
        [[1.5, 1.75], [3.0, 0.0]]
    """
    size = np.abs(values).astype(np.float64)
    share = np.zeros(size.shape)
    for axis in (0, 1):
        total = size.sum(axis, keepdims=True)
        share += np.divide(size, total, out=np.zeros_like(size), where=total > 0)
    return share * norms**power
