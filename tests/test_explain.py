"""What `explain` says of a model: counts by hand, ways through nodes, the page and the JSON."""

from __future__ import annotations

import io
import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len
from rich.console import Console

import onnx_prune
from onnx_prune.analyse import SINGLE
from onnx_prune.cli import main
from onnx_prune.errors import InputError
from onnx_prune.explanation.bridge import Bridge
from onnx_prune.explanation.chain import Step
from onnx_prune.explanation.explain import Explanation, GroupShare, barred
from onnx_prune.explanation.reach import NO_CHANNELS, Kept, Reach, reach
from onnx_prune.explanation.show import show
from onnx_prune.explanation.why import whys
from onnx_prune.model.graph import weight_of
from onnx_prune.settings import Budget
from onnx_prune.words import human, share
from tests import zoo
from tests.graphs import analyse, build, node, noise
from tests.models import small_cnn


@pytest.fixture(autouse=True)
def _unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.delenv("NO_COLOR", raising=False)


def page(found: Explanation, width: int = 80, *, verbose: bool = False) -> list[str]:
    file = io.StringIO()
    show(found, Console(file=file, width=width, highlight=False, markup=False, emoji=False), verbose)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def shared_table() -> onnx.ModelProto:
    """Two layers whose channels are scaled by one table, as by a rotary embedding's."""
    nodes = [
        node("a = MatMul(x, a1)", "first"),
        node("b = Mul(a, table)", "scale first"),
        node("c = MatMul(b, a2)", "first back"),
        node("d = MatMul(x, b1)", "second"),
        node("e = Mul(d, table)", "scale second"),
        node("f = MatMul(e, b2)", "second back"),
        node("y = Concat(c, f)", axis=1),
    ]
    weights = {
        "a1": noise(6, 8),
        "a2": noise(8, 3),
        "b1": noise(6, 8),
        "b2": noise(8, 3),
        "table": noise(2, 8),
    }
    return build(nodes, weights, {"x": [2, 6]}, {"y": [2, 6]})


def heads() -> onnx.ModelProto:
    """An axis of 2 times 4 that is read as 4 times 2."""
    weights = {"w1": noise(6, 8), "w2": noise(8, 3), "split": np.array([5, 2, 4]), "join": np.array([5, 8])}
    nodes = [
        node("a = MatMul(x, w1)", "in"),
        node("b = Reshape(a, split)", "split"),
        node("c = Transpose(b)", "turn", perm=[0, 2, 1]),
        node("d = Reshape(c, join)", "join"),
        node("y = MatMul(d, w2)", "out"),
    ]
    return build(nodes, weights, {"x": [5, 6]}, {"y": [5, 3]})


