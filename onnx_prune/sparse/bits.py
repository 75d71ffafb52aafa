"""Which weights of a tensor stay, eight to a byte."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod as product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnx_prune.model.pieces import Runs


class Mask(Protocol):
    """What says which weights of a tensor stay, whether it is stored or found as they are read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""

    @property
    def removes(self) -> int | None:
        """How many weights go, where that is known beforehand."""

    def prepare(self, values: Runs) -> Any:
        """What `part` needs to know, found out from the values as they are stored."""

    def part(self, part: slice, values: NDArray[Any], found: Any, spare: NDArray[Any]) -> NDArray[np.bool_]:
        """Which weights of a run stay.

        Args:
            part: the run, in row-major order; it starts at a multiple of eight.
            values: as they are stored there.
            found: by `prepare`.
            spare: memory like that of the values, which may be written into.
        """


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

    def prepare(self, values: Runs) -> None:
        """See `Mask.prepare`."""

    def part(self, part: slice, values: NDArray[Any], found: None, spare: NDArray[Any]) -> NDArray[np.bool_]:
        """See `Mask.part`."""
        packed = self.packed[part.start // 8 : -(-part.stop // 8)]
        return np.unpackbits(packed, count=part.stop - part.start).view(np.bool_)

    @property
    def removes(self) -> int:
        """See `Mask.removes`."""
        return product(self.shape) - self.kept

    @property
    def kept(self) -> int:
        """How many weights stay."""
        return int(ones(self.packed))

    def within(self, other: Bits) -> bool:
        """Whether all that stays here stays there, too."""
        return self.shape == other.shape and not (self.packed & ~other.packed).any()


def ones(packed: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How many bits are set in each row.

    Example:
        >>> ones(np.full((2, 9), 3, np.uint8)).tolist()
        [18, 18]
    """
    words = packed.view(np.uint64) if packed.shape[-1] % 8 == 0 and packed.flags.c_contiguous else packed
    return np.asarray(np.bitwise_count(words).sum(-1, dtype=np.int64))
