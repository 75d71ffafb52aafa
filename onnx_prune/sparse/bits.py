"""Which weights of a tensor stay, eight to a byte."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod as product
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Bits:
    """The mask of one tensor.

    Attributes:
        packed: its elements in row-major order, 1 for those that stay, eight to a byte from the highest
            bit on (`numpy.packbits`); the last byte is filled up with zeros.
        shape: of the tensor.

    Example:
        >>> mask = Bits.of(np.array([[True, False, True]]))
        >>> mask.packed.tolist(), mask.kept, mask.keep().tolist()
        ([160], 2, [[True, False, True]])
    """

    packed: NDArray[np.uint8]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, keep: NDArray[Any]) -> Bits:
        """The mask from an array of booleans."""
        return cls(np.packbits(keep), keep.shape)

    def keep(self) -> NDArray[np.bool_]:
        """The mask as an array of booleans."""
        return np.unpackbits(self.packed, count=product(self.shape)).view(np.bool_).reshape(self.shape)

    @property
    def kept(self) -> int:
        """How many weights stay."""
        return int(np.bitwise_count(self.packed).sum())

    def within(self, other: Bits) -> bool:
        """Whether all that stays here stays there, too."""
        return self.shape == other.shape and not (self.packed & ~other.packed).any()
