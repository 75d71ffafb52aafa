"""All that the rules say of nodes of every kind, against tables that were read line by line.

A file of `tests/rules/` holds the nodes of one module of rules, each with what its rule says below it (see
`tests.said`): the axes, when a masked channel is zero in the results ("0|1 and 2": where operand 0 or
operand 1 is, and operand 2; unsaid, where all operands are), the operands and attributes that follow a cut,
how integers are read and written, and for letters that are held or mixed the reason; or why it refuses it.
"""

from __future__ import annotations

from itertools import chain
from operator import itemgetter
from pathlib import Path

import pytest

from onnx_prune.axes.axis import size
from onnx_prune.errors import Misfit
from onnx_prune.rules import RULES, Rule, has_rule, relate, rule
from tests.said import node, statement

SAID = {
    path.stem: [block.splitlines() for block in path.read_text().strip().split("\n\n")]
    for path in sorted((Path(__file__).parent / "rules").glob("*.txt"))
}


def read(line: str) -> tuple[str, str]:
    """The domain and the rest of a line."""
    kind, _, rest = line.partition(" ")
    domain, colon, name = kind.rpartition(":")
    return domain, f"{name} {rest}" if colon else line


BLOCKS = [*chain(*SAID.values())]
REFUSED = [block for block in BLOCKS if block[1].startswith("refused: ")]


@pytest.mark.parametrize("block", [block for block in BLOCKS if block not in REFUSED], ids=itemgetter(0))
def test_what_a_rule_says(block: list[str]) -> None:
    domain, text = read(block[0])
    op = node(text)
    relation = relate(op, domain)
    assert relation is not None
    assert statement(relation) == block[1:]
    for sides, shapes in ((relation.operands, op.ins), (relation.results, op.outs)):
        for dims, shape in zip(sides, shapes, strict=True):
            assert dims is None or tuple(map(size, dims)) == shape


@pytest.mark.parametrize("block", REFUSED, ids=itemgetter(0))
def test_what_a_rule_refuses(block: list[str]) -> None:
    domain, text = read(block[0])
    with pytest.raises(Misfit) as misfit:
        relate(node(text), domain)
    assert f"refused: {misfit.value}" == block[1]


def test_every_rule_is_in_the_file_of_its_module() -> None:
    said: set[tuple[str, Rule]] = set()
    for module, blocks in SAID.items():
        for line, *_ in blocks:
            domain, text = read(line)
            said.add((module, RULES[domain, node(text).type]))
    places = {(*function.__module__.rsplit(".", 1), function) for function in RULES.values()}
    assert said == {(name, function) for package, name, function in places if package == "onnx_prune.rules"}


def test_an_operator_has_one_rule_in_its_domain() -> None:
    assert str(relate(node("Relu 2x3 -> 2x3"), "ai.onnx")) == "a0 a1 -> a0 a1"
    assert relate(node("Relu 2x3 -> 2x3"), "com.example") is None
    assert has_rule("Relu")
    assert not has_rule("Relu", "com.example")
    with pytest.raises(ValueError, match="Relu has a rule already"):
        rule("Relu")(RULES["", "Sigmoid"])
    with pytest.raises(ValueError, match="QGemm has a rule already"):
        rule("QGemm", domain="com.microsoft")(RULES["", "Gemm"])
