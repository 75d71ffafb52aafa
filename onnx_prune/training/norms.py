"""BatchNormalization: which parameters make one, and what exporters make of them.

In inference it is y = s x + t with s = scale / sqrt(var + epsilon) and t = shift - mean s.  Exporters
fold s and t into the layer before, or store the two vectors in place of the four (Ioffe and Szegedy 2015).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# What PyTorch and Keras call them; a statistic makes a norm, the other two may be absent.
_ROLES = (
    {"mean": "running_mean", "var": "running_var", "scale": "weight", "shift": "bias"},
    {"mean": "moving_mean", "var": "moving_variance", "scale": "gamma", "shift": "beta"},
)
_TOLERANCE = 1e-4
_LARGEST_EPSILON = 0.1
EPSILONS = (1e-5, 1e-3, 1e-6, 1e-4, 1e-2, 1.1e-5, 1e-12)


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """One normalization.

    Attributes:
        names: its parameters.
        at: position of the first of them among all parameters.
        scale: shape (channels,), as the others.
        shift: also called beta.
        mean: of the inputs, running.
        var: their variance, running.
    """

    names: tuple[str, ...]
    at: int
    scale: Array
    shift: Array
    mean: Array
    var: Array

    def factors(self, epsilon: float) -> tuple[Array, Array]:
        """What it multiplies with and what it adds."""
        scale = self.scale / np.sqrt(self.var + epsilon)
        return scale, self.shift - self.mean * scale

    def epsilon(self, factors: Array) -> float | None:
        """The epsilon with which it multiplies with these factors, None if there is none.

        Example:
            >>> norm = Norm((), 0, *(np.array([a, b]) for a, b in ((1.0, 2.0), (0, 0), (0, 0), (4.0, 8.0))))
            >>> round(norm.epsilon(np.array([1.0, 2.0]) / np.sqrt([4.001, 8.001])), 6), norm.epsilon(norm.var)
            (0.001, None)
        """
        if factors.shape != self.var.shape:
            return None
        there = factors != 0
        if not there.any():
            return None
        with np.errstate(over="ignore"):
            found = float(np.median((self.scale[there] / factors[there]) ** 2 - self.var[there]))
        found = max(found, 0.0)
        if found > _LARGEST_EPSILON:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            made, _ = self.factors(found)
        off = np.abs(made - factors)
        return found if (off <= _TOLERANCE * np.abs(factors).max()).all() else None


def norms(parameters: Mapping[str, Array]) -> Iterator[Norm]:
    """Every normalization with running statistics, in the order of the parameters.

    Example:
        >>> state = {"bn.weight": np.ones(3), "bn.running_mean": np.zeros(3), "bn.running_var": np.ones(3)}
        >>> [norm.names for norm in norms(state)]
        [('bn.weight', 'bn.running_mean', 'bn.running_var')]
    """
    position = {name: at for at, name in enumerate(parameters)}
    for name, var in parameters.items():
        prefix, leaf = owner(name)
        for roles in _ROLES:
            if leaf != roles["var"]:
                continue
            there = {role: f"{prefix}{called}" for role, called in roles.items()}
            names = tuple(sorted(filter(position.__contains__, there.values()), key=position.__getitem__))

            def value(role: str, default: float, there: dict[str, str] = there, var: Array = var) -> Array:
                array = parameters.get(there[role])
                return np.full(var.shape, default) if array is None else array.astype(np.float64)

            yield Norm(
                names,
                position[names[0]],
                value("scale", 1.0),
                value("shift", 0.0),
                value("mean", 0.0),
                value("var", 1.0),
            )


def owner(name: str) -> tuple[str, str]:
    """The layer of a parameter, with the separator, and what it is called there.

    Example:
        >>> owner("layer1.conv.weight"), owner("model/conv2d/kernel"), owner("scale")
        (('layer1.conv.', 'weight'), ('model/conv2d/', 'kernel'), ('', 'scale'))
    """
    at = max(name.rfind("."), name.rfind("/")) + 1
    return name[:at], name[at:]
