"""From a model to a smaller one: the stages in order, each in its own module."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune import criteria, plan, samples, stages
from onnx_prune.allocate import as_left, meet
from onnx_prune.analyse import couple
from onnx_prune.axes.axis import Atom
from onnx_prune.calibration.calibrator import Calibrator
from onnx_prune.calibration.evaluate import evaluate
from onnx_prune.choose import Choice, Scores, candidates, choose, matches, require_matches
from onnx_prune.cost import savings, total_macs
from onnx_prune.coupling import Coupling, Group
from onnx_prune.cut import cut
from onnx_prune.draft import Draft
from onnx_prune.errors import InputError, NothingToPrune, PruneError
from onnx_prune.follow import CannotRestate
from onnx_prune.kept import shapes_after
from onnx_prune.latency.timekeeper import Timekeeper
from onnx_prune.layers import layers, pair
from onnx_prune.model import files, tensors
from onnx_prune.model.blame import fault
from onnx_prune.model.graph import Graph
from onnx_prune.model.memory import available, require_fits
from onnx_prune.model.sign import sign
from onnx_prune.plan import Plan
from onnx_prune.proof.blocks import prove_in_blocks
from onnx_prune.proof.footprint import footprint
from onnx_prune.proof.prove import Proof, or_refused, prove
from onnx_prune.report import GroupCut, HeldBack, Report, Size, Whole
from onnx_prune.runtime import RunError
from onnx_prune.settings import Budget, Settings
from onnx_prune.shape.shapes import at_batch_one
from onnx_prune.validate import Drift, Latency, validate

ROUNDED = "what is asked of it, rounded, leaves it whole"
_STRICT = 0.1
_PROVED_ON = 4  # of the user's batches
_RECORD = 512  # bytes of the metadata that say how the model was made


@dataclass(frozen=True, slots=True)
class Result:
    """What `prune` gives back.

    Attributes:
        model: the pruned model; None where it was written to a file unproved, or has external data there.
        plan: which channels stay.
        report: everything measured.
    """

    model: onnx.ModelProto | None
    plan: Plan
    report: Report


def prune(
    source: str | Path | onnx.ModelProto,
    output: str | Path | None = None,
    settings: Settings | None = None,
    *,
    save_plan: str | Path | None = None,
    dry_run: bool = False,
) -> Result:
    """Prune a model, prove it, measure it, and write it.

    Args:
        source: a path, or a model in memory (which is left as it is).
        output: where the pruned model is written; None writes nothing.
        settings: what is asked for.
        save_plan: where the plan is written.
        dry_run: analyse and report, without running or writing anything.

    Raises:
        InputError: the model, an option or a file is not usable.
        NothingToPrune: nothing could be cut, or strictly asked ratios were missed.
        NotProved: onnxruntime can't run the model, or it answers nothing that could be compared.
        ProofFailed: the cut is wrong, which is our bug; nothing was written.
    """
    asked = settings or Settings()
    target = asked.budget.target
    if dry_run and target is not None and target.kind == "latency":
        raise InputError(f"target {target} is measured by running both models, which a dry run does not")
    try:
        return _Run(source, output, asked, save_plan, dry_run).run()
    except (PruneError, OSError, MemoryError):
        raise
    except Exception:  # a bug of ours, unless the model is one that nobody can use
        if isinstance(source, onnx.ModelProto):
            wrong = fault(source, None)
        else:
            wrong = fault(files.load(source), Path(source).parent)
        if wrong:
            raise InputError(f"the model cannot be used, {wrong}; re-export it") from None
        raise


@dataclass
class _Run:
    source: str | Path | onnx.ModelProto
    output: str | Path | None
    settings: Settings
    save_plan: str | Path | None
    dry_run: bool
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.calibrator = Calibrator(self.settings, self.notes)
        self.timekeeper = Timekeeper(self.settings)

    def run(self) -> Result:
        settings = self.settings
        with self._stage("loading"):
            graph, sha256 = stages.load(self.source)
            self.notes += graph.notes
        with self._stage("coupling"):
            coupling = couple(graph)
        require_matches(coupling, settings.budget)
        coupling = self._turn(coupling)
        graph = coupling.graph
        barred: set[Atom] = set()
        while True:
            try:
                choice, criterion = self._choose(coupling, barred)
                with self._stage("cutting"):
                    draft = cut(coupling, choice.plan)
                break
            except CannotRestate as refusal:
                if settings.apply_plan or not refusal.atoms - barred:
                    raise InputError(f"the plan can't be carried out: {refusal}") from None
                barred |= refusal.atoms
                self.notes.append(f"held, since {refusal}")
        written = plan.make(
            coupling,
            choice.plan,
            sha256=sha256,
            criterion=criterion,
            ratio=settings.budget.ratio,
            turned=self.calibrator.turned,
        )
        proof, drift, latency, size, model = None, None, None, None, None
        recovery, drift_cut, accuracy = None, None, None
        not_proved = "dry run" if self.dry_run else "--no-validate"
        if not self.dry_run:
            self._sign(draft.model, written)
            if settings.validate:
                model = draft.lent()
                proof = self._prove(coupling, choice, model)
            if settings.recovery != "none":
                model = draft.whole()
                with self._stage("recovering"):
                    drift_cut, recovery = self.calibrator.recover(coupling, choice.plan, model)
            if settings.validate and model is not None:
                with self._stage("measuring"):
                    timed = self.timekeeper.measure if self.timekeeper.aim else None
                    drift, latency, notes = validate(
                        coupling, model, settings, self.calibrator.data(coupling), timed
                    )
                self.notes += notes
            if settings.evaluate is not None and model is not None:
                with self._stage("evaluating"):
                    try:
                        accuracy = evaluate(graph, model, settings.evaluate)
                    except RunError as error:
                        self.notes.append(f"top-1 was not counted: {error}")
            proved_inside = model is not None and not any(
                map(tensors.is_external, graph.initializers.values())
            )
            model = draft.whole() if self.output is None or proved_inside else None
            size = self._write(graph, draft, written)
        left = Graph(draft.model)
        report = self._report(coupling, choice, criterion, left, size, proof, not_proved, drift, latency)
        report = replace(
            report, recovery=recovery, drift_cut=drift_cut, accuracy=accuracy, aim=self.timekeeper.aim
        )
        return Result(model, written, report)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.settings.progress(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def _turn(self, coupling: Coupling) -> Coupling:
        """The model in the bases that the data ask for, or that the plan was made in."""
        path = self.settings.apply_plan
        if path is None:
            return self.calibrator.turn(coupling, candidates(coupling, self.settings.budget, set()))
        asked = plan.turned(plan.read(path))
        if not asked:
            return coupling
        coupling = self.calibrator.turn(coupling, [g for g in coupling.groups if g.name in asked])
        missing = [name for name in asked if name not in self.calibrator.turned]
        if missing:
            raise InputError(
                f"the plan {path} keeps the first channels of {missing[0]} in a basis that calibration data "
                "gave: give --data, with --criterion obs and --recover lstsq, as when it was made"
            )
        return coupling

    def _choose(self, coupling: Coupling, barred: set[Atom]) -> tuple[Choice, str]:
        settings = self.settings
        with self._stage("ranking"):
            if settings.apply_plan is not None:
                replayed = plan.read(settings.apply_plan)
                masks = plan.fit(coupling, replayed)
                groups = tuple(g for g in coupling.groups if g.atom in masks)
                counts = {atom: int(mask.sum()) for atom, mask in masks.items()}
                choice, criterion = Choice(masks, counts, groups), replayed.criterion
            else:
                groups = tuple(candidates(coupling, settings.budget, barred))
                scores, criterion = self._scores(coupling, groups)
        if settings.apply_plan is None:
            with self._stage("choosing"):
                choice = self._decide(coupling, groups, scores)
        if not choice.plan:
            raise NothingToPrune(_nothing(coupling, groups, settings))
        off = abs(choice.removed - choice.asked_removed)
        if settings.strict and off > _STRICT * choice.asked_removed:
            raise NothingToPrune(
                f"--strict: {choice.removed} channels would go where {choice.asked_removed} were asked for; "
                "try --round-to 1 or another --ratio"
            )
        return choice, criterion

    def _decide(self, coupling: Coupling, groups: tuple[Group, ...], scores: Scores) -> Choice:
        budget, graph, losses = self.settings.budget, coupling.graph, None
        shapes = at_batch_one(graph, coupling.shapes, coupling.probe).known
        if self.settings.sensitivity is not None:
            losses = self._losses(coupling, groups, scores)
            budget = as_left(coupling, choose(coupling, scores, budget, groups), budget, shapes)
        target = budget.target
        if target is None:
            return choose(coupling, scores, budget, groups)
        if target.kind == "latency":
            return self.timekeeper.choose(coupling, groups, scores, self.calibrator.errors, losses)

        def count(choice: Choice) -> int:
            draft = cut(coupling, choice.plan)
            smaller = Graph(draft.model)
            params, size = self.calibrator.growth(coupling, choice.plan, smaller)
            if target.kind == "params":
                return smaller.params() + params
            return stages.size_of_draft(draft) + size + _RECORD

        original = {
            "macs": total_macs(graph, shapes),
            "params": graph.params(),
            "size": stages.size_of(self.source, graph),
        }
        return meet(
            coupling,
            groups,
            scores,
            budget,
            shapes=shapes,
            original=original[target.kind],
            recount=None if target.kind == "macs" or self.settings.budget.target is None else count,
            errors=self.calibrator.errors,
            losses=losses,
        )

    def _losses(
        self, coupling: Coupling, groups: tuple[Group, ...], scores: Scores
    ) -> Mapping[Atom, NDArray[np.float64]]:
        """What the loss of channels costs each group, as it was measured, or is now."""
        from onnx_prune.curves import sensitivity
        from onnx_prune.curves.losses import losses
        from onnx_prune.curves.measure import hash_of, of_scores

        given = self.settings.sensitivity
        if isinstance(given, Path):
            found = sensitivity.read(given)
        else:
            found = of_scores(coupling, groups, scores, self.settings, self.calibrator)
        self.notes.append(f"shared out by how each group alone moved the answers on {found.data}")
        return losses(found, groups, hash_of(coupling.graph))

    def _scores(
        self, coupling: Coupling, groups: tuple[Group, ...]
    ) -> tuple[Mapping[Atom, NDArray[np.float64]], str]:
        if self.settings.scores is not None:
            given = criteria.given(self.settings.scores)
            return {g.atom: given(coupling, g) for g in groups}, "scores"
        return self.calibrator.scores(coupling, groups), self.settings.ranking

    def _sign(self, model: onnx.ModelProto, written: Plan) -> None:
        """Leave a record in the model of how it was made; other metadata stay."""
        sign(
            model,
            criterion=written.criterion,
            ratio=f"{written.ratio:g}",
            plan_sha256=hashlib.sha256(written.to_json().encode()).hexdigest(),
        )

    def _prove(self, coupling: Coupling, choice: Choice, model: onnx.ModelProto) -> Proof:
        graph, path = coupling.graph, self.settings.drift_data
        given = [] if path is None else samples.load(path, graph.inputs)[:_PROVED_ON]
        require_fits(coupling.shapes.known, coupling.shapes.types)
        most = self.settings.max_memory or available()
        with self._stage("proving"), or_refused():
            if footprint(coupling) > most:
                proof = prove_in_blocks(coupling, choice.plan, model, folder=graph.folder, budget=most)
            else:
                proof = prove(coupling, choice.plan, model, folder=graph.folder, feeds=given)
        self.notes += proof.notes
        return proof

    def _write(self, graph: Graph, draft: Draft, written: Plan) -> int | None:
        size = None
        if self.output is not None:
            with self._stage("writing"):
                size = stages.save(graph, draft, self.output, self.settings.external_data)
        if self.save_plan is not None:
            files.write_text(self.save_plan, written.to_json())
        return size

    def _report(
        self,
        coupling: Coupling,
        choice: Choice,
        criterion: str,
        left: Graph,
        size: int | None,
        proof: Proof | None,
        not_proved: str,
        drift: Drift | None,
        latency: Latency | None,
    ) -> Report:
        counts = {atom: int(mask.sum()) for atom, mask in choice.plan.items()}
        typical = at_batch_one(coupling.graph, coupling.shapes, coupling.probe)
        after = shapes_after(coupling, choice.plan, typical.known)
        saved = savings(coupling, counts, typical.known)
        groups = [
            GroupCut(
                group.name,
                group.size,
                counts[group.atom],
                choice.asked[group.atom],
                tuple((m.weight, m.dim) for m in group.members),
                *saved[group.atom],
            )
            for group in choice.groups
            if group.atom in counts
        ]
        total = sum(g.size for g in choice.groups)
        graph = coupling.graph
        return Report(
            source=None if isinstance(self.source, onnx.ModelProto) else str(self.source),
            output=None if self.output is None or self.dry_run else str(self.output),
            criterion=criterion,
            asked_ratio=self.settings.budget.ratio,
            target=str(self.settings.budget.target or ""),
            reached_ratio=choice.removed / total,
            before=Size(
                graph.params(),
                total_macs(graph, typical.known),
                stages.size_of(self.source, graph),
            ),
            after=Size(left.params(), total_macs(graph, after), size),
            groups=tuple(sorted(groups, key=lambda g: -g.params)),
            held=held_back(coupling, choice, self.settings.budget),
            whole=whole(coupling, choice, self.settings.budget),
            layers=pair(layers(graph, typical.known), layers(left, after)),
            proof=proof,
            not_proved="" if proof else not_proved,
            drift=drift,
            latency=latency,
            notes=tuple(self.notes),
            shapes=dict(typical.inputs),
            seconds=self.seconds,
            versions={name: version(name) for name in ("onnx-prune", "onnx", "onnxruntime", "numpy")},
        )


def whole(coupling: Coupling, choice: Choice, budget: Budget) -> tuple[Whole, ...]:
    """What stays whole: groups, and axes of weights that belong to none, and why."""
    held = [Whole(f"{h.weight}:{h.dim}", h.size, h.why, ((h.weight, h.dim),)) for h in coupling.held]
    chosen = {g.atom for g in choice.groups}
    for group in coupling.groups:
        if group.atom in choice.plan:
            continue
        if group.atom in chosen:
            why = ROUNDED
        elif group.mixed and not budget.mixed:
            why = f"{group.mixed} (--mixed cuts it)"
        elif matches(coupling, group, budget.ignore):
            why = "--ignore says so"
        else:
            continue  # cut in another factor of its product
        members = tuple((m.weight, m.dim) for m in group.members)
        held.append(Whole(group.name, group.size, why, members))
    return tuple(held)


def held_back(coupling: Coupling, choice: Choice, budget: Budget) -> tuple[HeldBack, ...]:
    """Axes of weights that stay whole, by reason, the most parameters first.

    An axis that is cut in one factor of its product is none of them, nor is one that rounding leaves.
    """
    reasons: dict[str, dict[tuple[str, int], None]] = {}
    for held in whole(coupling, choice, budget):
        if held.why != ROUNDED:
            reasons.setdefault(held.why, {}).update(dict.fromkeys(held.members))
    found = []
    for why, places in reasons.items():
        params = sum(_elements(coupling, weight) for weight in {weight for weight, _ in places})
        found.append(HeldBack(why, len(places), params, tuple(places)[:5]))
    return tuple(sorted(found, key=lambda h: (-h.params, h.why)))


def _elements(coupling: Coupling, weight: str) -> int:
    return int(np.prod(coupling.graph.dims(weight), dtype=np.int64))


def _nothing(coupling: Coupling, groups: tuple[Group, ...], settings: Settings) -> str:
    """Why nothing is cut, and the way out."""
    if groups and settings.budget.ratio == 0:
        return "nothing to prune: --ratio 0 removes nothing; give the fraction to remove, such as 0.5"
    if groups:
        return "nothing to prune: rounding and minimum widths leave every layer whole; try --round-to 1"
    if not coupling.graph.weights:
        return "nothing to prune: the model has no weights"
    if settings.budget.ignore and coupling.groups:
        return "nothing to prune: --ignore covers every group"
    reasons = held_back(coupling, Choice({}, {}, ()), settings.budget)
    why = reasons[0].why if reasons else "no weight has an axis with more than one channel"
    return f"nothing to prune: {why}"
