"""Another basis for channels that are only ever multiplied: the product stays, and its energy comes first.

Where queries meet keys, and where values meet the output projection, nothing tells one basis of a head's
dims from another: q.k = (P'q).(R'k) for every P R' = I.  In the basis found here the first dims carry the
most of the product on the calibration data, so that to keep those loses the least (a truncated singular
value decomposition weighted with covariances; Lin et al. 2025, "MoDeGPT", sections 3.2 and 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_FLOOR = 1e-6  # of the largest eigenvalue: a direction that no sample takes has to stay invertible


@dataclass(frozen=True, slots=True)
class Basis:
    """New coordinates for both factors of a product.

    Attributes:
        left: the left factor's new dims over its old ones, shape (d, d): `left @ q`.
        right: the right factor's; `left.T @ right` is the identity.
        energy: mean square of what each new dim adds to the product, shape (d,), descending.
    """

    left: Array
    right: Array
    energy: Array


def products(queries: Array, keys: Array) -> Basis:
    """The basis for products of two factors that both vary with the input.

    Args:
        queries: second moment of the left factor, shape (d, d).
        keys: of the right factor, shape (d, d); its covariance where a softmax follows, which ignores what
            all keys have in common.

    Example:
        >>> basis = products(np.diag([1.0, 4.0]), np.diag([1.0, 9.0]))
        >>> basis.energy.round(3).tolist()
        [36.0, 1.0]
        >>> np.allclose(basis.left.T @ basis.right, np.eye(2))
        True
        >>> products(np.eye(2), np.zeros((2, 2))).energy.tolist()
        [0.0, 0.0]
    """
    q, q_inverse, q_most = _roots(queries)
    k, k_inverse, k_most = _roots(keys)
    u, s, v = np.linalg.svd(q @ k)
    half = np.sqrt(s)[:, None]
    return Basis(half * (u.T @ q_inverse), half * (v @ k_inverse), s**2 * q_most * k_most)


def projections(values: Array, weight: Array) -> Basis:
    """The basis for a factor that varies and one that is constant.

    Args:
        values: covariance of the factor that varies, shape (d, d).
        weight: what it is multiplied with, shape (results, d): `weight @ v`.

    Example:
        >>> basis = projections(np.diag([1.0, 4.0]), np.array([[3.0, 1.0]]))
        >>> basis.energy.round(3).tolist()
        [13.0, 0.0]
        >>> new = np.array([[3.0, 1.0]]) @ basis.right.T
        >>> np.allclose(new @ basis.left, [[3.0, 1.0]])
        True
    """
    root, inverse, most = _roots(values)
    u, s, _ = np.linalg.svd(root @ weight.T)
    energy = np.zeros(len(values))
    energy[: len(s)] = s**2 * most
    return Basis(u.T @ inverse, u.T @ root, energy)


def _roots(moment: Array) -> tuple[Array, Array, float]:
    """The square root of a symmetric matrix over its largest eigenvalue, the root's inverse, and that value.

    What never varies has no direction of its own: its root is the identity.
    """
    values, vectors = np.linalg.eigh(moment)
    most = max(float(values[-1]), 0.0)
    share = values / most if most > np.finfo(np.float32).tiny else np.ones_like(values)
    root = np.sqrt(np.maximum(share, _FLOOR))
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T, most