def test_the_counts_of_a_small_network_by_hand() -> None:
    found = onnx_prune.explain(small_cnn())
    assert (found.params, found.macs) == (1562, 13824 + 73728 + 160)
    two, one, none = 1152, 216 + 8 + 16 + 160, 10
    assert found.reach == Reach(two, one, none, two // 4 + one // 2 + none)
    assert found.groups == (
        GroupShare(
            *("conv1.weight:0", "conv1", 8, 1),
            (("conv1.weight", 0), ("conv1.bias", 0), ("conv2.weight", 1)),
            *(216 + 8 + 1152, 13824 + 73728, 10944.0),
            *(None, None, ()),
        ),
        GroupShare(
            *("conv2.weight:0", "conv2", 16, 1),
            (("conv2.weight", 0), ("conv2.bias", 0), ("fc.weight", 1)),
            *(1152 + 16 + 160, 73728 + 160, 4618.0),
            *(None, None, ()),
        ),
    )
    assert found.held == (
        Kept("input is a graph input", (("conv1.weight", 1, 3),), 216, 0),
        Kept("logits is a graph output", (("fc.weight", 0, 10), ("fc.bias", 0, 10)), 170, 10),
    )


def test_single_numbers_are_no_parameters_and_weights_that_nothing_reads_are_said_to_be() -> None:
    weights = {"w": noise(6, 3), "one": noise(1), "unread": noise(4, 5)}
    found = onnx_prune.explain(
        build(["a = MatMul(x, w)", "y = Mul(a, one)"], weights, {"x": [2, 6]}, {"y": [2, 3]})
    )
    reasons = {kept.why: (kept.params, kept.alone) for kept in found.held}
    assert NO_CHANNELS not in reasons
    assert reasons["x is a graph input"] == (18, 18)
    assert sum(params for why, (params, _) in reasons.items() if "read" in why) == 20
    assert found.reach == Reach(0, 0, 38, 38)


def test_of_two_factors_one_is_cut_and_each_channel_has_its_width() -> None:
    first, second = onnx_prune.explain(heads()).groups
    assert (first.name, first.size, first.width, first.instead) == ("w1:1", 4, 2, None)
    assert (second.name, second.size, second.width, second.instead) == ("w1:1", 2, 4, "w1:1")


def test_a_statistic_holds_what_mixed_cuts() -> None:
    nodes = ["a = MatMul(x, w1)", node("n = LayerNormalization(a, s)", "norm"), "y = MatMul(n, w2)"]
    weights = {"w1": noise(6, 8), "w2": noise(8, 3), "s": noise(8)}
    model = build(nodes, weights, {"x": [5, 6]}, {"y": [5, 3]})
    exact, mixed = onnx_prune.explain(model, why="w1:1"), onnx_prune.explain(model, mixed=True, why="w1:1")
    reason = "LayerNormalization norm takes a statistic over it"
    assert exact.groups == ()
    assert [(a.verdict, a.why, a.chain) for a in exact.why] == [
        ("held", f"{reason}; --mixed cuts it", (Step("MatMul a", "a", 1),))
    ]
    assert f"{reason}; --mixed cuts it" in {kept.why for kept in exact.held}
    assert [(group.name, group.mixed) for group in mixed.groups] == [("w1:1", reason)]
    assert [(a.verdict, len(a.others)) for a in mixed.why] == [("cut", 2)]
    assert "Nothing can be cut" in page(onnx_prune.explain(model))
    [line] = [line for line in page(onnx_prune.explain(model, mixed=True)) if "~w1:1" in line]
    assert line.split()[:5] == ["~w1:1", "8", "3", "100", "%"]


def test_a_table_that_ties_two_layers_is_named() -> None:
    (group,) = onnx_prune.explain(shared_table()).groups
    assert group.bridges == (Bridge("table", 1, 2),)
    assert "  a1:1 (8 channels): 2 parts at table:1" in page(onnx_prune.explain(shared_table()))


def test_one_weight_that_two_branches_read_is_named() -> None:
    nodes = [
        "a = MatMul(x, w)",
        "b = MatMul(a, v1)",
        "c = MatMul(z, w)",
        "d = MatMul(c, v2)",
        "y = Add(b, d)",
    ]
    weights = {"w": noise(6, 8), "v1": noise(8, 3), "v2": noise(8, 3)}
    (group,) = onnx_prune.explain(build(nodes, weights, {"x": [2, 6], "z": [2, 6]}, {"y": [2, 3]})).groups
    assert group.bridges == (Bridge("w", 1, 2),)


def test_a_residual_needs_no_bridge() -> None:
    nodes = ["a = MatMul(x, w1)", "r = Relu(a)", "b = MatMul(r, w2)", "s = Add(a, b)", "y = MatMul(s, w3)"]
    weights = {"w1": noise(6, 8), "w2": noise(8, 8), "w3": noise(8, 3)}
    found = onnx_prune.explain(build(nodes, weights, {"x": [2, 6]}, {"y": [2, 3]}))
    assert [group.bridges for group in found.groups] == [()]


def test_why_a_layer_is_held_is_the_way_to_where_the_reason_arises() -> None:
    answer, other = onnx_prune.explain(small_cnn(), why="fc.weight").why
    assert (answer.weight, answer.dim, answer.size, answer.verdict) == ("fc.weight", 0, 10, "held")
    assert (answer.why, answer.chain) == ("logits is a graph output", (Step("Gemm fc", "logits", 1),))
    assert (other.dim, other.verdict, other.why) == (1, "cut", "conv2.weight:0")


def test_what_an_axis_goes_with_is_told_with_the_ways() -> None:
    (answer,) = onnx_prune.explain(small_cnn(), why="conv2.weight:1").why
    near, far = answer.others
    assert (near.weight, near.dim, near.start) == ("conv1.weight", 0, ("conv2.weight", 1))
    assert [step.node for step in near.chain] == ["Conv conv2", "Relu relu1", "Conv conv1"]
    assert (far.weight, far.start, [step.node for step in far.chain]) == (
        "conv1.bias",
        ("a", 1),
        ["Conv conv1"],
    )


def test_a_node_and_a_tensor_can_be_asked_about() -> None:
    assert {a.weight for a in onnx_prune.explain(small_cnn(), why="conv2").why} == {
        "conv2.weight",
        "conv2.bias",
    }
    (answer,) = onnx_prune.explain(small_cnn(), why="a:1").why
    assert (answer.weight, answer.why, len(answer.others)) == ("a", "conv1.weight:0", 3)


def test_a_run_of_a_larger_axis_is_marked() -> None:
    answers = onnx_prune.explain(heads(), why="w1:1").why
    assert [(a.axis, a.size) for a in answers] == [("[2] × 4", 2), ("2 × [4]", 4)]


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ("fc.wieght", "'fc.wieght' is no weight, tensor or node of the model; did you mean fc.weight?"),
        ("zzz:1", "'zzz:1' is no weight, tensor or node of the model; onnx-prune explain -v shows names"),
        ("fc.weight:2", "'fc.weight' has no dimension 2: they are 0 to 1"),
        ("fc.weight:x", "'fc.weight:x' is no weight, tensor or node of the model; did you mean fc.weight?"),
    ],
)
def test_messages(about: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        onnx_prune.explain(small_cnn(), why=about)
    assert str(error.value) == message


@pytest.mark.parametrize("name", zoo.NAMES)
def test_every_hold_in_the_shipped_models_has_its_way(name: str) -> None:
    coupling = analyse(zoo.load(name))
    whole = barred(coupling, Budget())
    far, held = reach(coupling, whole)
    assert far.two + far.one + far.none == coupling.graph.params()
    assert all(0 <= kept.alone <= min(kept.params, far.none) for kept in held)
    for kept in held[:3]:
        arises = coupling.origins.get(kept.why.removesuffix("; --mixed cuts it"), ())
        for weight, dim, _ in kept.axes[:2]:
            answers = [a for a in whys(coupling, f"{weight}:{dim}", whole) if a.why == kept.why]
            assert answers
            for answer in answers:
                here = answer.weight in {weight_of(key) for key, _ in arises}
                assert answer.chain or here or kept.why == SINGLE


@cache
def explanations() -> tuple[Explanation, Explanation]:
    """A real model, and an answer about it."""
    model = zoo.load("a_vit_small4-ts17")
    return onnx_prune.explain(model), onnx_prune.explain(model, why="onnx::MatMul_728")


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    for found in explanations():
        for verbose in (False, True):
            assert max(map(cell_len, page(found, width, verbose=verbose))) <= width


def test_the_page() -> None:
    assert page(onnx_prune.explain(small_cnn())) == [
        "model",
        "  1.56 k parameters, 87.7 k MACs at input 1×3×8×8",
        "",
        "Parameters that can be cut",
        "  along two axes  73.8 %  ██████████████████████░░░░░░░░",
        "  along one axis  25.6 %  ████████░░░░░░░░░░░░░░░░░░░░░░",
        "  not at all       0.6 %  █░░░░░░░░░░░░░░░░░░░░░░░░░░░░░",
        "  left at half    31.9 %  about, with half of every group",
        "",
        "2 groups can be cut",
        "  largest first   channels  weights  params                MACs",
        "  conv1.weight:0         8        3  88.1 %  █████████░  99.8 %",
        "  conv2.weight:0        16        3    85 %  █████████░  84.2 %",
        "",
        "Kept whole: parameters that stand on it, of these reached by nothing else",
        "  13.8 %    0 %  input is a graph input (conv1.weight:1)",
        "  10.9 %  0.6 %  logits is a graph output (2 axes, such as fc.weight:0)",
    ]


def test_the_answers() -> None:
    assert page(onnx_prune.explain(small_cnn(), why="fc.weight")) == [
        "fc.weight:0 keeps its 10 channels",
        "  by Gemm fc",
        "· logits is a graph output",
        "",
        "fc.weight:1 can lose any of its 16 channels",
        "  with 2 other axes, as group conv2.weight:0",
        "  conv2.weight:0, conv2.bias:0",
        "  by Gemm fc → flatten → GlobalAveragePool pool → relu2 → conv2",
    ]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    shutil.copy(zoo.MODELS / "fmnist_resnet20.onnx", "in.onnx")
    return "in.onnx"


def run(*args: str) -> Result:
    return CliRunner(env={"COLUMNS": "95"}).invoke(main, ["explain", *args])


def test_the_json_is_what_the_page_shows(model: str) -> None:
    document = json.loads(run(model, "--json").stdout)
    assert (document["format"], document["version"]) == ("onnx-prune-explanation", 1)
    lines = run(model, "-v").stdout.splitlines()
    whole = document["params"]
    for name, key in (("along two axes", "two"), ("along one axis", "one"), ("not at all", "none")):
        [line] = [line for line in lines if line.startswith(f"  {name}")]
        assert share(document["reach"][key], whole) in line
    start = lines.index(f"{len(document['groups'])} groups can be cut") + 2
    for line, group in zip(lines[start:], document["groups"], strict=False):
        shares = share(group["params"], whole), share(group["macs"], document["macs"])
        counts = f" {len(group['members'])} ", human(group["macs_per_channel"])
        assert all(figure in line for figure in (group["name"], *shares, *counts))
    start = next(j for j, line in enumerate(lines) if line.startswith("Kept whole")) + 1
    held = " ".join(line.strip() for line in lines[start:])
    for kept in document["held"]:
        assert f"{share(kept['params'], whole)}  {share(kept['alone'], whole):>6}  {kept['why']}" in held


def test_what_is_left_out_is_counted(model: str) -> None:
    document = json.loads(run(model, "--json").stdout)
    assert f"  and {len(document['groups']) - 10} more groups; --verbose shows all" in run(model).stdout


def test_options_arrive(model: str) -> None:
    document = json.loads(
        run(model, "--json", "--mixed", "--attention", "dims", "--why", "14.weight:0").stdout
    )
    assert (document["mixed"], document["attention"]) == (True, "dims")
    [answer] = document["why"]
    assert (answer["weight"], answer["dim"], answer["verdict"]) == ("14.weight", 0, "held")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("", "name the model to explain; try 'onnx-prune explain --help'"),
        ("im.onnx", "'im.onnx': no such file; did you mean in.onnx?"),
        ("in.onnx --wy", "no option --wy; did you mean --why? Try 'onnx-prune explain --help'"),
        (
            "in.onnx --why 14.wieght",
            "'14.wieght' is no weight, tensor or node of the model; did you mean 14.weight?",
        ),
    ],
)
def test_messages_of_the_command(args: str, message: str, model: str) -> None:
    result = run(*args.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"onnx-prune: error: {message}\n"
