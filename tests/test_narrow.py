"""On a narrow terminal names are shortened in their middle, and figures are not."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from onnx_prune.cli import main
from tests.models import small_cnn

RUNS = [
    "in.onnx out.onnx",
    "in.onnx out.onnx --unstructured --ratio 0.8",
    "explain in.onnx",
    "compare in.onnx in.onnx",
    "sensitivity in.onnx --ratios 0.5 --jobs 1",
]


@pytest.mark.parametrize("command", RUNS)
@pytest.mark.parametrize("columns", [40, 60])
def test_figures_are_whole(
    command: str, columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = small_cnn()
    longer = {tensor.name: f"backbone.stages.0.{tensor.name}" for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        tensor.name = longer[tensor.name]
    for node in model.graph.node:
        node.input[:] = [longer.get(name, name) for name in node.input]
    onnx.save(model, "in.onnx")
    result = CliRunner().invoke(main, command.split(), env={"COLUMNS": str(columns), "LC_ALL": "C.UTF-8"})
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    words = [line.split() for line in lines if line.strip()]
    assert not [line for line in words if line[0].endswith("…") or any("…" in word for word in line[1:])]
