"""README keeps its word: the table is the registry, the commands and snippets run."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_prune.cli import main
from onnx_prune.options import CLOSING
from tools import coverage, operators

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


def test_the_account_of_the_node_cases_is_of_these_rules() -> None:
    found = re.search(r"conformance: opset (\d+)", README)
    assert found is not None
    if int(found[1]) != onnx.defs.onnx_opset_version():
        pytest.skip("the account was made with another onnx")
    asked = [
        name
        for domain, name in coverage.cuttable()
        if not domain and name in operators.in_force(int(found[1]))
    ]
    assert f"\n{len(asked)} operators of ONNX's own domain have a rule" in README, (
        "run python -m tools.conformance --readme"
    )


def test_the_account_counts_forms_and_operators() -> None:
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "relu", [], [])
    cases = {"test_relu": onnx.helper.make_model(graph), "test_other": onnx.ModelProto()}
    rows = [
        SimpleNamespace(name=name, form=form, status=status)
        for name, form, status in (
            ("test_relu", "as is", "nothing"),
            ("test_relu", "framed", "pruned"),
            ("test_other", "as is", "crashed"),
            ("no case of a node", "as is", "failed"),
        )
    ]
    _, _, plain, weights, framed, _, asked, cut, missing = coverage.lines(rows, cases, 21)
    assert plain == "| as they are | 2 | 0 | 1 | 0 | 0 | 1 |"
    assert weights == "| float inputs but the first as weights | 0 | 0 | 0 | 0 | 0 | 0 |"
    assert framed == "| a weight on every float input and output | 1 | 1 | 0 | 0 | 0 | 0 |"
    assert int(asked.split()[0]) == len(missing.split(", ")) + 1
    assert cut == "1 of them something was, and proved; not around"
    assert "Relu" not in missing.split(", ")


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
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    tasks = [command for command in commands() if command.startswith(("onnx-prune ", "mkdir "))]
    assert len(tasks) > 8
    for task in tasks:
        if task.startswith("mkdir "):
            Path(task.split()[1]).mkdir()
            continue
        with pytest.raises(SystemExit) as leave:
            main(shlex.split(task)[1:])
        said = capsys.readouterr()
        assert leave.value.code == 0, (task, said.err)
        if task.startswith("onnx-prune explain"):
            page = "\n".join(line.rstrip() for line in said.out.splitlines())
            assert f"```sh\n{task}\n```\n\n```text\n{page}\n```" in README, "README shows another output"
    scope: dict[str, Any] = {}
    masks, api, _plugin, replay = blocks("python")  # a plugin: tests/test_plugins.py
    exec(api, scope)
    assert scope["result"].report.proof.error < 1e-4

    exec("import json\n" + masks, scope := scope | {"np": np})
    assert all(set(np.unique(mask)) == {0, 1} for mask in scope["masks"].values())

    onnx_prune_again = "in.onnx out.onnx --save-plan plan.json --no-validate"
    with pytest.raises(SystemExit):
        main(shlex.split(onnx_prune_again))
    assert len(list(filter(None, replay.splitlines()))) == 6
    exec(replay, scope)
    written = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load("out.onnx").graph.initializer}
    for name, array in written.items():
        np.testing.assert_array_equal(array, scope["weights"][name])
