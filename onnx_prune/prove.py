"""The proof: the cut model computes what the masked original computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune import order, randomness, tensors
from onnx_prune.compare import difference, varies
from onnx_prune.coupling import Coupling
from onnx_prune.errors import ProofFailed
from onnx_prune.kept import Plan, masks, slicer
from onnx_prune.mask import masked
from onnx_prune.runtime import Feeds, RunError, Session, missing_operators, random_feeds
from onnx_prune.shapes import Shapes
from onnx_prune.taken import settled

Array = NDArray[Any]
Progress = Callable[[str], None]
TOLERANCE: dict[int, float] = {onnx.TensorProto.FLOAT16: 2e-2, onnx.TensorProto.BFLOAT16: 1e-1}
_FLOAT = 1e-4
_QUANTIZED = 5e-2  # a few steps of an 8-bit scale
_SEEDS = 3  # a step that rounding pushed over its edge is not pushed again by other inputs
_SHAKY = 5e-2  # what is allowed at most where rounding alone moves a tensor by more than its tolerance
_NOISE = 2.0**-22  # a change of every weight in its last bits, to see what rounding can do
_SCALES = (1.0, 0.1, 0.01)  # noise weights can blow up deep networks; smaller inputs stay finite


@dataclass(frozen=True, slots=True)
class Proof:
    """What was compared and how far apart it was.

    Attributes:
        error: the largest difference, relative to the largest value of the same tensor.
        tolerance: what was allowed for the tensor with that difference.
        outputs: names of the tensors compared: graph outputs, and tensors inside that stand for outputs
            which an order of values decides (`onnx_prune.order`).
        runs: number of input sets, at least one for each assignment of the dynamic axes.
        inside: number of further tensors compared, where channels that are cut are summed over.
    """

    error: float
    tolerance: float
    outputs: tuple[str, ...]
    runs: int
    inside: int = 0


class NotProved(RunError):
    """There can be no proof, and why; nothing is known to be wrong."""


def prove(
    coupling: Coupling,
    plan: Plan,
    small: onnx.ModelProto,
    *,
    folder: Path | None = None,
    feeds: Sequence[Feeds] = (),
    progress: Progress | None = None,
) -> Proof:
    """Run the cut model and the masked original on the same inputs and compare all that they say.

    Inputs are random, one set at each assignment of the dynamic axes; where they leave the masked original
    without a finite, varying answer, smaller ones are tried.  The same models always get the same inputs.
    Where branches of If are cut, all is run again with each of them taken.

    Args:
        coupling: the analysed original.
        plan: which channels of each group stay.
        small: the cut model, whole; it is not changed.
        folder: where external data are.
        feeds: further inputs to compare on, of any valid shapes (left out where the model is random).
        progress: told in a few words what is being run.

    Returns:
        The proof: every difference is within the tolerance of its tensor's type.

    Raises:
        ProofFailed: the models differ, or onnxruntime refuses the cut model alone.
        NotProved: onnxruntime can't run the original, or nothing that it answers can be compared.
    """
    tell = progress or (lambda _: None)
    proof = _proved(_Prover(coupling, plan, folder, feeds, tell), small)
    for twin, other in settled(coupling, plan, small):
        with suppress(NotProved):  # a branch may not run where it would not be taken
            found = _proved(_Prover(twin, plan, folder, (), tell), other)
            if found.error / found.tolerance > proof.error / proof.tolerance:
                proof = replace(proof, error=found.error, tolerance=found.tolerance)
    return proof


def _proved(prover: _Prover, small: onnx.ModelProto) -> Proof:
    for seed in range(_SEEDS):
        proof, failed = prover.compare(small, seed)
        if proof is not None:
            return proof
        if failed not in prover.watch.stepped:
            break
    raise ProofFailed(prover.complaint)


@dataclass
class _Run:
    """One set of inputs, as the masked original and as the cut model take it, and the former's answer."""

    feeds: Feeds
    small_feeds: Feeds
    want: list[Array]


