"""The whole run: what comes back, what is written, what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.checker import check_model

from onnx_prune import NothingToPrune, NotProved, couple, plan, prune
from onnx_prune.errors import InputError
from onnx_prune.model.graph import Graph
from onnx_prune.pipeline import prune as run
from onnx_prune.settings import Budget, Settings
from tests import zoo
from tests.graphs import build, initializers, node, noise
from tests.models import small_cnn


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.onnx"
    onnx.save(small_cnn(), path)
    return path


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def test_a_result_by_hand(source: Path, tmp_path: Path) -> None:
    result = prune(source, tmp_path / "out.onnx", threads=1)
    report = result.report
    # conv1 8 -> 4, conv2 16 -> 8: 3*9*8+8 + 8*9*16+16 + 16*10+10 -> 3*9*4+4 + 4*9*8+8 + 8*10+10
    assert (report.before.params, report.after.params) == (1562, 498)
    # 64 positions: 3*9*8*64 + 8*9*16*64 + 160 -> 3*9*4*64 + 4*9*8*64 + 80
    assert (report.before.macs, report.after.macs) == (87_712, 25_424)
    assert report.before.bytes == source.stat().st_size
    assert report.after.bytes == (tmp_path / "out.onnx").stat().st_size
    assert (report.asked_ratio, report.reached_ratio, report.criterion) == (0.5, 0.5, "l1")
    assert (report.source, report.output) == (str(source), str(tmp_path / "out.onnx"))
    # the most parameters first: 4 filters, their biases and 8 readers (the other cut being made), and
    # 8 filters of 4 inputs with their biases and 10 readers
    assert [(g.name, g.size, g.kept, g.asked, g.params) for g in report.groups] == [
        ("conv1.weight:0", 8, 4, 4, 4 * 27 + 4 + 4 * 9 * 8),
        ("conv2.weight:0", 16, 8, 8, 8 * 9 * 4 + 8 + 8 * 10),
    ]
    assert report.groups[0].members == (("conv1.weight", 0), ("conv1.bias", 0), ("conv2.weight", 1))
    assert {(h.why, h.axes) for h in report.held} >= {
        ("logits is a graph output", 2),
        ("input is a graph input", 1),
    }
    assert report.proof is not None
    assert report.proof.error < 1e-6
    assert report.not_proved == ""
    assert report.drift is not None
    assert report.latency is not None
    assert report.latency.threads == 1
    assert report.shapes == {"input": (1, 3, 8, 8)}
    assert {"loading", "coupling", "ranking", "cutting", "proving", "measuring", "writing"} <= set(
        report.seconds
    )
    assert set(report.versions) == {"onnx-prune", "onnx", "onnxruntime", "numpy"}
    json.dumps(report.to_dict())
    assert result.model == onnx.load(tmp_path / "out.onnx")
    assert result.plan.criterion == "l1"


def test_the_record_in_the_model(source: Path, tmp_path: Path) -> None:
    model = onnx.load(source)
    model.metadata_props.add(key="author", value="me")
    model.metadata_props.add(key="onnx_prune.ratio", value="0.1")
    onnx.save(model, source)
    result = prune(source, tmp_path / "out.onnx", ratio=0.25, criterion="fpgm", validate=False)
    found = metadata(onnx.load(tmp_path / "out.onnx"))
    assert {k: found[k] for k in ("author", "onnx_prune.ratio", "onnx_prune.criterion")} == {
        "author": "me",
        "onnx_prune.ratio": "0.25",
        "onnx_prune.criterion": "fpgm",
    }
    assert found["onnx_prune.plan_sha256"] == hashlib.sha256(result.plan.to_json().encode()).hexdigest()
    assert found["onnx_prune.version"] == result.report.versions["onnx-prune"]
    assert len(found) == 5


def test_a_model_in_memory_is_left_as_it_is() -> None:
    model = small_cnn()
    before = model.SerializeToString()
    result = prune(model)
    assert model.SerializeToString() == before
    assert (result.report.source, result.report.output, result.plan.model_sha256) == (None, None, "")
    assert result.report.before.bytes == len(before)
    assert result.report.after.bytes is None
    assert result.model is not None
    check_model(result.model, full_check=True)


def test_parameters_are_those_that_are_stored() -> None:
    """Copies of shared vectors and computed weights are counted as they come out."""
    for name in (
        "a_mobilenet_v2-ts11-raw",
        "d_weightnorm_unfolded-ts17",
        "d_bias_shared_and_scale_shared-ts17",
    ):
        result = prune(zoo.load(name), round_to=1, validate=False)
        assert result.model is not None
        assert result.report.after.params == Graph(result.model).params()


@pytest.mark.parametrize("name", ["d_weightnorm_unfolded-ts17", "d_unet_convtranspose-ts17-db"])
def test_a_dry_run_says_what_a_run_would_do(name: str, tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    onnx.save(zoo.load(name), source)
    dry = prune(source, tmp_path / "out.onnx", save_plan=tmp_path / "plan.json", dry_run=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.onnx"]
    wet = prune(source, tmp_path / "out.onnx", validate=False)
    assert dry.model is None
    assert dry.report.output is None
    assert dry.report.not_proved == "dry run"
    assert dry.plan == wet.plan
    assert dry.report.groups == wet.report.groups
    assert dry.report.held == wet.report.held
    assert dry.report.after.params == wet.report.after.params
    assert dry.report.after.macs == wet.report.after.macs


def test_without_validation_nothing_is_run(source: Path, tmp_path: Path) -> None:
    report = prune(source, tmp_path / "out.onnx", validate=False).report
    assert (report.proof, report.drift, report.latency) == (None, None, None)
    assert report.not_proved == "--no-validate"
    assert not {"proving", "measuring"} & set(report.seconds)


def test_output_over_input(source: Path) -> None:
    expected = prune(source, validate=False).model
    prune(source, source)
    assert onnx.load(source) == expected
    assert [path.name for path in source.parent.iterdir()] == ["in.onnx"]
    again = prune(source, source, validate=False)
    assert again.report.before.params == 498


def test_external_data_stay_external(tmp_path: Path) -> None:
    folder, target = tmp_path / "from", tmp_path / "to"
    folder.mkdir()
    target.mkdir()
    model = small_cnn()
    expected = prune(model).model
    onnx.save(model, folder / "in.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    result = prune(folder / "in.onnx", target / "out.onnx")
    assert result.report.proof is not None
    assert len(list(target.iterdir())) == 2
    assert any(
        t.external_data for t in onnx.load(target / "out.onnx", load_external_data=False).graph.initializer
    )
    written, wanted = initializers(onnx.load(target / "out.onnx")), initializers(expected)  # type: ignore[arg-type]
    assert written.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(written[name], array)
    sizes = sum(path.stat().st_size for path in target.iterdir())
    assert result.report.after.bytes == sizes
    prune(folder / "in.onnx", target / "inside.onnx", external_data="never", validate=False)
    assert not any(
        t.external_data for t in onnx.load(target / "inside.onnx", load_external_data=False).graph.initializer
    )


def test_stages_are_told_as_they_start() -> None:
    told: list[str] = []
    run(small_cnn(), settings=Settings(progress=told.append))
    assert told == ["loading", "coupling", "ranking", "choosing", "cutting", "proving", "measuring"]


def test_scores_and_globs_arrive(source: Path) -> None:
    scores = {"conv1.weight": np.arange(8), "conv2.weight": -np.arange(16)}
    result = prune(source, scores=scores, layer_ratios={"conv1*": 0.25}, round_to=1, validate=False)
    rows = {row["name"]: row["kept"] for row in result.plan.groups}
    assert rows == {"conv1.weight:0": [2, 3, 4, 5, 6, 7], "conv2.weight:0": [0, 1, 2, 3, 4, 5, 6, 7]}
    assert result.plan.criterion == "scores"


def test_couple_is_the_first_half(source: Path) -> None:
    for model in (source, str(source), small_cnn()):
        assert [g.name for g in couple(model).groups] == ["conv1.weight:0", "conv2.weight:0"]


# Nothing to prune: exit code 4, with the reason.


def refusal(model: Any, **options: Any) -> str:
    with pytest.raises(NothingToPrune) as error:
        prune(model, validate=False, **options)
    assert error.value.exit_code == 4
    return str(error.value)


def test_nothing_to_prune() -> None:
    linear = build(["y = MatMul(x, w)"], {"w": noise(4, 3)}, {"x": (1, 4)}, {"y": (1, 3)})
    assert refusal(linear) in (
        "nothing to prune: x is a graph input",
        "nothing to prune: y is a graph output",
    )
    assert refusal(build(["y = Relu(x)"], {}, {"x": (1, 4)}, {"y": (1, 4)})) == (
        "nothing to prune: the model has no weights"
    )
    assert refusal(small_cnn(), ratio=0) == (
        "nothing to prune: --ratio 0 removes nothing; give the fraction to remove, such as 0.5"
    )
    assert refusal(small_cnn((2, 2)), ratio=0.1) == (
        "nothing to prune: rounding and minimum widths leave every layer whole; try --round-to 1"
    )
    assert refusal(small_cnn(), ignore=("conv*",)) == "nothing to prune: --ignore covers every group"
    foreign = build(
        ["a = MatMul(x, w1)", node("b = com.acme.Foo(a)", name="foo"), "y = MatMul(b, w2)"],
        {"w1": noise(4, 6), "w2": noise(6, 3)},
        {"x": (1, 4)},
        {"y": (1, 3)},
        domains=["com.acme"],
    )
    assert "com.acme.Foo" in refusal(foreign)


def test_nothing_is_written_where_nothing_goes(tmp_path: Path, source: Path) -> None:
    refusal(str(source), output=tmp_path / "out.onnx", save_plan=tmp_path / "p.json", ignore=("conv*",))
    assert [path.name for path in tmp_path.iterdir()] == ["in.onnx"]


def test_strict_compares_with_what_was_asked() -> None:
    # 6 + 6 channels of which 3 + 3 are asked to go and rounding to 4 takes 2 + 2
    model = small_cnn((6, 6))
    assert prune(model, validate=False).report.reached_ratio == pytest.approx(4 / 12)
    assert refusal(model, strict=True) == (
        "--strict: 4 channels would go where 6 were asked for; try --round-to 1 or another --ratio"
    )
    assert prune(model, strict=True, round_to=1, validate=False).report.reached_ratio == 0.5


# No proof: nothing is written, unless that is what is asked for.


def unproved(source: Path, target: Path, **options: Any) -> str:
    target.write_text("old")
    with pytest.raises(NotProved) as error:
        prune(source, target, round_to=1, **options)
    assert error.value.exit_code == 2
    assert target.read_text() == "old"
    return str(error.value)


def test_a_model_that_cannot_be_run(tmp_path: Path) -> None:
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    foreign = build(
        ["a = MatMul(x, w1)", "b = MatMul(a, w2)", node("y = com.acme.Foo(b)", name="foo")],
        {"w1": noise(4, 6), "w2": noise(6, 3)},
        {"x": (1, 4)},
        {"y": (1, 3)},
        domains=["com.acme"],
    )
    onnx.save(foreign, source)
    assert unproved(source, target) == (
        "onnxruntime lacks com.acme.Foo, so the cut can't be proved; --no-validate writes it unproved"
    )
    report = prune(source, target, round_to=1, validate=False).report
    assert (report.proof, report.not_proved) == (None, "--no-validate")
    assert initializers(onnx.load(target))["w1"].shape == (4, 3)


def test_a_model_that_says_nothing_to_random_inputs(tmp_path: Path) -> None:
    """Its answers are zero below 1000; inputs of the user's get others out of it."""
    source, target, data = tmp_path / "in.onnx", tmp_path / "out.onnx", tmp_path / "feeds.npz"
    nodes = ["over = Greater(x, far)", "l = Where(over, x, zero)", "a = MatMul(l, w1)", "y = MatMul(a, w2)"]
    constants = {"far": np.float32(1000), "zero": np.float32(0)}
    weights = {"w1": noise(4, 6), "w2": noise(6, 4)}
    onnx.save(build(nodes, weights | constants, {"x": ("n", 4)}, {"y": ("n", 4)}), source)
    assert unproved(source, target) == (
        "the outputs are empty, constant or not finite on every input tried (--drift-data takes others), "
        "so the cut can't be proved; --no-validate writes it unproved"
    )
    np.savez(data, x=np.arange(128, dtype=np.float32).reshape(32, 4) * 20)
    report = prune(source, target, round_to=1, drift_data=data).report
    assert report.proof is not None
    assert (report.proof.outputs, report.proof.runs) == (("y",), 2 + 4)


