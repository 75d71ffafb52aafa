"""The part of a page that tells how a target in time was met: the time of each layer by its width."""

from __future__ import annotations

from collections.abc import Iterator

from onnx_prune.html import chart
from onnx_prune.html.common import numbered
from onnx_prune.html.page import Cell, Column, Note, Notes, Number, Section, Table
from onnx_prune.latency.aim import Aim
from onnx_prune.latency.staircase import Stair
from onnx_prune.words import duration, share, some


def staircase(aim: Aim) -> Section:
    """How a target was met, and the table that it was shared out by."""
    tried = ", ".join(f"{part:.3f}" for part in aim.tried)
    text = (
        f"{some(aim.corrections, 'correction')} after measuring end to end: {tried} of the target each time, "
        f"the last to within {share(aim.spread, 1)}."
    )
    return Section(
        "staircase",
        "Time by width",
        "How long each layer takes at a few widths. A line is the time by the channels that it makes, wider "
        "to the right; the strong one is with all that it reads, the others with less.",
        (Notes((Note("plain", aim.target, text),)), *_table(aim)),
    )


def _table(aim: Aim) -> Iterator[Table]:
    if not aim.staircase:
        return
    rows = [_row(stair, f"aim.staircase.{j}") for j, stair in enumerate(aim.staircase)]
    columns = (
        Column("#", "order"),
        Column("Layer", "name"),
        Column("Reads", "number"),
        Column("Makes", "number"),
        Column("Narrowest", "number"),
        Column("Whole", "number"),
        Column("Time by width", "drawing"),
    )
    caption = "Layers that were timed, at the widths they were timed at"
    yield Table("stairrows", caption, "layer", columns, numbered(rows))


def _row(stair: Stair, key: str) -> tuple[Cell, ...]:
    least, most = stair.ms[0][0], stair.ms[-1][-1]
    last = f"{len(stair.ms) - 1}.{len(stair.ms[-1]) - 1}"
    first, *others = stair.layers
    return (
        Cell(
            first,
            note="" if stair.measured else "not run alone: estimated from its MACs",
            more=tuple(others),
            summary=f"and {some(len(others), 'more layer')} alike",
        ),
        _width(stair.reads, f"{key}.reads"),
        _width(stair.makes, f"{key}.makes"),
        Cell(number=Number(duration(least), least, f"{key}.ms.0.0")),
        Cell(number=Number(duration(most), most, f"{key}.ms.{last}")),
        Cell(drawing=chart.small_lines(_lines(stair))),
    )


def _lines(stair: Stair) -> list[chart.Line]:
    """The time by what a layer makes, a line a width of what it reads, or by that alone."""
    if len(stair.makes) == 1:
        return [chart.Line(stair.reads, [row[0] for row in stair.ms], True)]
    last = len(stair.reads) - 1
    return [chart.Line(stair.makes, row, j == last) for j, row in enumerate(stair.ms)]


def _width(widths: tuple[int, ...], key: str) -> Cell:
    """The full width, of channels that may be cut."""
    full = widths[-1]
    if not full:
        return Cell()
    return Cell(
        number=Number(f"{full:,}", full, f"{key}.{len(widths) - 1}"), note=f"{some(len(widths), 'width')}"
    )
