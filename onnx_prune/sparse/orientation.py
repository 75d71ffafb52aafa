"""How a weight lies: which of its dims make outputs, which are summed over, and which are positions.

Exporters store the same layer in many ways (`transB`, kernels as height x width x in x out, a dim that
is groups times channels).  Sparsity patterns and criteria speak of outputs and of what is summed over,
so every weight is seen here as one array of shape (outputs, positions, summed).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod as product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Part = Literal["out", "sum", "position"]
Factors = tuple[tuple[int, Part], ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """The dims of a weight in factors, each with the part it plays.

    Attributes:
        dims: for each dim its factors, (size, part), the last varies fastest.

    Example:
        >>> kernel = Layout((((4, "out"),), ((2, "sum"),), ((3, "position"),)))
        >>> kernel.shape, kernel.outputs, kernel.positions, kernel.summed
        ((4, 2, 3), 4, 3, 2)
        >>> str(Layout((((2, "out"), (4, "out")), ((3, "sum"),))))
        '(out out) sum'
    """

    dims: tuple[Factors, ...]

    def __str__(self) -> str:
        texts = [" ".join(part for _, part in factors) for factors in self.dims]
        return " ".join(f"({t})" if " " in t else t for t in texts)

    @property
    def shape(self) -> tuple[int, ...]:
        """The stored shape."""
        return tuple(product(n for n, _ in factors) for factors in self.dims)

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return self._count("out")

    @property
    def positions(self) -> int:
        """Number of positions: those of a kernel, the gates of a recurrent layer."""
        return self._count("position")

    @property
    def summed(self) -> int:
        """Number of inputs that an output sums over at each position."""
        return self._count("sum")

    def matrix(self, array: Array) -> Array:
        """The weight as (outputs, positions, summed); a view where the order allows it.

        Args:
            array: values in the stored shape.

        Example:
            >>> Layout((((3, "sum"),), ((2, "out"),))).matrix(np.arange(6).reshape(3, 2))[:, 0]
            array([[0, 2, 4],
                   [1, 3, 5]])
        """
        sizes, order = self._order()
        return array.reshape(sizes).transpose(order).reshape(self.outputs, self.positions, self.summed)

    def stored(self, matrix: Array) -> Array:
        """What `matrix` was made from.

        Example:
            >>> layout = Layout((((2, "out"), (2, "sum")), ((3, "position"),)))
            >>> stored = np.arange(12).reshape(4, 3)
            >>> np.array_equal(layout.stored(layout.matrix(stored)), stored)
            True
        """
        sizes, order = self._order()
        back = np.argsort(order)
        return matrix.reshape([sizes[j] for j in order]).transpose(back).reshape(self.shape)

    def _count(self, part: Part) -> int:
        return product(n for factors in self.dims for n, p in factors if p == part)

    def _order(self) -> tuple[list[int], list[int]]:
        flat = [factor for factors in self.dims for factor in factors]
        order = [j for part in ("out", "position", "sum") for j, (_, p) in enumerate(flat) if p == part]
        return [n for n, _ in flat], order


def refine(known: Sequence[tuple[int, Part]], sizes: Iterable[int]) -> list[Factors] | None:
    """Two ways to split one dim into factors, brought together.

    Args:
        known: the factors whose parts are known.
        sizes: of the factors in the other way.

    Returns:
        For each of `sizes` the factors that it is made of; None if the two do not line up.

    Example:
        >>> refine([(6, "out")], [2, 3])
        [((2, 'out'),), ((3, 'out'),)]
        >>> refine([(2, "out"), (3, "sum")], [6])
        [((2, 'out'), (3, 'sum'))]
        >>> refine([(2, "out"), (3, "sum")], [3, 2]) is None
        True
    """
    left = list(reversed([factor for factor in known if factor[0] != 1]))
    found: list[Factors] = []
    for size in sizes:
        own: list[tuple[int, Part]] = []
        while size > 1:
            if not left:
                return None
            n, part = left.pop()
            if size % n == 0:
                own.append((n, part))
                size //= n
            elif n % size == 0:
                own.append((size, part))
                left.append((n // size, part))
                size = 1
            else:
                return None
        found.append(tuple(own) or ((1, "position"),))
    return None if left else found