class _Prover:
    def __init__(
        self, coupling: Coupling, plan: Plan, folder: Path | None, feeds: Sequence[Feeds], progress: Progress
    ) -> None:
        self.coupling, self.plan, self.folder, self.progress = coupling, plan, folder, progress
        self.feeds = feeds
        self.watch = order.watch(coupling, plan)
        if not self.watch.compared:
            reasons = [f"{name} depends on {why}" for name, why in self.watch.skipped.items()]
            raise NotProved("; ".join(reasons) or "the model has no outputs")
        self.names = (*self.watch.compared, *self.watch.inside)
        self.random = randomness.random_nodes(coupling.graph)
        self.complaint = ""

    def compare(self, small: onnx.ModelProto, seed: int) -> tuple[Proof | None, str]:
        """The proof, or None and the tensor that failed, with `complaint` saying how."""
        runs = self._reference(seed)
        self.progress("running the cut model")
        try:
            session = self._borrowed(small)
            answers = [session.run(run.small_feeds, self.names) for run in runs]
        except RunError as error:
            self.complaint = (
                f"the cut model does not run, the masked original does: {error}; {self._report()}"
            )
            return None, ""
        del session
        allowed = {name: self._tolerance(name) for name in self.names}
        gap, name = self._worst(runs, answers, allowed)
        if allowed[name] < gap <= _SHAKY:
            allowed = self._shaken(runs, allowed)
            gap, name = self._worst(runs, answers, allowed)
        if gap <= allowed[name]:
            return Proof(gap, allowed[name], self.watch.compared, len(runs), len(self.watch.inside)), ""
        self.complaint = (
            f"the cut model differs from the masked original: {name} by {gap:.1e} of its largest value "
            f"where {allowed[name]:.0e} is allowed; {self._report()}"
        )
        return None, name

    def _worst(
        self, runs: list[_Run], answers: list[list[Array]], allowed: Mapping[str, float]
    ) -> tuple[float, str]:
        """The largest difference as measured by what is allowed, and its tensor."""
        found = [
            (difference(np.asarray(got), want), name)
            for run, answer in zip(runs, answers, strict=True)
            for name, got, want in zip(self.names, answer, run.want, strict=True)
        ]
        return max(found, key=lambda pair: pair[0] / allowed[pair[1]])

    def _shaken(self, runs: list[_Run], allowed: Mapping[str, float]) -> dict[str, float]:
        """What to allow where a tensor moves as far when the weights change in their last bits.

        A saturated gate behind large activations, a difference of nearly equal sums: their error says
        nothing about the cut.
        """
        self.progress("running the masked original with weights off by a rounding")
        model = masked(self.coupling, self.plan).whole()
        rng = np.random.default_rng(0)
        for tensor in model.graph.initializer:
            if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
                array = tensors.read(tensor, self.folder)
                noise = 1 + _NOISE * rng.choice([-1, 1], array.shape)
                tensors.fill(tensor, (array * noise).astype(array.dtype))
        session = self._session(model)
        raised = dict(allowed)
        for run in runs:
            answer = self._kept(session.run(run.feeds, self.names))
            for name, got, want in zip(self.names, answer, run.want, strict=True):
                raised[name] = max(raised[name], min(_SHAKY, 4 * difference(got, want)))
        return raised

    def _session(self, model: onnx.ModelProto) -> Session:
        randomness.pinned(model, self.random, self.coupling.shapes.types)
        have = {value.name for value in model.graph.output}
        taps = [name for name in self.names if name not in have]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in taps)
        return Session(model, self.folder)

    def _borrowed(self, model: onnx.ModelProto) -> Session:
        """As `_session`, but the model stays as it is; its weights are copied only if they have to be."""
        graph = self.coupling.graph
        if self.random or graph.bodies or any(node.closed for node in graph.nodes):
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            return self._session(copy)
        count = len(model.graph.output)
        try:
            return self._session(model)
        finally:
            del model.graph.output[count:]

    def _reference(self, seed: int) -> list[_Run]:
        """Inputs with the masked original's answers to them; its session is closed again."""
        self.progress("running the masked original")
        try:
            session = self._session(masked(self.coupling, self.plan).whole())
        except RunError as error:
            raise self._blame(error, None) from None
        assignments = [s for s in (self.coupling.shapes, self.coupling.probe) if s is not None]
        runs = [self._best(session, shapes, seed) for shapes in assignments]
        if self.watch.moving and not any(self._speaks(run, self.names) for run in runs):
            raise NotProved("the outputs are constant or not finite, whatever the inputs")
        for feeds in () if self.random else self.feeds:
            runs.append(_Run(feeds, feeds, self._kept(session.run(feeds, self.names))))
        return runs

    def _best(self, session: Session, shapes: Shapes, seed: int) -> _Run:
        """The first inputs to which every compared tensor has a finite, varying answer, or the best."""
        best: tuple[int, _Run] | None = None
        error: RunError | None = None
        drawn = randomness.draws(self.random, shapes, seed)
        for feeds in self._inputs(shapes, seed):
            full = {**feeds, **drawn}
            try:
                answer = session.run(full, self.names)
            except RunError as failure:
                error = error or failure
                continue
            kept = {**feeds, **randomness.kept(drawn, self.coupling, self.plan)}
            run = _Run(full, kept, self._kept(answer))
            count = self._speaks(run, self.watch.compared)
            if best is None or count > best[0]:
                best = count, run
            if count == len(self.watch.moving.intersection(self.watch.compared)):
                break
        if best is None:
            assert error is not None
            raise self._blame(error, shapes)
        return best[1]

    def _inputs(self, shapes: Shapes, seed: int) -> Iterator[dict[str, Array]]:
        inputs = self.coupling.graph.inputs
        for scale in _SCALES:
            yield random_feeds(inputs, shapes.inputs, seed, scale)
        yield random_feeds(inputs, shapes.inputs, seed + _SEEDS)
        for fill in (0, 1):  # where 0 or 1 at random makes no sense, all of one kind may
            yield random_feeds(inputs, shapes.inputs, seed, fill=fill)

    def _kept(self, answer: Sequence[Array]) -> list[Array]:
        """What the masked original says at the positions that stay."""
        names = self.names
        return [
            slicer(masks(self.coupling, n, self.plan, np.shape(v)))(np.asarray(v))
            for n, v in zip(names, answer, strict=True)
        ]

    def _speaks(self, run: _Run, names: Sequence[str]) -> int:
        """How many of the tensors that the cut can change have a finite answer that is not constant."""
        said = dict(zip(self.names, run.want, strict=True))
        return sum(name in self.watch.moving and varies(said[name]) for name in names)

    def _tolerance(self, name: str) -> float:
        kind = self.coupling.shapes.types.get(name, onnx.TensorProto.FLOAT)
        stepped = name in self.watch.quantized or kind in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
        half = TOLERANCE.get(self.watch.halves.get(name, kind), _FLOAT)
        return max(half, _QUANTIZED) if stepped else half

    def _blame(self, error: RunError, shapes: Shapes | None) -> RunError | ProofFailed:
        """Whose fault it is that the masked model does not run: the original's, or masking's."""
        lacks = missing_operators(error)
        if lacks:
            return NotProved(f"onnxruntime lacks {', '.join(lacks)}")
        model = self.coupling.graph.model
        try:
            session = Session(model, self.folder)
            if shapes is not None:
                session.run(random_feeds(self.coupling.graph.inputs, shapes.inputs))
        except RunError as own:
            return NotProved(f"{own}")
        return ProofFailed(f"the masked original does not run, the original does: {error}; {self._report()}")

    def _report(self) -> str:
        model = self.coupling.graph.model
        opsets = ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import)
        versions = ", ".join(f"{name} {_version(name)}" for name in ("onnx-prune", "onnx", "onnxruntime"))
        return (
            "this is a bug of onnx-prune, please report it with the model or this: "
            f"IR {model.ir_version}, opset {opsets}, made by {model.producer_name or 'an unknown exporter'} "
            f"{model.producer_version}; {versions}"
        )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"
