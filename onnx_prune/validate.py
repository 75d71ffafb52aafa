"""What pruning did to the model's answers and to its speed: measures, not assertions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune import samples
from onnx_prune.calibration.data import Calibration
from onnx_prune.coupling import Coupling
from onnx_prune.errors import ProofFailed
from onnx_prune.model.memory import available
from onnx_prune.proof.footprint import together
from onnx_prune.runtime import Feeds, RunError, Session, random_feeds
from onnx_prune.settings import Settings
from onnx_prune.shape.shapes import at_batch_one
from onnx_prune.words import human

Array = NDArray[Any]
LEAST_RUNS, MOST_RUNS = 5, 50


@dataclass(frozen=True, slots=True)
class Drift:
    """How far the pruned model's outputs are from the unpruned model's.

    Attributes:
        relative_error: mean absolute difference over mean absolute value, the worst output.
        cosine: cosine similarity, the worst output.
        top1: fraction of samples with the same arg max; None where no output looks like class scores.
        samples: number of samples compared.
        source: "random inputs", or the file they came from.
    """

    relative_error: float
    cosine: float
    top1: float | None
    samples: int
    source: str


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of one run in onnxruntime on the CPU, before and after, measured in turns.

    Attributes:
        before_ms: median of the original.
        after_ms: median of the pruned model.
        before_min_ms: minimum of the original.
        after_min_ms: minimum of the pruned model.
        runs: number of timed runs of each.
        threads: intra-op threads (0: onnxruntime's choice).
        ratio: the pruned model's time in that of the original in the same turn, the median of all turns; None
            where that was not measured.
        spread: half the width of the ratio's 95 % confidence interval, in parts of it.
        cpu: whether CPU time was measured and not time on the wall.
    """

    before_ms: float
    after_ms: float
    before_min_ms: float
    after_min_ms: float
    runs: int
    threads: int
    ratio: float | None = None
    spread: float | None = None
    cpu: bool = False

    @property
    def speedup(self) -> float:
        """Median before over median after."""
        return self.before_ms / self.after_ms


@dataclass
class _Tally:
    """Sums over all runs of one output."""

    gap: float = 0.0
    size: float = 0.0
    dot: float = 0.0
    square: float = 0.0
    other_square: float = 0.0
    same: int = 0
    rows: int = 0

    def add(self, want: Array, got: Array) -> None:
        both = np.isfinite(want) & np.isfinite(got)
        a, b = want[both].astype(np.float64), got[both].astype(np.float64)
        self.gap += float(np.abs(a - b).sum())
        self.size += float(np.abs(a).sum())
        self.dot += float((a * b).sum())
        self.square += float((a * a).sum())
        self.other_square += float((b * b).sum())
        if want.ndim == 2 and want.shape[1] >= 2:
            self.same += int((want.argmax(1) == got.argmax(1)).sum())
            self.rows += len(want)

    @property
    def relative_error(self) -> float:
        return self.gap / self.size if self.size else 0.0 if self.gap == 0 else float("inf")

    @property
    def cosine(self) -> float:
        norms = sqrt(self.square) * sqrt(self.other_square)
        return self.dot / norms if norms else float(self.square == self.other_square)


def measure_drift(
    original: onnx.ModelProto,
    small: onnx.ModelProto,
    feeds: Iterable[Feeds],
    source: str = "random inputs",
    folder: Path | None = None,
) -> Drift | None:
    """Run both models, optimised as a user would run them, and compare their float outputs.

    Args:
        original: the unpruned model.
        small: the pruned one, with the same inputs and outputs.
        feeds: sets of inputs; the first dim of the first input counts samples.
        source: where the inputs come from, for the report.
        folder: where external data are.

    Returns:
        Drift over all sets; None if no float output has the same shape in both (what an order of values
        decides has not).

    Raises:
        RunError: onnxruntime can't run one of them.
        ProofFailed: an output is finite in the original and not in the pruned model.
    """
    before, after = Session(original, folder, optimize=True), Session(small, folder, optimize=True)
    names = [value.name for value in original.graph.output]
    tallies: dict[str, _Tally] = {}
    count = 0
    for feed in feeds:
        first = next(iter(feed.values()), np.zeros(1))
        count += len(first) if first.ndim else 1
        for name, want, got in zip(names, before.run(feed, names), after.run(feed, names), strict=True):
            if not _is_float(want) or want.shape != got.shape:
                continue
            if np.isfinite(want).all() and not np.isfinite(got).all():
                raise ProofFailed(f"output {name} is finite in the original and not in the pruned model")
            tallies.setdefault(name, _Tally()).add(want, got)
    if not tallies:
        return None
    agreement = [t.same / t.rows for t in tallies.values() if t.rows]
    return Drift(
        max(t.relative_error for t in tallies.values()),
        min(t.cosine for t in tallies.values()),
        min(agreement, default=None),
        count,
        source,
    )


