"""What an explanation looks like on a page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from onnx_prune.coupling import Site
from onnx_prune.explanation.chain import Chain, Step
from onnx_prune.explanation.explain import Explanation, GroupShare
from onnx_prune.explanation.reach import Kept
from onnx_prune.explanation.why import Why, With
from onnx_prune.terminal.page import Column, Page, document
from onnx_prune.words import human, share, some

_TOP_GROUPS, _TOP_HELD, _TOP_OTHERS, _TOP_STEPS, _TOP_BRIDGES = 10, 6, 10, 8, 4
_NARROW = 72
_COLUMNS = {7: 110, 6: 92, 5: _NARROW, 3: 0}  # how many of a group's columns from which width on

Blocks = Iterator[Text | Table | Padding]


def show(explanation: Explanation, console: Console, verbose: bool = False) -> None:
    """Print an explanation, or only the answers where something was asked about.

    Args:
        explanation: what is to be said.
        console: where to print.
        verbose: all groups, reasons and steps.
    """
    page = _Answers if explanation.why else _Overview
    page(console, verbose, explanation).print()


def as_json(explanation: Explanation) -> str:
    """The explanation as one strict JSON document."""
    return document("onnx-prune-explanation", 1, explanation.to_dict())


@dataclass(frozen=True)
class _Overview(Page):
    """All groups, and all that is held."""

    found: Explanation

    def blocks(self) -> Blocks:
        found = self.found
        at = f" at {self._shapes(found.shapes)}" if found.shapes else ""
        yield self._heading(found.source or "model")
        size = f"{human(found.params)} parameters, {human(found.macs)} MACs{at}"
        yield self._indented(self._text(size, "dim"))
        yield Text()
        yield self._heading("Parameters that can be cut")
        yield self._indented(self._reach())
        yield Text()
        if found.groups:
            yield self._heading(self._count())
            yield self._groups()
            yield from self._more(len(found.groups), _TOP_GROUPS, "group")
            yield from self._marks()
            yield from self._bridges()
        else:
            yield self._heading("Nothing can be cut")
        if found.held:
            yield Text()
            yield self._heading("Kept whole: parameters that stand on it, of these reached by nothing else")
            yield self._held()
            yield from self._more(len(found.held), _TOP_HELD, "reason")

    def _count(self) -> str:
        others = sum(group.instead is not None for group in self.found.groups)
        text = f"{some(len(self.found.groups) - others, 'group')} can be cut"
        return f"{text}, or {some(others, 'other')} in their place" if others else text

    def _reach(self) -> Table:
        reach, whole = self.found.reach, self.found.params
        grid = Table.grid(padding=(0, 2, 0, 0))
        for justify in ("left", "right"):
            grid.add_column(justify=justify, no_wrap=True)
        grid.add_column()
        bar = 30 if self._width >= _NARROW else 0
        rows = {"along two axes": reach.two, "along one axis": reach.one, "not at all": reach.none}
        for name, params in rows.items():
            grid.add_row(name, share(params, whole), self._share(params, whole, bar))
        note = self._text("about, with half of every group", "dim")
        grid.add_row("left at half", share(reach.half, whole), note)
        return grid

    def _share(self, part: float, whole: float, width: int) -> Text:
        """A part of a whole as a bar: never empty for something, never full for less than all."""
        if not part or not width:
            return self._gauge(0, width)
        return self._gauge(
            width if part >= whole else min(max(1, round(width * part / whole)), width - 1), width
        )

    def _groups(self) -> Padding:
        found = self.found
        groups = found.groups if self.verbose else found.groups[:_TOP_GROUPS]
        columns: list[Column] = [
            ("channels", "right", [Text(self._channels(group)) for group in groups]),
            ("weights", "right", [Text(f"{len(group.members):,}") for group in groups]),
            ("params", "right", [Text(share(group.params, found.params)) for group in groups]),
            ("", "left", [self._share(group.params, found.params, 10) for group in groups]),
            ("MACs", "right", [Text(share(group.macs, found.macs)) for group in groups]),
            ("a channel", "right", [Text(human(group.macs_per_channel)) for group in groups]),
            ("read by", "left", [Text(self._short(group.node, 24)) for group in groups]),
        ]
        columns = columns[: next(n for n, width in _COLUMNS.items() if self._width >= width)]
        return self._named("largest first", [self._marked(group) for group in groups], columns)

    def _channels(self, group: GroupShare) -> str:
        """How many, and how many positions each of them takes where that is not one."""
        return self._say(f"{group.size} ×{group.width}" if group.width > 1 else str(group.size))

    def _marked(self, group: GroupShare) -> str:
        return ("~" if group.mixed else "") + ("or " if group.instead else "") + group.name

    def _marks(self) -> Blocks:
        """What the marks in the table mean, of those that are there."""
        groups = self.found.groups if self.verbose else self.found.groups[:_TOP_GROUPS]
        if any(group.width > 1 for group in groups):
            yield self._note("×64: each channel takes 64 positions of the axis, as a head does")
        if any(group.instead for group in groups):
            yield self._note("or: another factor of an axis above, one of which is cut")
        if any(group.mixed for group in groups):
            yield self._note("~: cutting it changes a statistic, so only --mixed does")

    def _bridges(self) -> Blocks:
        """Which groups are one only because of a tensor that their parts share."""
        joined = [group for group in self.found.groups if group.bridges]
        if not joined:
            return
        yield Text()
        yield self._heading("One group, where without a shared tensor there would be several")
        for group in joined if self.verbose else joined[:_TOP_BRIDGES]:
            shown = group.bridges if self.verbose else group.bridges[:1]
            where = ", ".join(f"{some(b.parts, 'part')} at {b.tensor}:{b.dim}" for b in shown)
            more = len(group.bridges) - len(shown)
            where += f" and {some(more, 'more tensor')}" if more else ""
            text = self._text(f"{group.name} ({some(group.size, 'channel')}): ")
            yield self._item(" ", text.append(self._say(where), "dim"))
        yield from self._more(len(joined), _TOP_BRIDGES, "group")

    def _note(self, text: str) -> Padding:
        return self._indented(self._text(text, "dim"))

    def _held(self) -> Padding:
        found = self.found
        held = found.held if self.verbose else found.held[:_TOP_HELD]
        grid = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(2):
            grid.add_column(justify="right", no_wrap=True)
        grid.add_column(overflow="fold")
        for kept in held:
            why = self._text(kept.why)
            why.append(self._say(self._where(kept)), "dim")
            grid.add_row(share(kept.params, found.params), share(kept.alone, found.params), why)
        return self._indented(grid)

    def _where(self, kept: Kept) -> str:
        shown = kept.axes[: 5 if self.verbose else 1]
        places = ", ".join(f"{self._short(weight, 40)}:{dim}" for weight, dim, _ in shown)
        if len(kept.axes) > len(shown):
            return f" ({some(len(kept.axes), 'axis')}, such as {places})"
        return f" ({places})" if places else ""


@dataclass(frozen=True)
class _Answers(Page):
    """Why single weights are held, or what they go with."""

    found: Explanation

    def blocks(self) -> Blocks:
        for j, why in enumerate(self.found.why):
            if j:
                yield Text()
            yield from self._answer(why)

    def _answer(self, why: Why) -> Blocks:
        place = f"{why.weight}:{why.dim}"
        made = f", of {why.axis}" if why.axis else ""
        if why.verdict == "held":
            yield self._heading(f"{place} keeps its {some(why.size, 'channel')}{made}")
            if why.chain:
                yield self._item(" ", self._way(why.chain))
            yield self._item("·", why.why, "yellow")
            return
        yield self._heading(f"{place} can lose any of its {some(why.size, 'channel')}{made}")
        with_ = some(len(why.others), "other axis")
        yield self._indented(self._text(f"with {with_}, as group {why.why}"))
        rows = _by_last_node(why.others)
        for others in rows if self.verbose else rows[:_TOP_OTHERS]:
            yield self._other(others, (why.weight, why.dim))
        yield from self._more(len(rows), _TOP_OTHERS, "node")

    def _other(self, others: list[With], asked: Site) -> Table:
        """The axes that one node couples, and the way there."""
        shown = others if self.verbose else others[:3]
        axes = ", ".join(f"{other.weight}:{other.dim}" for other in shown)
        if len(others) > len(shown):
            axes += f" and {len(others) - len(shown)} more"
        start = others[0].start
        come = f"from {start[0]}:{start[1]} " if self.verbose and start != asked else ""
        return self._item(" ", self._text(axes).append("\n").append_text(self._way(others[0].chain, come)))

    def _way(self, chain: Chain, come: str = "") -> Text:
        """The nodes on a way; with --verbose the tensors between them, too."""
        steps = list(map(self._step, chain))
        if not self.verbose and len(steps) > _TOP_STEPS:
            half = _TOP_STEPS // 2
            steps[half:-half] = [f"({some(len(steps) - 2 * half, 'more step')})"]
        return self._text(f"{come}by {' → '.join(steps)}", "dim")

    def _step(self, step: Step) -> str:
        """The node, without its operator where its name has that already."""
        op, _, name = step.node.partition(" ")
        called = name if op.lower() in name.lower() else step.node
        return f"{called} ({step.tensor}:{step.dim})" if self.verbose else called


def _by_last_node(others: tuple[With, ...]) -> list[list[With]]:
    """The axes, those together that one node couples: a normalisation's scale goes with its bias."""
    found: dict[str, list[With]] = {}
    for other in others:
        found.setdefault(other.chain[-1].node if other.chain else "", []).append(other)
    return list(found.values())
