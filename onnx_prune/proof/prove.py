"""The proof: the cut model computes what the masked original computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnx

from onnx_prune.coupling import Coupling
from onnx_prune.errors import NotProved, ProofFailed
from onnx_prune.kept import Plan
from onnx_prune.proof.compare import difference, exact
from onnx_prune.proof.reference import Reference, Run
from onnx_prune.proof.seams import Seams
from onnx_prune.proof.taken import settled
from onnx_prune.runtime import Feeds, RunError

Progress = Callable[[str], None]
LIMIT = 1e-4  # of floats; integers, booleans and text have to be equal
_SHAKY = 5e-2  # what is allowed at most where rounding alone moves a tensor by more than that


@dataclass(frozen=True, slots=True)
class Proof:
    """What was compared and how far apart it was.

    Attributes:
        error: the largest difference, relative to the largest value of the same tensor.
        tolerance: what was allowed for the tensor with that difference.
        outputs: names of the graph outputs that were compared.
        runs: number of input sets, at least one for each assignment of the dynamic axes.
        inside: number of further tensors compared, where channels that are cut are summed over.
        pieces: number of seams at which the models were parted (`onnx_prune.proof.seams`); None where they
            agree as they are.
        silent: outputs whose comparison says nothing: whatever the inputs, the masked original's were
            empty, constant or not finite.
        single: whether the models were only run in single precision, onnxruntime having no kernels for
            their half.
        blocks: number of blocks of nodes that were run one after the other (`onnx_prune.proof.blocks`);
            0 where the models ran whole.
    """

    error: float
    tolerance: float
    outputs: tuple[str, ...]
    runs: int
    inside: int = 0
    pieces: int | None = None
    silent: tuple[str, ...] = ()
    single: bool = False
    blocks: int = 0

    @property
    def notes(self) -> list[str]:
        """What a reader has to know beyond the figures, one sentence each."""
        notes = []
        if self.blocks:
            notes.append(f"proved in {self.blocks} blocks of nodes, one after the other: --max-memory")
        if self.single:
            notes.append("proved in single precision: onnxruntime does not run the model in its own")
        if self.silent:
            notes.append(
                f"not compared: {', '.join(self.silent)}, since empty, constant or not finite on every input "
                "tried (--drift-data takes others)"
            )
        return notes


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
    without a finite, varying answer, others are tried.  The same models always get the same inputs.

    Both run as they are first.  If they differ then, and the model has seams, a rounding may have become a
    jump; so they are compared again, from seam to seam (`onnx_prune.proof.seams`), and that decides.

    Args:
        coupling: the analysed original.
        plan: which channels of each group stay.
        small: the cut model, whole; it is not changed.
        folder: where external data are.
        feeds: further inputs to compare on, of any valid shapes (left out where the model is random).
        progress: told in a few words what is being run.

    Returns:
        The proof: floats differ by 1e-4 of their largest value at most, or by what rounding alone moves them,
        and all else is equal.

    Raises:
        ProofFailed: the models differ, or onnxruntime refuses the cut model alone.
        NotProved: onnxruntime can't run the original, or nothing that it answers can be compared.
    """
    tell = progress or (lambda _: None)
    proof = _proved(Reference(coupling, plan, folder), small, feeds, tell)
    for twin, other in settled(coupling, plan, small):
        with suppress(NotProved):  # a branch may not run where it would not be taken
            found = _proved(Reference(twin, plan, folder), other, (), tell)
            if found.error > proof.error:
                proof = replace(proof, error=found.error, tolerance=found.tolerance)
    return proof


@contextmanager
def or_refused() -> Iterator[None]:
    """Prove inside of this what is to be written: where there can be no proof, the way out is named."""
    try:
        yield
    except NotProved as reason:
        raise NotProved(f"{reason}, so the cut can't be proved; --no-validate writes it unproved") from None


