"""What measured curves look like on a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from onnx_prune.curves.measure import RANDOM
from onnx_prune.curves.sensitivity import WORDS, Measure, Sensitivity
from onnx_prune.sparse.histogram import sparkline
from onnx_prune.terminal.page import Column, Page, speaks_unicode
from onnx_prune.words import share, some

_FINE = 1000  # steps that a sparkline is rounded from


def show(found: Sensitivity, ratios: Sequence[float], console: Console) -> None:
    """Print the curves, what hurts most first, with the errors at some ratios."""
    _Page(console, True, found, tuple(sorted(ratios))).print()


@dataclass(frozen=True)
class _Page(Page):
    found: Sensitivity
    ratios: tuple[float, ...]

    def blocks(self) -> Iterator[Text | Table | Padding]:
        found = self.found
        yield self._heading(found.source or "model")
        told = f"{some(len(found.curves), 'group')}, each cut alone by {found.criterion}"
        told += f", on {some(found.samples, 'sample')}, {found.data}"
        yield self._indented(self._text(told, "dim"))
        yield Text()
        yield self._heading(
            f"How far the answers move ({WORDS[found.measure]}) with so much of one group gone"
        )
        yield self._curves(found.measure)
        if found.data == RANDOM:
            yield self._item(
                "·", "random inputs say little about real ones; give yours with --data", "yellow"
            )

    def _curves(self, measure: Measure) -> Padding:
        curves = sorted(self.found.curves, key=lambda curve: -curve.most(measure))
        costs = [[point.by(measure) for point in curve.points] for curve in curves]
        most = max((cost for row in costs for cost in row if cost < float("inf")), default=0.0)
        lines = [sparkline([self._height(cost, most) for cost in row], _FINE) for row in costs]
        columns: list[Column] = [
            ("channels", "right", [Text(str(curve.size)) for curve in curves]),
            ("", "left", [Text(self._say(line), "cyan") for line in lines]),
        ]
        for ratio in self.ratios:
            points = [curve.point(int(ratio * curve.size + 1e-9)) for curve in curves]
            cells = [Text("-" if point is None else f"{point.by(measure):.3g}") for point in points]
            columns.append((share(ratio, 1), "right", cells))
        return self._named("worst first", [curve.name for curve in curves], columns)

    def _height(self, value: float, most: float) -> int:
        return _FINE if value >= most else round(_FINE * value / most)

    def _say(self, text: object) -> str:
        """As the page says it; bars become digits where there are no bars."""
        return super()._say(str(text).translate(self._bars()))

    def _bars(self) -> dict[int, str]:
        return {} if speaks_unicode(self.console) else {ord(c): str(j) for j, c in enumerate("▁▂▃▄▅▆▇█", 1)}
