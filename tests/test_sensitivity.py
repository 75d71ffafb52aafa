"""Curves by hand, where they are measured, what is kept of them, and how channels are shared out by them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

import onnx_prune
from onnx_prune.cli import main
from onnx_prune.curves import sensitivity, workers
from onnx_prune.curves.measure import hash_of
from onnx_prune.curves.sensitivity import Curve, Point, Sensitivity
from onnx_prune.curves.work import Job
from onnx_prune.errors import InputError, NothingToPrune
from onnx_prune.model.graph import Graph
from tests.models import small_cnn

HINT = "; try 'onnx-prune {}--help'"


def chain() -> onnx.ModelProto:
    """Of (1 1) it makes (1 2 3 4), and their sum, which is 10; the hidden layer can be cut."""
    weights = {"w1": np.array([[1, 2, 3, 0], [0, 0, 0, 4]], np.float32), "w2": np.ones((4, 1), np.float32)}
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w1"], ["h"]), helper.make_node("MatMul", ["h", "w2"], ["y"])],
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def ones() -> list[dict[str, Any]]:
    return [{"x": np.ones((1, 2), np.float32)}] * 2


def points(curve: Curve) -> list[tuple[int, float, float | None]]:
    return [(point.removed, round(point.error, 6), point.kl) for point in curve.points]


# l1 takes 1 first, then 2, then 3: of 10 there are 9, 7 and 4 left.
def test_a_curve_by_hand() -> None:
    found = onnx_prune.sensitivity(chain(), data=ones(), criterion="l1", jobs=1)
    (curve,) = found.curves
    assert (curve.name, curve.size) == ("w1:1", 4)
    assert points(curve) == [(1, 0.1, None), (2, 0.3, None), (3, 0.6, None)]
    assert (found.data, found.samples, found.criterion) == ("data", 2, "l1")


def test_ratios_that_remove_as_much_are_one_point_and_none_is_no_point() -> None:
    (curve,) = onnx_prune.sensitivity(chain(), ratios=(0.1, 0.5, 0.6), jobs=1).curves
    assert [point.removed for point in curve.points] == [2]


@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_what_is_measured_by_masking_is_what_the_cut_does(ratio: float) -> None:
    model = small_cnn(batch="n")
    found = onnx_prune.sensitivity(model, ratios=(ratio,), jobs=1)
    for name, bias in (("conv1.weight:0", "conv1.bias"), ("conv2.weight:0", "conv2.bias")):
        small = onnx_prune.prune(model, ratio=0, layer_ratios={bias: ratio}, round_to=1).model
        assert small is not None
        shapes = {t.name: tuple(t.dims) for t in small.graph.initializer}
        (point,) = found.by_name()[name].points
        assert shapes[bias][0] == found.by_name()[name].size - point.removed
        (distance,) = onnx_prune.compare(model, small).outputs.values()
        assert distance.samples == found.samples
        assert point.error == pytest.approx(distance.relative_error, rel=1e-4)
        assert point.kl == pytest.approx(distance.kl, rel=1e-3)


def test_every_way_to_run_gives_the_same() -> None:
    model = small_cnn()
    alone = onnx_prune.sensitivity(model, jobs=1)
    with ThreadPoolExecutor(2) as pool:
        assert onnx_prune.sensitivity(model, executor=pool) == alone
    assert onnx_prune.sensitivity(model, jobs=2) == alone  # two processes, started afresh


def test_dask_runs_it() -> None:
    distributed = pytest.importorskip("distributed", reason="Dask is nothing that onnx-prune needs")
    model = small_cnn()
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        found = onnx_prune.sensitivity(model, executor=client.get_executor())
    assert found == onnx_prune.sensitivity(model, jobs=1)


def die(job: Job) -> Any:
    os._exit(1)


def test_a_dead_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "measure", die)
    with pytest.raises(InputError, match=r"^a worker process died, for want of memory or because"):
        onnx_prune.sensitivity(small_cnn(), jobs=2)


# What is kept.


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The groups that were measured, in order."""
    groups: list[str] = []
    real = workers.measure

    def measure(job: Job) -> Any:
        groups.append(job.group)
        return real(job)

    monkeypatch.setattr(workers, "measure", measure)
    return groups


