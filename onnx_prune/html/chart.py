"""Drawings by Matplotlib (Hunter 2007), the one door to it: SVG that takes the page's colours, and files.

A drawing has a handful of colours, each with a meaning.  In a page they become custom properties, so that
light, dark and print are matters of style.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnx_prune.words import human

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEFORE, AFTER, _TEXT, _LINE = "--before", "--kept", "--text", "--line"
_COLOURS = {BEFORE: "#b9c2cc", AFTER: "#1f5fa9", _TEXT: "#454d55", _LINE: "#d6dbe1"}
_INCH = 72  # units of a drawing, which are points and, in a page, pixels of CSS
_WIDE, _NARROW = 900, 340
_FONT = 11.0


@dataclass(frozen=True, slots=True)
class Steps:
    """Values side by side, before and after.

    Attributes:
        title: what they are.
        before: a value a place.
        after: likewise; None where there is none.
    """

    title: str
    before: Sequence[float]
    after: Sequence[float] | None


@dataclass(frozen=True, slots=True)
class Line:
    """Values that were measured at some places, and are joined.

    Attributes:
        x: places.
        y: a value at each; what is not finite is left out.
        strong: whether it stands before the others.
    """

    x: Sequence[float]
    y: Sequence[float]
    strong: bool


def thumbnail(before: Sequence[int], after: Sequence[int] | None) -> str:
    """Two histograms over each other, no larger than a word, as SVG."""
    figure, [axes] = _figure(150, 36, 1, bare=True)
    _stairs(axes, Steps("", before, after))
    axes.set_ylim(0, max(*before, *(after or ()), 1))
    return _svg(figure)


def small_lines(lines: Sequence[Line], top: float = 0.0) -> str:
    """Lines from the ground up, no larger than a word, as SVG; up to `top` where they end below."""
    figure, [axes] = _figure(150, 36, 1, bare=True)
    figure.subplots_adjust(0.03, 0.06, 0.97, 0.9)
    axes.set_ylim(0, max(_lines(axes, lines), top) or 1)
    return _svg(figure)


def lines(every: Sequence[Line], places: str, title: str) -> tuple[str, str]:
    """Lines with their axes: wide and narrow SVG.

    Args:
        every: what is drawn.
        places: what x is.
        title: what y is.
    """
    drawn = []
    for width in (_WIDE, _NARROW):
        figure, [axes] = _figure(width, 260, 1)
        top = _lines(axes, every)
        axes.set_yticks([0, top], ["0", f"{top:.3g}"])
        axes.set_title(title, loc="left", fontsize=_FONT, color=_COLOURS[_TEXT])
        axes.set_xlabel(places, fontsize=_FONT, color=_COLOURS[_TEXT], labelpad=2)
        drawn.append(_svg(figure))
    return drawn[0], drawn[1]


def _lines(axes: Axes, every: Sequence[Line]) -> float:
    """The strong ones last, which is on top.

    Returns:
        The largest value.
    """
    top = 0.0
    for line in sorted(every, key=lambda line: line.strong):
        there = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
        top = max(top, *(y for _, y in there), 0.0)
        colour, width = (_COLOURS[AFTER], 1.6) if line.strong else (_COLOURS[BEFORE], 1.0)
        x, y = [place for place, _ in there], [value for _, value in there]
        axes.plot(x, y, color=colour, linewidth=width, clip_on=False)
    axes.set_ylim(0, top or 1)
    return top


def spread(before: Sequence[int], after: Sequence[int] | None, reach: float) -> tuple[str, str]:
    """Two histograms over each other, with their axis in standard deviations: wide and narrow SVG."""
    wide, narrow = (_spread(before, after, reach, width, 210) for width in (_WIDE, _NARROW))
    return _svg(wide), _svg(narrow)


def spread_file(before: Sequence[int], after: Sequence[int], reach: float, kind: str) -> bytes:
    """The same as a file of its own.

    Args:
        before: counts.
        after: counts.
        reach: where the first and the last bin end.
        kind: "svg" or "png".
    """
    figure = _spread(before, after, reach, 640, 300)
    figure.patch.set_visible(True)
    figure.legend(["before", "after"], loc="upper right", frameon=False, labelcolor=_COLOURS[_TEXT])
    return saved(figure, kind)


def along(panels: Sequence[Steps], places: str) -> tuple[str, str]:
    """Values by place, a panel below the other: wide and narrow SVG.

    Args:
        panels: as many values in each.
        places: what the places are.
    """
    return _svg(_along(panels, places, _WIDE)), _svg(_along(panels, places, _NARROW))


def _along(panels: Sequence[Steps], places: str, width: int) -> Figure:
    figure, every = _figure(width, 30 + 120 * len(panels), len(panels))
    for axes, panel in zip(every, panels, strict=True):
        _stairs(axes, panel, np.arange(len(panel.before) + 1) + 0.5)
        top = max(*panel.before, *(panel.after or ()), 1)
        axes.set_ylim(0, top * 1.05)
        axes.set_yticks([0, top], ["0", human(top)])
        axes.set_xticks([])
        axes.set_title(panel.title, loc="left", fontsize=_FONT, color=_COLOURS[_TEXT])
    last = len(panels[0].before)
    every[-1].set_xticks([1, last] if last > 1 else [1])
    every[-1].set_xlabel(places, fontsize=_FONT, color=_COLOURS[_TEXT], labelpad=0)
    return figure


def _spread(
    before: Sequence[int], after: Sequence[int] | None, reach: float, width: int, height: int
) -> Figure:
    figure, [axes] = _figure(width, height, 1)
    _stairs(axes, Steps("", before, after), np.linspace(-reach, reach, len(before) + 1))
    axes.set_ylim(0, max(*before, *(after or ()), 1) * 1.05)
    axes.set_yticks([])
    axes.set_xticks([-reach, 0, reach], [f"−{reach:g}σ", "0", f"{reach:g}σ"])
    return figure


def _figure(width: int, height: int, panels: int, *, bare: bool = False) -> tuple[Figure, list[Axes]]:
    """A drawing of so many units with panels below each other; bare ones have no axis and fill it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / _INCH, height / _INCH), dpi=_INCH, layout=None)
    figure.patch.set_visible(False)
    below, above, left = (0.0, 1.0, 0.0) if bare else (34 / height, 1 - 20 / height, 46 / width)
    every = figure.subplots(panels, 1, squeeze=False)[:, 0].tolist()
    figure.subplots_adjust(left, below, 1.0 if bare else 1 - 14 / width, above, hspace=0.35)
    for axes in every:
        if bare:
            axes.set_axis_off()
        axes.patch.set_visible(False)
        axes.tick_params(length=0, labelsize=_FONT, labelcolor=_COLOURS[_TEXT])
        for side in ("left", "top", "right"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set(color=_COLOURS[_LINE], linewidth=1)
    return figure, every


def _stairs(axes: Axes, values: Steps, edges: Any = None) -> None:
    """What was behind what is; both from the ground up."""
    count = len(values.before)
    places = np.arange(count + 1) if edges is None else edges
    for series, name in ((values.before, BEFORE), (values.after, AFTER)):
        if series is not None:
            heights = np.asarray(series, float)
            axes.stairs(heights, places, fill=True, color=_COLOURS[name], linewidth=0, clip_on=False)
    axes.set_xlim(places[0], places[-1])


def saved(figure: Figure, kind: str) -> bytes:
    """The file's bytes: always the same for the same drawing."""
    from matplotlib import rc_context

    file = io.BytesIO()
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "onnx-prune", "font.family": "sans-serif"}
    unsaid: dict[str, Any] = dict.fromkeys(
        ("Date", "Creator", "Format", "Type") if kind == "svg" else ("Software",)
    )
    with rc_context(style):
        figure.savefig(file, format=kind, dpi=2 * _INCH if kind == "png" else _INCH, metadata=unsaid)
    return file.getvalue()


