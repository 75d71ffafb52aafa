"""Criteria and rules of other packages: one is installed for it, as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from tests.graphs import build, noise

MODULE = '''
import numpy as np
from onnx_prune.axes.pattern import pattern
from onnx_prune.criteria import l1
from onnx_prune.rules import rule


def smallest(coupling, group):
    """The channels with the largest filters go first."""
    return -l1(coupling, group)


def wrong(coupling, group):
    return np.zeros(group.size + 1)


@rule("Soft", domain="com.example")
def soft(op):
    """a... -> a..."""
    return pattern(op, "a... -> a...", zero=((0,),))
'''


def wheel(folder: Path, entry_points: str, module: str = MODULE) -> Path:
    """A package as pip takes it."""
    path = folder / "prune_extra-1.0-py3-none-any.whl"
    info = "prune_extra-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("prune_extra.py", module)
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: prune-extra\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/entry_points.txt", entry_points)
        file.writestr(f"{info}/RECORD", "")
    return path


def test_an_installed_package_adds_criteria_and_rules(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert "nothing to prune: no rule for com.example.Soft" in run.said("in.onnx", "--dry-run", code=4)
    assert "unknown value 'smallest'" in run.said("in.onnx", "--dry-run", "--criterion", "smallest", code=2)

    points = "[onnx_prune.criteria]\nsmallest = prune_extra:smallest\nwrong = prune_extra:wrong\n"
    run.install(wheel(tmp_path, points + "[onnx_prune.rules]\nextra = prune_extra\n"))
    plan = tmp_path / "plan.json"
    run.said("in.onnx", "out.onnx", "--no-validate", "--criterion", "smallest", "--save-plan", str(plan))
    kept = json.loads(plan.read_text())["initializers"]["w1"]["keep"]["0"]
    weight = onnx.numpy_helper.to_array(next(w for w in onnx.load(tmp_path / "in.onnx").graph.initializer))
    assert kept == sorted(abs(weight).sum((1,)).argsort()[:4].tolist())

    assert "did you mean smallest?" in run.said("in.onnx", "--dry-run", "--criterion", "smalest", code=2)
    line = run.said("in.onnx", "--dry-run", "--criterion", "wrong", code=2)
    assert "the criterion 'wrong' has to give 8 finite numbers for the group of w1:0" in line


def test_a_plugin_that_is_broken(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.install(wheel(tmp_path, "[onnx_prune.rules]\nextra = prune_extra\n", "import none_such"))
    assert (
        "the plugin 'extra' of prune-extra 1.0 can't be imported: ModuleNotFoundError: No module named "
        "'none_such'; repair or uninstall it"
    ) in run.said("in.onnx", "--dry-run", code=2)


class Run:
    """The command in a process of its own, which sees what was installed to a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        model = build(
            ["h = Gemm(x, w1)", "s = com.example.Soft(h)", "y = MatMul(s, w2)"],
            {"w1": noise(8, 4), "w2": noise(8, 3)},
            {"x": ("n", 4)},
            {"y": ("n", 3)},
            domains=("com.example",),
        )
        model.graph.node[0].attribute.append(helper.make_attribute("transB", 1))
        model.graph.value_info.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, ["n", 8]))
        onnx.save(model, folder / "in.onnx")

    def install(self, package: Path) -> None:
        """Install a package."""
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
        subprocess.run([*pip, "--target", self.folder / "site", package], check=True)

    def said(self, *args: str, code: int = 0) -> str:
        """What the command says, on both streams."""
        path = os.pathsep.join(filter(None, (str(self.folder / "site"), os.environ.get("PYTHONPATH", ""))))
        done = subprocess.run(
            [sys.executable, "-m", "onnx_prune", *args],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr
