"""What the pages of all runs share: how to do it again, and how far the answers moved."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from onnx_prune.html import chart
from onnx_prune.html.page import Block, Cell, Chart, Command, Facts, Note, Number, Section
from onnx_prune.html.spread import Spread, overall
from onnx_prune.validate import Drift
from onnx_prune.words import duration, human, share, some

LEGEND = ((chart.BEFORE, "before"), (chart.AFTER, "after"))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a page comes from.

    Attributes:
        command: the command line; "" where there was none.
        hashes: (what, sha256) pairs of what went in and came out.
    """

    command: str
    hashes: tuple[tuple[str, str], ...]


def titled(source: str | None, output: str | None) -> str:
    """The models' names without their folders.

    Example:
        >>> titled("models/in.onnx", "out.onnx"), titled(None, None)
        ('in.onnx → out.onnx', 'model')
    """
    names = [Path(path).name for path in (source or "model", output) if path is not None]
    return " → ".join(names)


def made_by(versions: Mapping[str, str]) -> str:
    """The program and its version.

    Example:
        >>> made_by({"onnx-prune": "0.1.0"}), made_by({})
        ('onnx-prune 0.1.0', 'onnx-prune')
    """
    return f"onnx-prune {versions.get('onnx-prune', '')}".strip()


def origin_section(origin: Origin, versions: Mapping[str, str], seconds: Mapping[str, float]) -> Section:
    """How to do it again: the command, what it read and wrote, and with which versions."""
    used = {
        **versions,
        "Python": platform.python_version(),
        "on": f"{platform.system()} {platform.machine()}",
    }
    took = ", ".join(f"{name} {duration(1000 * time)}" for name, time in seconds.items())
    facts = [("versions", ", ".join(f"{name} {number}" for name, number in used.items()))]
    if took:
        facts.append(("time taken", took))
    hashes = tuple((f"sha256 of {what}", digest) for what, digest in origin.hashes if digest)
    blocks: tuple[Block, ...] = (
        *([Command(origin.command)] if origin.command else []),
        *([Facts(hashes, typed=True)] if hashes else []),
        Facts(tuple(facts)),
    )
    lead = "The same versions make the same files of the same files; only times differ."
    return Section("again", "To do it again", lead, blocks)


def drift_note(drift: Drift, original: str) -> Note:
    """How far the answers moved from those of the original, which is called so here."""
    numbers = [
        (
            "relative error",
            Number(f"{drift.relative_error:.3g}", drift.relative_error, "drift.relative_error"),
        ),
        ("cosine", Number(f"{drift.cosine:.3f}", drift.cosine, "drift.cosine")),
    ]
    if drift.top1 is not None:
        numbers.append(("top-1 agreement", Number(share(drift.top1, 1), drift.top1, "drift.top1")))
    return Note(
        "plain",
        "Drift",
        f"How far the answers moved from the {original} model's "
        f"({some(drift.samples, 'sample')}, {drift.source}).",
        tuple(numbers),
    )


def spread_chart(spreads: Iterable[Spread]) -> Iterator[Chart]:
    """How all weights are spread, if any were looked at."""
    total = overall(spreads)
    if total is None:
        return
    wide, narrow = chart.spread(total.before, total.after, total.reach)
    words = f"Histogram of the weights that are not zero: {sum(total.before):,} counted before"
    words += "." if total.after is None else f", {sum(total.after):,} after."
    title = "All weights that are not zero, in standard deviations of their layer before"
    yield Chart(title, words, wide, narrow, LEGEND if total.after is not None else LEGEND[:1])


def notes(texts: Iterable[str]) -> list[Note]:
    """Other things worth knowing."""
    return [Note("warn", "", text) for text in texts]


def size_of(size: int | None, key: str) -> Number:
    """Bytes of a file that may not be there."""
    return Number("–" if size is None else human(size, "B"), size, key)


def numbered(rows: Iterable[tuple[Cell, ...]]) -> tuple[tuple[Cell, ...], ...]:
    """The rows with their number before them."""
    return tuple((Cell(number=Number(str(j), j)), *row) for j, row in enumerate(rows, 1))


def sha256(path: str | Path) -> str:
    """Of a file's bytes; "" where there is none."""
    file = Path(path)
    if not file.is_file():
        return ""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
