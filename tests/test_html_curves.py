"""The page of curves: its numbers are those of its JSON, and it is written by the verb."""

from __future__ import annotations

import json
import math
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from onnx_prune.cli import main
from onnx_prune.curves.sensitivity import Curve, Point, Sensitivity, to_json
from onnx_prune.html.common import Origin
from onnx_prune.html.curves import page
from onnx_prune.html.render import render
from onnx_prune.terminal import extras
from tests.models import small_cnn
from tests.pages import Read, wrong

FOUND = Sensitivity(
    *("m/in.onnx", "ab", "cd", "feeds.npz", 8, "l1"),
    (
        Curve("conv1.weight:0", 8, (Point(2, 0.125, 0.5), Point(4, 0.5, 1.0))),
        Curve("<b>conv2</b>:0", 16, (Point(4, 0.25, None), Point(8, math.inf, None))),
        Curve("narrow:0", 2, ()),
    ),
)


def test_numbers_are_those_of_the_json() -> None:
    read = Read(render(page(FOUND, {"onnx-prune": "1"}, Origin("onnx-prune sensitivity in.onnx", ()))))
    assert wrong(read.numbers, json.loads(to_json(FOUND))) == []
    first, second, third = read.rows["curverows"][1:]
    assert first[1].startswith("conv1.weight:0 2 points 2 of 8 gone: relative error 0.125, KL 0.5 nats")
    assert first[2:5] == ["8", "0.125 25 % gone", "0.5 50 % gone"]
    assert (second[1].split()[0], second[4]) == ("<b>conv2</b>:0", "inf 50 % gone")
    assert third[1:5] == ["narrow:0", "2", "", ""]
    assert "The highest is conv1.weight:0, at 0.5." in str(read.tags)


def test_the_verb_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(small_cnn(), "in.onnx")
    words = ["sensitivity", "in.onnx", "--jobs", "1", "--ratios", "0.5", "--report", "r.html", "--json"]
    result = CliRunner().invoke(main, words)
    assert (result.exit_code, result.stderr) == (0, "")
    read = Read(Path("r.html").read_text())
    assert len(read.numbers) == 3 * len(json.loads(result.stdout)["curves"]) > 0
    assert wrong(read.numbers, json.loads(result.stdout)) == []
    assert "onnx-prune sensitivity in.onnx --jobs 1 --ratios 0.5 --report r.html --json" in read.text
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    missing = CliRunner().invoke(main, words)
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert missing.stderr.endswith("--report needs matplotlib and jinja2: pip install 'onnx-prune[report]'\n")
