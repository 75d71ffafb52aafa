"""What every run does alike: read a model, time its stages, write what came of it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import onnx

from onnx_prune.draft import Draft
from onnx_prune.model import files, tensors
from onnx_prune.model.atomic import ALIGNMENT
from onnx_prune.model.graph import Graph
from onnx_prune.settings import Progress

Source = str | Path | onnx.ModelProto
_HEAD = 8  # bytes before those of a tensor
_ENTRY = 128  # bytes that say where external data are


@dataclass
class Stages:
    """The clock of a run.

    Attributes:
        progress: told the name of each stage as it starts.
        seconds: time taken by each so far.
    """

    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """A stage, from its start to its end."""
        self.progress(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def load(source: Source) -> tuple[Graph, str]:
    """The graph of a model, and the sha256 of its main file ("" for a model in memory).

    Raises:
        InputError: the model is not usable.
    """
    if isinstance(source, onnx.ModelProto):
        return Graph(source), ""
    path = Path(source)
    model = files.load(path)
    with path.open("rb") as file:
        # the one other pass over a single file's weights, a seventh of ResNet-50's time: plans name the model
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Graph(model, path.parent), sha256


def save(
    graph: Graph, draft: Draft, output: str | Path, external: Literal["auto", "always", "never"] = "auto"
) -> int:
    """Write a draft of a graph, with its weights where those of the original are.

    Returns:
        Bytes written.

    Raises:
        Unwritable: the operating system refused; the old files are as they were.
    """
    return files.save(
        draft.model,
        output,
        content=draft.content,
        source=graph.folder,
        external=external,
        was_external=any(map(tensors.is_external, graph.model.graph.initializer)),
    )


def size_of_draft(draft: Draft) -> int:
    """Bytes of a draft as it is written, at most; its external data among them."""
    weights = draft.model.graph.initializer
    external = [tensor for tensor in weights if tensors.is_external(tensor)]
    later = [tensor for tensor in weights if tensor.name in draft.content]
    apart = len(external + later) * (ALIGNMENT + _ENTRY) if external else 0
    return int(draft.model.ByteSize()) + sum(tensors.nbytes(t) + _HEAD for t in external + later) + apart


def size_of(source: Source, graph: Graph) -> int:
    """Bytes of a model, its external data among them."""
    if isinstance(source, onnx.ModelProto):
        return int(source.ByteSize())
    external = {t.name: t for t in graph.model.graph.initializer if tensors.is_external(t)}
    return Path(source).stat().st_size + sum(tensors.nbytes(t) for t in external.values())
