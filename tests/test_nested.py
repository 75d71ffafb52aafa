"""Bodies in general: in one another, in the plan, in the costs; and faults inside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.checker import check_model

from onnx_prune import prune
from onnx_prune.axes.axis import Atom, atoms
from onnx_prune.axes.relation import Relation
from onnx_prune.cost import savings, total_macs
from onnx_prune.cut import cut
from onnx_prune.errors import NothingToPrune, ProofFailed
from onnx_prune.proof.prove import prove
from onnx_prune.rules import RULES
from tests import zoo
from tests.bodies import body, branching, looping, recurrent, scanning, two_branches
from tests.graphs import (
    analyse,
    halved,
    node,
    noise,
)


def test_a_body_in_a_body() -> None:
    """An If inside a Loop, whose branches read the state and weights of both outer graphs."""
    choice = {
        "then_branch": body("then", ["t = MatMul(h, wh)"], {}, {"t": (2, 8)}),
        "else_branch": body("else", ["e = MatMul(h, v)"], {}, {"e": (2, 8)}, {"v": noise(8, 8, seed=3) / 4}),
    }
    model = looping(
        [
            "even = Equal(i, two)",
            node("b = If(even)", "pick", **choice),
            "a = MatMul(now, wi)",
            "c = Add(a, b)",
            "next = Tanh(c)",
        ],
        {"wi": noise(4, 8), "h0": np.zeros((2, 8), np.float32)},
        inner={"wh": noise(8, 8, seed=1) / 4, "two": np.array(2)},
    )
    coupling = analyse(model)
    [group] = coupling.groups
    inside = {("rnn/body/wh", j) for j in (0, 1)} | {("rnn/body/pick/else_branch/v", j) for j in (0, 1)}
    assert {(m.weight, m.dim) for m in group.members} == inside | {("wi", 1), ("h0", 1), ("w", 0)}
    _, error, small = halved(model)
    check_model(small, full_check=True)
    assert error <= 1e-6


def test_a_plan_names_what_is_inside(tmp_path: Path) -> None:
    model = recurrent()
    plan = tmp_path / "plan.json"
    first = prune(model, save_plan=plan, round_to=1, validate=False)
    assert first.plan.initializers["rnn/body/wh"]["keep"].keys() == {"0", "1"}
    again = prune(model, apply_plan=plan)
    assert first.model == again.model
    with pytest.raises(NothingToPrune, match="--ignore covers every group"):
        prune(model, ignore=["rnn/body/w*"])


def test_work_in_a_body_counts_at_every_step() -> None:
    model = looping(
        ["a = MatMul(now, wi)", "b = MatMul(h, wh)", "c = Add(a, b)", "next = Tanh(c)"],
        {"wi": noise(4, 8), "wh": noise(8, 8), "h0": np.zeros((2, 8), np.float32)},
    )
    coupling = analyse(model)
    assert total_macs(coupling.graph, coupling.shapes.known) == 5 * 2 * (4 * 8 + 8 * 8 + 8 * 3)
    [group] = coupling.groups
    [(params, macs)] = savings(coupling, {group.atom: 4}, coupling.shapes.known).values()
    assert params == 2 * 4 + 4 * 4 + (8 * 8 - 4 * 4) + 4 * 3
    assert macs == 5 * 2 * (4 * 4 + (8 * 8 - 4 * 4) + 4 * 3)


def test_a_fault_inside_a_body_is_caught() -> None:
    model = zoo.load("d_loop_over_time_linear-script17")
    coupling = analyse(model)
    [group] = coupling.groups
    plan = {group.atom: np.arange(group.size) % 2 == 0}
    small = cut(coupling, plan).whole()
    assert prove(coupling, plan, small).error <= 1e-6
    [loop] = [n for n in small.graph.node if n.op_type == "Loop"]
    [step] = [a.g for a in loop.attribute if a.name == "body"]
    [act] = [n for n in step.node if n.op_type == "Tanh"]
    act.op_type = "Softsign"
    with pytest.raises(ProofFailed, match="differs from the masked original"):
        prove(coupling, plan, small)


@pytest.mark.parametrize("shift", [1, 2])
def test_other_channels_inside_a_body_are_caught(shift: int) -> None:
    """The slices of a weight in a body are those of the plan, not their neighbours."""
    model = recurrent()
    coupling = analyse(model)
    [group] = coupling.groups
    plan = {group.atom: np.arange(8) < 4}
    small = cut(coupling, plan).whole()
    [tensor] = next(a.g for a in small.graph.node[0].attribute if a.name == "body").initializer
    tensor.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(tensor), shift, 0), tensor.name))
    with pytest.raises(ProofFailed, match="differs from the masked original"):
        prove(coupling, plan, small)


def test_something_is_cut_around_every_crossing() -> None:
    cut_around = set()
    for model in (two_branches(), recurrent(), scanning()):
        coupling = analyse(model)
        atoms_cut = {group.atom for group in coupling.groups}
        for bound in coupling.bound:
            dims = [d for d in (*bound.relation.operands, *bound.relation.results) if d]
            if bound.node.crossing and any(a in atoms_cut for d in dims for axis in d for a in atoms(axis)):
                cut_around.add(bound.node.op)
        assert halved(model)[1] <= 1e-6
    rules = {name for (_, name), rule in RULES.items() if rule.__module__.endswith(".control")}
    assert cut_around == rules - {"Loop.count"}


def untied(relation: Relation) -> Relation:
    """The last tensor that has axes gets axes of its own."""
    loose = [*relation.operands, *relation.results]
    at = max(k for k, dims in enumerate(loose) if dims is not None)
    fresh = {a: Atom(a.size, "z", a.held) for axis in loose[at] or () for a in atoms(axis)}
    loose[at] = tuple(fresh[a] for axis in loose[at] or () for a in atoms(axis))
    count = len(relation.operands)
    return replace(relation, operands=tuple(loose[:count]), results=tuple(loose[count:]))


@pytest.mark.parametrize(
    ("crossing", "model"),
    [
        ("If", two_branches()),
        ("Loop.stack", recurrent()),
        ("Scan.stack", scanning()),
        ("Scan.slice", scanning()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_crossing_that_does_not_tie_is_caught(
    crossing: str, model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = RULES["", crossing]
    monkeypatch.setitem(RULES, ("", crossing), lambda op: untied(right(op)))
    with pytest.raises(ProofFailed, match=r"cut model (differs|does not run)"):
        halved(model)


def test_a_fault_in_a_branch_that_is_not_taken_is_caught() -> None:
    """Whatever the inputs, the condition is true; the proof takes the other branch too."""
    model = two_branches()
    model.graph.node[2].input[0] = "yes"
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    coupling = analyse(model)
    [group] = coupling.groups
    plan = {group.atom: np.arange(8) < 4}
    small = cut(coupling, plan).whole()
    assert prove(coupling, plan, small).error <= 1e-6
    [tensor] = [t for t in small.graph.initializer if t.name == "w2"]
    tensor.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(tensor), 1, 1), "w2"))
    with pytest.raises(ProofFailed, match="differs from the masked original"):
        prove(coupling, plan, small)


def test_a_branch_that_only_runs_where_it_is_taken() -> None:
    """There is no more to prove than what runs."""
    model = branching(
        ["t = MatMul(x, w1)"],
        ["g = Gather(w2, far)", "e = MatMul(x, g)"],
        {"w1": noise(4, 8), "w2": noise(4, 8, seed=1), "far": np.array([0, 1, 2, 9])},
    )
    model.graph.node[2].input[0] = "yes"
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    assert halved(model)[1] <= 1e-6
