"""What an explanation looks like on a page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from onnx_prune.chain import Chain, Step
from onnx_prune.coupling import Place
from onnx_prune.explanation import Explanation, GroupShare
from onnx_prune.page import Column, Page, document
from onnx_prune.reach import Kept
from onnx_prune.why import Why, With
from onnx_prune.words import human, share, some

_TOP_GROUPS, _TOP_HELD, _TOP_OTHERS, _TOP_STEPS = 10, 6, 10, 8
_NARROW = 72

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
        size = f"{human(found.params)} parameters, {human(found.macs)} MACs"
        yield self._heading(f"{found.source or 'model'}: {size}")
        if found.shapes:
            yield self._indented(self._text(f"at {self._shapes(found.shapes)}", "dim"))
        yield Text()
        yield self._heading("Parameters that can be cut")
        yield self._indented(self._reach())
        yield Text()
        if found.groups:
            yield self._heading(f"{some(len(found.groups), 'group')} can be cut")
            yield self._groups()
            yield from self._more(len(found.groups), _TOP_GROUPS, "group")
            yield from self._marks()
        else:
            yield self._heading("Nothing can be cut")
        if found.held:
            yield Text()
            yield self._heading("Kept whole: parameters that stand on it, of these reached by nothing else")
            yield self._held()
            yield from self._more(len(found.held), _TOP_HELD, "reason")

    def _reach(self) -> Table:
        reach, whole = self.found.reach, self.found.params
        grid = Table.grid(padding=(0, 2, 0, 0))
        for justify in ("left", "right", "left"):
            grid.add_column(justify=justify, no_wrap=True)
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
        bar = 10
        columns: list[Column] = [
            ("channels", "right", [Text(self._channels(group)) for group in groups]),
            ("weights", "right", [Text(f"{len(group.members):,}") for group in groups]),
            ("params", "right", [Text(share(group.params, found.params)) for group in groups]),
            ("", "left", [self._share(group.params, found.params, bar) for group in groups]),
            ("MACs", "right", [Text(share(group.macs, found.macs)) for group in groups]),
            ("a channel", "right", [Text(human(group.macs_per_channel)) for group in groups]),
        ]
        if self._width < _NARROW:
            del columns[3:]
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
            yield self._note("or: another factor of an axis above, of which one is cut")
        if any(group.mixed for group in groups):
            yield self._note("~: cutting it changes a statistic, so only --mixed does")

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
        made = f" of {why.axis}" if why.axis != str(why.size) else ""
        if why.verdict == "held":
            yield self._heading(f"{place} keeps its {some(why.size, 'channel')}{made}")
            yield from self._steps(why.chain)
            yield self._item("·", why.why, "yellow")
            return
        yield self._heading(f"{place} can lose any of its {some(why.size, 'channel')}{made}")
        with_ = some(len(why.others), "other axis")
        yield self._indented(self._text(f"with {with_}, as group {why.why}"))
        rows = _by_last_node(why.others)
        for others in rows if self.verbose else rows[:_TOP_OTHERS]:
            yield self._other(others, (why.weight, why.dim))
        yield from self._more(len(rows), _TOP_OTHERS, "node")

    def _other(self, others: list[With], asked: Place) -> Table:
        """The axes that one node couples, and the way there."""
        shown = others if self.verbose else others[:3]
        axes = ", ".join(f"{other.weight}:{other.dim}" for other in shown)
        if len(others) > len(shown):
            axes += f" and {len(others) - len(shown)} more"
        start = others[0].start
        come = f"from {start[0]}:{start[1]} " if self.verbose and start != asked else ""
        way = " → ".join(_called(step) for step in self._middle(others[0].chain))
        return self._item(" ", self._text(axes).append(f"\n{self._say(f'{come}by {way}')}", "dim"))

    def _steps(self, chain: Chain) -> Blocks:
        if not chain:
            return
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(overflow="fold")
        grid.add_column(overflow="fold")
        for step in self._middle(chain):
            grid.add_row(self._text(_called(step)), self._text(f"→ {step.tensor}:{step.dim}", "dim"))
        yield self._indented(grid)

    def _middle(self, chain: Chain) -> Chain:
        """The steps, those in the middle left out where they are many."""
        if self.verbose or len(chain) <= _TOP_STEPS:
            return chain
        half = _TOP_STEPS // 2
        left_out = Step(f"({len(chain) - 2 * half} more steps)", "…", 0)
        return (*chain[:half], left_out, *chain[-half:])


def _by_last_node(others: tuple[With, ...]) -> list[list[With]]:
    """The axes, those together that one node couples: a normalisation's scale goes with its bias."""
    found: dict[str, list[With]] = {}
    for other in others:
        found.setdefault(other.chain[-1].node if other.chain else "", []).append(other)
    return list(found.values())


def _called(step: Step) -> str:
    """The node; without its operator where its name has that already."""
    op, _, name = step.node.partition(" ")
    return name if op.lower() in name.lower() else step.node
