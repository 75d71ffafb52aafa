"""README keeps its word: the table is the registry, the commands and snippets run."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_prune.cli import main
from onnx_prune.options import CLOSING
from tools import operators

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SET_UP = "python3 -m venv .venv && .venv/bin/pip install "


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines()]


def test_the_operator_table_is_up_to_date() -> None:
    found = re.search(r"operators: opset (\d+)", README)
    assert found is not None
    if int(found[1]) > onnx.defs.onnx_opset_version():
        pytest.skip("the table was made with a newer onnx")
    assert operators.written(README) == README, "run python -m tools.operators"


def test_it_opens_with_two_commands_that_set_themselves_up() -> None:
    first, second = commands()[:2]
    assert first.startswith(SET_UP + ". && .venv/bin/onnx-prune models/fmnist_resnet20.onnx")
    assert second == SET_UP + "-e '.[test]' && .venv/bin/pytest"
    assert second in (ROOT / ".ci" / "run").read_text()


def test_the_exit_codes_are_those_of_the_help() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \| [^|]+ \|$", README, re.MULTILINE)
    said = {code for row in rows for code in row.split(", ")}
    helped = {code for line in CLOSING.splitlines() for code in re.findall(r"^  (\d+)  |by SIGTERM", line)}
    assert helped - {""} | {"143"} == said


def test_the_commands_and_the_snippets_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("in.onnx", "other.onnx"):
        shutil.copy(ROOT / "models" / "fmnist_resnet20.onnx", tmp_path / name)
    images = np.random.default_rng(0).standard_normal((4, 1, 28, 28), np.float32)
    np.savez(tmp_path / "feeds.npz", image=images)
    np.savez(tmp_path / "labels.npz", image=images, labels=np.arange(4))
    monkeypatch.chdir(tmp_path)
    tasks = [command for command in commands() if command.startswith("onnx-prune ")]
    assert len(tasks) > 8
    for task in tasks:
        with pytest.raises(SystemExit) as leave:
            main(shlex.split(task)[1:])
        assert leave.value.code == 0, (task, capsys.readouterr().err)
    scope: dict[str, Any] = {}
    api, replay = blocks("python")
    exec(api, scope)
    assert scope["result"].report.proof.error < 1e-4

    onnx_prune_again = "in.onnx out.onnx --save-plan plan.json --no-validate"
    with pytest.raises(SystemExit):
        main(shlex.split(onnx_prune_again))
    assert len(list(filter(None, replay.splitlines()))) == 6
    exec(replay, scope)
    written = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load("out.onnx").graph.initializer}
    for name, array in written.items():
        np.testing.assert_array_equal(array, scope["weights"][name])
