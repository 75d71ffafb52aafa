"""The page of a run that zeroed single weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from onnx_prune.html import chart
from onnx_prune.html.common import (
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
from onnx_prune.sparse.report import SparseReport
from onnx_prune.words import human, share, some


def page(report: SparseReport, spreads: Mapping[str, Spread], origin: Origin) -> Page:
    """The page.

    Args:
        report: what happened.
        spreads: by the name of a weight how its values are spread.
        origin: how to do it again.
    """
    return _Unstructured(report, spreads, origin).page()


@dataclass(frozen=True, slots=True)
class _Unstructured:
    report: SparseReport
    spreads: Mapping[str, Spread]
    origin: Origin

    def page(self) -> Page:
        report = self.report
        reached = share(report.zeros, report.size)
        return Page(
            title=titled(report.source, report.output),
            lead=f"{reached} of the weights that take part are zero, {share(report.asked_ratio, 1)} asked; "
            f"{report.pattern}, ranked by {report.criterion}.",
            figures=tuple(self._figures()),
            verdicts=tuple(self._verdicts()),
            sections=tuple(self._sections()),
            made_by=made_by(report.versions),
        )

    def _figures(self) -> Iterator[Figure]:
        report, storage = self.report, self.report.storage
        left, before = report.size - report.zeros, sum(layer.zeros_before for layer in report.layers)
        yield compared(
            "Weights that are not zero",
            Number(human(report.size - before), report.size - before),
            Number(human(left), left),
            f"of {human(report.size)} that take part",
        )
        yield Figure(
            "Zeros",
            Number(human(before), before),
            Number(human(report.zeros), report.zeros, "zeros"),
            note=f"{share(report.zeros, report.params)} of all {human(report.params)} parameters",
        )
        squeezed = (
            ("gzipped", "gz", storage.gz_before, storage.gz),
            ("by zstd", "zstd", storage.zstd_before, storage.zstd),
        )
        for how, key, old, new in squeezed:
            if old is not None and new is not None:
                yield compared(
                    f"These weights, {how}",
                    size_of(old, f"storage.{key}_before"),
                    size_of(new, f"storage.{key}"),
                    f"{human(storage.dense, 'B')} as they are stored",
                )
        if report.bytes is not None:
            yield Figure(
                "File size", None, size_of(report.bytes, "bytes"), note="zeros are stored as numbers"
            )

    def _verdicts(self) -> Iterator[Note]:
        report = self.report
        others = some(report.untouched, "other tensor")
        yield Note(
            "good", "Checked", f"Every weight is its mask times what it was; {others} as before, to the byte."
        )
        if report.not_run == "dry run":
            yield Note("plain", "Dry run", "Nothing was run or written.")
        elif report.not_run:
            yield Note("bad", "Not run", f"{report.not_run}: nobody has tried this model.")
        if report.drift is not None:
            yield drift_note(report.drift, "dense")
        yield Note("plain", "Speed", f"{report.speed}.")

    def _sections(self) -> Iterator[Section]:
        report = self.report
        yield Section(
            "weights",
            "Weights",
            "Each weight in the order of the graph; a striped end is what is zero.",
            (self._where(), *spread_chart(self.spreads.values()), self._layers()),
        )
        if report.left_alone:
            lead = "Tensors that a layer reads and that take no part."
            yield Section("alone", "Left as they are", lead, (self._alone(),))
        if report.notes:
            yield Section("notes", "Worth knowing", "", (Notes(tuple(notes(report.notes))),))
        yield origin_section(self.origin, report.versions, report.seconds)

    def _where(self) -> Chart:
        layers = self.report.layers
        sizes, left = [layer.size for layer in layers], [layer.size - layer.zeros for layer in layers]
        wide, narrow = chart.along(
            [chart.Steps("elements", sizes, left)], "weights, in the order of the graph"
        )
        largest = max(layers, key=lambda layer: layer.size)
        words = (
            f"Bars by weight. The largest is {largest.name}, with {share(largest.size, self.report.size)} of "
            f"all, of which {share(largest.zeros, largest.size)} are zero. The table below has all numbers."
        )
        return Chart(
            "Where the zeros are", words, wide, narrow, ((chart.BEFORE, "zero"), (chart.AFTER, "not zero"))
        )

    def _layers(self) -> Table:
        drawn = drawings(self.spreads)
        rows = []
        for j, layer in enumerate(self.report.layers):
            left, key = layer.size - layer.zeros, f"layers.{j}"
            rows.append(
                (
                    Cell(
                        layer.name, note="×".join(map(str, layer.shape)), more=layer.labels, summary="read by"
                    ),
                    Cell(number=Number(human(layer.size), layer.size, f"{key}.size")),
                    Cell(number=Number(human(layer.zeros), layer.zeros, f"{key}.zeros")),
                    Cell(number=Number(share(left, layer.size), left / layer.size)),
                    Cell(bar=Bar(left / layer.size, "cut")),
                    Cell(drawing=drawn.get(layer.name, "")),
                )
            )
        columns = (
            Column("#", "order"),
            Column("Weight", "name"),
            Column("Elements", "number"),
            Column("Zero", "number"),
            Column("Density", "number"),
            Column("Not zero", "gauge"),
            Column("Spread", "drawing"),
        )
        caption = "Weights in the order of the graph, with the elements of each that are zero"
        return Table("weightrows", caption, "weight", columns, numbered(rows))

    def _alone(self) -> Table:
        rows = [
            (
                Cell(row.name, note=row.why),
                Cell(number=Number(human(row.size), row.size, f"left_alone.{j}.size")),
            )
            for j, row in enumerate(self.report.left_alone)
        ]
        columns = (Column("#", "order"), Column("Weight", "name"), Column("Elements", "number"))
        return Table("alonerows", "Weights left as they are, and why", "weight", columns, numbered(rows))
