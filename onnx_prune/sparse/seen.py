"""How the weights are spread, and what they take on the disk, before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune.coupling import Coupling
from onnx_prune.model import tensors
from onnx_prune.sparse import storage
from onnx_prune.sparse.bits import Bits
from onnx_prune.sparse.histogram import Histogram, histogram
from onnx_prune.sparse.stored import Unpacked
from onnx_prune.sparse.zeroing import Count, Values

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """What is seen of the weights that take part."""

    histogram: Histogram
    storage: storage.Storage


class Look:
    """Made before anything is written: the new file may take the place of the one that is read.

    Where there are many weights these are not looked at, only counted.

    Args:
        coupling: the analysed original.
        names: of the tensors that take part.

    Attributes:
        small: whether they are looked at.
    """

    def __init__(self, coupling: Coupling, names: Collection[str]) -> None:
        stored = Unpacked(coupling)
        self._protos = {name: stored.proto(name) for name in names}
        self._dense = sum(map(tensors.nbytes, self._protos.values()))
        self.small = self._dense <= storage.GZ_BELOW
        kept = names if self.small else ()
        self._before, self._packed = {}, {}
        for name in kept:
            proto = self._protos[name]
            self._before[name] = _held(proto, stored.array(name)), stored.zero(name)
            if (packing := stored.packing(name)) is not None:
                self._packed[name] = packing, _held(proto, coupling.graph.array(name))

    def at(self, bits: Mapping[str, Bits], counts: Mapping[str, Count], values: Values | None) -> Seen:
        """What there is to see.

        Args:
            bits: the masks.
            counts: what became of each tensor.
            values: new values of a tensor before it was masked; None where it kept its own.
        """

        def pairs() -> Iterator[tuple[Array, Array]]:
            for name, (old, zero) in self._before.items():
                fresh = None if values is None else values(name)
                new = np.where(bits[name].keep(), old if fresh is None else fresh, zero)
                packing, held = self._packed.get(name, (None, old))
                yield held, new if packing is None else packing.stored(new, held)

        kind = Counter(tensor.data_type for tensor in self._protos.values()).most_common(1)[0][0]
        unknown = (None, None)
        gz, zstd = storage.compressed(new for _, new in pairs()) if self.small else unknown
        gz_before, zstd_before = storage.compressed(old for old, _ in pairs()) if self.small else unknown
        sizes = storage.Storage(
            self._dense,
            *(gz, gz_before, zstd, zstd_before),
            sum(storage.sparse_bytes(tensor, counts[name].zeros) for name, tensor in self._protos.items()),
            storage.break_even(kind),
        )
        return Seen(histogram(pair for pair in pairs() if pair[0].dtype.kind == "f"), sizes)


def _held(proto: onnx.TensorProto, array: Array) -> Array:
    """The values in memory: mapped files, of which each keeps one open, would be too many."""
    return np.array(array) if tensors.is_external(proto) else array
