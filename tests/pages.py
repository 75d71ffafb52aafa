"""A page read as a browser would, for tests of what is on it."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from typing import Any

from onnx_prune.html.common import Origin
from onnx_prune.html.render import render
from onnx_prune.html.spread import Spread
from onnx_prune.html.structured import page
from onnx_prune.layers import Layer
from onnx_prune.report import Report

COUNTS = tuple(range(20)) + tuple(range(20, -1, -1))


class Read(HTMLParser):
    """Elements, attributes and text of a page.

    Attributes:
        tags: (tag, attributes) in order.
        numbers: (where it stands in the JSON report, value) pairs of the page's numbers.
        rows: of each table, by its id, the texts of the cells of each row.
        text: all that is to be read.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: list[tuple[str, str]] = []
        self.rows: dict[str, list[list[str]]] = {}
        self.text = ""
        self._open: list[str] = []
        self._table = ""
        self.feed(page)
        self.close()
        for rows in self.rows.values():
            rows[:] = [[" ".join(cell.split()) for cell in row] for row in rows]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: D102
        found = dict(attrs)
        self.tags.append((tag, found))
        self._open.append(tag)
        if self._table and any(self.rows[self._table][-1:]) and tag != "wbr":
            self.rows[self._table][-1][-1] += " "
        if tag == "data" and found.get("data-json"):
            self.numbers.append((found["data-json"] or "", found["value"] or ""))
        elif tag == "table":
            self._table = found["id"] or ""
            self.rows[self._table] = []
        elif tag == "tr":
            self.rows[self._table].append([])
        elif tag in ("td", "th"):
            self.rows[self._table][-1].append("")

    def handle_endtag(self, tag: str) -> None:  # noqa: D102
        while self._open and self._open.pop() != tag:
            pass
        self._table = "" if tag == "table" else self._table

    def handle_data(self, data: str) -> None:  # noqa: D102
        if "script" in self._open or "style" in self._open:
            return
        self.text += data
        if self._table and any(self.rows[self._table][-1:]):
            self.rows[self._table][-1][-1] += data


def at(document: Any, key: str) -> Any:
    """What stands in a document under a key as the page's numbers have it."""
    for part in key.split("."):
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def wrong(numbers: list[tuple[str, str]], document: Any) -> list[tuple[str, str, Any]]:
    """The numbers of a page that are not those of the JSON report."""
    found = []
    for key, value in numbers:
        want = at(document, key)
        if value != ("" if want is None else str(want)) and not (
            want is not None and value and math.isclose(float(value), float(want), rel_tol=1e-12)
        ):
            found.append((key, value, want))
    return found


def layer(name: str, params: int = 1000, macs: int = 10_000) -> Layer:
    """A layer that lost three quarters."""
    weights = (f"{name}.weight", f"{name}.bias")
    return Layer(name, "Conv", name, weights, params, macs, params // 4, macs // 4)


def html(report: Report, command: str = "onnx-prune in.onnx out.onnx") -> str:
    """The page of a report, with a histogram for each of its layers."""
    spreads = {one.key: Spread(4.0, COUNTS, COUNTS) for one in report.layers}
    return render(page(report, spreads, Origin(command, (("in.onnx", "ab" * 32),))))
