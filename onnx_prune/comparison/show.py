"""What a comparison looks like on a page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from onnx_prune.comparison.compare import RANDOM, Compared
from onnx_prune.terminal.page import TINY, Page, document
from onnx_prune.words import change, digits, duration, human, share, some, times


def show(found: Compared, console: Console) -> None:
    """Print a comparison."""
    _Page(console, True, found).print()


def as_json(found: Compared, crossed: Sequence[str] = ()) -> str:
    """The comparison as one strict JSON document, with the limits that do not hold."""
    return document("onnx-prune-comparison", 1, found.to_dict() | {"crossed": crossed})


@dataclass(frozen=True)
class _Page(Page):
    found: Compared

    def blocks(self) -> Iterator[Text | Table | Padding]:
        found = self.found
        first, second = (name or "model" for name in found.names)
        yield self._heading(f"{first} and {second}")
        yield Text()
        yield self._costs()
        threads = some(found.latency.threads, "thread") if found.latency.threads else "default threads"
        runs = some(found.latency.runs, "run")
        at = f"at {self._shapes(found.shapes)}; " if found.shapes else ""
        yield self._indented(self._text(f"{at}latency: median of {runs} on CPU, {threads}", "dim"))
        yield Text()
        yield self._heading("Outputs: the second model against the first")
        yield self._outputs()
        yield self._indented(self._text(f"on {some(found.samples, 'sample')}, {found.source}", "dim"))
        if found.source == RANDOM:
            text = "random inputs say little about how real ones fare; give yours with --data"
            yield self._item("·", text, "yellow")
        for note in found.notes:
            yield self._item("·", note, "yellow")
        for name, why in found.not_compared.items():
            yield self._item("·", f"{name} was not compared: it {why}", "yellow")

    def _costs(self) -> Padding:
        a, b = self.found.sizes
        latency, accuracy = self.found.latency, self.found.accuracy
        ratios = self._width >= TINY
        table = self._table("", [(head, "right") for head in ("first", "second", *("", "")[: 1 + ratios])])

        def row(name: str, old: float, new: float, form: Callable[[float], str]) -> None:
            ratio = [times(old, new)] if ratios else []
            table.add_row(name, form(old), form(new), *ratio, change(old, new))

        row("parameters", a.params, b.params, human)
        row("MACs", a.macs, b.macs, human)
        if a.bytes is not None and b.bytes is not None:
            row("file size", a.bytes, b.bytes, lambda n: human(n, "B"))
        row("latency", latency.before_ms, latency.after_ms, duration)
        if accuracy is not None:
            points = 100 * (accuracy.after - accuracy.before)
            table.add_row(
                "top-1",
                share(accuracy.before, 1),
                share(accuracy.after, 1),
                *([""] if ratios else []),
                f"{points:+.1f} points",
            )
        return Padding(table, (0, 0, 0, 2), expand=False)

    def _outputs(self) -> Padding:
        outputs = self.found.outputs
        rows = outputs.values()
        return self._named(
            "output",
            list(outputs),
            [
                ("relative error", "right", [Text(f"{row.relative_error:.3g}") for row in rows]),
                ("cosine", "right", [Text(f"{row.cosine:.4f}") for row in rows]),
                ("KL", "right", [Text("-" if row.kl is None else _small(row.kl)) for row in rows]),
                (
                    "same top-1",
                    "right",
                    [Text("-" if row.top1 is None else share(row.top1, 1)) for row in rows],
                ),
            ],
        )


def _small(value: float) -> str:
    """A divergence: three digits, or its size where it is small."""
    return digits(value) if value >= 0.01 else f"{value:.2g}"