def test_what_is_not_compared_is_named() -> None:
    nodes = ["a = MatMul(x, w1)", "y = MatMul(a, w2)", "over = Greater(y, far)", "z = Where(over, y, zero)"]
    constants = {"far": np.float32(1e9), "zero": np.float32(0)}
    weights = {"w1": noise(4, 6), "w2": noise(6, 4)}
    result = prune(build(nodes, weights | constants, {"x": (2, 4)}, {"y": (2, 4), "z": (2, 4)}), round_to=1)
    assert result.report.notes == (
        "not compared: z, since empty, constant or not finite on every input tried "
        "(--drift-data takes others)",
    )


# Input that cannot be used.


def test_an_opset_from_the_future(tmp_path: Path) -> None:
    model = small_cnn()
    model.opset_import[0].version = 99
    onnx.save(model, tmp_path / "in.onnx")
    (tmp_path / "out.onnx").write_text("old")
    with pytest.raises(InputError, match="99"):
        prune(tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_text() == "old"


def test_settings_are_checked_before_anything_is_read() -> None:
    with pytest.raises(InputError, match=r"^ratio 2 is not in \[0, 1\)"):
        prune("no such file.onnx", ratio=2)
    with pytest.raises(InputError, match=r"^unknown criterion 'l3'; did you mean l"):
        prune("no such file.onnx", criterion="l3")


def test_a_plan_that_does_not_fit_writes_nothing(source: Path, tmp_path: Path) -> None:
    other = plan.make(couple(small_cnn(prefix="x.")), {}, sha256="", criterion="l1", ratio=0.5)
    (tmp_path / "p.json").write_text(other.to_json())
    with pytest.raises(NothingToPrune):
        prune(source, tmp_path / "out.onnx", apply_plan=tmp_path / "p.json")
    prune(small_cnn(prefix="x."), save_plan=tmp_path / "p.json", validate=False)
    with pytest.raises(InputError, match=r"^plan: the model has no initializer x\.conv1\.weight"):
        prune(source, tmp_path / "out.onnx", apply_plan=tmp_path / "p.json")
    assert not (tmp_path / "out.onnx").exists()


def test_the_graph_of_the_readme_runs_at_any_batch() -> None:
    result = run(small_cnn(batch="n"), settings=Settings(Budget(round_to=1)))
    assert result.report.proof is not None
    assert result.report.proof.runs == 2