def _svg(figure: Figure) -> str:
    """The drawing as an element of a page: no names of its own, short numbers, colours by meaning."""
    text = saved(figure, "svg").decode()
    found = re.search(r'viewBox="([^"]*)"[^>]*>(.*)</svg>', text, re.DOTALL)
    assert found is not None
    inner = re.sub(r"<defs>.*?</defs>|<use [^>]*/>|<!--.*?-->", "", found[2], flags=re.DOTALL)
    inner = re.sub(r' (?:clip-path|id)="[^"]*"', "", inner)
    inner = re.sub(r' d="([^"]*)"', lambda path: f' d="{_short(path[1])}"', inner)
    inner = re.sub(r"<g>\s*</g>", "", re.sub(r">\s+<", "><", inner))
    for name, colour in _COLOURS.items():
        inner = inner.replace(colour, f"var({name})")
    return f'<svg viewBox="{found[1]}" aria-hidden="true">{inner.strip()}</svg>'


def _short(path: str) -> str:
    """A path with numbers to a tenth of a unit; what runs along an axis names one number alone.

    Example:
        >>> _short("M 0 32.4 L 2.985366 32.374984 L 2.985366 5 z")
        'M0 32.4H3V5z'
    """
    said, x, y = "", "", ""
    for command, first, second in re.findall(r"([A-Za-z])(?: (\S+) (\S+))?", " ".join(path.split())):
        new_x, new_y = (_tenth(number) for number in (first, second))
        if command == "L" and new_y == y:
            said += f"H{new_x}"
        elif command == "L" and new_x == x:
            said += f"V{new_y}"
        else:
            said += f"{command}{new_x} {new_y}".rstrip()
        x, y = new_x, new_y
    return said


def _tenth(number: str) -> str:
    return f"{float(number):.1f}".removesuffix(".0") if number else ""
