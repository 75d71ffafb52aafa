"""Several rounds of pruning: masks for training elsewhere, or channels ranked anew each time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from onnx_prune import pipeline
from onnx_prune.analyse import couple
from onnx_prune.errors import InputError, NothingToPrune
from onnx_prune.layers import pair
from onnx_prune.model import files
from onnx_prune.pipeline import Result
from onnx_prune.report import Report
from onnx_prune.settings import Settings
from onnx_prune.sparse import maskfile
from onnx_prune.sparse.report import SparseReport
from onnx_prune.sparse.schedule import sparsities
from onnx_prune.sparse.sparsify import sparsify
from onnx_prune.sparse.sparsity import Sparsity
from onnx_prune.stages import load
from onnx_prune.validate import validate


@dataclass(frozen=True, slots=True)
class Round:
    """One round of a schedule.

    Attributes:
        number: from 1.
        ratio: the fraction asked to be gone after it.
        mask: the mask file written.
        model: the model written, None where only masks are wanted.
        report: what was found out.
    """

    number: int
    ratio: float
    mask: Path
    model: Path | None
    report: SparseReport


def masks_of_rounds(
    source: str | Path, folder: str | Path, asked: Sparsity, kind: str, rounds: int, *, models: bool = False
) -> list[Round]:
    """Write the masks of all rounds of a schedule, each within the one before, from one model.

    Args:
        source: the model.
        folder: an existing folder; `round-1.npz` and so on are written there.
        asked: what is asked for; its ratio holds for the last round.
        kind: of schedule, see `schedule.sparsities`.
        rounds: how many.
        models: write `round-1.onnx` and so on, too.

    Raises:
        InputError: the model, an option or the folder is not usable.
    """
    place = Path(folder)
    if not place.is_dir():
        raise InputError(f"{str(folder)!r}: no such folder; make it first")
    if asked.ratio is None:
        raise InputError("a schedule needs the ratio of its last round")
    found: list[Round] = []
    parent = asked.parent_mask
    start = 0 if parent is None else maskfile.read(parent).manifest.round
    for j, ratio in enumerate(sparsities(kind, asked.ratio, rounds), 1):
        mask = place / f"round-{start + j}.npz"
        model = place / f"round-{start + j}.onnx" if models else None
        name = "one-shot" if rounds == 1 else f"{kind}, {rounds} rounds"
        result = sparsify(
            source,
            model,
            replace(asked, ratio=ratio, parent_mask=parent),
            save_mask=mask,
            manifest={"round": start + j, "schedule": name},
        )
        found.append(Round(start + j, ratio, mask, model, result.report))
        parent = mask
    return found


def prune_in_rounds(
    source: str | Path | onnx.ModelProto,
    output: str | Path | None,
    settings: Settings,
    rounds: int,
    *,
    kind: str = "exponential",
    dry_run: bool = False,
) -> Result:
    """Remove channels in rounds, each ranking what the one before left.

    Every round is proved against the one before.  The result's `plan` is that of the last round.

    Args:
        source: a path, or a model in memory.
        output: where the last round's model is written; None writes nothing.
        settings: what is asked for; its ratio holds for the last round.
        rounds: how many.
        kind: of schedule, see `schedule.sparsities`.
        dry_run: analyse and report the first round only.

    Raises:
        As `pipeline.prune` does.
    """
    left = 1.0
    model: str | Path | onnx.ModelProto = source
    done: list[Result] = []
    for gone in sparsities(kind, settings.budget.ratio, rounds):
        share = max(0.0, 1 - (1 - gone) / left)  # of what rounding has left so far
        own = replace(settings, budget=replace(settings.budget, ratio=share))
        try:
            done.append(pipeline.prune(model, None, own, dry_run=dry_run))
        except NothingToPrune:
            if not done:
                raise
            continue  # rounding leaves this round nothing; a later one may remove more
        if dry_run:
            break
        assert done[-1].model is not None
        model, left = done[-1].model, left * (1 - done[-1].report.reached_ratio)
    first, last = done[0], done[-1]
    report = replace(
        last.report,
        source=first.report.source,
        asked_ratio=settings.budget.ratio,
        before=first.report.before,
        layers=pair(first.report.layers, last.report.layers),
        notes=(
            *dict.fromkeys(note for one in done for note in one.report.notes),
            f"{len(done)} rounds; each is proved against the one before it",
        ),
    )
    if last.model is not None and not dry_run:
        report = _against(source, last.model, report, settings)
        if output is not None:
            size = files.save(last.model, output, external=settings.external_data)
            report = replace(report, output=str(output), after=replace(report.after, bytes=size))
    return Result(last.model, last.plan, report)


def _against(
    source: str | Path | onnx.ModelProto, model: onnx.ModelProto, report: Report, settings: Settings
) -> Report:
    """The report with drift and latency measured against the model that the rounds began with."""
    if not settings.validate:
        return report
    graph, _ = load(source)
    drift, latency, notes = validate(couple(graph), model, settings)
    return replace(report, drift=drift, latency=latency, notes=(*report.notes, *notes))
