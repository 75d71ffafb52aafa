"""The examples that each `--help` shows run."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import onnx_prune
from onnx_prune import verbs
from onnx_prune.cli import main

NETWORK = Path(__file__).parent.parent / "models" / "fmnist_resnet20.onnx"
NAMES = {
    "14.weight": "fc.weight",
    "14.bias": "head.bias",
    "11.c1.weight": "layer4.c1.weight",
}  # as examples say
VERBS = ((), *((name,) for name in verbs.NAMES))


def helped(verb: tuple[str, ...]) -> str:
    return CliRunner().invoke(main, [*verb, "--help"]).stdout


def examples(verb: tuple[str, ...]) -> list[str]:
    """The commands among the examples of a help, without what reads their output."""
    section = helped(verb).partition("Examples:\n")[2].partition("\n\n")[0]
    return [
        line.partition("|")[0].strip() for line in re.findall(r"^  (onnx-prune .*)$", section, re.MULTILINE)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files under the names of the examples: the shipped network, half of its channels cut to save time."""
    place = tmp_path_factory.mktemp("examples")
    model = onnx_prune.prune(NETWORK, ratio=0.5, validate=False).model
    assert model is not None
    for tensor in model.graph.initializer:
        tensor.name = NAMES.get(tensor.name, tensor.name)
    for node in model.graph.node:
        node.input[:] = [NAMES.get(name, name) for name in node.input]
    for name in ("in", "other", "t", "i"):
        onnx.save(model, place / f"{name}.onnx")
    images = np.random.default_rng(0).standard_normal((4, 1, 28, 28), np.float32)
    np.savez(place / "feeds.npz", image=images)
    np.savez(place / "labels.npz", image=images, labels=np.arange(4))
    onnx_prune.sparsify(model, ratio=0.5, save_mask=place / "m.npz")
    onnx_prune.prune(model, place / "out.onnx", validate=False)
    (place / "masks").mkdir()
    return place


@pytest.fixture
def here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files to work in."""
    shutil.copytree(folder, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: "".join(verb) or "prune")
@pytest.mark.usefixtures("here")
def test_the_examples_of_a_help_run(verb: tuple[str, ...]) -> None:
    found = examples(verb)
    assert found
    for command in found:
        result = CliRunner().invoke(main, shlex.split(command)[1:])
        # the limits in compare's examples are not those of this network
        crossed = "--max-" in command and ", over --max-" in result.stderr
        assert result.exit_code == (4 if crossed else 0), (command, result.stderr)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: "".join(verb) or "prune")
@pytest.mark.parametrize("columns", ["40", "100", "300"])
def test_a_help_fits_whatever_the_terminal(
    verb: tuple[str, ...], columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert max(map(len, helped(verb).splitlines())) <= 100
