"""The plan file: a contract, replayed exactly, with a sentence for what does not fit."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_prune import plan, prune
from onnx_prune.errors import InputError
from tests import zoo
from tests.graphs import analyse, build, initializers, noise
from tests.models import small_cnn


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    """A model in a file, and its plan."""
    source = tmp_path / "in.onnx"
    onnx.save(small_cnn(), source)
    prune(source, tmp_path / "out.onnx", save_plan=tmp_path / "plan.json", validate=False)
    return source, tmp_path / "plan.json"


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_the_schema(paths: tuple[Path, Path]) -> None:
    source, path = paths
    document = json.loads(path.read_text())
    assert list(document) == [
        "format",
        "version",
        "model_sha256",
        "criterion",
        "ratio",
        "initializers",
        "groups",
        "held",
    ]
    assert (document["format"], document["version"]) == ("onnx-prune-plan", 1)
    assert document["model_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert (document["criterion"], document["ratio"]) == ("l1", 0.5)
    # two groups: what conv1 makes and conv2 reads, what conv2 makes and fc reads
    first, second = document["groups"]
    assert (first["name"], first["size"], len(first["kept"])) == ("conv1.weight:0", 8, 4)
    assert first["members"] == [["conv1.weight", 0], ["conv1.bias", 0], ["conv2.weight", 1]]
    assert (second["name"], second["size"], len(second["kept"])) == ("conv2.weight:0", 16, 8)
    rows = document["initializers"]
    assert rows["conv1.weight"] == {"shape": [8, 3, 3, 3], "keep": {"0": first["kept"]}}
    assert rows["conv2.weight"] == {
        "shape": [16, 8, 3, 3],
        "keep": {"0": second["kept"], "1": first["kept"]},
    }
    assert rows["fc.weight"] == {"shape": [10, 16], "keep": {"1": second["kept"]}}
    assert "fc.bias" not in rows
    assert {"axis": ["fc.weight", 0], "size": 10, "why": "logits is a graph output"} in document["held"]
    assert {"axis": ["conv1.weight", 1], "size": 3, "why": "input is a graph input"} in document["held"]


def test_kept_channels_are_sorted_and_unique(paths: tuple[Path, Path]) -> None:
    for row in json.loads(paths[1].read_text())["groups"]:
        assert row["kept"] == sorted(set(row["kept"]))


def test_reading_gives_what_was_written(paths: tuple[Path, Path]) -> None:
    read = plan.read(paths[1])
    assert read.to_json() == paths[1].read_text()
    assert isinstance(read.initializers["conv1.weight"]["keep"]["0"], list)


@pytest.mark.parametrize(
    "name", ["a_mobilenet_v2-ts11-raw", "d_bias_shared_and_scale_shared-ts17", "d_weightnorm_unfolded-ts17"]
)
def test_a_replay_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    source, saved = tmp_path / "in.onnx", tmp_path / "plan.json"
    onnx.save(zoo.load(name), source)
    prune(source, tmp_path / "a.onnx", ratio=0.4, criterion="fpgm", save_plan=saved, validate=False)
    again = prune(
        source,
        tmp_path / "b.onnx",
        ratio=0.4,
        apply_plan=saved,
        save_plan=tmp_path / "again.json",
        validate=False,
    )
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert saved.read_bytes() == (tmp_path / "again.json").read_bytes()
    assert again.report.criterion == "fpgm"


def test_a_plan_fits_another_export_of_the_same_weights(paths: tuple[Path, Path], tmp_path: Path) -> None:
    """Other values, node names and opset; the same initializers by name and shape."""
    other = small_cnn(seed=7, opset=13, batch="n")
    for j, node in enumerate(other.graph.node):
        node.name = f"node_{j}"
    other.graph.initializer.sort(key=lambda tensor: tensor.name)
    result = prune(other, apply_plan=paths[1])
    assert result.report.proof is not None
    assert result.model is not None
    small = initializers(result.model)
    for name, row in plan.read(paths[1]).initializers.items():
        array = initializers(other)[name]
        for dim, stays in row["keep"].items():
            array = np.take(array, stays, int(dim))
        np.testing.assert_array_equal(small[name], array)


# What does not fit.


def refusal(path: Path, model: onnx.ModelProto | None = None) -> str:
    with pytest.raises(InputError) as error:
        plan.fit(analyse(model or small_cnn()), plan.read(path))
    return str(error.value)


def test_files_that_are_no_plans(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    assert refusal(path) == f"cannot read the plan {path}: No such file or directory"
    path.write_text("{")
    assert refusal(path).startswith(f"the plan {path} is not JSON: ")
    path.write_bytes(b"\xff\xfe\x00")
    assert refusal(path).startswith(f"the plan {path} is not JSON: ")
    path.write_text("[" * 100_000)
    assert refusal(path).startswith(f"the plan {path} is not JSON: ")
    for text in ("[]", "{}", '"x"', '{"format": "other"}'):
        path.write_text(text)
        assert refusal(path) == (
            f'{path} is not a plan: its "format" is not "onnx-prune-plan"; make one with --save-plan'
        )
    assert refusal(tmp_path) == f"cannot read the plan {tmp_path}: Is a directory"


def test_versions_to_come(paths: tuple[Path, Path]) -> None:
    path = paths[1]
    change(path, version=2)
    assert refusal(path) == f"{path} is a plan of version 2; this program reads 1"


@pytest.mark.parametrize("field", ["model_sha256", "criterion", "ratio", "initializers", "groups", "held"])
def test_a_field_that_is_missing(paths: tuple[Path, Path], field: str) -> None:
    path = paths[1]
    document = json.loads(path.read_text())
    del document[field]
    path.write_text(json.dumps(document))
    assert refusal(path) == f"the plan {path} lacks or garbles '{field}'; make it anew with --save-plan"


@pytest.mark.parametrize(
    "fields",
    [
        {"ratio": "half"},
        {"ratio": None},
        {"initializers": [1, 2]},
        {"initializers": {"conv1.weight": 3}},
        {"groups": 5},
        {"held": None},
        {"groups": [5]},
        {"groups": [{}]},
        {"groups": [{"name": "g", "size": 8, "kept": "all", "members": [["conv1.weight", 0]]}]},
        {"groups": [{"name": "g", "size": 8, "kept": [0.5], "members": [["conv1.weight", 0]]}]},
        {"groups": [{"name": "g", "size": 8, "kept": [0], "members": []}]},
        {"groups": [{"name": "g", "size": 8, "kept": [0], "members": [["conv1.weight"]]}]},
        {"groups": [{"name": "g", "size": "x", "kept": [0], "members": [["conv1.weight", 0]]}]},
        {"initializers": {"conv1.weight": {"keep": {"0": [1]}}}},
        {"initializers": {"conv1.weight": {"shape": [8, 3, 3, 3]}}},
        {"initializers": {"conv1.weight": {"shape": 8, "keep": {}}}},
    ],
)
def test_garbled_fields(paths: tuple[Path, Path], fields: dict[str, Any]) -> None:
    path = paths[1]
    change(path, **fields)
    assert re.search("lacks or garbles .*; make it anew with --save-plan$", refusal(path))


def first_group(paths: tuple[Path, Path], **fields: Any) -> None:
    groups = json.loads(paths[1].read_text())["groups"]
    change(paths[1], groups=[groups[0] | fields, *groups[1:]])


@pytest.mark.parametrize("kept", [[-1, 2], [0, 8]])
def test_channels_that_are_none(paths: tuple[Path, Path], kept: list[int]) -> None:
    first_group(paths, kept=kept)
    assert refusal(paths[1]) == "plan: group conv1.weight:0 keeps channels outside 0..7"


def test_no_channel(paths: tuple[Path, Path]) -> None:
    first_group(paths, kept=[])
    assert refusal(paths[1]) == "plan: group conv1.weight:0 keeps no channel"


def test_another_model(paths: tuple[Path, Path]) -> None:
    assert refusal(paths[1], small_cnn(prefix="net.")) == (
        "plan: the model has no initializer conv1.weight (group conv1.weight:0)"
    )


def test_another_width(paths: tuple[Path, Path]) -> None:
    assert refusal(paths[1], small_cnn((12, 16))) == (
        "plan: group conv1.weight:0 (8 channels, conv1.weight axis 0 and 2 more) "
        "is coupled otherwise in this model"
    )


def test_another_shape_beside(paths: tuple[Path, Path]) -> None:
    assert refusal(paths[1], small_cnn(classes=11)) == (
        "plan: fc.weight has shape [11, 16], the plan says [10, 16]"
    )


def test_another_coupling(paths: tuple[Path, Path]) -> None:
    """The same initializers, joined by a residual that the plan does not know."""
    model = small_cnn((8, 8))
    onnx_plan = prune(model, validate=False).plan
    paths[1].write_text(onnx_plan.to_json())
    model.graph.node[4].input[0] = "s"
    model.graph.node.insert(4, onnx.helper.make_node("Add", ["b", "d"], ["s"]))
    assert refusal(paths[1], model) == (
        "plan: group conv1.weight:0 (8 channels, conv1.weight axis 0 and 2 more) "
        "is coupled otherwise in this model"
    )


def test_an_initializer_that_no_group_names(paths: tuple[Path, Path]) -> None:
    rows = json.loads(paths[1].read_text())["initializers"]
    change(paths[1], initializers=rows | {"extra": {"shape": [3], "keep": {"0": [0]}}})
    assert refusal(paths[1]) == "plan: the model has no initializer extra"


def test_cuts_that_contradict_the_groups(paths: tuple[Path, Path]) -> None:
    rows = json.loads(paths[1].read_text())["initializers"]
    rows["conv1.bias"]["keep"]["0"][0] ^= 1
    change(paths[1], initializers=rows)
    assert refusal(paths[1]) == "plan: the cuts of conv1.bias do not follow from its groups"


def test_two_groups_on_one_dim_are_told_apart() -> None:
    """Split parts a weight into groups of equal size and place: their order tells which is which."""
    weights = {"w1": noise(8, 2, 1, 1), "w2": noise(2, 8, 1, 1)}
    nodes: list[Any] = [
        "a = Conv(x, w1)",
        onnx.helper.make_node("Split", ["a"], ["p", "q"], axis=1),
        onnx.helper.make_node("Concat", ["q", "p"], ["c"], axis=1),
        "y = Conv(c, w2)",
    ]
    model = build(nodes, weights, {"x": (1, 2, 4, 4)}, {"y": (1, 2, 4, 4)})
    result = prune(model, round_to=1)
    coupling = analyse(model)
    chosen = plan.fit(coupling, result.plan)
    assert len(chosen) == 2
    made = plan.make(coupling, chosen, sha256="", criterion="l1", ratio=0.5)
    assert made.to_json() == result.plan.to_json()
