"""The pass that the documentation shows runs within Olive."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from math import prod
from pathlib import Path

import onnx
import pytest

from tools.pages import ROOT, SHIPPED, blocks, file_of

pytest.importorskip("olive")  # needs Olive


def params(path: Path) -> int:
    return sum(prod(tensor.dims) for tensor in onnx.load(path).graph.initializer)


def test_the_pass_of_the_page_prunes_within_a_workflow(tmp_path: Path) -> None:
    for block in blocks("howto/pipeline.md"):
        if block.text.startswith(("# prune_pass.py", "# passes.yaml", "# workflow.yaml")):
            file_of(block, tmp_path)
    shutil.copy(ROOT / "models" / SHIPPED, tmp_path / "in.onnx")
    env = os.environ | {"OLIVE_DISABLE_TELEMETRY": "1"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(tmp_path), env.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "olive", "run", "--config", "workflow.yaml"]
    done = subprocess.run(
        [*command, "--package-config", "passes.yaml"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    written = tmp_path / "tidy" / "model.onnx"
    assert params(written) < 0.7 * params(tmp_path / "in.onnx")
    assert any(entry.key == "onnx_prune.ratio" for entry in onnx.load(written).metadata_props)
