"""What measured curves look like on a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from onnx_prune.curves.measure import RANDOM
from onnx_prune.curves.sensitivity import Curve, Point, Sensitivity
from onnx_prune.sparse.histogram import sparkline
from onnx_prune.terminal.page import Column, Page, speaks_unicode
from onnx_prune.words import share, some

_FINE = 1000  # steps that a sparkline is rounded from


def show(found: Sensitivity, ratios: Sequence[float], console: Console) -> None:
    """Print the curves, what hurts most first, with the errors at some ratios."""
    _Page(console, True, found, tuple(sorted(ratios))).print()


def harm(point: Point) -> float:
    """What a point costs: the divergence of class scores, else the relative error."""
    return point.error if point.kl is None else point.kl


def ordered(curves: Sequence[Curve]) -> list[Curve]:
    """The curves, the one that rises highest first."""
    return sorted(curves, key=lambda curve: -max((harm(point) for point in curve.points), default=0.0))


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
        divergent = self._divergent()
        what = "KL of class scores" if divergent else "relative error"
        yield self._heading(f"How far the answers move ({what}) with so much of one group gone")
        yield self._curves(divergent)
        if found.data == RANDOM:
            yield self._item(
                "·", "random inputs say little about real ones; give yours with --data", "yellow"
            )

    def _divergent(self) -> bool:
        return all(point.kl is not None for curve in self.found.curves for point in curve.points)

    def _curves(self, divergent: bool) -> Padding:
        curves = ordered(self.found.curves)
        most = max((harm(p) for c in curves for p in c.points if harm(p) < float("inf")), default=0.0)
        lines = [
            sparkline([self._height(harm(point), most) for point in curve.points], _FINE) for curve in curves
        ]
        columns: list[Column] = [
            ("channels", "right", [Text(str(curve.size)) for curve in curves]),
            ("", "left", [Text(self._say(line), "cyan") for line in lines]),
        ]
        for ratio in self.ratios:
            cells = []
            for curve in curves:
                point = curve.point(int(ratio * curve.size + 1e-9))
                cells.append(Text("-" if point is None else f"{harm(point):.3g}"))
            columns.append((share(ratio, 1), "right", cells))
        return self._named("worst first", [curve.name for curve in curves], columns)

    def _height(self, value: float, most: float) -> int:
        return _FINE if value >= most else round(_FINE * value / most)

    def _say(self, text: object) -> str:
        """As the page says it; bars become digits where there are no bars."""
        return super()._say(str(text).translate(self._bars()))

    def _bars(self) -> dict[int, str]:
        return {} if speaks_unicode(self.console) else {ord(c): str(j) for j, c in enumerate("▁▂▃▄▅▆▇█", 1)}
