"""A report on single weights for people (a page of text) and for programs (one JSON document)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from onnx_prune.sparse.histogram import sparkline
from onnx_prune.sparse.report import Layer, SparseReport
from onnx_prune.terminal.page import Column, Page, document
from onnx_prune.words import duration, human, share, some

_TOP, _NARROW, _BAR = 8, 72, 12


def show(report: SparseReport, console: Console, verbose: bool = False) -> None:
    """Print what a run did, as a page that fits the console.

    Args:
        report: what happened.
        console: where to print.
        verbose: all layers, all that was left alone, the time of each stage and the versions.
    """
    _Page(console, verbose, report).print()


def as_json(report: SparseReport) -> str:
    """The report as one strict JSON document; what is no number (NaN, infinity) becomes null."""
    return document("onnx-prune-sparse-report", 1, report.to_dict())


@dataclass(frozen=True)
class _Page(Page):
    report: SparseReport

    def blocks(self) -> Iterator[Text | Table | Padding]:
        """The page's blocks."""
        report = self.report
        source = report.source or "model"
        yield self._heading(source if report.output is None else f"{source} → {report.output}")
        yield Text()
        yield self._heading(self._summary())
        yield self._layers()
        yield from self._more(len(report.layers), _TOP, "weight")
        if report.left_alone:
            yield Text()
            yield self._heading("Left as they are")
            yield self._alone()
            yield from self._more(len(report.left_alone), _TOP, "weight")
        yield Text()
        yield from self._spread()
        yield self._sizes()
        yield Text()
        yield self._item(
            "✓",
            f"checked: every weight is its mask times what it was; {some(report.untouched, 'other tensor')} "
            "as before, to the byte",
            "green",
        )
        yield from self._drift()
        for note in report.notes:
            yield self._item("·", note, "yellow")
        yield self._item("·", report.speed)
        yield self._written()
        if self.verbose:
            yield from self._details()

    def _summary(self) -> str:
        report = self.report
        reached = share(report.zeros, report.size)
        return (
            f"Zero: {report.zeros:,} of {report.size:,} weights ({reached}), {report.asked:,} asked, "
            f"{report.pattern}, by {report.criterion}; {share(report.zeros, report.params)} of all parameters"
        )

    def _layers(self) -> Padding:
        rows = self.report.layers if self.verbose else self.report.layers[:_TOP]
        bar = _BAR if self._width >= _NARROW else 0
        columns: list[Column] = [
            ("shape", "right", [Text(self._say("×".join(map(str, row.shape)))) for row in rows]),
            ("weights", "right", [Text(human(row.size)) for row in rows]),
            ("zero", "right", [Text(human(row.zeros)) for row in rows]),
            ("density", "right", [Text(share(row.size - row.zeros, row.size)) for row in rows]),
            ("", "right", [self._bar(row, bar) for row in rows]),
        ]
        if not bar:
            del columns[4], columns[0]
        return self._named("in the order of the graph", [row.name for row in rows], columns)

    def _bar(self, layer: Layer, width: int) -> Text:
        kept = layer.size - layer.zeros
        full = min(width - (layer.zeros > 0), max(int(kept > 0), round(width * kept / layer.size)))
        return self._text("█" * full, "cyan").append_text(self._text("░" * (width - full), "dim"))

    def _alone(self) -> Padding:
        rows = self.report.left_alone if self.verbose else self.report.left_alone[:_TOP]
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(justify="right", no_wrap=True)
        grid.add_column(overflow="fold")
        for row in rows:
            text = self._text(self._short(row.name, 40))
            text.append(self._say(f" ({row.why})"), "dim")
            grid.add_row(Text(human(row.size)), text)
        return Padding(grid, (0, 0, 0, 2), expand=False)

    def _spread(self) -> Iterator[Padding]:
        """Histograms of the weights that are not zero; only where the console can draw them on one line."""
        found = self.report.histogram
        if found is None or not any(found.before) or self._say("░") != "░":
            return
        if self._width < 9 + len(found.before):
            return
        most = max(*found.before, *found.after)
        for word, counts in (("before", found.before), ("after", found.after)):
            text = Text(f"{word:6s} ", "dim")
            text.append(sparkline(counts, most), "cyan")
            yield Padding(text, (0, 0, 0, 2), expand=False)
        text = self._text(f"weights that are not zero, from -{found.reach:g} to {found.reach:g} sigma", "dim")
        yield Padding(text, (0, 0, 0, 9), expand=False)

    def _sizes(self) -> Padding:
        storage = self.report.storage
        parts = [f"{human(storage.dense, 'B')} as they are stored"]
        if storage.gz is not None and storage.gz_before is not None:
            parts.append(f"{human(storage.gz, 'B')} gzipped ({human(storage.gz_before, 'B')} before)")
        if storage.zstd is not None and storage.zstd_before is not None:
            parts.append(f"{human(storage.zstd, 'B')} by zstd ({human(storage.zstd_before, 'B')} before)")
        parts.append(
            f"{human(storage.sparse, 'B')} as sparse initializers, which are smaller below a density of "
            f"{share(storage.break_even, 1)}"
        )
        return Padding(
            self._text("these weights take " + ", ".join(parts), "dim"), (0, 0, 0, 2), expand=False
        )

    def _drift(self) -> Iterator[Table]:
        report, drift = self.report, self.report.drift
        if report.not_run == "dry run":
            yield self._item("·", "dry run: nothing was run or written", "dim")
        elif report.not_run:
            yield self._item("✗", f"NOT RUN: {report.not_run}", "bold red")
        if drift is not None:
            parts = [f"relative error {drift.relative_error:.3g}", f"cosine {drift.cosine:.3f}"]
            if drift.top1 is not None:
                parts.append(f"top-1 agreement {share(drift.top1, 1)}")
            where = f"{some(drift.samples, 'sample')}, {drift.source}"
            yield self._item("✓", "it runs in onnxruntime", "green")
            yield self._item("·", f"drift from the dense model: {', '.join(parts)} ({where})")

    def _written(self) -> Table:
        report = self.report
        took = duration(1000 * sum(report.seconds.values()))
        if report.output is None:
            return self._item("·", f"nothing written; took {took}")
        size = f" ({human(report.bytes, 'B')})" if report.bytes is not None else ""
        sparsely = f", {some(report.stored_sparsely, 'weight')} sparsely" if report.stored_sparsely else ""
        return self._item("·", f"wrote {report.output}{size}{sparsely} in {took}")

    def _details(self) -> Iterator[Table]:
        stages = ", ".join(f"{name} {duration(1000 * took)}" for name, took in self.report.seconds.items())
        versions = ", ".join(f"{name} {number}" for name, number in self.report.versions.items())
        for text in filter(None, (stages, versions)):
            yield self._item("·", text, "dim")
