"""Any two models with the same inputs: distance, cost and speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_prune import samples
from onnx_prune.calibration import evaluate
from onnx_prune.calibration.evaluate import Accuracy
from onnx_prune.comparison.distance import Distance, Tally
from onnx_prune.cost import total_macs
from onnx_prune.errors import InputError
from onnx_prune.report import Size
from onnx_prune.runtime import Feeds, RunError, Session, random_feeds
from onnx_prune.settings import Progress
from onnx_prune.shape.shapes import at_batch_one, infer
from onnx_prune.stages import Source, load, size_of
from onnx_prune.validate import Latency, take_turns

RANDOM = "random inputs"
_NUMBERS = "fiub"


@dataclass(frozen=True, slots=True)
class Compared:
    """Two models side by side.

    As JSON it is these fields by these names, and those of the classes that they hold, after
    `"format": "onnx-prune-comparison"` and `"version": 1`.

    Attributes:
        names: both models' paths, None for one given as an object.
        sizes: what they cost, at the same input shapes where both are dynamic.
        outputs: by the first model's name how far each output is from that of the second.
        not_compared: by name why an output was not.
        samples: number of samples compared.
        source: the file that the inputs come from, or "random inputs".
        latency: of both, measured in turns with a batch of one where that is free.
        accuracy: top-1 of both; None where no labels are given.
        shapes: the input shapes that MACs and latency are for.
        notes: other things worth knowing, one sentence each.
    """

    names: tuple[str | None, str | None]
    sizes: tuple[Size, Size]
    outputs: dict[str, Distance]
    not_compared: dict[str, str]
    samples: int
    source: str
    latency: Latency
    accuracy: Accuracy | None
    shapes: dict[str, tuple[int, ...]]
    notes: tuple[str, ...] = ()

    @property
    def error(self) -> float:
        """The largest relative error of all outputs."""
        return max(found.relative_error for found in self.outputs.values())

    @property
    def agreement(self) -> float | None:
        """The lowest top-1 agreement; None where no output has a score for each class."""
        return min((found.top1 for found in self.outputs.values() if found.top1 is not None), default=None)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain data, ready for JSON."""
        return asdict(self)


def compare(
    first: Source,
    second: Source,
    *,
    data: str | Path | None = None,
    labelled: str | Path | None = None,
    threads: int = 0,
    progress: Progress = lambda stage: None,
) -> Compared:
    """Run two models on the same inputs.

    Args:
        first: a path, or a model in memory.
        second: the other; outputs are matched by name, or in their order where no name is in both.
        data: .npz with an array for each input; random inputs where there is none.
        labelled: .npz with inputs and their `labels`, to count what both get right.
        threads: onnxruntime threads for the latency; 0 lets onnxruntime choose.
        progress: called with the name of each stage.

    Raises:
        InputError: a file is not usable, the models' inputs differ, they have no output in common, or
            onnxruntime can't run one of them.
    """
    if threads < 0:
        raise InputError(f"threads {threads} is negative: give 1 or more, 0 for onnxruntime's choice")
    progress("loading")
    sides = [_Side(source) for source in (first, second)]
    a, b = sides
    _require_same_inputs(a, b)
    progress("counting")
    a.count()
    b.count()
    tight = max(sides, key=lambda side: sum(map(_fixed, side.graph.inputs)))
    if data is None:
        feeds, source = list(samples.random_batches(tight.graph.inputs, tight.analysed)), RANDOM
    else:
        feeds, source = samples.load(data, tight.graph.inputs), str(data)
    progress("comparing")
    outputs, not_compared = _distances(a, b, feeds)
    progress("measuring")
    one = random_feeds(tight.graph.inputs, tight.typical)
    try:
        timed = [side.session(threads) for side in sides]
        latency = take_turns(timed, one, threads=threads)
    except RunError as error:
        raise InputError(f"latency can't be measured: {error}") from None
    accuracy = None
    if labelled is not None:
        progress("evaluating")
        accuracy = _accuracy(sides, tight, Path(labelled))
    return Compared(
        (a.name, b.name),
        (a.size, b.size),
        outputs,
        not_compared,
        sum(map(_count, feeds)),
        source,
        latency,
        accuracy,
        dict(tight.typical),
        () if a.typical == b.typical else ("MACs are of unlike input shapes: the models fix other dims",),
    )


