"""A report for people (a page of text) and for programs (one JSON document)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from onnx_prune.calibration.regained import drift_in_words, sentences
from onnx_prune.latency.aim import Aim
from onnx_prune.report import GroupCut, HeldBack, Report
from onnx_prune.terminal.page import TINY, Column, Page, document
from onnx_prune.words import change, duration, human, scientific, share, some, times

_TOP_GROUPS, _TOP_HELD = 8, 5
_NARROW = 72


def show(report: Report, console: Console, verbose: bool = False) -> None:
    """Print what a run did, as a page that fits the console.

    Args:
        report: what happened.
        console: where to print.
        verbose: all groups, all reasons, the time of each stage and the versions.
    """
    _Page(console, verbose, report).print()


def as_json(report: Report) -> str:
    """The report as one strict JSON document; what is no number (NaN, infinity) becomes null."""
    return document("onnx-prune-report", 1, report.to_dict())


@dataclass(frozen=True)
class _Page(Page):
    """The page's blocks, from the top."""

    report: Report

    def blocks(self) -> Iterator[Text | Table | Padding]:
        yield self._title()
        yield Text()
        yield self._sizes()
        yield self._conditions()
        if self.report.groups:
            yield Text()
            yield self._heading(self._asked())
            yield self._groups()
            yield from self._more(len(self.report.groups), _TOP_GROUPS, "group")
        if self.report.held:
            yield Text()
            yield self._heading("Kept whole (share of all parameters, and why)")
            yield self._held()
            yield from self._more(len(self.report.held), _TOP_HELD, "reason")
        yield Text()
        yield self._proof()
        if self.report.aim is not None:
            yield self._item("·", self._aim(self.report.aim))
        if self.report.recovery is not None:
            for text in sentences(self.report.recovery, self.report.drift_cut, self.verbose):
                yield self._item("·", text)
        yield from self._drift()
        for note in self.report.notes:
            yield self._item("·", note, "yellow")
        yield self._written()
        if self.verbose:
            yield from self._details()

    def _title(self) -> Text:
        report = self.report
        source = report.source or "model"
        if report.output is None:
            return self._heading(source)
        return self._heading(f"{source} → {report.output}")

    def _sizes(self) -> Padding:
        before, after, latency = self.report.before, self.report.after, self.report.latency
        roomy = self._width >= TINY
        table = self._table("", [(head, "right") for head in ("before", "after", *("", "")[: 1 + roomy])])
        rows: list[tuple[str, float | None, float | None, Any]] = [
            ("parameters", before.params, after.params, human),
            ("MACs", before.macs, after.macs, human),
            ("file size", before.bytes, after.bytes, lambda n: human(n, "B")),
        ]
        if latency is not None:
            rows.append(("latency", latency.before_ms, latency.after_ms, duration))
        for name, old, new, form in rows:
            if old is None and new is None:
                continue
            figures = ["-" if value is None else form(value) for value in (old, new)]
            ratio, percent = ("", "") if old is None or new is None else (times(old, new), change(old, new))
            style = (
                "" if old is None or new is None else "green" if new < old else "yellow" if new > old else ""
            )
            row = [figures[0], Text(figures[1], "bold"), Text(ratio, f"bold {style}"), Text(percent, style)]
            table.add_row(name, *(row if roomy else (*row[:2], row[3])))
        return Padding(table, (0, 0, 0, 2), expand=False)

    def _conditions(self) -> Padding:
        """What MACs and latency were measured at."""
        said = [f"at {self._shapes(self.report.shapes)}"] if self.report.shapes else []
        latency = self.report.latency
        if latency is not None:
            threads = some(latency.threads, "thread") if latency.threads else "default threads"
            time = ", CPU time" if latency.cpu else ""
            said.append(f"latency: median of {some(latency.runs, 'run')} on CPU, {threads}{time}")
        return Padding(self._text("; ".join(said), "dim"), (0, 0, 0, 2), expand=False)

    def _asked(self) -> str:
        report = self.report
        reached, asked = share(report.reached_ratio, 1), share(report.asked_ratio, 1)
        verb = "Cut" if report.not_proved != "dry run" else "Would cut"
        wanted = f"for {report.target}" if report.target else f"{asked} asked"
        groups = some(len(report.groups), "group")
        return f"{verb} {groups}: {reached} of their channels, {wanted}, by {report.criterion}"

    def _groups(self) -> Padding:
        report = self.report
        groups = report.groups if self.verbose else report.groups[:_TOP_GROUPS]
        bar = 12 if self._width >= _NARROW else 8 if self._width >= TINY else 0
        counts = [self._say(f"{group.size} → {group.kept}") for group in groups]
        columns: list[Column] = [
            ("channels", "right", [Text(count) for count in counts]),
            ("kept", "left", [self._bar(group, bar) for group in groups]),
            ("params", "right", [Text(f"-{human(group.params)}") for group in groups]),
            ("MACs", "right", [Text(f"-{human(group.macs)}") for group in groups]),
        ]
        if self._width < _NARROW:
            del columns[3]
        if not bar:
            del columns[1]
        return self._named("largest first", [group.name for group in groups], columns)

    def _bar(self, group: GroupCut, width: int) -> Text:
        """The share of the channels that stays; never empty, never full while something is cut."""
        kept = (
            min(width - 1, max(1, round(width * group.kept / group.size)))
            if group.kept < group.size
            else width
        )
        return self._gauge(kept, width)

    def _held(self) -> Padding:
        held = self.report.held if self.verbose else self.report.held[:_TOP_HELD]
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(justify="right", no_wrap=True)
        grid.add_column(overflow="fold")
        for reason in held:
            why = self._text(reason.why)
            why.append(self._say(f" ({self._places(reason)})"), "dim")
            grid.add_row(Text(share(reason.params, self.report.before.params)), why)
        return Padding(grid, (0, 0, 0, 2), expand=False)

    def _places(self, reason: HeldBack) -> str:
        shown = reason.examples if self.verbose else reason.examples[:1]
        places = ", ".join(f"{self._short(weight, 40)} dim {dim}" for weight, dim in shown)
        if reason.axes > len(shown):
            return f"{some(reason.axes, 'axis')}, such as {places}" if places else some(reason.axes, "axis")
        return places

    def _proof(self) -> Table:
        proof = self.report.proof
        if proof is not None:
            error = scientific(proof.error)
            inputs = some(proof.runs, "set") + " of inputs" + (", piece by piece" if proof.pieces else "")
            text = f"surgery proved: max relative error {error} against masking ({inputs})"
            return self._item("✓", text, "green")
        if self.report.not_proved == "dry run":
            return self._item(
                "·", "dry run: nothing was cut, run or written; sizes after are computed", "dim"
            )
        return self._item("✗", f"NOT PROVED: {self.report.not_proved or 'no reason given'}", "bold red")

    def _aim(self, aim: Aim) -> str:
        """How a target in time was met."""
        latency = self.report.latency
        parts = [f"{aim.target}: {some(len(aim.staircase), 'layer')} timed at several widths"]
        parts.append(f"{some(aim.corrections, 'correction')} after measuring end to end")
        if latency is not None and latency.ratio is not None:
            spread = share(latency.spread or 0.0, 1)
            parts.append(f"{latency.ratio:.3f} of the original's time in the same turn, to within {spread}")
        return ", ".join(parts)

    def _drift(self) -> Iterator[Table]:
        drift = self.report.drift
        if drift is not None:
            where = f"{some(drift.samples, 'sample')}, {drift.source}"
            yield self._item("·", f"drift from the unpruned model: {drift_in_words(drift)} ({where})")

        accuracy = self.report.accuracy
        if accuracy is not None:
            before, after = share(accuracy.before, 1), share(accuracy.after, 1)
            where = f"{some(accuracy.samples, 'sample')}, {accuracy.source}"
            yield self._item("·", f"top-1: {before} before, {after} after ({where})")

    def _written(self) -> Table:
        report = self.report
        took = duration(1000 * sum(report.seconds.values())) if report.seconds else ""
        if report.output is None:
            return self._item("·", "nothing written" + (f"; took {took}" if took else ""))
        size = f" ({human(report.after.bytes, 'B')})" if report.after.bytes is not None else ""
        return self._item("·", f"wrote {report.output}{size}" + (f" in {took}" if took else ""))

    def _details(self) -> Iterator[Table]:
        stages = ", ".join(f"{name} {duration(1000 * took)}" for name, took in self.report.seconds.items())
        versions = ", ".join(f"{name} {number}" for name, number in self.report.versions.items())
        for text in filter(None, (stages, versions)):
            yield self._item("·", text, "dim")
