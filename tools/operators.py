"""Write README's tables of operators from the registry of rules and onnx's schemas.

    python -m tools.operators            put the tables between the two markers
    python -m tools.operators --check    change nothing; exit code 1 if README is out of date

The first marker names the opset that the tables were made with, so that a newer onnx alone does not make
them out of date.
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
_MEANING = {
    "exact": "cutting is the same as masking",
    "mixed": "axes marked `~` are cut only with `--mixed`",
    "held": "nothing is cut around them",
    "none": "no rule: they keep what they touch",
    "no need": "stored values and shapes, which have no channels of their own",
}
_NO_NEED = ("Constant", "Shape", "Size")


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


def kind_of(domain: str, name: str) -> str:
    """What can be cut around an operator that has a rule."""
    return kind(_rule(domain, name))


def classes(newest: int) -> dict[str, dict[str, list[str]]]:
    """For each class the operators of onnx's own domain that are in force at an opset, and of others."""
    found: dict[str, dict[str, list[str]]] = {name: {} for name in _MEANING}
    for domain, name in sorted(RULES):
        found[kind_of(domain, name)].setdefault(domain or "ai.onnx", []).append(name)
    for name in sorted(in_force(newest)):
        if ("", name) not in RULES:
            found["no need" if name in _NO_NEED else "none"].setdefault("ai.onnx", []).append(name)
    return found


def in_force(newest: int) -> set[str]:
    """The operators of onnx's own domain that are not deprecated at an opset."""
    latest: dict[str, onnx.defs.OpSchema] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version <= newest:
            known = latest.get(schema.name)
            if known is None or schema.since_version > known.since_version:
                latest[schema.name] = schema
    return {name for name, schema in latest.items() if not schema.deprecated}


def summary(newest: int) -> Iterator[str]:
    """How many operators are in each class, and which."""
    found, known = classes(newest), in_force(newest)
    ours = {kind: len(known & set(domains.get("ai.onnx", ()))) for kind, domains in found.items()}
    vendor = sum(domain != "" for domain, _ in RULES)
    yield f"Of the {len(known)} operators of ONNX's own domain at opset {newest}, {ours['exact']} are exact,"
    yield f"{ours['mixed']} mixed and {ours['held']} held; {ours['none']} have no rule, and {ours['no need']}"
    yield f"need none. Besides, {vendor} of com.microsoft have one."
    yield ""
    yield "| class | ai.onnx | com.microsoft |"
    yield "|---|---|---|"
    for name, domains in found.items():
        cells = (", ".join(domains.get(domain, ())) for domain in ("ai.onnx", "com.microsoft"))
        yield f"| *{name}*: {_MEANING[name]} | {' | '.join(cells)} |"


def rules(newest: int) -> Iterator[str]:
    """The lines of the table of rules, by operator."""
    yield "| operator | opsets | rule | |"
    yield "|---|---|---|---|"
    for domain, name in sorted(RULES):
        rule = _rule(domain, name)
        since = "" if domain else ", ".join(map(str, forms(name, newest)))
        yield f"| {domain and domain + '.'}{name} | {since} | `{rule}` | {kind(rule)} |"


def _rule(domain: str, name: str) -> str:
    return (RULES[domain, name].__doc__ or "").splitlines()[0]


def written(text: str, newest: int | None = None) -> str:
    """README's text with the tables in their place, made for the opset named there or for another.

    Raises:
        ValueError: the markers are not there.
    """
    found = _PLACE.search(text)
    if found is None:
        raise ValueError("README has no '<!-- operators: opset N -->' and '<!-- end of operators -->'")
    opset = int(found[1]) if newest is None else newest
    block = (
        f"<!-- operators: opset {opset} -->",
        *("", *summary(opset), ""),
        *("<details>", "<summary>The rule of every operator</summary>", ""),
        *(*rules(opset), "", "</details>", ""),
        "<!-- end of operators -->\n",
    )
    return text[: found.start()] + "\n".join(block) + text[found.end() :]


@click.command(help=__doc__)
@click.option("--check", is_flag=True, help="Only say whether README is up to date.")
def main(check: bool) -> None:
    """Write the tables, or check them."""
    text = README.read_text()
    if check:
        if written(text) != text:
            sys.exit("README's tables of operators are out of date; run python -m tools.operators")
        return
    README.write_text(written(text, onnx.defs.onnx_opset_version()))


if __name__ == "__main__":
    main()