def test_a_run_that_was_stopped_goes_on(
    tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, model = tmp_path / "sens.json", small_cnn()
    counting = workers.measure

    def stop(job: Job) -> Any:
        if measured:
            raise KeyboardInterrupt
        return counting(job)

    monkeypatch.setattr(workers, "measure", stop)
    with pytest.raises(KeyboardInterrupt):
        onnx_prune.sensitivity(model, cache=cache, jobs=1)
    assert [len(curve.points) for curve in sensitivity.read(cache).curves] == [3, 0]
    monkeypatch.setattr(workers, "measure", counting)
    found = onnx_prune.sensitivity(model, cache=cache, jobs=1)
    assert measured == ["conv1.weight:0", "conv2.weight:0"]
    assert found == onnx_prune.sensitivity(model, jobs=1) == sensitivity.read(cache)


def test_what_is_known_is_not_measured_again(tmp_path: Path, measured: list[str]) -> None:
    cache, model = tmp_path / "sens.json", small_cnn()
    first = onnx_prune.sensitivity(model, cache=cache, jobs=1)
    assert onnx_prune.sensitivity(model, cache=cache, jobs=1) == first
    assert len(measured) == 2
    more = onnx_prune.sensitivity(model, ratios=(0.5, 0.9), cache=cache, jobs=1)
    assert [point.removed for point in more.by_name()["conv1.weight:0"].points] == [2, 4, 6, 7]
    assert len(measured) == 4


def test_a_cache_of_something_else_is_refused(tmp_path: Path) -> None:
    cache = tmp_path / "sens.json"
    onnx_prune.sensitivity(small_cnn(), cache=cache, jobs=1)
    before = cache.read_bytes()
    other = {"input": np.ones((1, 3, 8, 8), np.float32)}
    for change, what in (
        (lambda: onnx_prune.sensitivity(small_cnn(seed=1), cache=cache), "another model"),
        (lambda: onnx_prune.sensitivity(small_cnn(), criterion="l2", cache=cache), "another criterion"),
        (
            lambda: onnx_prune.sensitivity(small_cnn(), data=[other] * 2, criterion="l1", cache=cache),
            "other data",
        ),
    ):
        with pytest.raises(InputError) as error:
            change()
        assert str(error.value) == f"{str(cache)!r} is of {what}; name another file for --cache, or remove it"
    assert cache.read_bytes() == before


def test_the_file_says_what_was_measured_even_where_that_is_no_number(tmp_path: Path) -> None:
    found = Sensitivity(
        "m",
        "a",
        "b",
        "random inputs",
        8,
        "l1",
        (Curve("w:0", 4, (Point(2, np.inf, None), Point(3, 0.5, 0.1))),),
    )
    sensitivity.write(found, tmp_path / "s.json")
    assert json.loads((tmp_path / "s.json").read_text())["curves"][0]["points"][0]["error"] is None
    assert sensitivity.read(tmp_path / "s.json") == found


# Shares.


STEP = 604 / 20_042  # one channel of conv1, the largest step there is


def curves(model: onnx.ModelProto, path: Path, **losses: tuple[float, ...]) -> Path:
    """A file of made-up curves at a quarter, a half and three quarters."""
    rows = []
    for name, size in (("conv1", 32), ("conv2", 64)):
        steps = enumerate(losses[name], 1)
        rows.append(
            Curve(f"{name}.weight:0", size, tuple(Point(j * size // 4, loss, loss) for j, loss in steps))
        )
    made = Sensitivity(None, hash_of(Graph(model)), "", "made up", 1, "l1", tuple(rows))
    sensitivity.write(made, path)
    return path


@pytest.mark.parametrize(
    ("losses", "spared"),
    [
        ({"conv1": (9.0, 18.0, 27.0), "conv2": (0.1, 0.2, 0.3)}, 0),
        ({"conv1": (0.1, 0.2, 0.3), "conv2": (9.0, 18.0, 27.0)}, 1),
    ],
)
def test_the_group_that_hurts_is_spared_at_equal_parameters(
    losses: dict[str, Any], spared: int, tmp_path: Path
) -> None:
    model = small_cnn((32, 64))
    path = curves(model, tmp_path / "s.json", **losses)
    uniform = onnx_prune.prune(model, ratio=0.5, round_to=1)
    shared = onnx_prune.prune(model, ratio=0.5, round_to=1, sensitivity=path)
    whole, left = uniform.report.before.params, uniform.report.after.params
    assert 0 <= left - shared.report.after.params <= STEP * whole
    kept = {group.name: group.kept / group.size for group in shared.report.groups}
    names = ["conv1.weight:0", "conv2.weight:0"]
    assert kept.get(names[spared], 1.0) > 0.5 > kept[names[1 - spared]]
    assert "shared out by how each group alone moved the answers on made up" in shared.report.notes


def test_a_target_is_met_by_the_curves(tmp_path: Path) -> None:
    model = small_cnn((32, 64))
    path = curves(model, tmp_path / "s.json", conv1=(9.0, 18.0, 27.0), conv2=(0.1, 0.2, 0.3))
    report = onnx_prune.prune(model, target="macs=0.6", round_to=1, sensitivity=path).report
    assert report.after.macs <= 0.6 * report.before.macs


def test_auto_measures_first() -> None:
    model = small_cnn((32, 64))
    report = onnx_prune.prune(model, ratio=0.5, round_to=1, layer_ratios="auto").report
    uniform = onnx_prune.prune(model, ratio=0.5, round_to=1).report
    assert 0 <= uniform.after.params - report.after.params <= STEP * uniform.before.params
    assert "shared out by how each group alone moved the answers on random inputs" in report.notes


# Messages and the command line.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: onnx_prune.sensitivity(chain(), ratios=(1.0,)),
            "ratios: 1 is not in (0, 1): each is a fraction removed, 0.5 for half",
        ),
        (lambda: onnx_prune.sensitivity(chain(), ratios=()), "ratios: give one at least, such as 0.5"),
        (
            lambda: onnx_prune.sensitivity(chain(), jobs=0),
            "jobs 0 is below 1: it is a number of processes",
        ),
    ],
)
def test_options_that_make_no_sense(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value) == message


def test_nothing_to_cut_is_said() -> None:
    with pytest.raises(NothingToPrune, match=r"^nothing to cut: every axis is held"):
        onnx_prune.sensitivity(small_cnn(), ignore=["*"])


def test_curves_of_another_model_or_without_a_group_are_refused(tmp_path: Path) -> None:
    model = small_cnn((32, 64))
    path = curves(model, tmp_path / "s.json", conv1=(1.0,), conv2=(1.0,))
    with pytest.raises(InputError, match=r"^--sensitivity: the curves are of another model; measure this"):
        onnx_prune.prune(small_cnn((32, 64), seed=1), sensitivity=path)
    found = sensitivity.read(path)
    less = Sensitivity(None, found.model_sha256, "", "made up", 1, "l1", found.curves[:1])
    sensitivity.write(less, path)
    with pytest.raises(InputError, match=r"^--sensitivity: no curve for conv2.weight:0; measure with the"):
        onnx_prune.prune(model, sensitivity=path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(chain(), "in.onnx")
    np.savez("feeds.npz", x=np.ones((4, 2), np.float32))
    Path("no.json").write_text("{}")
    return tmp_path


def run(args: str, **env: str) -> Result:
    return CliRunner(env={"COLUMNS": "80", "LC_ALL": "C.UTF-8"} | env).invoke(main, args.split())


@pytest.mark.usefixtures("folder")
def test_the_page_the_document_and_the_file_are_one() -> None:
    args = "sensitivity in.onnx --data feeds.npz --criterion l1 --jobs 1 --cache sens.json"
    page = run(args)
    assert (page.exit_code, page.stderr) == (0, "")
    assert [line.rstrip() for line in page.stdout.splitlines()] == [
        "in.onnx",
        "  1 group, each cut alone by l1, on 4 samples, feeds.npz",
        "",
        "How far the answers move (relative error) with so much of one group gone",
        "  worst first  channels       25 %  50 %  75 %",
        "  w1:1                4  ▂▄█   0.1   0.3   0.6",
    ]
    document = run(f"{args} --json").stdout
    assert document == Path("sens.json").read_text()
    assert "123" not in page.stdout
    assert "  w1:1                4  248   0.1   0.3   0.6" in run(args, LC_ALL="C").stdout
    assert run("in.onnx out.onnx --round-to 1 --sensitivity sens.json").exit_code == 0
    assert run("in.onnx out.onnx --round-to 1 --layer-ratio auto").exit_code == 0


@pytest.mark.usefixtures("folder")
def test_random_inputs_are_labelled() -> None:
    said = " ".join(run("sensitivity in.onnx --jobs 1").stdout.split())
    assert "random inputs say little about real ones; give yours with --data" in said


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_drawing(kind: str) -> None:
    pytest.importorskip("matplotlib", reason="drawings need Matplotlib, which is an extra")
    for name in ("a", "b"):
        assert run(f"sensitivity in.onnx --jobs 1 --plot {name}.{kind} -q").exit_code == 0
    drawn = Path(f"a.{kind}").read_bytes()
    assert drawn == Path(f"b.{kind}").read_bytes()
    assert b"w1:1" in drawn if kind == "svg" else drawn.startswith(b"\x89PNG")


@pytest.mark.usefixtures("folder")
def test_a_drawing_without_matplotlib_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_prune.terminal.extras.find_spec", lambda name: None)
    result = run("sensitivity in.onnx --plot a.svg")
    assert result.exit_code == 2
    said = "--plot needs matplotlib: pip install 'onnx-prune[report]'"
    assert result.stderr == f"onnx-prune: error: {said}\n"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("sensitivity", "name the model to measure" + HINT.format("sensitivity ")),
        ("sensitivity im.onnx", "'im.onnx': no such file; did you mean in.onnx?"),
        ("sensitivity in.onnx --cache no/s.json", "'no/s.json': there is no folder 'no'; make it first"),
        (
            "sensitivity in.onnx --cache in.onnx",
            "--cache 'in.onnx' is the model itself; name another file",
        ),
        (
            "sensitivity in.onnx --cache no.json",
            "'no.json' is no file of curves of this version; make one with onnx-prune sensitivity",
        ),
        (
            "sensitivity in.onnx --plot a.pdf",
            "--plot 'a.pdf' is neither .svg nor .png" + HINT.format("sensitivity "),
        ),
        (
            "in.onnx o.onnx --sensitivity no.json --layer-ratio w1=0.5",
            "--sensitivity says how much of each group goes, so --layer-ratio has no use; leave one of them "
            "out" + HINT.format(""),
        ),
        (
            "in.onnx o.onnx --layer-ratio auto --global",
            "--layer-ratio auto shares channels out, so --global has no use; leave one of them out"
            + HINT.format(""),
        ),
        (
            "in.onnx o.onnx --layer-ratio auto --layer-ratio w1=0.5",
            "--layer-ratio: 'auto' is not GLOB=R, as in 'layer4.*=0.3'; auto stands alone" + HINT.format(""),
        ),
        (
            "in.onnx o.onnx --layer-ratio auto --unstructured",
            "--layer-ratio auto shares channels out, so --unstructured has no use; leave one of them out"
            + HINT.format(""),
        ),
    ],
)
def test_messages(args: str, message: str) -> None:
    result = run(args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"onnx-prune: error: {message}\n"


@pytest.mark.usefixtures("folder")
def test_no_traceback_where_onnxruntime_refuses() -> None:
    model = chain()
    model.graph.node.append(helper.make_node("Foo", ["y"], ["z"], domain="com.foo"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 1]))
    model.opset_import.append(helper.make_opsetid("com.foo", 1))
    onnx.save(model, "foreign.onnx")
    result = run("sensitivity foreign.onnx --jobs 1")
    assert result.exit_code == 2
    assert result.stderr.startswith("onnx-prune: error: the model can't be measured: onnxruntime refuses")
    assert result.stderr.count("\n") == 1


def test_curves_that_one_process_measured_are_read_by_another(tmp_path: Path) -> None:
    shipped = Path(__file__).parent.parent / "models" / "fmnist_resnet20.onnx"  # large enough to be read late
    curves = str(tmp_path / "curves.json")
    measured = ["sensitivity", str(shipped), "--ratios", "0.5", "--jobs", "1", "--cache", curves, "-q"]
    for command in (measured, [str(shipped), "--dry-run", "--sensitivity", curves, "-q"]):
        done = subprocess.run([sys.executable, "-m", "onnx_prune", *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
