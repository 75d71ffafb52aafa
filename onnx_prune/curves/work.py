"""What a worker does: run masked models on the same inputs, and say how far their answers are off.

A masked model travels as what differs from the original, which a worker has already.  Everything here can be
pickled, and nothing needs the process that asked.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_prune.comparison.distance import Tally
from onnx_prune.runtime import Feeds, Session

Answers = Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Setup:
    """What all jobs share.

    Attributes:
        model: the original, serialized.
        folder: where its external data are.
        feeds: sets of inputs.
        outputs: names of the outputs that are compared.
        answers: the original's, for each set of inputs an array an output.
    """

    model: bytes
    folder: Path | None
    feeds: tuple[Feeds, ...]
    outputs: tuple[str, ...]
    answers: Answers


@dataclass(frozen=True, slots=True)
class Difference:
    """A masked model: the rest of it, and the initializers that it shares with the original."""

    rest: bytes
    shared: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """One group.

    Attributes:
        setup: what all jobs share, or the file that has it, pickled.
        group: its name.
        masked: a model for each count of channels removed.
    """

    setup: Setup | Path
    group: str
    masked: tuple[Difference, ...]


def difference(original: onnx.ModelProto, masked: onnx.ModelProto) -> Difference:
    """What has to travel of a masked model, which loses what it shares."""
    before = {tensor.name: tensor for tensor in original.graph.initializer}
    shared, own = [], []
    for tensor in masked.graph.initializer:
        if tensor.name in before and tensor == before[tensor.name]:
            shared.append(tensor.name)
        else:
            own.append(tensor)
    kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in own]
    del masked.graph.initializer[:]
    masked.graph.initializer.extend(kept)
    return Difference(masked.SerializeToString(), tuple(shared))


def measure(job: Job) -> list[tuple[float, float | None]]:
    """For each masked model the largest relative error of its outputs, and the largest divergence.

    Raises:
        RunError: onnxruntime can't run one.
    """
    setup = job.setup if isinstance(job.setup, Setup) else _read(job.setup)
    original = onnx.ModelProto.FromString(setup.model)
    tensors = {tensor.name: tensor for tensor in original.graph.initializer}
    found = []
    for masked in job.masked:
        model = onnx.ModelProto.FromString(masked.rest)
        model.graph.initializer.extend(tensors[name] for name in masked.shared)
        found.append(_distance(Session(model, setup.folder, optimize=True, threads=1), setup))
    return found


def answers(session: Session, feeds: Sequence[Feeds], outputs: Sequence[str]) -> Answers:
    """What a model answers to each set of inputs."""
    return [session.run(feed, outputs) for feed in feeds]


def _distance(session: Session, setup: Setup) -> tuple[float, float | None]:
    tallies = [Tally() for _ in setup.outputs]
    unlike = False
    for feed, wanted in zip(setup.feeds, setup.answers, strict=True):
        for tally, want, got in zip(tallies, wanted, session.run(feed, setup.outputs), strict=True):
            if want.shape == got.shape:
                tally.add(want, got)
            else:  # what an order of values decides, such as how many boxes a detector finds
                unlike = True
    distances = [tally.distance() for tally in tallies]
    divergences = [distance.kl for distance in distances if distance.kl is not None]
    error = np.inf if unlike else max(distance.relative_error for distance in distances)
    return error, max(divergences, default=None)


@lru_cache(maxsize=1)
def _read(path: Path) -> Setup:
    with path.open("rb") as file:
        setup = pickle.load(file)
    assert isinstance(setup, Setup)
    return setup
