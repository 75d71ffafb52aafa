"""Names made to do harm, in a whole run: nothing obeys them, and no file is called like them."""

from __future__ import annotations

import json
import os
import xml.dom.minidom
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from onnx_prune.cli import main
from tests.graphs import noise

EVILS = (
    "\x1b[2J\x1b]0;gone\x07",
    "a\nonnx-prune: error: b\r\n",
    "<script>alert(1)</script>&amp;'\"",
    "../../../tmp/out.onnx",
    "/etc/passwd",
    "..\\C:\\x",
    "[bold red]no[/bold red]",
    "\u202egnp\u2028\x9b1m",
    "{0} %s $HOME `id`",
)


def evil(word: str) -> onnx.ModelProto:
    """Three layers in which all that may have a name has this one, with a letter to tell them apart."""
    weights = {f"{word}w": noise(8, 32), f"{word}u": noise(32, 32), f"{word}v": noise(32, 4)}
    nodes = [
        helper.make_node("MatMul", ["x" + word, f"{word}w"], ["a" + word], f"one{word}"),
        helper.make_node("Relu", ["a" + word], ["b" + word], f"two{word}"),
        helper.make_node("MatMul", ["b" + word, f"{word}u"], ["c" + word], f"three{word}"),
        helper.make_node("MatMul", ["c" + word, f"{word}v"], ["y" + word], f"four{word}"),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        word,
        [info("x" + word, TensorProto.FLOAT, ["n" + word, 8])],
        [info("y" + word, TensorProto.FLOAT, ["n" + word, 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.producer_name = model.doc_string = model.domain = word
    model.metadata_props.add(key=word, value=word)
    return model


def obeyed(text: str) -> set[str]:
    """Characters that a terminal would obey or hide."""
    return {c for c in text if not c.isprintable()} - {"\n"}


@pytest.mark.parametrize("number", range(len(EVILS)))
def test_a_whole_run(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    word = EVILS[number]
    onnx.save(evil(word), "in.onnx")
    runs = {
        "--verbose --external-data always --save-plan plan.json": 0,
        "--json --no-validate": 0,
        "--apply-plan plan.json --no-validate": 0,
        "--ignore x": 2,  # names that are near are guessed
        "--unstructured --verbose --no-validate --plot plot.svg --save-mask mask.npz": 0,
    }
    for options, code in runs.items():
        done = CliRunner().invoke(main, ["in.onnx", "out.onnx", *options.split()])
        assert done.exit_code == code, done.output
        assert not obeyed(done.output)
        if "--json" in options:
            assert word in json.loads(done.stdout)["groups"][0]["name"]
        if code:
            assert done.stderr.count("\n") == 1
    for options in ("", "--verbose", "--json"):
        done = CliRunner().invoke(main, ["explain", "in.onnx", *options.split()])
        assert done.exit_code == 0
        assert not obeyed(done.stdout)
    assert f"{word}w" in json.loads(Path("plan.json").read_text())["initializers"]
    assert "script" not in {e.tagName for e in _elements(Path("plot.svg").read_text())}
    with np.load("mask.npz") as arrays:
        assert f"{word}w" in arrays
    assert sorted(os.listdir()) == ["in.onnx", "mask.npz", "out.onnx", "plan.json", "plot.svg"]


def _elements(text: str) -> list[xml.dom.minidom.Element]:
    return list(xml.dom.minidom.parseString(text).getElementsByTagName("*"))
