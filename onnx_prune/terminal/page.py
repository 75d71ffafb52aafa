"""A page of text that fits the console, and the same as a document for programs: what all reports share."""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, Literal

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from onnx_prune.words import plain, some

_FALLBACK = {"→": "->", "·": "-", "…": "...", "✓": "+", "✗": "!", "×": "x", "█": "#", "░": "."}

_NAME = 8  # cells for a name, at least
TINY = 50  # cells; what is narrower has no room for ratios

Justify = Literal["left", "right"]
Column = tuple[str, Justify, list[Text]]


def console() -> Console:
    """Stdout, without colour where that is not a terminal or `NO_COLOR` is set."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=False)


def document(kind: str, version: int, content: dict[str, Any]) -> str:
    """One strict JSON document; what is no number (NaN, infinity) becomes null.

    Args:
        kind: the format's name, which comes first.
        version: the format's version.
        content: plain data.
    """
    named = {"format": kind, "version": version} | content
    return json.dumps(_strict(named), indent=2, allow_nan=False)


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
class Page(ABC):
    """Blocks from the top down, every text of them safe to print here.

    Attributes:
        console: where to print.
        verbose: whether to show all there is.
    """

    console: Console
    verbose: bool

    @abstractmethod
    def blocks(self) -> Iterator[Text | Table | Padding]:
        """The page's blocks."""

    def print(self) -> None:
        """Print the page."""
        for block in self.blocks():
            self.console.print(block)

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
        grid.add_row(self._text(mark, style), text if isinstance(text, Text) else self._text(text, style))
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

    def _indented(self, block: Text | Table) -> Padding:
        return Padding(block, (0, 0, 0, 2), expand=False)

    def _gauge(self, filled: int, width: int) -> Text:
        """A bar with so many of its cells filled."""
        bar = self._text("█" * filled, "cyan")
        return bar.append_text(self._text("░" * (width - filled), "dim"))

    def _named(self, title: str, names: Sequence[str], columns: Sequence[Column]) -> Padding:
        """A table with a name before every row, which gets the room that the columns leave.

        Where they leave too little their heads are broken, then the last of them left out.
        """
        room = self._room(columns)
        if room < _NAME:
            columns = [(head.replace(" ", "\n"), justify, cells) for head, justify, cells in columns]
        while (room := self._room(columns)) < _NAME and len(columns) > 1:
            columns = columns[:-1]
        room = max(room, _NAME)
        short = [Text(self._short(name, room)) for name in names]
        title = "\n".join(wrap(title, max(room, *map(cell_len, map(str, short)))))
        table = self._table(title, [(head, justify) for head, justify, _ in columns])
        for row in zip(short, *(cells for *_, cells in columns), strict=True):
            table.add_row(*row)
        return self._indented(table)

    def _table(self, title: str, heads: Iterable[tuple[str, Justify]]) -> Table:
        """A table without rows: names below `title`, and columns of figures beside them."""
        table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, pad_edge=False, header_style="dim")
        table.add_column(title, no_wrap=True)
        for head, justify in heads:
            table.add_column(head, justify=justify, no_wrap=True)
        return table

    def _room(self, columns: Sequence[Column]) -> int:
        """What columns leave for a name, with two cells between any two and before the first."""
        cells = ([*head.split("\n"), *map(str, cells)] for head, _, cells in columns)
        return self._width - 4 - sum(2 + max(map(cell_len, lines)) for lines in cells)

    def _shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> str:
        """Inputs with their shapes."""
        said = [f"{name} {'×'.join(map(str, dims)) or 'scalar'}" for name, dims in shapes.items()]
        if len(said) > 3 and not self.verbose:
            said[3:] = [f"{len(said) - 3} more"]
        return ", ".join(said)

    def _more(self, number: int, shown: int, noun: str) -> Iterator[Padding]:
        if number > shown and not self.verbose:
            text = f"and {some(number - shown, f'more {noun}')}; --verbose shows all"
            yield self._indented(self._text(text, "dim"))
