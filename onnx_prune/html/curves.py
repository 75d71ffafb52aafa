"""The page of curves: how far the answers move when one group alone loses channels."""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnx_prune.curves.measure import RANDOM
from onnx_prune.curves.sensitivity import Curve, Point, Sensitivity
from onnx_prune.html import chart
from onnx_prune.html.common import Origin, made_by, numbered, origin_section, titled
from onnx_prune.html.page import Cell, Chart, Column, Note, Number, Page, Section, Table
from onnx_prune.words import share, some


def page(found: Sensitivity, versions: Mapping[str, str], origin: Origin) -> Page:
    """The page.

    Args:
        found: what was measured.
        versions: of onnx-prune and what it stands on.
        origin: how to do it again.
    """
    top = max(map(_harshest, found.curves), default=0.0)
    sections = (
        Section(
            "groups",
            "Groups",
            "Each group cut alone, all others whole; the scale is the same in all rows.",
            (_all(found, top), _table(found, top)),
        ),
        origin_section(origin, versions, {}),
    )
    said = (
        f"{some(len(found.curves), 'group')}, each cut alone by {found.criterion}, and how far answers moved."
    )
    where = f"On {some(found.samples, 'sample')}, {found.data}"
    little = "; these say little about real ones" if found.data == RANDOM else ""
    return Page(
        title=f"What {titled(found.source, None)} can spare",
        lead=said,
        figures=(),
        verdicts=(Note("warn" if little else "plain", "Measured", f"{where}{little}."),),
        sections=sections,
        made_by=made_by(versions),
    )


def _harshest(curve: Curve) -> float:
    """The largest error of a curve; what is infinite is left out."""
    return max((point.error for point in curve.points if math.isfinite(point.error)), default=0.0)


def _line(curve: Curve, *, strong: bool) -> chart.Line:
    x = [0.0, *(point.removed / curve.size for point in curve.points)]
    return chart.Line(x, [0.0, *(point.error for point in curve.points)], strong)


def _all(found: Sensitivity, top: float) -> Chart:
    worst = max(found.curves, key=_harshest)
    drawn = [_line(curve, strong=curve is worst) for curve in found.curves]
    wide, narrow = chart.lines(drawn, "share of the group's channels gone", "relative error")
    words = f"A line for each of {some(len(drawn), 'group')}. The highest is {worst.name}, at {top:.3g}."
    legend = ((chart.AFTER, worst.name), (chart.BEFORE, "other groups"))
    return Chart("Relative error of the answers", words, wide, narrow, legend[: len(drawn)])


def _table(found: Sensitivity, top: float) -> Table:
    rows = []
    for j, curve in enumerate(found.curves):
        points = tuple(
            f"{point.removed} of {curve.size} gone: relative error {point.error:.3g}"
            + ("" if point.kl is None else f", KL {point.kl:.3g} nats")
            for point in curve.points
        )
        ends = ((0, curve.points[0]), (len(points) - 1, curve.points[-1])) if points else ()
        cells = [_point(point, curve, f"curves.{j}.points.{k}.error") for k, point in ends]
        rows.append(
            (
                Cell(curve.name, more=points, summary=some(len(points), "point")),
                Cell(number=Number(f"{curve.size:,}", curve.size, f"curves.{j}.size")),
                *(cells or (Cell(), Cell())),
                Cell(drawing=chart.small_lines([_line(curve, strong=True)], top)),
            )
        )
    columns = (
        Column("#", "order"),
        Column("Group", "name"),
        Column("Channels", "number"),
        Column("Least cut", "number"),
        Column("Most cut", "number"),
        Column("Error", "drawing"),
    )
    caption = "Groups, with the relative error of the answers when they are cut"
    return Table("curverows", caption, "group", columns, numbered(rows))


def _point(point: Point, curve: Curve, key: str) -> Cell:
    error = point.error if math.isfinite(point.error) else None
    note = f"{share(point.removed, curve.size)} gone"
    return Cell(number=Number(f"{point.error:.3g}", error, key), note=note)
