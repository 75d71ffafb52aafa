"""The report as a page: its numbers are the report's, its names are harmless, it fetches nothing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from onnx_prune.calibration.evaluate import Accuracy
from onnx_prune.calibration.recover import Recovery, Refit
from onnx_prune.cli import main
from onnx_prune.errors import Unwritable
from onnx_prune.latency.aim import Aim
from onnx_prune.latency.staircase import Stair
from onnx_prune.model import files
from onnx_prune.report import HeldBack, Report, Whole
from onnx_prune.show import as_json
from onnx_prune.terminal import extras
from onnx_prune.validate import Drift
from tests.models import small_cnn
from tests.pages import Read, html, layer, wrong
from tests.reports import group, resnet50

HOSTILE = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>\"\x1b[2J\n\u202e{{ 7 * 7 }}"
SPELLED = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>\"\\x1b[2J\\n\\u202e{{ 7 * 7 }}"


def full(name: str = "conv1") -> Report:
    """A report with a layer and something in every place."""
    return resnet50(
        groups=(group(f"{name}.weight"), group("conv2.weight", 64, 32)),
        layers=(layer("conv2"), layer(name), replace(layer("relu"), weights=(), params=0, params_after=0)),
        whole=(
            Whole(f"{name}.weight:1", 3, f"{name} is a graph input", ((f"{name}.weight", 1),)),
            Whole(f"{name}.weight:0", 3, f"{name} is a graph input", ((f"{name}.weight", 0),)),
            Whole(f"{name}.bias:0", 7, "--ignore says so", ((f"{name}.bias", 0),)),
        ),
        recovery=Recovery("lstsq", (Refit(name, "unchanged", name),), 8, name, False),
        accuracy=Accuracy(0.93, 0.91, 3000, name),
    )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    onnx.save(small_cnn(), "in.onnx")


def run(text: str) -> Result:
    return CliRunner().invoke(main, text.split())


def test_numbers_are_those_of_the_json_report() -> None:
    report = full()
    read = Read(html(report))
    assert wrong(read.numbers, json.loads(as_json(report))) == []
    keys = {key for key, _ in read.numbers}
    assert keys >= {
        *(f"{when}.{what}" for when in ("before", "after") for what in ("params", "macs", "bytes")),
        *("latency.before_ms", "latency.after_ms", "proof.error", "accuracy.before", "accuracy.after"),
        *("drift.relative_error", "drift.cosine", "drift.top1", "whole.0.size", "held.6.axes"),
        *(f"groups.{j}.{what}" for j in range(2) for what in ("size", "kept", "params", "macs")),
        *(f"layers.0.{what}" for what in ("params", "params_after", "macs", "macs_after")),
    }


def test_numbers_of_a_run_are_those_of_its_json() -> None:
    for options in ("", "--unstructured --ratio 0.7", "--unstructured --sparse-initializers --ratio 0.9"):
        result = run(f"in.onnx out.onnx {options} --json --report r.html")
        assert (result.exit_code, result.stderr) == (0, "")
        read = Read(Path("r.html").read_text())
        assert len(read.numbers) > 12
        assert wrong(read.numbers, json.loads(result.stdout)) == []


def test_rows_are_in_the_order_of_the_graph_and_say_what_is_kept() -> None:
    rows = Read(html(full())).rows["grouprows"]
    assert [row[1].split()[0] for row in rows[1:]] == [
        "conv2.weight",
        "conv1.weight",
        "conv1.weight:1",
        "conv1.bias:0",
    ]
    assert rows[1][2:] == ["cut", "64 → to 32", "", "9.44 M", "412 M"]
    assert (
        rows[3][1] == "conv1.weight:1 conv1 is a graph input 1 weight conv1.weight dim 1 conv1.weight dim 0"
    )
    assert rows[3][2:4] == ["whole", "3"]


def test_hostile_names_are_spelled_out_and_do_nothing() -> None:
    report = replace(
        full(HOSTILE),
        source=HOSTILE.replace("/", ""),
        output=HOSTILE.replace("/", ""),
        criterion=HOSTILE,
        held=(HeldBack(HOSTILE, 2, 1, ((HOSTILE, 0),)),),
        drift=Drift(1.0, 1.0, None, 1, HOSTILE),
        notes=(HOSTILE,),
        shapes={HOSTILE: (1, 3)},
        seconds={HOSTILE: 1.0},
        versions={HOSTILE: "1"},
    )
    for kind in (report, replace(report, proof=None, not_proved=HOSTILE)):
        text = html(kind, HOSTILE)
        read = Read(text)
        assert [tag for tag, _ in read.tags].count("script") == 1
        assert not [tag for tag, _ in read.tags if tag == "img"]
        assert not [name for _, found in read.tags for name in found if name.startswith("on")]
        assert not set(text) & set("\x1b\u202e")
        assert read.text.count(SPELLED) >= 12


def test_it_fetches_nothing() -> None:
    read = Read(html(full()))
    addresses = [
        value
        for _, found in read.tags
        for name, value in found.items()
        if name in ("src", "href", "xlink:href")
    ]
    assert all(value is not None and value.startswith(("#", "data:,")) for value in addresses)
    text = html(full())
    assert not re.search(r"url\(|@import|https?://|fetch\(|XMLHttpRequest", text)
    [policy] = [found["content"] for tag, found in read.tags if found.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_every_id_is_there_once_and_every_link_leads_somewhere() -> None:
    tags = Read(html(full())).tags
    ids = [found["id"] for _, found in tags if "id" in found]
    assert len(ids) == len(set(ids))
    named = ("aria-controls", "aria-labelledby", "data-for")
    assert {found[name] for _, found in tags for name in named if name in found} <= set(ids)
    assert {(found["href"] or "")[1:] for tag, found in tags if tag == "a"} <= set(ids)


def test_the_same_report_is_the_same_bytes() -> None:
    assert html(full()) == html(full())


def test_two_runs_differ_in_times_alone() -> None:
    pages = []
    for _ in range(2):
        assert run("in.onnx out.onnx --ratio 0.5 --no-validate --report r.html -q").exit_code == 0
        pages.append(re.sub(r"<dt>time taken</dt><dd>[^<]*</dd>", "", Path("r.html").read_text()))
    assert pages[0] == pages[1]
    assert "time taken" not in pages[0]


def test_five_hundred_layers_stay_below_2_mb() -> None:
    names = [f"/model/encoder/layers.{j}/attention/self/query/MatMul" for j in range(500)]
    report = resnet50(
        groups=tuple(group(f"{name}.weight", 64, 32) for name in names),
        layers=tuple(map(layer, names)),
        whole=tuple(Whole(f"{name}.weight:1", 3, f"{name} says so", ((name, 1),)) for name in names),
    )
    assert len(html(report).encode()) < 2_000_000


def test_what_is_not_known_is_left_out() -> None:
    report = resnet50(
        proof=None, not_proved="dry run", output=None, drift=None, latency=None, held=(), notes=()
    )
    text = Read(html(replace(report, after=replace(report.after, bytes=None)))).text
    assert "Nothing was cut, run or written; sizes after are computed." in text
    assert not [
        word for word in ("Latency", "Drift", "Kept whole", "Worth knowing", "proved") if word in text
    ]


def test_a_cut_that_nobody_checked_is_called_so() -> None:
    read = Read(html(resnet50(proof=None, not_proved="--no-validate")))
    assert "--no-validate: nobody has checked this cut." in read.text
    assert ("div", {"class": "note bad"}) in read.tags


def test_a_dry_run_has_a_page() -> None:
    assert run("in.onnx --dry-run --report r.html -q").exit_code == 0
    read = Read(Path("r.html").read_text())
    assert "Dry run" in read.text
    assert "conv2.weight" in read.text
    assert not Path("out.onnx").exists()


def test_the_command_and_hashes_are_there() -> None:
    np.savez("my feeds.npz", input=np.zeros((8, 3, 8, 8), np.float32))
    words = [
        "in.onnx",
        "out.onnx",
        "--data",
        "my feeds.npz",
        "--report",
        "r.html",
        "-q",
        "--save-plan",
        "p.json",
    ]
    assert CliRunner().invoke(main, words).exit_code == 0
    text = Read(Path("r.html").read_text()).text
    assert "onnx-prune in.onnx out.onnx --data 'my feeds.npz' --report r.html -q --save-plan p.json" in text
    for what in ("in.onnx", "out.onnx", "my feeds.npz (calibration data)", "p.json (plan)"):
        assert f"sha256 of {what}" in text
    assert len(re.findall(r"(?<![0-9a-f])[0-9a-f]{64}", text)) == 4


def test_external_data_are_hashed_and_drawn() -> None:
    assert run("in.onnx out.onnx --external-data always --report r.html -q").exit_code == 0
    assert run("out.onnx less.onnx --report r.html -q").exit_code == 0
    read = Read(Path("r.html").read_text())
    assert "sha256 of out.onnx.data" in read.text
    assert [tag for tag, _ in read.tags].count("svg") == 4 + 3  # two charts twice, and three layers


def test_rounds_and_dead_channels_have_a_page() -> None:
    assert run("in.onnx out.onnx --rounds 2 --report r.html -q").exit_code == 0
    report = Read(Path("r.html").read_text())
    assert "2 rounds; each is proved against the one before it" in report.text
    model = small_cnn()
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in ("conv1.weight", "conv1.bias"):
        values = onnx.numpy_helper.to_array(weights[name]).copy()
        values[:4] = 0
        weights[name].CopyFrom(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, "dead.onnx")
    assert run("dead.onnx out.onnx --dead --report r.html -q").exit_code == 0
    assert "ranked by saying nothing" in Read(Path("r.html").read_text()).text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("out.onnx --report no/r.html", "'no/r.html': there is no folder 'no'; make it first"),
        ("out.onnx --report .", "'.': is a directory; name a file in it"),
        ("out.onnx --report ./in.onnx", "--report './in.onnx' is another file of this run; name a new one"),
        ("out.onnx --report out.onnx", "--report 'out.onnx' is another file of this run; name a new one"),
        ("o.onnx --save-plan p --report p", "--report 'p' is another file of this run; name a new one"),
        (
            "./in.onnx --report r.html",
            "--report compares two files, and OUT.onnx is IN.onnx; name another to write",
        ),
    ],
)
def test_messages(options: str, message: str) -> None:
    result = run(f"in.onnx {options}")
    assert (result.exit_code, result.stderr) == (2, f"onnx-prune: error: {message}\n")
    assert sorted(path.name for path in Path().iterdir()) == ["in.onnx"]


@pytest.mark.parametrize(
    ("options", "lacking", "message"),
    [
        ("--report r.html", {"jinja2", "matplotlib"}, "--report needs matplotlib and jinja2"),
        ("--report r.html", {"jinja2"}, "--report needs jinja2"),
        ("--unstructured --plot p.svg", {"matplotlib"}, "--plot needs matplotlib"),
    ],
)
def test_a_missing_extra_is_said_before_any_work(
    options: str, lacking: set[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name in lacking else object())
    result = run(f"in.onnx out.onnx {options}")
    expected = f"onnx-prune: error: {message}: pip install 'onnx-prune[report]'\n"
    assert (result.exit_code, result.stderr) == (2, expected)
    assert sorted(path.name for path in Path().iterdir()) == ["in.onnx"]


def test_a_report_that_cannot_be_written_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, text: str) -> None:
        raise Unwritable(f"{path!r}: no space left on device; free some")

    monkeypatch.setattr(files, "write_text", refuse)
    result = run("in.onnx out.onnx --report r.html")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "onnx-prune: error: 'r.html': no space left on device; free some\n"
    assert (Path("out.onnx").exists(), Path("r.html").exists()) == (True, False)


def test_the_staircase_of_a_target_in_time() -> None:
    table = Stair(("Conv a", "Conv b"), (8, 16), (4, 8), ((1.0, 2.0), (1.5, 3.0)), True)
    alone = Stair(("Gemm c",), (8, 16), (0,), ((1.0,), (2.0,)), False)
    report = resnet50(aim=Aim("latency=0.5", 1, (1.05, 0.98), 0.01, (table, alone)))
    read = Read(html(report))
    assert wrong(read.numbers, json.loads(as_json(report))) == []
    first, second = read.rows["stairrows"][1:]
    assert first[1:6] == [
        "Conv a and 1 more layer alike Conv b",
        "16 2 widths",
        "8 2 widths",
        "1.00 ms",
        "3.00 ms",
    ]
    assert second[1:6] == [
        "Gemm c not run alone: estimated from its MACs",
        "16 2 widths",
        "",
        "1.00 ms",
        "2.00 ms",
    ]
    assert "1 correction after measuring end to end: 1.050, 0.980 of the target each time" in read.text