def _is_float(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def measure_latency(
    original: onnx.ModelProto,
    small: onnx.ModelProto,
    feeds: Feeds,
    *,
    folder: Path | None = None,
    threads: int = 0,
    budget_seconds: float = 3.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Time both models in turns, A B B A, so that a busy machine slows both alike.

    Args:
        original: the unpruned model.
        small: the pruned one.
        feeds: the inputs of every run.
        folder: where external data are.
        threads: intra-op threads; 0 lets onnxruntime choose.
        budget_seconds: stop after this long, but not before 5 runs of each, and after 50 in any case.
        clock: the time in seconds.

    Raises:
        RunError: onnxruntime can't run one of them.
    """
    sessions = [Session(model, folder, optimize=True, threads=threads) for model in (original, small)]
    return take_turns(sessions, feeds, threads=threads, budget_seconds=budget_seconds, clock=clock)


def take_turns(
    sessions: Sequence[Session],
    feeds: Feeds,
    *,
    threads: int = 0,
    budget_seconds: float = 3.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Time two sessions in turns; see `measure_latency`, of which the other arguments are.

    Raises:
        RunError: onnxruntime fails.
    """
    for session in sessions:
        session.run(feeds)
        session.run(feeds)
    times: tuple[list[float], list[float]] = ([], [])
    start = clock()
    while len(times[0]) < MOST_RUNS:
        order = (0, 1) if len(times[0]) % 2 == 0 else (1, 0)
        for which in order:
            began = clock()
            sessions[which].run(feeds)
            times[which].append(1e3 * (clock() - began))
        if len(times[0]) >= LEAST_RUNS and clock() - start >= budget_seconds:
            break
    before, after = times
    return Latency(
        statistics.median(before), statistics.median(after), min(before), min(after), len(before), threads
    )


def same_signature(original: onnx.ModelProto, small: onnx.ModelProto) -> None:
    """Require that both models have the same inputs and outputs: names, types and declared shapes.

    Inputs that are initializers too may be cut; their names and types stay.

    Raises:
        ProofFailed: something differs.
    """
    weights = {tensor.name for tensor in original.graph.initializer}
    for side in ("input", "output"):
        before, after = (_values(model, side) for model in (original, small))
        if list(before) != list(after):
            raise ProofFailed(f"the {side}s were {', '.join(before)} and now are {', '.join(after)}")
        for name, value in before.items():
            if name in weights:
                same = value.type.tensor_type.elem_type == after[name].type.tensor_type.elem_type
            else:
                same = value.type == after[name].type
            if not same:
                raise ProofFailed(f"{side} {name} has another type or shape than before the cut")


def _values(model: onnx.ModelProto, side: str) -> dict[str, onnx.ValueInfoProto]:
    return {value.name: value for value in getattr(model.graph, side)}


def drift_feeds(
    coupling: Coupling, settings: Settings, calibration: Calibration | None = None
) -> tuple[Iterable[Feeds], str]:
    """What drift is measured on, and how that is called: the user's inputs, or random ones.

    Raises:
        InputError: the drift data are not usable.
    """
    graph = coupling.graph
    if settings.drift_data is not None:
        return samples.load(settings.drift_data, graph.inputs), str(settings.drift_data)
    if calibration is not None:
        return calibration.feeds, calibration.source
    return samples.random_batches(graph.inputs, coupling.shapes.inputs), "random inputs"


def validate(
    coupling: Coupling,
    small: onnx.ModelProto,
    settings: Settings,
    calibration: Calibration | None = None,
    timed: Callable[[onnx.ModelProto], Latency] | None = None,
) -> tuple[Drift | None, Latency | None, list[str]]:
    """Check the signature and measure drift and latency as the settings ask.

    Args:
        coupling: the analysed original.
        small: the cut model.
        settings: `drift_data`, `threads` and `max_memory` are read.
        calibration: the data that drift is measured on where no others are given.
        timed: measures the latency instead of `measure_latency`.

    Returns:
        Drift, latency, and sentences on what could not be measured.

    Raises:
        ProofFailed: the signature changed, or finite outputs became infinite.
    """
    graph = coupling.graph
    same_signature(graph.model, small)
    need = together(coupling, small)
    if need > (settings.max_memory or available()):
        return (
            None,
            None,
            [f"drift and latency were not measured: it takes {human(need, 'B')} of memory"],
        )
    feeds, source = drift_feeds(coupling, settings, calibration)
    one = random_feeds(graph.inputs, at_batch_one(graph, coupling.shapes, coupling.probe).inputs)
    try:
        drift = measure_drift(graph.model, small, feeds, source, graph.folder)
        if timed is not None:
            latency = timed(small)
        else:
            latency = measure_latency(graph.model, small, one, folder=graph.folder, threads=settings.threads)
    except RunError as error:
        return None, None, [f"drift and latency were not measured: {error}"]
    notes = [] if drift else ["drift was not measured: no float output keeps its shape"]
    return drift, latency, notes
