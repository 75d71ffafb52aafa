"""A short run of what `tools.fuzz` does at length, and the models that it has found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings

from onnx_prune.cut import cut
from onnx_prune.settings import Budget
from tests import soundness
from tests.graphs import analyse, build, halved, noise
from tests.strategies import budgets, models

ROOT = Path(__file__).parent.parent


@settings(max_examples=50, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(models(), budgets())
def test_random_graphs_are_cut_as_they_are_masked(model: onnx.ModelProto, budget: Budget) -> None:
    onnx.checker.check_model(model, full_check=True)
    verdict = soundness.check(model, budget)
    assert verdict.status in ("proved", "nothing") or verdict.status.startswith(
        ("onnxruntime", "the outputs")
    )


def layers(*between: str, opset: int = 17, domains: tuple[str, ...] = ()) -> onnx.ModelProto:
    weights = {"w": noise(3, 8), "u": noise(8, 8), "v": noise(8, 4)}
    nodes = ["a = MatMul(x, w)", *between, "y = MatMul(b, v)"]
    return build(nodes, weights, {"x": (2, 3)}, {"y": (2, 4)}, opset=opset, domains=domains)


def test_the_check_beside_the_proof_sees_another_cut() -> None:
    coupling = analyse(layers("b = Sigmoid(a)"))
    [group] = coupling.groups
    kept, other = np.arange(8) < 4, np.arange(8) % 2 == 0
    small = cut(coupling, {group.atom: kept}).whole()
    assert soundness.independent(coupling, {group.atom: kept}, small) == 2
    with pytest.raises(AssertionError, match="y in _onnxruntime: differs by"):
        soundness.independent(coupling, {group.atom: other}, small)


def test_noise_of_a_size_that_only_the_runtime_could_tell() -> None:
    """Found: noise behind a Slice by a Shape, where the runtime lacks the noise, was a KeyError as well."""
    between = (
        *(
            "c = MatMul(a, u)",
            "n = Shape(c)",
            "m = Gather(n, one)",
            "h = Div(m, two)",
            "s = Slice(c, zero, h, one)",
        ),
        *("d = MatMul(s, t)", "r = RandomNormalLike(d)", "b = Add(d, r)"),
    )
    model = layers(*between, opset=23)
    constants = {"zero": [0], "one": [1], "two": [2]}
    arrays = {name: np.array(value) for name, value in constants.items()} | {"t": noise(4, 8)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in arrays.items())
    verdict = soundness.check(model, Budget(round_to=1))
    assert "Could not find an implementation for RandomNormalLike" in verdict.status
    assert verdict.cut


def test_noise_behind_operators_that_the_runtime_lacks() -> None:
    """Found: the type of the noise is not known, which was a KeyError; there is no proof, and why."""
    between = ("c = MatMul(a, u)", "g = com.microsoft.Gelu(c)", "n = RandomNormalLike(g)", "b = Add(g, n)")
    verdict = soundness.check(layers(*between, opset=23, domains=("com.microsoft",)), Budget(round_to=1))
    assert (verdict.status, verdict.cut) == ("onnxruntime lacks RandomNormalLike", 1)


@pytest.mark.parametrize("version", [3, 8])
def test_a_shared_bias_in_an_old_file(version: int) -> None:
    """Found: the masked original kept the bias that nobody read any more, which old files may not have."""
    between = ("c = Add(a, s)", "d = MatMul(c, u)", "b = Add(d, s)")
    model = layers(*between)
    model.graph.initializer.append(onnx.numpy_helper.from_array(noise(8), "s"))
    model.ir_version = version
    groups, error, _ = halved(model)
    assert groups == {"w:1": 8, "u:1": 8}
    assert error < 1e-5


def test_damaged_files_end_in_documented_exit_codes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.fuzz", "--files", "12", "--seed", "0", "--keep", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 files: exit codes {0:" in done.stdout
    assert "0 failures" in done.stdout
