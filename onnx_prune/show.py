"""A report for people (a page of text) and for programs (one JSON document)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from onnx_prune.regained import drift_in_words, sentences
from onnx_prune.report import GroupCut, HeldBack, Report
from onnx_prune.words import change, duration, human, plain, scientific, share, some, times

_TOP_GROUPS, _TOP_HELD = 8, 5
_NARROW, _TINY = 72, 50
_FALLBACK = {"→": "->", "·": "-", "…": "...", "✓": "+", "✗": "!", "×": "x", "█": "#", "░": "."}


def console() -> Console:
    """Stdout, without colour where that is not a terminal or `NO_COLOR` is set."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=False)


def show(report: Report, console: Console, verbose: bool = False) -> None:
    """Print what a run did, as a page that fits the console.

    Args:
        report: what happened.
        console: where to print.
        verbose: all groups, all reasons, the time of each stage and the versions.
    """
    page = _Page(report, console, verbose)
    for block in page.blocks():
        console.print(block)


def as_json(report: Report) -> str:
    """The report as one strict JSON document; what is no number (NaN, infinity) becomes null."""
    document = {"format": "onnx-prune-report", "version": 1} | report.to_dict()
    return json.dumps(_strict(document), indent=2, allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if hasattr(value, "item"):  # a NumPy scalar
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def speaks_unicode(console: Console) -> bool:
    """Whether the console takes more than ASCII: its encoding does, and the locale is not plain C."""
    locale = next(filter(None, map(os.environ.get, ("LC_ALL", "LC_CTYPE", "LANG"))), "")
    return not console.options.ascii_only and locale not in ("C", "POSIX")


@dataclass(frozen=True)
class _Page:
    """The page's blocks, from the top."""

    report: Report
    console: Console
    verbose: bool

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
        if self.report.recovery is not None:
            for text in sentences(self.report.recovery, self.report.drift_cut, self.verbose):
                yield self._item("·", text)
        yield from self._drift()
        for note in self.report.notes:
            yield self._item("·", note, "yellow")
        yield self._written()
        if self.verbose:
            yield from self._details()

    @property
    def _width(self) -> int:
        return min(self.console.width, 110)

    def _say(self, text: object) -> str:
        """The text, safe to print here."""
        safe = plain(text)
        if speaks_unicode(self.console):
            return safe
        safe = "".join(_FALLBACK.get(c, c) for c in safe)
        return safe.encode("ascii", "backslashreplace").decode()

    def _text(self, text: object, style: str = "") -> Text:
        return Text(self._say(text), style)

    def _heading(self, text: str) -> Text:
        return self._text(text, "bold")

    def _item(self, mark: str, text: object, style: str = "") -> Table:
        """A mark, and text that wraps beside it."""
        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(self._text(mark, style), self._text(text, style))
        return grid

    def _short(self, name: str, width: int) -> str:
        """The name, its middle left out where it is too long: the ends tell layers apart."""
        name, dots = self._say(name), self._say("…")
        if cell_len(name) <= width:
            return name
        tail = max(0, (width - len(dots)) * 2 // 3)
        end = len(name)
        while end > 0 and cell_len(name[end - 1 :]) <= tail:
            end -= 1
        head = max(0, width - len(dots) - cell_len(name[end:]))
        return set_cell_size(name, head).rstrip() + dots + name[end:] if end else name

    def _title(self) -> Text:
        report = self.report
        source = report.source or "model"
        if report.output is None:
            return self._heading(source)
        return self._heading(f"{source} → {report.output}")

    def _sizes(self) -> Padding:
        before, after, latency = self.report.before, self.report.after, self.report.latency
        table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, pad_edge=False, header_style="dim")
        table.add_column("")
        for title in ("before", "after", "", ""):
            table.add_column(title, justify="right", no_wrap=True)
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
            table.add_row(
                name, figures[0], Text(figures[1], "bold"), Text(ratio, f"bold {style}"), Text(percent, style)
            )
        return Padding(table, (0, 0, 0, 2), expand=False)

    def _conditions(self) -> Padding:
        """What MACs and latency were measured at."""
        shapes = [
            f"{name} {'×'.join(map(str, dims)) or 'scalar'}" for name, dims in self.report.shapes.items()
        ]
        more = [f"{len(shapes) - 3} more"] if len(shapes) > 3 and not self.verbose else []
        said = ["at " + ", ".join((shapes[:3] if more else shapes) + more)] if shapes else []
        latency = self.report.latency
        if latency is not None:
            threads = some(latency.threads, "thread") if latency.threads else "default threads"
            said.append(f"latency: median of {some(latency.runs, 'run')} on CPU, {threads}")
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
        bar = 12 if self._width >= _NARROW else 8 if self._width >= _TINY else 0
        counts = [self._say(f"{group.size} → {group.kept}") for group in groups]
        columns: list[tuple[str, list[Text]]] = [
            ("channels", [Text(count) for count in counts]),
            ("kept", [self._bar(group, bar) for group in groups]),
            ("params", [Text(f"-{human(group.params)}") for group in groups]),
            ("MACs", [Text(f"-{human(group.macs)}") for group in groups]),
        ]
        if self._width < _NARROW:
            del columns[3]
        if not bar:
            del columns[1]
        taken = sum(2 + max(len(title), *map(len, cells)) for title, cells in columns)
        names = [Text(self._short(group.name, max(8, self._width - 4 - taken))) for group in groups]
        table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, pad_edge=False, header_style="dim")
        table.add_column("largest first", no_wrap=True)
        for title, _ in columns:
            table.add_column(title, justify="left" if title == "kept" else "right", no_wrap=True)
        for row in zip(names, *(cells for _, cells in columns), strict=True):
            table.add_row(*row)
        return Padding(table, (0, 0, 0, 2), expand=False)

    def _bar(self, group: GroupCut, width: int) -> Text:
        """The share of the channels that stays; never empty, never full while something is cut."""
        kept = (
            min(width - 1, max(1, round(width * group.kept / group.size)))
            if group.kept < group.size
            else width
        )
        bar = self._text("█" * kept, "cyan")
        return bar.append_text(self._text("░" * (width - kept), "dim"))

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

    def _more(self, number: int, shown: int, noun: str) -> Iterator[Padding]:
        if number > shown and not self.verbose:
            text = f"and {some(number - shown, f'more {noun}')}; --verbose shows all"
            yield Padding(self._text(text, "dim"), (0, 0, 0, 2), expand=False)

    def _proof(self) -> Table:
        proof = self.report.proof
        if proof is not None:
            error = scientific(proof.error)
            shapes = some(proof.runs, "input shape")
            text = f"surgery proved: max relative error {error} against masking ({shapes})"
            return self._item("✓", text, "green")
        if self.report.not_proved == "dry run":
            return self._item(
                "·", "dry run: nothing was cut, run or written; sizes after are computed", "dim"
            )
        return self._item("✗", f"NOT PROVED: {self.report.not_proved or 'no reason given'}", "bold red")

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