def _proved(reference: Reference, small: onnx.ModelProto, feeds: Sequence[Feeds], tell: Progress) -> Proof:
    tell("running the masked original")
    if not reference.watch.outputs:
        raise NotProved("the model has no outputs")
    try:
        runs = reference.runs(feeds)
    except RunError as error:
        raise failed(
            "the masked original does not run, the original does", error, reference.coupling
        ) from None
    silent = reference.silent(runs)
    compared = tuple(name for name in reference.watch.outputs if name not in silent)
    if not compared and not reference.seen_inside(runs):
        raise NotProved(
            "the outputs are empty, constant or not finite on every input tried (--drift-data takes others)"
        )
    try:
        tell("running the cut model")
        trial = _Trial(reference, small, runs)
        if not trial.worst.fits and (at := reference.parting(small)) is not None:
            tell("running both models piece by piece")
            trial = _Trial(reference, small, runs, at)
    except RunError as error:
        raise failed(
            "the cut model does not run, the masked original does", error, reference.coupling
        ) from None
    if not trial.worst.fits and trial.worst.error <= _SHAKY:
        tell("running the masked original with weights off by a rounding")
        trial.shake()
    worst = trial.worst
    if not worst.fits:
        raise failed(
            "the cut model differs from the masked original",
            f"{worst.name} by {worst.error:.1e} of its largest value where {worst.allowed:.0e} is allowed",
            reference.coupling,
        )
    return Proof(
        error=worst.error,
        tolerance=worst.allowed,
        outputs=compared,
        runs=len(runs),
        inside=len(reference.watch.inside),
        pieces=None if trial.at is None else len(trial.at),
        silent=silent,
        single=reference.single,
    )


@dataclass(frozen=True, slots=True)
class Gap:
    """How far one tensor is off at most, and what is allowed."""

    name: str
    error: float
    allowed: float

    @property
    def fits(self) -> bool:
        """Whether it is no more than is allowed."""
        return self.error <= self.allowed

    @property
    def rank(self) -> float:
        """The error as a multiple of what is allowed."""
        return 0.0 if not self.error else self.error / self.allowed if self.allowed else float("inf")


class _Trial:
    """The cut model compared with the masked original, as they are or parted at seams."""

    def __init__(
        self, reference: Reference, small: onnx.ModelProto, runs: list[Run], at: Seams = None
    ) -> None:
        self.reference, self.runs, self.at = reference, runs, at
        self.gaps: dict[str, Gap] = {}
        for run, answer in reference.answers(small, self._asked(), at):
            for name, got, want in zip(reference.names(at), answer, run.want, strict=True):
                gap = Gap(name, difference(got, want), 0.0 if exact(want) else LIMIT)
                self.gaps[name] = max(self.gaps.get(name, gap), gap, key=lambda g: g.error)

    def _asked(self) -> Iterable[Run]:
        return self.runs if self.at is None else self.reference.parted(self.runs, self.at)

    @property
    def worst(self) -> Gap:
        """The largest difference as measured by what is allowed."""
        return max(self.gaps.values(), key=lambda gap: gap.rank)

    def shake(self) -> None:
        """Allow more where a tensor moves as far when the weights change in their last bits.

        A saturated gate behind large activations, a difference of nearly equal sums: their error says
        nothing about the cut.
        """
        for run, answer in self.reference.shaken(self._asked(), self.at):
            for name, got, want in zip(self.reference.names(self.at), answer, run.want, strict=True):
                gap = self.gaps[name]
                if gap.allowed:
                    moved = min(_SHAKY, 4 * difference(got, want))
                    self.gaps[name] = replace(gap, allowed=max(gap.allowed, moved))


def failed(what: str, why: object, coupling: Coupling) -> ProofFailed:
    """The failure with all that its report needs."""
    model = coupling.graph.model
    opsets = ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import)
    versions = ", ".join(f"{name} {_version(name)}" for name in ("onnx-prune", "onnx", "onnxruntime"))
    return ProofFailed(
        f"{what}: {why}; this is a bug of onnx-prune, please report it with the model or this: "
        f"IR {model.ir_version}, opset {opsets}, made by {model.producer_name or 'an unknown exporter'} "
        f"{model.producer_version}; {versions}"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"
