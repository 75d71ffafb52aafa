"""Two models side by side: distances by hand, limits, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

import onnx_prune
from onnx_prune.calibration.evaluate import Accuracy
from onnx_prune.cli import main
from onnx_prune.comparison.compare import Compared
from onnx_prune.comparison.distance import Distance, Tally
from onnx_prune.comparison.limits import Limits
from onnx_prune.errors import InputError
from onnx_prune.report import Size
from onnx_prune.validate import Latency
from tests.models import small_cnn

HINT = "; try 'onnx-prune compare --help'"


def linear(weight: Any, batch: int | str = "n", names: tuple[str, str] = ("x", "y")) -> onnx.ModelProto:
    """Two scores of two numbers."""
    x, y = names
    graph = helper.make_graph(
        [helper.make_node("MatMul", [x, "w"], [y])],
        "linear",
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [batch, 2])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, [batch, 2])],
        [numpy_helper.from_array(np.array(weight, np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


ONE = [[1, 0], [0, 1]]
SWAP = [[0, 1], [1, 0]]
SAMPLES = np.array([[1, 3], [2, 2]], np.float32)


def saved(folder: Path, **models: onnx.ModelProto) -> None:
    for name, model in models.items():
        onnx.save(model, folder / f"{name}.onnx")
    np.savez(folder / "feeds.npz", x=SAMPLES)
    np.savez(folder / "labels.npz", x=SAMPLES, labels=np.array([1, 0]))


# Answers (1 3) (2 2) and (3 1) (2 2): differences 2 2 0 0 of 8; products 3 + 3 + 4 + 4 of 18;
# probabilities of the first sample 0.119 0.881 and the reverse, so KL = 0.762 * 2, halved by the second.
def test_distances_by_hand(tmp_path: Path) -> None:
    saved(tmp_path)
    found = onnx_prune.compare(linear(ONE), linear(SWAP), data=tmp_path / "feeds.npz")
    (distance,) = found.outputs.values()
    assert distance.relative_error == 0.5
    assert distance.cosine == pytest.approx(14 / 18)
    assert distance.kl == pytest.approx(np.tanh(1.0), abs=1e-6)
    assert distance.top1 == 0.5  # equal scores: the first counts, in both
    assert (found.samples, found.source) == (2, str(tmp_path / "feeds.npz"))
    assert found.sizes[0].params == found.sizes[1].params == 4
    assert found.sizes[0].macs == 4


def test_batches_add_up() -> None:
    rng = np.random.default_rng(0)
    want, got = rng.standard_normal((2, 6, 5))
    whole, parts = Tally(), Tally()
    whole.add(want, got)
    for j in range(0, 6, 2):
        parts.add(want[j : j + 2], got[j : j + 2])
    a, b = whole.distance(), parts.distance()
    assert (a.top1, a.samples) == (b.top1, b.samples)
    np.testing.assert_allclose([a.relative_error, a.cosine, a.kl], [b.relative_error, b.cosine, b.kl])


@pytest.mark.parametrize(
    ("want", "got", "error", "cosine"),
    [
        ([[0.0, 0.0]], [[0.0, 0.0]], 0.0, 1.0),
        ([[0.0, 0.0]], [[0.0, 1.0]], np.inf, 0.0),
        ([[1.0, 2.0]], [[1.0, np.nan]], np.inf, 1.0),
        ([[1.0, np.nan]], [[1.0, np.nan]], 0.0, 1.0),
        ([[2, 4]], [[1, 2]], 0.5, 1.0),
    ],
)
def test_zeros_whole_numbers_and_what_is_no_number(want: Any, got: Any, error: float, cosine: float) -> None:
    tally = Tally()
    tally.add(np.array(want), np.array(got))
    found = tally.distance()
    assert (found.relative_error, found.cosine) == (error, pytest.approx(cosine))


def test_a_model_is_no_distance_from_itself() -> None:
    found = onnx_prune.compare(small_cnn(batch="n"), small_cnn(batch="n"))
    assert (found.error, found.agreement, found.source) == (0.0, 1.0, "random inputs")
    assert found.outputs["logits"].kl == 0.0
    assert found.sizes[0] == found.sizes[1]


def test_the_fixed_batch_counts_whichever_model_has_it() -> None:
    for pair in ((linear(ONE, 3), linear(SWAP)), (linear(SWAP), linear(ONE, 3))):
        found = onnx_prune.compare(*pair)
        assert found.shapes == {"x": (3, 2)}
        assert found.samples == 9
        assert found.notes == ("MACs are of unlike input shapes: the models fix other dims",)


def test_outputs_of_other_names_go_by_their_order() -> None:
    assert [*onnx_prune.compare(linear(ONE), linear(ONE, names=("x", "z"))).outputs] == ["y"]


def test_an_output_of_one_model_alone_is_named() -> None:
    more = linear(ONE)
    more.graph.node.append(helper.make_node("Relu", ["y"], ["z"]))
    more.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 2]))
    found = onnx_prune.compare(linear(ONE), more)
    assert (list(found.outputs), found.not_compared) == (["y"], {"z": "is no output of a model"})


COMPARED = Compared(
    (None, None),
    (Size(1, 1), Size(1, 1)),
    {"a": Distance(0.1, 1.0, 0.0, 0.9, 8), "b": Distance(0.2, 1.0, None, None, 8)},
    {},
    8,
    "random inputs",
    Latency(2.0, 1.0, 2.0, 1.0, 5, 1),
    Accuracy(0.95, 0.90, 100, "labels.npz"),
    {},
)


@pytest.mark.parametrize(
    ("limits", "crossed"),
    [
        (Limits(), []),
        (Limits(0.2, 0.9, "1ms", 0.05), []),
        (Limits(error=0.19), ["relative error of b is 0.2, over --max-error 0.19"]),
        (Limits(agreement=0.91), ["top-1 agreement is 90 %, under --min-agreement 0.91"]),
        (Limits(latency="900us"), ["latency is 1.00 ms, over --max-latency 900us"]),
        (Limits(latency="0.4"), ["latency is 1.00 ms, over --max-latency 0.4 (0.80 ms)"]),
        (Limits(latency="0.5"), []),
        (Limits(drop=0.04), ["top-1 falls by 5.00 points, over --max-drop 0.04"]),
    ],
)
def test_limits(limits: Limits, crossed: list[str]) -> None:
    assert limits.crossed(COMPARED) == crossed


def test_what_is_no_number_is_over_every_limit() -> None:
    broken = replace(COMPARED, outputs={"a": Distance(np.inf, 0.0, None, None, 8)})
    assert Limits(error=1e9).crossed(broken) == ["relative error of a is inf, over --max-error 1e+09"]


def test_limits_on_what_was_not_measured_are_refused() -> None:
    with pytest.raises(InputError, match=r"^--min-agreement: no output has a score for each class"):
        Limits(agreement=0.9).crossed(replace(COMPARED, outputs={"b": COMPARED.outputs["b"]}))
    with pytest.raises(InputError, match=r"^--max-drop is about top-1: give --eval FILE.npz with labels$"):
        Limits(drop=0.1).crossed(replace(COMPARED, accuracy=None))


# The command line.


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path, a=linear(ONE), b=linear(SWAP), other=small_cnn(), c=linear(ONE, 3))
    return tmp_path


def run(args: str) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(main, ["compare", *args.split()])


@pytest.mark.usefixtures("folder")
def test_the_page_and_the_json_say_the_same() -> None:
    args = "a.onnx b.onnx --data feeds.npz --eval labels.npz"
    page, document = run(args), json.loads(run(f"{args} --json").stdout)
    assert page.exit_code == 0
    assert (document["format"], document["version"], document["crossed"]) == ("onnx-prune-comparison", 1, [])
    lines = [line.split() for line in page.stdout.splitlines()]
    assert ["y", "0.5", "0.7778", "0.76", "50", "%"] in lines
    assert ["top-1", "100", "%", "50", "%", "-50.0", "points"] in lines
    assert document["outputs"]["y"]["relative_error"] == 0.5
    assert (document["accuracy"]["before"], document["accuracy"]["after"]) == (1.0, 0.5)


@pytest.mark.usefixtures("folder")
def test_random_inputs_are_labelled() -> None:
    assert "on 8 samples, random inputs" in " ".join(run("a.onnx b.onnx").stdout.split())
    assert json.loads(run("a.onnx b.onnx --json").stdout)["source"] == "random inputs"
    assert "random inputs" not in run("a.onnx b.onnx --data feeds.npz").stdout


@pytest.mark.usefixtures("folder")
def test_a_crossed_limit_is_exit_code_4_and_one_line() -> None:
    result = run("a.onnx b.onnx --data feeds.npz --max-error 0.4 --min-agreement 0.6 -q")
    said = (
        "relative error of y is 0.5, over --max-error 0.4; top-1 agreement is 50 %, under --min-agreement 0.6"
    )
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr == f"onnx-prune: error: {said}\n"
    document = run("a.onnx b.onnx --data feeds.npz --max-error 0.4 --json")
    assert document.exit_code == 4
    assert json.loads(document.stdout)["crossed"] == ["relative error of y is 0.5, over --max-error 0.4"]
    assert run("a.onnx b.onnx --data feeds.npz --max-error 0.5 -q").exit_code == 0


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("a.onnx", "name the two models to compare" + HINT),
        ("a.onnx bb.onnx", "'bb.onnx': no such file; did you mean b.onnx?"),
        ("a.onnx b.onnx --max-drop 0.1", "--max-drop is about top-1; give --eval FILE.npz with it" + HINT),
        ("a.onnx b.onnx --max-error -1", "--max-error -1 is below 0: it is a relative error, 0.05 for 5 %"),
        ("a.onnx b.onnx --min-agreement 99", "--min-agreement 99 is not in [0, 1]: 0.99 is 99 %"),
        ("a.onnx b.onnx --threads -1", "threads -1 is negative: give 1 or more, 0 for onnxruntime's choice"),
        (
            "a.onnx b.onnx --eval labels.npz --max-drop 2",
            "--max-drop 2 is not in [0, 1]: 0.01 is one point of top-1",
        ),
        (
            "a.onnx b.onnx --max-latency fast",
            "--max-latency 'fast' is not a time as in 8ms, or a part as in 0.6",
        ),
        (
            "a.onnx other.onnx",
            "the models' inputs differ: 'a.onnx' takes x (n, 2) FLOAT and 'other.onnx' takes input "
            "(1, 3, 8, 8) FLOAT; compare models with the same inputs",
        ),
        ("a.onnx c.onnx --data feeds.npz", "feeds.npz: 2 samples, but the model takes 3 at a time"),
    ],
)
def test_messages(args: str, message: str) -> None:
    result = run(args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"onnx-prune: error: {message}\n"


def test_no_common_output_is_refused() -> None:
    other = linear(ONE)
    other.graph.node[0].output[0] = other.graph.output[0].name = "z"
    other.graph.output.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2]))
    with pytest.raises(InputError, match="no output in common that could be compared: y is no output of"):
        onnx_prune.compare(linear(ONE), other)


def test_a_model_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    foreign = linear(ONE)
    foreign.graph.node[0].domain = "com.foo"
    foreign.opset_import.append(helper.make_opsetid("com.foo", 1))
    saved(tmp_path, foreign=foreign)
    with pytest.raises(InputError, match=r"foreign.onnx': onnxruntime refuses the model"):
        onnx_prune.compare(linear(ONE), tmp_path / "foreign.onnx")