class _Side:
    """One of the two models."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.name = None if isinstance(source, onnx.ModelProto) else str(source)
        self.graph, _ = load(source)

    @property
    def called(self) -> str:
        return repr(self.name) if self.name else "a model"

    def count(self) -> None:
        """Find out sizes and shapes."""
        analysed, probe = infer(self.graph)
        typical = at_batch_one(self.graph, analysed, probe)
        self.analysed, self.typical = analysed.inputs, typical.inputs
        self.size = Size(
            self.graph.params(), total_macs(self.graph, typical.known), size_of(self.source, self.graph)
        )

    def session(self, threads: int = 0) -> Session:
        try:
            return Session(self.graph.model, self.graph.folder, optimize=True, threads=threads)
        except RunError as error:
            raise InputError(f"{self.called}: {error}") from None

    def run(self, session: Session, feed: Feeds, names: Sequence[str]) -> list[Any]:
        try:
            return list(session.run(feed, names))
        except RunError as error:
            raise InputError(f"{self.called}: {error}") from None


def _require_same_inputs(a: _Side, b: _Side) -> None:
    """Raise InputError unless both take what the other takes."""
    mine, yours = ({v.name: v for v in side.graph.inputs} for side in (a, b))
    differ = [
        name
        for name in dict.fromkeys((*mine, *yours))
        if name not in mine or name not in yours or not _fit(mine[name], yours[name])
    ]
    if differ:
        said = " and ".join(f"{side.called} takes {_described(side.graph.inputs)}" for side in (a, b))
        raise InputError(f"the models' inputs differ: {said}; compare models with the same inputs")


def _fit(a: onnx.ValueInfoProto, b: onnx.ValueInfoProto) -> bool:
    """Whether two inputs are of one type, and their shapes agree where both say one."""
    if not a.type.HasField("tensor_type") or not b.type.HasField("tensor_type"):
        return bool(a.type == b.type)
    one, other = a.type.tensor_type, b.type.tensor_type
    if one.elem_type != other.elem_type:
        return False
    if not one.HasField("shape") or not other.HasField("shape"):
        return True
    dims = list(one.shape.dim), list(other.shape.dim)
    return len(dims[0]) == len(dims[1]) and all(
        m.dim_value < 1 or n.dim_value < 1 or m.dim_value == n.dim_value for m, n in zip(*dims, strict=True)
    )


def _described(inputs: Sequence[onnx.ValueInfoProto]) -> str:
    said = []
    for value in inputs:
        kind = value.type.tensor_type
        dims = (str(d.dim_value) if d.dim_value > 0 else d.dim_param or "?" for d in kind.shape.dim)
        said.append(f"{value.name} ({', '.join(dims)}) {onnx.TensorProto.DataType.Name(kind.elem_type)}")
    return ", ".join(said) or "nothing"


def _fixed(value: onnx.ValueInfoProto) -> int:
    """How many dims of an input the model insists on: what fits the one that does so most fits both."""
    return sum(d.dim_value > 0 for d in value.type.tensor_type.shape.dim)


def _distances(a: _Side, b: _Side, feeds: Sequence[Feeds]) -> tuple[dict[str, Distance], dict[str, str]]:
    """How far each output is from its like, and why some are not compared."""
    pairs, why = _pairs(a, b)
    sessions = [side.session() for side in (a, b)]
    tallies: dict[str, Tally] = {}
    for feed in feeds if pairs else ():
        wanted = a.run(sessions[0], feed, [name for name, _ in pairs])
        given = b.run(sessions[1], feed, [name for _, name in pairs])
        for (name, _), want, got in zip(pairs, wanted, given, strict=True):
            reason = _unlike(want, got)
            if reason:
                why.setdefault(name, reason)
            else:
                tallies.setdefault(name, Tally()).add(want, got)
    found = {name: tally.distance() for name, tally in tallies.items() if name not in why}
    if not found:
        said = "; ".join(f"{name} {reason}" for name, reason in why.items())
        raise InputError(f"the models have no output in common that could be compared: {said}")
    return found, why


def _pairs(a: _Side, b: _Side) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Which outputs go together."""
    mine, yours = ([value.name for value in side.graph.outputs] for side in (a, b))
    common = [name for name in mine if name in yours]
    if not common and len(mine) == len(yours):
        return list(zip(mine, yours, strict=True)), {}
    why = {name: f"is no output of {b.called}" for name in mine if name not in yours}
    why |= {name: f"is no output of {a.called}" for name in yours if name not in mine}
    return [(name, name) for name in common], why


def _unlike(want: Any, got: Any) -> str:
    """Why two values can't be compared, "" if they can."""
    if not isinstance(want, np.ndarray) or not isinstance(got, np.ndarray):
        return "is no tensor"
    if want.dtype.kind not in _NUMBERS or got.dtype.kind not in _NUMBERS:
        return "holds no numbers"
    if want.shape != got.shape:
        return f"has shape {_shape(want)} in one model and {_shape(got)} in the other"
    return ""


def _shape(value: Any) -> str:
    return "×".join(map(str, value.shape)) or "()"


def _count(feed: Feeds) -> int:
    first = next(iter(feed.values()), np.zeros(1))
    return len(first) if np.ndim(first) else 1


def _accuracy(sides: Sequence[_Side], tight: _Side, path: Path) -> Accuracy:
    feeds, labels = evaluate.load(path, tight.graph.inputs)
    right = []
    for side in sides:
        try:
            right.append(evaluate.top1(side.graph.model, feeds, labels, side.graph.folder, path))
        except RunError as error:
            raise InputError(f"{side.called}: {error}") from None
    return Accuracy(right[0], right[1], len(labels), str(path))
