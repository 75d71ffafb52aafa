"""Write README's table of operators from the registry of rules.

    python -m tools.operators            put the table between the two markers
    python -m tools.operators --check    change nothing; exit code 1 if README is out of date

The first marker names the opset that the table was made with, so that a newer onnx alone does not make it
out of date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import onnx

from onnx_prune.rules import RULES

README = Path(__file__).parent.parent / "README.md"
OLDEST = 7
_PLACE = re.compile(r"<!-- operators: opset (\d+) -->\n.*?<!-- end of operators -->\n", re.DOTALL)
_LETTER = re.compile(r"([*~]?)[a-z]\w*")


def forms(name: str, newest: int) -> list[int]:
    """The opsets from which an operator has another form, the one in force at opset 7 among them."""
    history = onnx.defs.get_all_schemas_with_history()
    versions = {s.since_version for s in history if s.domain == "" and s.name == name and not s.deprecated}
    return sorted({max(OLDEST, max(v for v in versions if v <= opset)) for opset in _span(versions, newest)})


def _span(versions: set[int], newest: int) -> range:
    """Opsets that know the operator; none for what exporters put into ONNX's domain on their own."""
    return range(max(OLDEST, min(versions)), newest + 1) if versions else range(0)


def kind(rule: str) -> str:
    """What can be cut around the operator, read off its rule.

    >>> kind("m k, k n, n -> m n"), kind("a... ~c... -> a... ~c..."), kind("*n *i *j, *s -> *n *e... *f")
    ('exact', 'mixed', 'held')
    """
    marks = set(_LETTER.findall(rule))
    return "mixed" if "~" in marks else "exact" if "" in marks else "held"


def table(newest: int) -> Iterator[str]:
    """The lines of the table, by operator."""
    yield "| operator | opsets | rule | |"
    yield "|---|---|---|---|"
    for domain, name in sorted(RULES):
        rule = (RULES[domain, name].__doc__ or "").splitlines()[0]
        since = "" if domain else ", ".join(map(str, forms(name, newest)))
        yield f"| {domain and domain + '.'}{name} | {since} | `{rule}` | {kind(rule)} |"


def written(text: str, newest: int | None = None) -> str:
    """README's text with the table in its place, made for the opset named there or for another.

    Raises:
        ValueError: the markers are not there.
    """
    found = _PLACE.search(text)
    if found is None:
        raise ValueError("README has no '<!-- operators: opset N -->' and '<!-- end of operators -->'")
    opset = int(found[1]) if newest is None else newest
    lines = "\n".join(table(opset))
    block = f"<!-- operators: opset {opset} -->\n\n{lines}\n\n<!-- end of operators -->\n"
    return text[: found.start()] + block + text[found.end() :]


@click.command(help=__doc__)
@click.option("--check", is_flag=True, help="Only say whether README is up to date.")
def main(check: bool) -> None:
    """Write the table, or check it."""
    text = README.read_text()
    if check:
        if written(text) != text:
            sys.exit("README's table of operators is out of date; run python -m tools.operators")
        return
    README.write_text(written(text, onnx.defs.onnx_opset_version()))


if __name__ == "__main__":
    main()
