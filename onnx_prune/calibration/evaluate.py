"""Accuracy where the user has labels: what fraction of the samples a classifier gets right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune import samples
from onnx_prune.errors import InputError
from onnx_prune.model.graph import Graph
from onnx_prune.runtime import Feeds, Session

Array = NDArray[Any]
LABELS = "labels"
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Top-1 before and after.

    Attributes:
        before: fraction of the samples that the original gets right.
        after: the same of the pruned model.
        samples: how many samples.
        source: the file that they come from.
    """

    before: float
    after: float
    samples: int
    source: str


def evaluate(graph: Graph, small: onnx.ModelProto, path: Path) -> Accuracy:
    """Count what both models get right.

    Args:
        graph: the original.
        small: the pruned model.
        path: an .npz file with an array for each input, stacked on the batch axis, and `labels`.

    Raises:
        InputError: the file is not usable, or no output has a score for each class.
        RunError: onnxruntime can't run one of the models.
    """
    feeds, labels = load(path, graph.inputs)
    before, after = (top1(model, feeds, labels, graph.folder, path) for model in (graph.model, small))
    return Accuracy(before, after, len(labels), str(path))


def load(path: Path, inputs: Sequence[onnx.ValueInfoProto]) -> tuple[list[dict[str, Array]], Array]:
    """Inputs in batches, and the label of each sample.

    Raises:
        InputError: the file is not usable, or does not fit the model.
    """
    arrays = samples.read(path)
    if LABELS not in arrays:
        raise InputError(f"{path}: no array {LABELS!r}; the file has {', '.join(arrays) or 'none'}")
    labels = arrays.pop(LABELS)
    feeds = samples.batches(arrays, inputs, _CHUNK, path)
    total = len(next(iter(samples.named(arrays, inputs).values())))
    if labels.dtype.kind not in "iu" or labels.shape not in ((total,), (total, 1)):
        raise InputError(
            f"{path}: {LABELS!r} is {labels.dtype} of shape {labels.shape}; whole numbers are needed, "
            f"one for each of {total} samples"
        )
    used = sum(len(next(iter(feed.values()))) for feed in feeds)
    return feeds, labels.ravel()[:used]


def top1(
    model: onnx.ModelProto, feeds: Sequence[Feeds], labels: Array, folder: Path | None, path: Path
) -> float:
    """What fraction of the samples a classifier gets right.

    Args:
        model: the classifier; its first output that has a score for each class counts.
        feeds: inputs in batches, see `load`.
        labels: the right class of each sample.
        folder: where external data are.
        path: the file that the samples come from, for messages.

    Raises:
        InputError: no output has a score for each class.
        RunError: onnxruntime can't run the model.
    """
    session, right, at = Session(model, folder, optimize=True), 0, 0
    for feed in feeds:
        stop = at + len(next(iter(feed.values())))
        scores = next((y for y in session.run(feed) if _are_scores(y, stop - at)), None)
        if scores is None:
            raise InputError(f"{path}: no output of the model has a score for each class of each sample")
        right += int((scores.reshape(stop - at, -1).argmax(1) == labels[at:stop]).sum())
        at = stop
    return right / len(labels)


def _are_scores(y: object, count: int) -> bool:
    """Whether an output has some numbers for each sample and no other dims, but for some of size 1."""
    if not isinstance(y, np.ndarray) or y.dtype.kind != "f" or y.ndim < 2 or len(y) != count:
        return False
    return bool(np.count_nonzero(np.array(y.shape[1:]) > 1) == 1)
