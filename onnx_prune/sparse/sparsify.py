"""From a model to one with zeros in its weights: the stages in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from math import prod as product
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from onnx_prune.analyse import couple
from onnx_prune.coupling import Coupling
from onnx_prune.errors import NothingToPrune
from onnx_prune.model import files
from onnx_prune.model.pieces import Pieces
from onnx_prune.model.sign import sign
from onnx_prune.sparse import granularity, maskfile, ranking, storage
from onnx_prune.sparse.bits import Bits, Mask
from onnx_prune.sparse.drift import run_both
from onnx_prune.sparse.granularity import Pattern
from onnx_prune.sparse.maskfile import Manifest, MaskFile
from onnx_prune.sparse.report import Layer, LeftAlone, SparseReport
from onnx_prune.sparse.seen import Look, Seen
from onnx_prune.sparse.sparsity import CALIBRATED, Sparsity
from onnx_prune.sparse.stored import Unpacked, require_fit
from onnx_prune.sparse.weights import Weights, find, require_matches
from onnx_prune.sparse.zeroing import Count, Values, zero_out
from onnx_prune.stages import Stages, load, save
from onnx_prune.validate import Drift
from onnx_prune.words import plain, some

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class SparseResult:
    """What `sparsify` gives back.

    Attributes:
        model: the model with its zeros; None where it was streamed to a file without being run.
        mask: which weights stay; its `bits` are empty where they were not to be kept.
        report: everything measured.
    """

    model: onnx.ModelProto | None
    mask: MaskFile
    report: SparseReport


def sparsify(
    source: str | Path | onnx.ModelProto,
    output: str | Path | None = None,
    asked: Sparsity | None = None,
    *,
    save_mask: str | Path | None = None,
    plot: str | Path | None = None,
    dry_run: bool = False,
    manifest: Mapping[str, Any] | None = None,
    keep_mask: bool = True,
) -> SparseResult:
    """Zero single weights, check them, measure what that did, and write the model.

    Args:
        source: a path, or a model in memory (which is left as it is).
        output: where the model is written; None writes nothing.
        asked: what is asked for.
        save_mask: where the mask is written.
        plot: where the weights' spread is drawn, as PNG where the name ends so, else as SVG.
        dry_run: choose and report, without running or writing anything.
        manifest: what the mask file says beside what is known here, such as the round of a schedule.
        keep_mask: the result has the masks, which wait in a temporary file where they are large.

    Raises:
        InputError: the model, an option or a file is not usable.
        NothingToPrune: no weight takes part.
        ProofFailed: a weight is not what it should be, which is a bug of ours; nothing was written.
    """
    kept = keep_mask or save_mask is not None
    return _Run(
        source, output, asked or Sparsity(), save_mask, plot, dry_run, dict(manifest or {}), kept
    ).run()


@dataclass
class _Run:
    source: str | Path | onnx.ModelProto
    output: str | Path | None
    asked: Sparsity
    save_mask: str | Path | None
    plot: str | Path | None
    dry_run: bool
    manifest: dict[str, Any]
    keep_mask: bool
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stage = Stages(self.asked.progress)

    def run(self) -> SparseResult:
        asked = self.asked
        pattern = granularity.parse(asked.pattern)
        with self.stage("loading"):
            graph, sha256 = load(self.source)
            self.notes += graph.notes
        with self.stage("looking for weights"):
            coupling = couple(graph, loose=False)
            weights = find(coupling)
        require_matches(weights, "ignore", asked.ignore)
        require_matches(weights, "layer-ratio", (glob for glob, _ in asked.layer_ratios))
        with self.stage("ranking"):
            mask, masks, values = self._masks(coupling, weights, pattern, sha256)
        look = Look(coupling, masks)
        with self.stage("zeroing"):
            zeroed = zero_out(coupling, masks, values, keep=self.keep_mask or look.small)
            draft, mask = zeroed.draft, replace(mask, bits=zeroed.bits)
            sparsely = storage.store_sparsely(draft, masks) if asked.sparse_initializers else []
        drift, not_run, size, model = None, "dry run" if self.dry_run else "--no-validate", None, None
        if not self.dry_run:
            self._sign(draft.model, mask)
            if asked.validate:
                model = draft.whole()
                with self.stage("running"):
                    drift, not_run, notes = run_both(coupling, model, asked.drift_data)
                    self.notes += notes
            if self.output is not None:
                with self.stage("writing"):
                    size = save(graph, draft, self.output, asked.external_data)
            model = model or (draft.whole() if self.output is None else None)
        for name, make in draft.content.items():  # what was neither filled in nor written
            if name in masks and name not in zeroed.counts:
                _finish(make)
        if self.save_mask is not None and not self.dry_run:
            maskfile.write(mask, self.save_mask)
        counts = {name: zeroed.counts[name] for name in masks}
        with self.stage("measuring the weights"):
            seen = look.at(mask.bits, counts, values)
        if self.plot is not None and not self.dry_run:
            from onnx_prune.html import chart

            drawn, kind = seen.histogram, "png" if Path(self.plot).suffix.lower() == ".png" else "svg"
            files.write_bytes(self.plot, chart.spread_file(drawn.before, drawn.after, drawn.reach, kind))
        return SparseResult(
            model,
            mask,
            self._report(coupling, weights, mask.manifest, counts, seen, len(sparsely), drift, not_run, size),
        )

    def _masks(
        self, coupling: Coupling, weights: Weights, pattern: Pattern, sha256: str
    ) -> tuple[MaskFile, Mapping[str, Mask], Values | None]:
        """The mask file without its masks, these, and new values where the criterion makes some."""
        asked = self.asked
        if asked.apply_mask is not None:
            mask = maskfile.read(asked.apply_mask)
            require_fit(coupling, mask.bits, str(asked.apply_mask))
            return mask, mask.bits, None
        taking = ranking.taking(weights.taking, asked)
        if not taking:
            raise NothingToPrune(_nothing(weights))
        parent = maskfile.read(asked.parent_mask) if asked.parent_mask is not None else None
        if parent is not None:
            require_fit(coupling, parent.bits, str(asked.parent_mask))
        before = parent.bits if parent else {}
        values: Values | None = None
        masks: Mapping[str, Mask]
        if asked.criterion in CALIBRATED and asked.scores is None:
            from onnx_prune.sparse.calibrated import calibrate

            found = calibrate(coupling, taking, asked, pattern, before)
            masks, values = found.masks, found.values.get
            if found.by_magnitude:
                such = f"{some(len(found.by_magnitude), 'weight')}, such as {plain(found.by_magnitude[0])}"
                self.notes.append(f"by magnitude, for what is read is not a plain product: {such}")
        else:
            masks = ranking.rank(taking, asked, pattern, ranking.scorer(Unpacked(coupling), asked, before))
        if parent is not None:
            known = {name: mask for name, mask in masks.items() if isinstance(mask, Bits)}
            maskfile.require_monotone(known, parent, str(asked.parent_mask))
        made = Manifest(
            model_sha256=sha256,
            pattern=str(pattern),
            criterion=asked.criterion if asked.scores is None else "scores",
            ratio=1 - pattern.rows / pattern.columns if pattern.kind == "n:m" else asked.asked,
            round=parent.manifest.round + 1 if parent else 0,
            parent_sha256=parent.sha256 if parent else "",
        )
        return MaskFile(replace(made, **self.manifest)), masks, values

    def _sign(self, model: onnx.ModelProto, mask: MaskFile) -> None:
        """Leave a record in the model of how it was made; other metadata stay."""
        said = mask.manifest
        sign(model, criterion=said.criterion, pattern=said.pattern, sparsity=f"{said.ratio:g}")

    def _report(
        self,
        coupling: Coupling,
        weights: Weights,
        made: Manifest,
        counts: Mapping[str, Count],
        seen: Seen,
        sparsely: int,
        drift: Drift | None,
        not_run: str,
        size: int | None,
    ) -> SparseReport:
        graph, stored = coupling.graph, Unpacked(coupling)
        known = {weight.name: weight for weight in weights.taking}
        layers = []
        for name, found in counts.items():
            shape = stored.shape(name)
            labels = known[name].labels if name in known else ()
            layers.append(
                Layer(name, labels, shape, product(shape), found.before, found.removed, found.zeros)
            )
        alone = [LeftAlone(s.name, s.size, s.why) for s in weights.spared]
        why = "--ignore or --spare says so"
        alone += [LeftAlone(w.name, w.size, why) for w in weights.taking if w.name not in counts]
        self._remark(layers, counts)
        written = self.output is not None and not self.dry_run
        return SparseReport(
            source=None if isinstance(self.source, onnx.ModelProto) else str(self.source),
            output=str(self.output) if written else None,
            criterion=made.criterion,
            pattern=made.pattern,
            asked_ratio=made.ratio,
            asked=sum(layer.asked for layer in layers),
            zeros=sum(layer.zeros for layer in layers),
            size=sum(layer.size for layer in layers),
            params=graph.params() + sum(layer.size - graph.elements(layer.name) for layer in layers),
            layers=tuple(layers),
            left_alone=tuple(alone),
            untouched=len(graph.weights.keys() - graph.frozen - counts.keys()),
            storage=seen.storage,
            stored_sparsely=sparsely,
            bytes=size,
            histogram=seen.histogram,
            runs=not not_run,
            not_run=not_run,
            drift=drift,
            notes=tuple(self.notes),
            seconds=self.stage.seconds,
            versions={name: version(name) for name in ("onnx-prune", "onnx", "onnxruntime", "numpy")},
        )

    def _remark(self, layers: Sequence[Layer], counts: Mapping[str, Count]) -> None:
        empty = [layer.name for layer in layers if layer.zeros == layer.size]
        if empty:
            such = f"{some(len(empty), 'weight')}, such as {plain(empty[0])},"
            self.notes.append(f"{such} have nothing but zeros left: what they feed is constant")
        over = sum(layer.zeros - layer.asked for layer in layers)
        if over:
            self.notes.append(f"{over:,} more weights are zero than were asked for: they were so before")
        back = sum(count.cleared for count in counts.values())
        if self.asked.apply_mask is not None and back:
            self.notes.append(f"{back:,} weights that the mask removes were not zero; they are now")


def _finish(make: Callable[[], Array]) -> None:
    """Let a tensor be made, and checked, without keeping it."""
    for _ in make.make() if isinstance(make, Pieces) else (make(),):
        pass


def _nothing(weights: Weights) -> str:
    """Why no weight takes part."""
    if weights.taking:
        return "nothing to prune: --ignore and --spare cover every layer"
    why = f": {weights.spared[0].why}" if weights.spared else ""
    return f"nothing to prune: no layer multiplies its inputs with a stored weight{why}"
