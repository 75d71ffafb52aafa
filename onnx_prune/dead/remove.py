"""From a model with channels that say nothing to a smaller one with the same answers: the stages in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import onnx

from onnx_prune import plan
from onnx_prune.analyse import couple
from onnx_prune.axes.axis import Atom
from onnx_prune.cost import savings, total_macs
from onnx_prune.coupling import Coupling
from onnx_prune.cut import cut
from onnx_prune.dead.clean import Dead, carried_over, dead
from onnx_prune.draft import Draft
from onnx_prune.errors import NothingToPrune, ProofFailed
from onnx_prune.follow import CannotRestate
from onnx_prune.kept import shapes_after
from onnx_prune.layers import layers, pair
from onnx_prune.model import files
from onnx_prune.model.graph import Graph
from onnx_prune.model.sign import sign
from onnx_prune.pipeline import Result
from onnx_prune.proof.compare import difference
from onnx_prune.proof.prove import Proof, or_refused, prove
from onnx_prune.proof.randomness import random_nodes
from onnx_prune.report import GroupCut, Report, Size
from onnx_prune.runtime import RunError, Session, random_feeds
from onnx_prune.settings import Settings
from onnx_prune.shape.shapes import at_batch_one
from onnx_prune.stages import Stages, load, save, size_of
from onnx_prune.validate import Drift, Latency, validate
from onnx_prune.words import some

SAME = 1e-5  # how far answers may move, relative to the largest
_SAME_IN_HALF = 2e-2
_SAME_IN_STEPS = 5e-2  # a value on the edge of a quantization step may fall to either side
_HALVES = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
CRITERION = "saying nothing"


def remove_dead(
    source: str | Path | onnx.ModelProto,
    output: str | Path | None = None,
    settings: Settings | None = None,
    *,
    save_plan: str | Path | None = None,
    dry_run: bool = False,
) -> Result:
    """Remove channels that are zero or constant already; the answers stay as they are.

    The cut is proved like any other, against the masked original with the constants added to its biases;
    beyond that the answers of the original itself are compared.

    Args:
        source: a path, or a model in memory (which is left as it is).
        output: where the smaller model is written; None writes nothing.
        settings: `validate`, `drift_data`, `threads`, `external_data` and `progress` are read.
        save_plan: where the plan is written.
        dry_run: find and report, without cutting or writing anything.

    Raises:
        InputError: the model, an option or a file is not usable.
        NothingToPrune: every channel says something.
        ProofFailed: the smaller model answers otherwise, which is a bug of ours; nothing was written.
    """
    return _Run(source, output, settings or Settings(), save_plan, dry_run).run()


@dataclass
class _Run:
    source: str | Path | onnx.ModelProto
    output: str | Path | None
    settings: Settings
    save_plan: str | Path | None
    dry_run: bool
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stage = Stages(self.settings.progress)

    def run(self) -> Result:
        with self.stage("loading"):
            graph, sha256 = load(self.source)
            self.notes += graph.notes
        with self.stage("coupling"):
            coupling = couple(graph, loose=False)
        with self.stage("looking for dead channels"):
            found = self._find(coupling)
        with self.stage("cutting"):
            after, draft, found = self._cut(coupling, found)
        written = plan.make(coupling, found.plan, sha256=sha256, criterion=CRITERION, ratio=0.0)
        proof: Proof | None = None
        drift: Drift | None = None
        latency: Latency | None = None
        model, size = None, None
        not_proved = "dry run" if self.dry_run else "--no-validate"
        if not self.dry_run:
            sign(draft.model, criterion=CRITERION)
            if self.settings.validate:
                model = draft.whole()
                proof, drift, latency = self._validate(coupling, after, found, model)
            if self.output is not None:
                with self.stage("writing"):
                    size = save(graph, draft, self.output, self.settings.external_data)
            if self.save_plan is not None:
                files.write_text(self.save_plan, written.to_json())
            model = model or (draft.whole() if self.output is None else None)
        self._remark(found)
        left = Graph(draft.model)
        report = self._report(coupling, found, left, size, proof, not_proved, drift, latency)
        return Result(model, written, report)

    def _find(self, coupling: Coupling, barred: frozenset[Atom] = frozenset()) -> Dead:
        try:
            found = dead(coupling, barred)
        except RunError as error:
            raise NothingToPrune(f"constant channels can't be found: {error}") from None
        if not found.plan:
            why = f"; {some(found.padded, 'constant channel')} stay: a padded convolution reads them"
            raise NothingToPrune(
                f"nothing to prune: no channel is zero or constant{why if found.padded else ''}"
            )
        return found

    def _cut(self, coupling: Coupling, found: Dead) -> tuple[Coupling, Draft, Dead]:
        """The model that is masked, and what is left of it; what can't follow stays."""
        barred: set[Atom] = set()
        while True:
            after = couple(Graph(found.model, coupling.graph.folder), loose=False)
            there = carried_over(found.plan, coupling, after)
            try:
                return after, cut(after, there), found
            except CannotRestate as refusal:
                fresh = {
                    atom
                    for atom, mask in found.plan.items()
                    if carried_over({atom: mask}, coupling, after).keys() & refusal.atoms
                }
                if not fresh - barred:
                    raise NothingToPrune(f"nothing to prune: {refusal}") from None
                barred |= fresh
                found = self._find(coupling, frozenset(barred))

    def _validate(
        self, coupling: Coupling, after: Coupling, found: Dead, model: onnx.ModelProto
    ) -> tuple[Proof, Drift | None, Latency | None]:
        folder = coupling.graph.folder
        with self.stage("proving"), or_refused():
            proof = prove(after, carried_over(found.plan, coupling, after), model, folder=folder)
            self._require_same(coupling, model)
        with self.stage("measuring"):
            drift, latency, notes = validate(coupling, model, self.settings)
        self.notes += proof.notes + notes
        return proof, drift, latency

    def _require_same(self, coupling: Coupling, model: onnx.ModelProto) -> None:
        """Compare the answers with those of the original, at both assignments of the dynamic axes."""
        graph = coupling.graph
        if random_nodes(graph):
            self.notes.append("the original answers at random: it was compared with masks alone")
            return
        halves = any(tensor.data_type in _HALVES for tensor in graph.weights.values())
        allowed = _SAME_IN_STEPS if coupling.codes else _SAME_IN_HALF if halves else SAME
        before, after = Session(graph.model, graph.folder), Session(model, graph.folder)
        for shapes in (s for s in (coupling.shapes, coupling.probe) if s is not None):
            feeds = random_feeds(graph.inputs, shapes.inputs)
            for value, want, got in zip(graph.outputs, before.run(feeds), after.run(feeds), strict=True):
                gap = difference(got, want)
                if gap > allowed:
                    raise ProofFailed(
                        f"output {value.name} moved by {gap:.1e} of its largest value, though only channels "
                        "that say nothing went; this is a bug of onnx-prune, please report it"
                    )

    def _remark(self, found: Dead) -> None:
        if found.constants:
            what = some(found.constants, "constant channel")
            self.notes.append(f"{what} went into the biases of the layers that read them")
        if found.padded:
            what = some(found.padded, "constant channel")
            self.notes.append(f"{what} stay: a padded convolution reads them, and zeros beside them")

    def _report(
        self,
        coupling: Coupling,
        found: Dead,
        left: Graph,
        size: int | None,
        proof: Proof | None,
        not_proved: str,
        drift: Drift | None,
        latency: Latency | None,
    ) -> Report:
        graph = coupling.graph
        counts = {atom: int(mask.sum()) for atom, mask in found.plan.items()}
        typical = at_batch_one(graph, coupling.shapes, coupling.probe)
        saved = savings(coupling, counts, typical.known)
        groups = [
            GroupCut(
                group.name,
                group.size,
                counts[group.atom],
                counts[group.atom],
                tuple((m.weight, m.dim) for m in group.members),
                *saved[group.atom],
            )
            for group in coupling.groups
            if group.atom in counts
        ]
        share = sum(g.size - g.kept for g in groups) / sum(g.size for g in groups)
        after = shapes_after(coupling, found.plan, typical.known)
        in_memory = isinstance(self.source, onnx.ModelProto)
        return Report(
            source=None if in_memory else str(self.source),
            output=None if self.output is None or self.dry_run else str(self.output),
            criterion=CRITERION,
            asked_ratio=share,
            reached_ratio=share,
            before=Size(graph.params(), total_macs(graph, typical.known), size_of(self.source, graph)),
            after=Size(left.params(), total_macs(graph, after), size),
            groups=tuple(sorted(groups, key=lambda g: -g.params)),
            held=(),
            layers=pair(layers(graph, typical.known), layers(left, after)),
            proof=proof,
            not_proved="" if proof else not_proved,
            drift=drift,
            latency=latency,
            notes=tuple(self.notes),
            shapes=dict(typical.inputs),
            seconds=self.stage.seconds,
            versions={name: version(name) for name in ("onnx-prune", "onnx", "onnxruntime", "numpy")},
        )
