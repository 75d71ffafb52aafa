"""README's account of the node cases: how many were pruned and proved, and around which operators."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from onnx_prune.rules import RULES
from tools.operators import README, in_force, kind_of

_PLACE = re.compile(r"<!-- conformance: opset (\d+) -->\n.*?<!-- end of conformance -->\n", re.DOTALL)
_FORMS = {
    "as is": "as they are",
    "weights": "float inputs but the first as weights",
    "framed": "a weight on every float input and output",
}
_COLUMNS = {
    "pruned and proved": ("pruned",),
    "nothing to cut": ("nothing",),
    "not proved": ("unproved",),
    "refused by onnxruntime": ("refused",),
    "wrong or crashed": ("failed", "crashed"),
}


class Row(Protocol):
    """What became of one form of a case, as `tools.conformance` has it."""

    name: str
    form: str
    status: str


def operators(model: Any) -> set[tuple[str, str]]:
    """Domain and type of the operators of a model's own nodes."""
    return {("" if node.domain == "ai.onnx" else node.domain, node.op_type) for node in model.graph.node}


def lines(rows: Iterable[Row], cases: Mapping[str, Any], newest: int) -> Iterator[str]:
    """The account.

    Args:
        rows: what became of each form of each case.
        cases: the cases' models by name.
        newest: the opset of the newest operators.
    """
    mine = [row for row in rows if row.name in cases]
    yield f"| {len(cases):,} node cases | models | {' | '.join(_COLUMNS)} |"
    yield f"|---|{'---|' * (len(_COLUMNS) + 1)}"
    for form, said in _FORMS.items():
        counts = Counter(row.status for row in mine if row.form == form)
        cells = (f"{sum(counts[status] for status in statuses):,}" for statuses in _COLUMNS.values())
        yield f"| {said} | {counts.total():,} | {' | '.join(cells)} |"
    cut = {op for row in mine if row.status == "pruned" for op in operators(cases[row.name])}
    asked = [op for op in sorted(cuttable()) if op[0] == "" and op[1] in in_force(newest)]
    missing = [name for domain, name in asked if (domain, name) not in cut]
    yield ""
    yield f"{len(asked)} operators of ONNX's own domain have a rule that lets something be cut. Around"
    yield f"{len(asked) - len(missing)} of them something was, and proved; not around"
    yield f"{', '.join(missing) or 'none'}."


def cuttable() -> set[tuple[str, str]]:
    """The operators whose rule has an axis that is not held."""
    return {op for op in RULES if kind_of(*op) != "held"}


def write(rows: Iterable[Row], cases: Mapping[str, Any], newest: int, readme: Path = README) -> None:
    """Put the account between README's markers.

    Raises:
        ValueError: the markers are not there.
    """
    text = readme.read_text()
    found = _PLACE.search(text)
    if found is None:
        raise ValueError("README has no '<!-- conformance: opset N -->' and '<!-- end of conformance -->'")
    block = "\n".join(
        (
            f"<!-- conformance: opset {newest} -->",
            *("", *lines(rows, cases, newest), ""),
            "<!-- end of conformance -->\n",
        )
    )
    readme.write_text(text[: found.start()] + block + text[found.end() :])
