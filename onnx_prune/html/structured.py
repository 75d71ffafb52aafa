"""The page of a run that removed channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx_prune.calibration.regained import sentences
from onnx_prune.html import chart
from onnx_prune.html.common import (
    LEGEND,
    Origin,
    drift_note,
    made_by,
    notes,
    numbered,
    origin_section,
    size_of,
    spread_chart,
    titled,
)
from onnx_prune.html.page import (
    Bar,
    Cell,
    Chart,
    Column,
    Figure,
    Note,
    Notes,
    Number,
    Page,
    Section,
    Table,
    compared,
)
from onnx_prune.html.spread import Spread, drawings
from onnx_prune.html.staircase import staircase
from onnx_prune.report import GroupCut, Report
from onnx_prune.words import duration, human, scientific, share, some


def page(report: Report, spreads: Mapping[str, Spread], origin: Origin) -> Page:
    """The page.

    Args:
        report: what happened.
        spreads: by the key of a layer how its weights are spread.
        origin: how to do it again.
    """
    return _Structured(report, spreads, origin).page()


@dataclass(frozen=True, slots=True)
class _Structured:
    report: Report
    spreads: Mapping[str, Spread]
    origin: Origin

    def page(self) -> Page:
        report = self.report
        return Page(
            title=titled(report.source, report.output),
            lead=self._lead(),
            figures=tuple(self._figures()),
            verdicts=tuple(self._verdicts()),
            sections=tuple(self._sections()),
            made_by=made_by(report.versions),
        )

    @property
    def _dry(self) -> bool:
        return self.report.not_proved == "dry run"

    def _lead(self) -> str:
        report = self.report
        verb = "would be removed" if self._dry else "removed"
        wanted = f"for {report.target}" if report.target else f"{share(report.asked_ratio, 1)} asked"
        return (
            f"{share(report.reached_ratio, 1)} of the channels that could go {verb}, in "
            f"{some(len(report.groups), 'group')}; {wanted}, ranked by {report.criterion}."
        )

    def _figures(self) -> Iterator[Figure]:
        before, after, latency = self.report.before, self.report.after, self.report.latency
        yield compared(
            "Parameters",
            Number(human(before.params), before.params, "before.params"),
            Number(human(after.params), after.params, "after.params"),
        )
        shapes = [
            f"{name} {'×'.join(map(str, dims)) or 'scalar'}" for name, dims in self.report.shapes.items()
        ]
        yield compared(
            "MACs",
            Number(human(before.macs), before.macs, "before.macs"),
            Number(human(after.macs), after.macs, "after.macs"),
            f"at {', '.join(shapes)}" if shapes else "",
        )
        if before.bytes is not None or after.bytes is not None:
            yield compared(
                "File size", size_of(before.bytes, "before.bytes"), size_of(after.bytes, "after.bytes")
            )
        if latency is not None:
            threads = some(latency.threads, "thread") if latency.threads else "default threads"
            yield compared(
                "Latency",
                Number(duration(latency.before_ms), latency.before_ms, "latency.before_ms"),
                Number(duration(latency.after_ms), latency.after_ms, "latency.after_ms"),
                f"median of {some(latency.runs, 'run')}, CPU, {threads}",
            )

    def _verdicts(self) -> Iterator[Note]:
        report, proof = self.report, self.report.proof
        if proof is not None:
            inputs = some(proof.runs, "set") + " of inputs" + (", piece by piece" if proof.pieces else "")
            yield Note(
                "good",
                "Surgery proved",
                "The smaller model answers as the original does with the removed channels set to zero "
                f"({inputs}, run in onnxruntime).",
                (("largest relative error", Number(scientific(proof.error), proof.error, "proof.error")),),
            )
        elif self._dry:
            yield Note("plain", "Dry run", "Nothing was cut, run or written; sizes after are computed.")
        else:
            yield Note(
                "bad", "Not proved", f"{report.not_proved or 'no reason given'}: nobody has checked this cut."
            )
        if report.drift is not None:
            yield drift_note(report.drift, "unpruned")
        if report.accuracy is not None:
            found = report.accuracy
            yield Note(
                "plain",
                "Top-1",
                f"Right answers to {some(found.samples, 'labelled sample')} of {found.source}.",
                (
                    ("before", Number(share(found.before, 1), found.before, "accuracy.before")),
                    ("after", Number(share(found.after, 1), found.after, "accuracy.after")),
                ),
            )

    def _sections(self) -> Iterator[Section]:
        report = self.report
        said = [Note("plain", "", text) for text in self._recovery()] + notes(report.notes)
        if said:
            yield Section("notes", "Worth knowing", "", (Notes(tuple(said)),))
        if report.layers:
            yield Section(
                "cost",
                "Where the cost sits",
                "What each layer costs, in the order of the graph, and how the weights are spread.",
                (self._costs(), *spread_chart(self.spreads.values())),
            )
        if report.aim is not None:
            yield staircase(report.aim)
        if report.held:
            yield Section(
                "held",
                "Kept whole",
                "What was not cut, by reason, the most parameters first.",
                (self._held(),),
            )
        yield Section(
            "groups",
            "Groups",
            "Channels that can only go together are a group. The striped end of a bar is what was removed; "
            "grey bars were kept whole, for the reason below their name.",
            (self._groups(),),
        )
        if report.layers:
            yield Section(
                "layers",
                "Layers",
                "Parameters and multiply-accumulates before and after, and the spread of the weights.",
                (self._layers(),),
            )
        yield origin_section(self.origin, report.versions, report.seconds)

    def _recovery(self) -> Iterator[str]:
        if self.report.recovery is not None:
            yield from sentences(self.report.recovery, self.report.drift_cut)

    def _groups(self) -> Table:
        """Cut or whole, where the first weight of each is read."""
        places = {name: at for at, layer in enumerate(self.report.layers) for name in layer.weights}
        last = len(places)
        rows: list[tuple[int, tuple[Cell, ...]]] = []
        for j, group in enumerate(self.report.groups):
            at = min((places.get(weight, last) for weight, _ in group.members), default=last)
            rows.append((at, self._cut(group, f"groups.{j}")))
        alike: dict[tuple[str, int], list[int]] = {}
        for j, held in enumerate(self.report.whole):
            alike.setdefault((held.why, held.size), []).append(j)
        for found in alike.values():
            every = [member for j in found for member in self.report.whole[j].members]
            at = min((places.get(weight, last) for weight, _ in every), default=last)
            rows.append((at, self._kept(found[0], every)))
        rows.sort(key=lambda row: row[0])
        columns = (
            Column("#", "order"),
            Column("Group", "name"),
            Column("State", "word"),
            Column("Channels", "number"),
            Column("Kept", "gauge"),
            Column("Parameters saved", "number"),
            Column("MACs saved", "number"),
        )
        caption = "Groups in the order of the graph, with the channels that each keeps"
        return Table("grouprows", caption, "group", columns, numbered(cells for _, cells in rows), filter=2)

    def _cut(self, group: GroupCut, key: str) -> tuple[Cell, ...]:
        return (
            Cell(group.name, more=_members(group.members), summary=_across(group.members)),
            Cell("cut"),
            Cell(
                before=Number(f"{group.size:,}", group.size, f"{key}.size"),
                number=Number(f"{group.kept:,}", group.kept, f"{key}.kept"),
            ),
            Cell(bar=Bar(group.kept / group.size, "cut")),
            Cell(number=Number(human(group.params), group.params, f"{key}.params")),
            Cell(number=Number(human(group.macs), group.macs, f"{key}.macs")),
        )

    def _kept(self, first: int, members: list[tuple[str, int]]) -> tuple[Cell, ...]:
        """Axes of one size that stay for one reason, which mostly are one group."""
        held = self.report.whole[first]
        more = _members(members) if len(members) > 1 else ()
        return (
            Cell(held.name, note=held.why, more=more, summary=_across(members)),
            Cell("whole"),
            Cell(number=Number(f"{held.size:,}", held.size, f"whole.{first}.size")),
            Cell(bar=Bar(1.0, "whole")),
            Cell(),
            Cell(),
        )

    def _costs(self) -> Chart:
        layers, report = self.report.layers, self.report
        panels = [
            chart.Steps("parameters", [x.params for x in layers], [x.params_after or 0 for x in layers]),
            chart.Steps("MACs", [x.macs for x in layers], [x.macs_after or 0 for x in layers]),
        ]
        panels = [panel for panel in panels if any(panel.before)]
        largest = max(layers, key=lambda x: x.params)
        saved = max(layers, key=lambda x: x.params - (x.params_after or 0))
        words = (
            f"Bars by layer. The most parameters sit in {largest.name}, "
            f"{share(largest.params, report.before.params)} of all; the most are saved in {saved.name}, "
            f"{human(saved.params - (saved.params_after or 0))}. The table below has all numbers."
        )
        wide, narrow = chart.along(panels, "layers, in the order of the graph")
        return Chart("Cost of each layer", words, wide, narrow, LEGEND)

    def _layers(self) -> Table:
        drawn = drawings(self.spreads)
        rows = []
        for j, layer in enumerate(self.report.layers):
            key = f"layers.{j}"
            several = len(layer.weights) > 1
            rows.append(
                (
                    Cell(
                        layer.name,
                        note="" if several else f"{layer.op} {''.join(layer.weights)}".strip(),
                        more=layer.weights if several else (),
                        summary=f"{layer.op}, {some(len(layer.weights), 'weight')}",
                    ),
                    *_cost(layer.params, layer.params_after, f"{key}.params"),
                    *_cost(layer.macs, layer.macs_after, f"{key}.macs"),
                    Cell(drawing=drawn.get(layer.key, "")),
                )
            )
        columns = (
            Column("#", "order"),
            Column("Layer", "name"),
            Column("Parameters", "number"),
            Column("Saved", "number"),
            Column("MACs", "number"),
            Column("Saved", "number"),
            Column("Weights", "drawing"),
        )
        caption = "Layers in the order of the graph: what each costs, and how its weights are spread"
        return Table("layerrows", caption, "layer", columns, numbered(rows))

    def _held(self) -> Table:
        rows = []
        for j, held in enumerate(self.report.held):
            key = f"held.{j}"
            more = _members(held.examples)
            dots = "such as" if held.axes > len(held.examples) else "where"
            rows.append(
                (
                    Cell(held.why, more=more, summary=dots),
                    Cell(number=Number(f"{held.axes:,}", held.axes, f"{key}.axes")),
                    Cell(number=Number(human(held.params), held.params, f"{key}.params")),
                    Cell(
                        number=Number(
                            share(held.params, self.report.before.params),
                            held.params / self.report.before.params if self.report.before.params else None,
                        )
                    ),
                )
            )
        columns = (
            Column("#", "order"),
            Column("Reason", "name"),
            Column("Axes", "number"),
            Column("Parameters", "number"),
            Column("Share", "number"),
        )
        return Table("heldrows", "Reasons why axes stay whole", "reason", columns, numbered(rows))


def _cost(before: int, after: int | None, key: str) -> tuple[Cell, Cell]:
    """What was and is, and the share that is saved; one number where they are the same."""
    if not before:
        return Cell(), Cell()
    old = Number(human(before), before, key)
    if after is None or after == before:
        return Cell(number=old), Cell()
    saved = Number(share(before - after, before), (before - after) / before)
    return Cell(before=old, number=Number(human(after), after, f"{key}_after")), Cell(number=saved)


def _members(members: Sequence[tuple[str, int]]) -> tuple[str, ...]:
    return tuple(f"{weight} dim {dim}" for weight, dim in members)


def _across(members: Sequence[tuple[str, int]]) -> str:
    return some(len({weight for weight, _ in members}), "weight")
