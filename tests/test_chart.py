"""Drawings: what they show is what they were given, and they are small and always the same."""

from __future__ import annotations

import re
import struct
import xml.etree.ElementTree as ElementTree

import pytest

from onnx_prune.html import chart

BEFORE, AFTER = (1, 4, 8, 4, 1), (1, 2, 8, 3, 1)


def steps(svg: str, colour: str) -> list[float]:
    """The heights of the filled steps of a colour from left to right, in units of the drawing."""
    [path] = [p for p in ElementTree.fromstring(svg).iter("path") if f"var({colour})" in p.get("style", "")]
    start, *moves = re.findall(r"[MHV][^A-Za-z]+", path.get("d", ""))
    (x, y), found = map(float, start[1:].split()), []
    for move in moves:
        if move[0] == "V":
            y = float(move[1:])
        elif float(move[1:]) > x:
            x = float(move[1:])
            found.append(36 - y)
    return found


def test_a_thumbnail_has_the_heights_of_its_counts() -> None:
    svg = chart.thumbnail(BEFORE, AFTER)
    for counts, colour in ((BEFORE, chart.BEFORE), (AFTER, chart.AFTER)):
        assert steps(svg, colour) == pytest.approx([36 * n / 8 for n in counts], abs=0.1)


def test_without_an_after_there_is_one_colour() -> None:
    assert chart.AFTER not in chart.thumbnail(BEFORE, None)


def test_drawings_are_small_and_the_same_again() -> None:
    counts = tuple(range(41))
    assert len(chart.thumbnail(counts, counts)) < 1200
    assert chart.spread(BEFORE, AFTER, 4.0) == chart.spread(BEFORE, AFTER, 4.0)


def test_panels_are_named_and_say_their_largest() -> None:
    panels = [chart.Steps("parameters", [1000, 2_500_000], [500, 0]), chart.Steps("MACs", [3, 7], None)]
    for svg in chart.along(panels, "layers"):
        texts = [text.text for text in ElementTree.fromstring(svg).iter("text")]
        assert {"parameters", "MACs", "2.50 M", "7", "layers"} <= set(texts)


def test_drawings_in_a_page_have_no_names_and_no_colours_of_their_own() -> None:
    svg = "".join((*chart.spread(BEFORE, AFTER, 4.0), *chart.along([chart.Steps("x", [1], [1])], "y")))
    assert not re.search(r" id=|url\(|href|#[0-9a-f]{6}|<!--", svg)


def test_files() -> None:
    svg, png = (chart.spread_file(BEFORE, AFTER, 4.0, kind) for kind in ("svg", "png"))
    assert {"before", "after"} <= {
        text.text for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    }
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", png[16:24]) == (1280, 600)
    assert svg == chart.spread_file(BEFORE, AFTER, 4.0, "svg")


def test_lines_go_through_their_values_and_leave_out_what_is_not_finite() -> None:
    thick = chart.Line([0, 1, 2], [0.0, 4.0, float("inf")], True)
    wide, narrow = chart.lines([thick, chart.Line([0, 1, 2], [0.0, 1.0, 2.0], False)], "there", "much")
    assert {"there", "much", "4"} <= {text.text for text in ElementTree.fromstring(wide).iter("text")}
    found = [p for p in ElementTree.fromstring(narrow).iter("path") if "fill: none" in p.get("style", "")]
    assert [
        len(re.findall(r"[MLHV]", p.get("d", ""))) for p in found if "--line" not in p.get("style", "")
    ] == [3, 2]
    assert len(chart.small_lines([thick])) < 800
