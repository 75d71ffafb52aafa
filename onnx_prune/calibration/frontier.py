"""A model that is run piece by piece, while what comes later is still being changed."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune.calibration import taps
from onnx_prune.model.graph import read
from onnx_prune.runtime import Feeds, RunError, Session

Array = NDArray[Any]


def moving(model: onnx.ModelProto) -> dict[str, int]:
    """For each tensor that is computed from the inputs the index of its node."""
    stored = {tensor.name for tensor in model.graph.initializer}
    seen = {value.name for value in model.graph.input if value.name not in stored}
    index: dict[str, int] = {}
    for j, node in enumerate(model.graph.node):
        if seen.intersection(read(onnx.GraphProto(node=[node]))):
            seen.update(node.output)
            index.update((name, j) for name in node.output if name)
    return index


class Frontier:
    """Runs the nodes of a model in order, as far as asked, and keeps the values that are still needed.

    Each node is run once for each set of inputs.  What does not depend on the inputs is computed anew in
    every piece, so that weights may be changed in place as long as no node that reads them has been run.

    Args:
        model: the model.
        wanted: tensors that will be asked for.
        feeds: sets of inputs.
        folder: where external data are.
        limit: bytes of values kept in memory; what is beyond goes to a file.
        after: nodes that are run right after the node of that index; may be filled in as long as that has
            not been run.

    Attributes:
        nodes: the nodes in order.
        index: for each tensor that a node computes from inputs the index of the node.

    Raises:
        RunError: a value that is no tensor has to be kept, or onnxruntime can't run a piece.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        wanted: Collection[str],
        feeds: Sequence[Feeds],
        folder: Path | None = None,
        limit: int = 1 << 62,
        after: Mapping[int, Sequence[onnx.NodeProto]] | None = None,
    ) -> None:
        self.model, self.folder, self.limit = model, folder, limit
        self.nodes = list(model.graph.node)
        self._after = {} if after is None else after
        self.resident = 0
        self._at = 0
        stored = {tensor.name for tensor in model.graph.initializer}
        given = [value for value in model.graph.input if value.name not in stored]
        self._infos = {value.name: value for value in model.graph.input}
        self._values: list[dict[str, Array]] = [{v.name: feed[v.name] for v in given} for feed in feeds]
        self._reads = [set(read(onnx.GraphProto(node=[node]))) for node in self.nodes]
        self.index = moving(model)
        computed = set(self.index.values())
        self._constant = [j for j in range(len(self.nodes)) if j not in computed]
        self._last = self._last_uses(set(wanted))

    def _last_uses(self, wanted: set[str]) -> dict[str, int]:
        """For each tensor the last node that reads it, of those that lead to a wanted tensor."""
        needed, last = set(wanted), dict.fromkeys(wanted, len(self.nodes))
        for j in range(len(self.nodes) - 1, -1, -1):
            if needed.intersection(self.nodes[j].output):
                needed |= self._reads[j]
                for name in self._reads[j]:
                    last.setdefault(name, j)
        return last

    def advance(self, stop: int) -> None:
        """Run all nodes before the one of index `stop`."""
        start, self._at = self._at, max(self._at, stop)
        if self._at == start:
            return
        kept = [
            name
            for j in range(start, stop)
            for name in self.nodes[j].output
            if name in self.index and self._last.get(name, -1) >= stop
        ]
        if kept:
            self._run(start, stop, kept)
        for values in self._values:
            for name in [name for name in values if self._last.get(name, -1) < stop]:
                self._drop(values, name)

    def _run(self, start: int, stop: int, kept: Sequence[str]) -> None:
        places = [j for j in self._constant if j < start]
        nodes = []
        for j in (*places, *range(start, stop)):
            nodes += [self.nodes[j], *self._after.get(j, ())]
        first = self._values[0]
        infos = [self._infos[name] for name in first if name in self._infos]
        infos += taps.described(first, [name for name in first if name not in self._infos])
        session = Session(taps.part(self.model, infos, kept, nodes), self.folder)
        for values in self._values:
            found = session.run({name: values[name] for name in session.inputs}, kept)
            for name, value in zip(kept, found, strict=True):
                values[name] = self._keep(name, value)

    def _keep(self, name: str, value: Array) -> Array:
        if not isinstance(value, np.ndarray):
            raise RunError(f"{name} is no tensor: the model can't be run piece by piece")
        if self.resident + value.nbytes <= self.limit or not value.nbytes or value.dtype == object:
            self.resident += value.nbytes
            return value
        with tempfile.TemporaryFile() as file:
            mapped = np.memmap(file, value.dtype, "w+", shape=value.shape)
        mapped[...] = value
        return mapped

    def _drop(self, values: dict[str, Array], name: str) -> None:
        value = values.pop(name)
        if name in self.index and not isinstance(value, np.memmap):
            self.resident -= value.nbytes

    def value(self, name: str, j: int) -> Array:
        """A tensor for set `j` of the inputs; its node has been run, and it is still needed."""
        return self._values[j][name]

    def forget(self, name: str) -> None:
        """A wanted tensor will not be asked for again."""
        reader = max((j for j in range(self._at, len(self.nodes)) if name in self._reads[j]), default=-1)
        self._last[name] = reader
        if reader < self._at:
            for values in self._values:
                if name in values:
                    self._drop(values, name)
