"""What a run that zeroes single weights found out and did, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from onnx_prune.sparse.histogram import Histogram
from onnx_prune.sparse.storage import Storage
from onnx_prune.validate import Drift

SPEED = (
    "onnxruntime gains no speed from zeros; 2:4 is fast in TensorRT on GPUs with sparse tensor cores, "
    "whole channels are once --dead removes them"
)


@dataclass(frozen=True, slots=True)
class Layer:
    """One weight.

    Attributes:
        name: of the tensor.
        labels: of the layers that read it.
        shape: of the tensor.
        size: its elements.
        zeros_before: how many were zero.
        asked: how many the mask makes zero.
        zeros: how many are zero now.
    """

    name: str
    labels: tuple[str, ...]
    shape: tuple[int, ...]
    size: int
    zeros_before: int
    asked: int
    zeros: int


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """A tensor that a layer reads and that takes no part, and why."""

    name: str
    size: int
    why: str


@dataclass(frozen=True, slots=True)
class SparseReport:
    """All that is known after a run.

    Attributes:
        source: the input's path, None for a model given as an object.
        output: the output's path, None where nothing was written.
        criterion: what made a weight matter.
        pattern: what went together.
        asked_ratio: the fraction of weights asked to be zero.
        asked: how many weights the masks make zero.
        zeros: how many are zero, of those that take part.
        size: how many take part.
        params: elements of all weights of the model.
        layers: those that take part.
        left_alone: those that might.
        untouched: how many tensors have the bytes that they had.
        storage: what the weights take on the disk.
        stored_sparsely: how many tensors were written as sparse initializers.
        bytes: size of the file, with its external data; None where it was not written.
        histogram: how the weights are spread.
        runs: whether onnxruntime has run the result.
        not_run: why not.
        drift: how far outputs moved from the dense model's; None where not measured.
        notes: other things worth knowing, one sentence each.
        seconds: time taken by each stage.
        versions: of onnx-prune and what it stands on.
        speed: what zeros are worth at run time.
    """

    source: str | None
    output: str | None
    criterion: str
    pattern: str
    asked_ratio: float
    asked: int
    zeros: int
    size: int
    params: int
    layers: tuple[Layer, ...]
    left_alone: tuple[LeftAlone, ...]
    untouched: int
    storage: Storage
    stored_sparsely: int = 0
    bytes: int | None = None
    histogram: Histogram | None = None
    runs: bool = False
    not_run: str = ""
    drift: Drift | None = None
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    speed: str = SPEED

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, ready for JSON."""
        return asdict(self)
