"""What a report looks like, for people and for programs."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from onnx_prune.calibration.evaluate import Accuracy
from onnx_prune.calibration.recover import Recovery, Refit
from onnx_prune.latency.aim import Aim
from onnx_prune.latency.staircase import Stair
from onnx_prune.report import HeldBack, Report, Size
from onnx_prune.show import as_json, show
from onnx_prune.terminal.page import console
from onnx_prune.validate import Drift, Latency
from tests.reports import group, resnet50

HOSTILE = "conv\x1b[2J\n[bold red]\u202e\x9b1m\ud800[/]"


@pytest.fixture(autouse=True)
def _unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    monkeypatch.delenv("NO_COLOR", raising=False)


def page(report: Report, width: int = 80, encoding: str = "utf-8", *, verbose: bool = False) -> list[str]:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding, newline="")
    show(report, Console(file=file, width=width, highlight=False, markup=False, emoji=False), verbose)
    file.flush()
    return [line.rstrip() for line in raw.getvalue().decode(encoding).splitlines()]


def test_the_whole_page() -> None:
    assert page(resnet50()) == [
        "resnet50.onnx → half.onnx",
        "",
        "               before    after",
        "  parameters   25.6 M   6.78 M  3.8x  -73 %",
        "  MACs         4.11 G   1.09 G  3.8x  -74 %",
        "  file size    103 MB  27.3 MB  3.8x  -73 %",
        "  latency     31.2 ms  9.87 ms  3.2x  -68 %",
        "  at input 1×3×224×224; latency: median of 40 runs on CPU, 1 thread",
        "",
        "Cut 12 groups: 49.8 % of their channels, 50 % asked, by l1",
        "  largest first             channels  kept           params    MACs",
        "  layer4.0.conv3.weight  2048 → 1024  ██████░░░░░░  -9.44 M  -412 M",
        *(f"  layer{i}.conv1.weight        64 → 32  ██████░░░░░░  -9.44 M  -412 M" for i in range(7)),
        "  and 4 more groups; --verbose shows all",
        "",
        "Kept whole (share of all parameters, and why)",
        "     8 %  logits is a graph output (2 axes, such as fc.weight dim 0)",
        "  <0.1 %  input is a graph input (conv1.weight dim 1)",
        *(f"     0 %  no rule for Op{i} (w{i} dim 0)" for i in range(3)),
        "  and 2 more reasons; --verbose shows all",
        "",
        "✓ surgery proved: max relative error 3e-7 against masking (2 sets of inputs)",
        "· drift from the unpruned model: relative error 1.17, cosine 0.812, top-1",
        "  agreement 12.5 % (64 samples, random inputs)",
        "· rounding kept 32 channels more",
        "· wrote half.onnx (27.3 MB) in 1.60 s",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal_and_no_figure_is_cut(width: int) -> None:
    lines = page(resnet50(), width)
    assert max(map(cell_len, lines)) <= width
    assert any("2048 → 1024" in line for line in lines)
    assert not any(line.endswith("…") for line in lines)


def test_a_long_name_loses_its_middle() -> None:
    name = "backbone." + "stage." * 20 + "conv3.weight"
    line = next(line for line in page(resnet50(groups=(group(name),)), 60) if "2048" in line)
    assert line.startswith("  back")
    assert "…" in line
    assert ".weight  2048 → 1024  " in line


def test_verbose_shows_all_groups_reasons_stages_and_versions() -> None:
    lines = page(resnet50(), verbose=True)
    assert any("layer10.conv1.weight" in line for line in lines)
    assert any("no rule for Op4" in line for line in lines)
    assert lines[-2:] == ["· loading 200 ms, proving 1.40 s", "· onnx-prune 0.1.0"]
    assert not any("--verbose" in line for line in lines)


def test_not_proved_is_said_with_the_reason() -> None:
    lines = page(resnet50(proof=None, not_proved="--no-validate"))
    assert "✗ NOT PROVED: --no-validate" in lines


def test_a_dry_run_says_that_nothing_was_done() -> None:
    report = resnet50(proof=None, not_proved="dry run", output=None, drift=None, latency=None, seconds={})
    lines = page(replace(report, after=Size(1, 1, None)))
    assert lines[0] == "resnet50.onnx"
    assert "  file size   103 MB      -" in lines
    assert "Would cut 12 groups: 49.8 % of their channels, 50 % asked, by l1" in lines
    assert "· dry run: nothing was cut, run or written; sizes after are computed" in lines
    assert lines[-1] == "· nothing written"


def test_a_model_in_memory_has_no_path_and_no_size() -> None:
    lines = page(resnet50(source=None, output=None, before=Size(9, 9), after=Size(0, 9), groups=(), held=()))
    assert lines[0] == "model"
    assert not any(line.startswith("  file size") for line in lines)
    assert "  parameters        9        0        -100 %" in lines


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_the_c_locale_gets_ascii(locale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "")
    monkeypatch.delenv("LC_CTYPE", raising=False)
    monkeypatch.setenv("LANG", locale)
    text = "\n".join(page(resnet50(source="modèle.onnx")))
    assert text.isascii()
    assert "mod\\xe8le.onnx -> half.onnx" in text
    assert "######......" in text


def test_an_encoding_without_blocks_gets_ascii() -> None:
    assert "\n".join(page(resnet50(), encoding="latin-1")).isascii()


def test_hostile_names_are_spelled_out_everywhere() -> None:
    report = resnet50(
        source=HOSTILE,
        output=HOSTILE,
        criterion=HOSTILE,
        groups=(group(HOSTILE),),
        held=(HeldBack(HOSTILE, 2, 1, ((HOSTILE, 0),)),),
        drift=Drift(1.0, 1.0, None, 1, HOSTILE),
        notes=(HOSTILE,),
        shapes={HOSTILE: (1, 3)},
        seconds={HOSTILE: 1.0},
        versions={HOSTILE: "1"},
    )
    for kind in (report, replace(report, proof=None, not_proved=HOSTILE)):
        text = "\n".join(page(kind, 200, verbose=True))
        assert not set(text) & set("\x1b\x9b\u202e\ud800")
        assert text.count("conv\\x1b[2J\\n[bold red]\\u202e\\x9b1m\\ud800[/]") >= 10
        assert json.loads(as_json(kind))["source"] == HOSTILE


@pytest.mark.parametrize(("variable", "coloured"), [("", True), ("1", False)])
def test_colour_only_on_a_terminal_without_no_color(
    variable: str, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", variable)
    monkeypatch.setenv("TERM", "xterm-256color")
    file = io.StringIO()
    show(resnet50(), Console(file=file, width=80, force_terminal=True))
    assert ("\x1b[32m" in file.getvalue() or ";32m" in file.getvalue()) is coloured


def test_no_escape_where_stdout_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    show(resnet50(), console())
    assert "\x1b" not in capsys.readouterr().out


def test_json_is_strict_and_holds_everything() -> None:
    report = resnet50(drift=Drift(math.nan, math.inf, None, 3, "x"), reached_ratio=np.float32(0.5))
    text = as_json(report)
    document = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert (document["format"], document["version"]) == ("onnx-prune-report", 1)
    assert document["drift"] == {
        "relative_error": None,
        "cosine": None,
        "top1": None,
        "samples": 3,
        "source": "x",
    }
    assert document["reached_ratio"] == 0.5
    assert document["groups"][0]["members"] == [["layer4.0.conv3.weight", 0]]
    assert set(document) == {"format", "version", *report.to_dict()}
    assert text.isascii()


def test_what_recovery_did() -> None:
    layers = (
        Refit("a", "refitted", "", 0.5, 0.01, 1e-3),
        Refit("b", "bias", "no better than a new bias on held-out samples", 0.5, 0.4),
        Refit("c", "unchanged", "its weight has other users"),
        Refit("d", "unchanged", "its weight has other users"),
    )
    report = resnet50(
        recovery=Recovery("lstsq", layers, 256, "feeds.npz", False),
        drift_cut=Drift(1.17, 0.5, 0.125, 256, "feeds.npz"),
        accuracy=Accuracy(0.934, 0.912, 3000, "labels.npz"),
    )
    text = page(report, 140)
    assert [line for line in text if line.startswith("· ")][:5] == [
        "· recovered: 1 of 4 layers behind the cut fitted by least squares, on 256 samples of feeds.npz",
        "· drift before recovery: relative error 1.17, cosine 0.500, top-1 agreement 12.5 %",
        "· 1 layer given a new bias only: no better than a new bias on held-out samples (such as b)",
        "· 2 layers left as cut: its weight has other users (such as c)",
        "· drift from the unpruned model: relative error 1.17, cosine 0.812, top-1 agreement 12.5 % "
        "(64 samples, random inputs)",
    ]
    assert "· top-1: 93.4 % before, 91.2 % after (3,000 samples, labels.npz)" in text
    assert "· a: refitted, error 50 % before, 1 % after" in page(report, 140, verbose=True)


def test_synthetic_samples_are_called_so() -> None:
    layers = (Refit("a", "bias", ""),)
    text = page(resnet50(recovery=Recovery("bias", layers, 128, "synthetic inputs", True)), 140)
    said = "given new biases, on 128 samples, which are synthetic; real ones recover more"
    assert f"· recovered: 1 of 1 layer behind the cut {said}" in text


def test_how_a_latency_was_met_is_said() -> None:
    stairs = (Stair(("conv1",), (0,), (8, 16), ((1.0, 2.0),), True),) * 2
    latency = Latency(31.2, 15.1, 30.5, 15.0, 40, 1, ratio=0.4839, spread=0.0062, cpu=True)
    report = resnet50(latency=latency, aim=Aim("latency=0.5", 1, (1.04, 0.968), 0.007, stairs))
    text = page(report, 140)
    assert "  at input 1×3×224×224; latency: median of 40 runs on CPU, 1 thread, CPU time" in text
    at = text.index(
        "· latency=0.5: 2 layers timed at several widths, 1 correction after measuring end to end, 0.484 of "
        "the original's time in the same turn, to"
    )
    assert text[at + 1] == "  within 0.6 %"
    found = json.loads(as_json(report))["aim"]
    assert found["tried"] == [1.04, 0.968]
    assert found["staircase"][0] == {
        "layers": ["conv1"],
        "reads": [0],
        "makes": [8, 16],
        "ms": [[1.0, 2.0]],
        "measured": True,
    }


def test_a_target_is_named() -> None:
    assert "Cut 12 groups: 49.8 % of their channels, for macs=0.5, by l1" in page(resnet50(target="macs=0.5"))
