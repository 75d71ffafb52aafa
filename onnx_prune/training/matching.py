"""Which tensor of an exported model holds which parameter of the framework.

By name where the exporter kept names; otherwise by values: as they are, transposed, with rows in another
order, as parts of a fused tensor, or scaled by a BatchNormalization that was folded in.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from onnx_prune.training.folded import Fold, derived, folds, scales
from onnx_prune.training.fused import fused
from onnx_prune.training.moves import Move, find, fingerprint, straight
from onnx_prune.training.norms import norms, owner
from onnx_prune.training.pieces import Piece
from onnx_prune.training.stored import Stored

Array = NDArray[Any]
Following = tuple[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Matching:
    """What was found.

    Attributes:
        pieces: by parameter, where it is; several pieces together are the whole parameter.
        claimed: names of the tensors in which a parameter was found, or that hold the same as those.
        follows: biases of one number throughout (exporters drop zeros), with the kernel or scale of
            their layer and the dims of it that they go with.
    """

    pieces: Mapping[str, tuple[Piece, ...]]
    claimed: frozenset[str]
    follows: Mapping[str, Following]


def match(
    parameters: Mapping[str, Array],
    tensors: Iterable[Stored],
    cut_of: Callable[[str], Hashable] = str,
) -> Matching:
    """Look for the parameters of a module in a model that was exported from it.

    Args:
        parameters: all of the module by name, in its order, buffers too.
        tensors: of the model.
        cut_of: the same for tensors to which the same happens, so that it does not matter which it is.

    Example:
        >>> import numpy as np
        >>> kernel = np.arange(6.0).reshape(2, 3)
        >>> found = match({"fc.weight": kernel}, [Stored("onnx::MatMul_7", (3, 2), kernel.T)])
        >>> found.pieces["fc.weight"][0].tensor, found.pieces["fc.weight"][0].how
        ('onnx::MatMul_7', 'transposed')
    """
    matcher = _Matcher(parameters, tuple(tensors), cut_of)
    return matcher.run()


class _Matcher:
    def __init__(
        self,
        parameters: Mapping[str, Array],
        tensors: tuple[Stored, ...],
        cut_of: Callable[[str], Hashable],
    ) -> None:
        self.parameters = {n: a for n, a in parameters.items() if a.dtype.kind == "f" and a.size}
        self.position = {name: at for at, name in enumerate(self.parameters)}
        self.tensors, self.cut_of = tensors, cut_of
        self.by_name: dict[str, list[Stored]] = {}
        self.prints: dict[bytes, list[Stored]] | None = None
        for tensor in tensors:
            for alias in tensor.aliases | {tensor.name}:
                self.by_name.setdefault(alias, []).append(tensor)
        self.readers = {tensor.name: tensor.readers for tensor in tensors}
        self.kinds = {t.values.dtype for t in tensors if t.values is not None}
        self.found: dict[str, tuple[Piece, ...]] = {}
        self.claimed: set[str] = set()
        self.alike: set[str] = set()
        self.follows = dict(_following(self.parameters))

    def run(self) -> Matching:
        normal = list(norms(self.parameters))
        vectors = {name for norm in normal for name in norm.names}
        self._alike(name for name in self.parameters if name not in vectors)
        kernels = [n for n in self.parameters if n not in vectors and n not in self.found]
        for found in folds(kernels, self.parameters, self._unclaimed(), normal):
            self._fold(found)
        self._alike(name for name in vectors if name not in self.found)
        left = [norm for norm in normal if not all(name in self.found for name in norm.names)]
        for found in derived(left, self._unclaimed(), self._likeliest):
            self._fold(found)
        known = self.found.keys() | self.follows.keys()
        missing = {n: a for n, a in self.parameters.items() if n not in known}
        for name, pieces in fused(missing, self._unclaimed()).items():
            self._add(name, pieces)
        follows = {
            n: kernel for n, kernel in self.follows.items() if n not in self.found and kernel[0] in self.found
        }
        return Matching(self.found, frozenset(self.claimed | self.alike), follows)

    def _unclaimed(self) -> list[Stored]:
        return [t for t in self.tensors if t.name not in self.claimed and t.values is not None]

    def _add(self, name: str, pieces: tuple[Piece, ...]) -> None:
        self.found[name] = pieces
        self.claimed.update(piece.tensor for piece in pieces)

    def _fold(self, found: Fold) -> None:
        for name, piece in found.pieces.items():
            self._add(name, (piece,))
        self.claimed |= found.claimed

    def _alike(self, names: Iterable[str]) -> None:
        """Parameters that are in the model as they are, but for the order of dims or rows."""
        waiting: dict[str, list[_Candidate]] = {}
        for name in sorted(names, key=self.position.__getitem__):
            array = self.parameters[name]
            candidates = self._called(name, array)
            if not candidates and name not in self.follows:
                candidates = self._equal(array) or self._ending(name, array)
            if not candidates:
                continue
            self.alike.update(c.tensor.name for c in candidates)
            if len({(self.cut_of(c.tensor.name), c.lie) for c in candidates}) > 1:
                waiting[name] = candidates
            else:
                self._add(name, (candidates[0].piece,))
        for name, candidates in waiting.items():
            likeliest = self._likeliest(name, [c.tensor for c in candidates])
            self._add(name, (next(c.piece for c in candidates if c.tensor is likeliest),))

    def _called(self, name: str, array: Array) -> list[_Candidate]:
        """Candidates of the parameter's name; other values are no hindrance, if no fold explains them."""
        found = []
        for tensor in self.by_name.get(name, ()):
            if tensor.values is None:
                move, how = _by_shape(array.shape, tensor.shape), "name"
            else:
                move, how = find(array, tensor.values), "name"
                if move is None and not any(scales(array, tensor.values)):
                    move, how = _by_shape(array.shape, tensor.shape), "name, other values"
            if move is not None:
                found.append(_Candidate(tensor, Piece(tensor.name, how, move)))
        return found

    def _equal(self, array: Array) -> list[_Candidate]:
        """Candidates of the parameter's values."""
        if array.size == 1:
            return []  # an epsilon is as good
        if self.prints is None:
            self.prints = {}
            for tensor in self.tensors:
                if tensor.values is not None and tensor.values.size > 1:
                    self.prints.setdefault(fingerprint(tensor.values), []).append(tensor)
        found = []
        for kind in self.kinds:
            for tensor in self.prints.get(fingerprint(array.astype(kind)), ()):
                if tensor.values is None or tensor.values.dtype != kind:
                    continue
                move = find(array, tensor.values)
                if move is not None:
                    how = "values" if move.plain else "transposed" if move.order is None else "reordered"
                    found.append(_Candidate(tensor, Piece(tensor.name, how, move)))
        return found

    def _ending(self, name: str, array: Array) -> list[_Candidate]:
        """The one tensor whose name is the parameter's but for a prefix, as of a wrapped module."""
        found = []
        for alias, tensors in self.by_name.items():
            longer, shorter = (alias, name) if len(alias) > len(name) else (name, alias)
            if longer.endswith((f".{shorter}", f"/{shorter}")):
                found += tensors
        move = _by_shape(array.shape, found[0].shape) if len(found) == 1 else None
        return [] if move is None else [_Candidate(found[0], Piece(found[0].name, "end of name", move))]

    def _likeliest(self, name: str, candidates: Sequence[Stored]) -> Stored:
        """Of tensors with equal values the one that is read with others of its layer, or soon after them.

        Exporters store equal vectors once, or give them no telling name.
        """
        at = self.position[name]
        known = {n: self.readers[p[0].tensor] for n, p in self.found.items() if self.readers[p[0].tensor]}
        siblings = {i for n, nodes in known.items() if owner(n)[0] == owner(name)[0] for i in nodes}
        before = max((n for n in known if self.position[n] < at), key=self.position.__getitem__, default="")
        start = min(known.get(before, (0,)))

        def far(tensor: Stored) -> tuple[bool, bool, int]:
            steps = [(i < start, abs(i - start)) for i in tensor.readers]
            return (siblings.isdisjoint(tensor.readers), *min(steps, default=(True, 0)))

        return min(candidates, key=far)


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    tensor: Stored
    piece: Piece

    @property
    def lie(self) -> Hashable:
        """The same for the same move."""
        move = self.piece.move
        return None if move is None else (move.dims, None if move.order is None else move.order.tobytes())


def _following(parameters: Mapping[str, Array]) -> Iterator[tuple[str, Following]]:
    """Biases of one number throughout, with the kernel or scale of their layer, and its dims of that size."""
    layers: dict[str, list[str]] = {}
    for name in parameters:
        layers.setdefault(owner(name)[0], []).append(name)
    for names in layers.values():
        kernel = max(names, key=lambda name: parameters[name].ndim)
        shape = parameters[kernel].shape
        for name in names:
            array = parameters[name]
            if name == kernel or not array.ndim or (array != array.flat[0]).any():
                continue
            starts = [j for j in range(len(shape)) if shape[j : j + array.ndim] == array.shape]
            if starts:
                # Kernels have their outputs first in PyTorch, last in Keras.
                first = starts[-1] if owner(kernel)[1].endswith("kernel") else starts[0]
                yield name, (kernel, tuple(range(first, first + array.ndim)))


def _by_shape(shape: tuple[int, ...], to: tuple[int, ...]) -> Move | None:
    """The move between two shapes, as long as there is no choice."""
    one, other = ([n for n in s if n != 1] for s in (shape, to))
    if one == other:
        return straight(shape)
    return Move((1, 0)) if len(one) == 2 and one == other[::-1] else None
