"""Cut each group alone, at several ratios, and measure how far the answers move.

Cut is masked here: masking is what a cut means, so the figures are those of the cut, and no size has to be
restated.  The channels that go are those that pruning would take, by the same criterion.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune import samples, stages
from onnx_prune.analyse import couple
from onnx_prune.calibration.calibrator import Calibrator
from onnx_prune.calibration.countdown import Countdown
from onnx_prune.choose import Scores, best, candidates
from onnx_prune.coupling import Coupling, Group
from onnx_prune.curves import sensitivity as curves
from onnx_prune.curves.sensitivity import Curve, Point, Sensitivity
from onnx_prune.curves.work import Difference, Job, Setup, answers, difference
from onnx_prune.curves.workers import Make, run
from onnx_prune.errors import InputError, NothingToPrune
from onnx_prune.mask import masked
from onnx_prune.model import files, tensors
from onnx_prune.model.graph import Graph
from onnx_prune.runtime import Feeds, RunError, Session
from onnx_prune.settings import Progress, Settings
from onnx_prune.stages import Source

RATIOS = (0.25, 0.5, 0.75)
RANDOM = "random inputs"
_EPSILON = 1e-9


def measure(
    source: Source,
    settings: Settings | None = None,
    *,
    ratios: Sequence[float] = RATIOS,
    cache: str | Path | None = None,
    executor: Executor | None = None,
    jobs: int | None = None,
) -> Sensitivity:
    """The curves of a model.

    Args:
        source: a path, or a model in memory.
        settings: criterion, data and what may be cut, as for pruning.
        ratios: fractions of each group's channels to remove.
        cache: a file that keeps what was measured: it is written after each group, and what it has is not
            measured again.
        executor: runs the jobs in place of this machine's cores, see `concurrent.futures`.
        jobs: processes of this machine, or jobs that are with the executor at once.

    Raises:
        InputError: a file or an option is not usable, or onnxruntime can't run the model.
        NothingToPrune: no group can be cut.
    """
    settings = settings or Settings()
    require(ratios, jobs)
    settings.progress("loading")
    graph, _ = stages.load(source)
    settings.progress("coupling")
    coupling = couple(graph)
    groups = candidates(coupling, settings.budget)
    if not groups:
        raise NothingToPrune("nothing to cut: every axis is held; onnx-prune explain says why")
    settings.progress("ranking")
    calibrator = Calibrator(settings, [])
    scores = calibrator.scores(coupling, groups)
    name = None if isinstance(source, onnx.ModelProto) else str(source)
    return of_scores(
        coupling,
        groups,
        scores,
        settings,
        calibrator,
        name=name,
        ratios=ratios,
        cache=cache,
        executor=executor,
        jobs=jobs,
    )


def require(ratios: Sequence[float], jobs: int | None) -> None:
    """Raise InputError for options that make no sense."""
    for ratio in ratios:
        if not 0 < ratio < 1:
            raise InputError(f"ratios: {ratio:g} is not in (0, 1): each is a fraction removed, 0.5 for half")
    if not ratios:
        raise InputError("ratios: give one at least, such as 0.5")
    if jobs is not None and jobs < 1:
        raise InputError(f"jobs {jobs} is below 1: it is a number of processes")


def of_scores(
    coupling: Coupling,
    groups: Sequence[Group],
    scores: Scores,
    settings: Settings,
    calibrator: Calibrator,
    *,
    name: str | None = None,
    ratios: Sequence[float] = RATIOS,
    cache: str | Path | None = None,
    executor: Executor | None = None,
    jobs: int | None = None,
) -> Sensitivity:
    """The curves of a model that is analysed and ranked already; see `measure`.

    Raises:
        InputError: onnxruntime can't run the model, or the cache is of something else.
    """
    graph, data = coupling.graph, calibrator.data(coupling)
    if data is None:
        feeds: tuple[Feeds, ...] = tuple(samples.random_batches(graph.inputs, coupling.shapes.inputs))
        told = RANDOM
        count = sum(map(_count, feeds))
    else:
        feeds, told, count = data.feeds, data.source, data.samples
    found = Sensitivity(name, hash_of(graph), _hash_of_feeds(feeds), told, count, settings.ranking, ())
    path = None if cache is None else Path(cache)
    known = _known(path, found)
    wanted = {
        group.name: sorted({removed for r in ratios if (removed := floor(r * group.size + _EPSILON))})
        for group in groups
    }
    missing = {group.name: [n for n in wanted[group.name] if _lacks(known, group, n)] for group in groups}
    asked = [group for group in groups if missing[group.name]]
    have = {group.name: list(known[group.name].points if group.name in known else ()) for group in groups}

    def together() -> Sensitivity:
        rows = []
        for group in groups:
            points = sorted(have[group.name], key=lambda point: point.removed)
            rows.append(Curve(group.name, group.size, tuple(points)))
        others = [curve for name, curve in known.items() if name not in have]
        return replace(found, curves=(*rows, *others))

    if asked:
        measured = _Measured(coupling, scores, feeds, settings.progress)
        try:
            for group, points in measured.run(asked, missing, executor, jobs):
                have[group.name] += points
                if path is not None:
                    curves.write(together(), path)
        except RunError as error:
            raise InputError(f"the model can't be measured: {error}") from None
    return together()


class _Measured:
    """The jobs of one measurement."""

    def __init__(
        self, coupling: Coupling, scores: Scores, feeds: tuple[Feeds, ...], progress: Progress
    ) -> None:
        self.coupling, self.scores, self.feeds, self.progress = coupling, scores, feeds, progress
        self.dense = masked(coupling, {}).whole()
        if self.dense.ByteSize() > files.PROTOBUF_LIMIT:
            raise InputError("weights of over 2 GB in one file can't be measured; keep them in external data")

    def run(
        self,
        groups: Sequence[Group],
        removed: dict[str, list[int]],
        executor: Executor | None,
        jobs: int | None,
    ) -> Iterator[tuple[Group, list[Point]]]:
        """Each group with its points, as they come in."""
        graph = self.coupling.graph
        session = Session(self.dense, graph.folder, optimize=True)
        self.progress("running the original")
        first = session.run(self.feeds[0])
        names = tuple(
            name
            for name, value in zip(session.outputs, first, strict=True)
            if isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
        )
        if not names:
            raise InputError("the model answers nothing that could be compared: no output holds numbers")
        setup = Setup(
            self.dense.SerializeToString(),
            graph.folder,
            self.feeds,
            names,
            answers(session, self.feeds, names),
        )
        del session
        ticks = Countdown(self.progress, "measuring", len(groups))
        makers = [self.maker(group, removed[group.name]) for group in groups]
        for j, found in run(setup, makers, executor, jobs):
            counts = removed[groups[j].name]
            yield groups[j], [Point(n, *at) for n, at in zip(counts, found, strict=True)]
            ticks.step()

    def maker(self, group: Group, counts: Sequence[int]) -> Make:
        """A function that makes the job of one group."""
        return lambda setup: Job(setup, group.name, tuple(self.masked(group, n) for n in counts))

    def masked(self, group: Group, removed: int) -> Difference:
        plan = {group.atom: best(self.scores[group.atom], group.size - removed)}
        return difference(self.dense, masked(self.coupling, plan).whole())


def _lacks(known: dict[str, Curve], group: Group, removed: int) -> bool:
    curve = known.get(group.name)
    return curve is None or curve.size != group.size or curve.point(removed) is None


def _known(path: Path | None, wanted: Sensitivity) -> dict[str, Curve]:
    """What a cache has.

    Raises:
        InputError: it is of something else.
    """
    if path is None or not path.exists():
        return {}
    old = curves.read(path)
    if old.key != wanted.key:
        pairs = zip(("another model", "other data", "another criterion"), old.key, wanted.key, strict=True)
        what = next(what for what, one, other in pairs if one != other)
        raise InputError(f"{str(path)!r} is of {what}; name another file for --cache, or remove it")
    return dict(old.by_name())


def hash_of(graph: Graph) -> str:
    """sha256 of a model with its weights, wherever these are: the same in every process."""
    bare = graph.model
    if any(map(tensors.is_outside, bare.graph.initializer)):
        bare = type(bare)()
        bare.CopyFrom(graph.model)
        for tensor in filter(tensors.is_outside, bare.graph.initializer):
            tensors.clear(tensor)  # it says where the data are, which differs
    digest = hashlib.sha256(bare.SerializeToString(deterministic=True))
    for tensor in filter(tensors.is_outside, graph.model.graph.initializer):
        digest.update(np.ascontiguousarray(graph.array(tensor.name)).view(np.uint8).data)
    return digest.hexdigest()


def _hash_of_feeds(feeds: Sequence[Feeds]) -> str:
    digest = hashlib.sha256()
    for feed in feeds:
        for name, value in feed.items():
            pieces: Any = value  # of a sequence a list
            for array in map(np.asarray, pieces if isinstance(pieces, list) else [pieces]):
                digest.update(f"{name} {array.dtype} {array.shape}".encode())
                digest.update(_bytes(array))
    return digest.hexdigest()


def _bytes(array: NDArray[np.generic]) -> bytes:
    return repr(array.tolist()).encode() if array.dtype == object else array.tobytes()


def _count(feed: Feeds) -> int:
    first = next(iter(feed.values()), np.zeros(1))
    return len(first) if np.ndim(first) else 1
