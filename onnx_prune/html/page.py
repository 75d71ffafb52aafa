"""A page as data: figures on top, then sections of blocks; `render` makes HTML of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnx_prune.words import change, times

Tone = Literal["good", "plain", "warn", "bad"]


@dataclass(frozen=True, slots=True)
class Number:
    """A number for people, and what it is to a program.

    Attributes:
        text: as it is read.
        value: as it is sorted, and as it stands in the JSON report; None where it is not known.
        key: where it stands there, as in `before.params` or `groups.0.kept`; "" where it does not.
    """

    text: str
    value: float | None = None
    key: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """What something was and is.

    Attributes:
        title: what it is.
        before: what it was; None where there was none.
        after: what it is.
        percent: the change, as in "-74 %".
        times: the same as a factor, as in "3.8x".
        left: the part that is left, from 0 to 1; None where that says nothing.
        note: how it was measured.
    """

    title: str
    before: Number | None
    after: Number
    percent: str = ""
    times: str = ""
    left: float | None = None
    note: str = ""


def compared(title: str, before: Number, after: Number, note: str = "") -> Figure:
    """A figure with the change from one number to another.

    Example:
        >>> compared("parameters", Number("100", 100), Number("26", 26)).percent
        '-74 %'
    """
    if before.value is None or after.value is None:
        return Figure(title, before, after, note=note)
    old, new = before.value, after.value
    left = min(1.0, new / old) if old else None
    return Figure(title, before, after, change(old, new), times(old, new) if new < old else "", left, note)


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence with a mark before it.

    Attributes:
        tone: how it is meant.
        title: in a word or two; "" for none.
        text: the sentence.
        numbers: (what, number) pairs that it stands on.
    """

    tone: Tone
    title: str
    text: str
    numbers: tuple[tuple[str, Number], ...] = ()


@dataclass(frozen=True, slots=True)
class Bar:
    """How much of something stays.

    Attributes:
        kept: the part, from 0 to 1.
        state: "cut", or "whole" where nothing goes.
    """

    kept: float
    state: Literal["cut", "whole"]


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table: any of these, in this order.

    Attributes:
        text: words.
        before: a number that an arrow leads from.
        number: a number.
        bar: a bar.
        drawing: SVG.
        note: smaller words below.
        more: lines to be unfolded, under `summary`.
        summary: what unfolds them.
    """

    text: str = ""
    before: Number | None = None
    number: Number | None = None
    bar: Bar | None = None
    drawing: str = ""
    note: str = ""
    more: tuple[str, ...] = ()
    summary: str = ""

    @property
    def blank(self) -> bool:
        """Whether there is nothing in it."""
        return self == Cell()


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title and what is in it."""

    title: str
    kind: Literal["order", "name", "word", "number", "gauge", "drawing"]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that can be sorted and searched.

    Attributes:
        name: unique on the page, letters alone.
        caption: what the rows are.
        noun: what one is.
        columns: of kind "name" there is one.
        rows: a cell a column.
        filter: the column whose words can be picked; None for no such choice.
    """

    name: str
    caption: str
    noun: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    filter: int | None = None

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that can be picked."""
        return () if self.filter is None else tuple(sorted({row[self.filter].text for row in self.rows}))


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing with a legend.

    Attributes:
        title: what it shows.
        words: the same in words, for those who do not see it.
        wide: SVG for wide screens and paper.
        narrow: SVG for narrow ones.
        legend: (custom property of the colour, its meaning) pairs.
    """

    title: str
    words: str
    wide: str
    narrow: str
    legend: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """Terms with what they stand for; what is to be typed is set as such."""

    rows: tuple[tuple[str, str], ...]
    typed: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """A command to be copied."""

    text: str


@dataclass(frozen=True, slots=True)
class Notes:
    """Sentences one below the other."""

    notes: tuple[Note, ...]


Block = Table | Chart | Facts | Command | Notes


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page.

    Attributes:
        name: unique on the page, letters alone.
        title: its heading.
        lead: what it is about, in a sentence or two.
        blocks: what is in it.
    """

    name: str
    title: str
    lead: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """A whole page.

    Attributes:
        title: the models' names.
        lead: what was done, in a sentence.
        figures: before and after.
        verdicts: whether it is right, and how far it moved.
        sections: the rest.
        made_by: the program and its version.
    """

    title: str
    lead: str
    figures: tuple[Figure, ...]
    verdicts: tuple[Note, ...]
    sections: tuple[Section, ...]
    made_by: str
