"""Models in the making: nothing of the original is lost or copied before its time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_prune.draft import Draft, Edit, add_constant, start
from onnx_prune.kept import in_pieces, slicer
from onnx_prune.model import files, lazy, tensors
from onnx_prune.model.graph import Graph
from onnx_prune.model.pieces import Pieces
from tests.graphs import build, initializers, noise

LARGE = 257  # floats; one less are copied with the structure


def model() -> onnx.ModelProto:
    """Initializers of several sizes and types, of which no node says anything."""
    graph = build(["y = Relu(x)"], {"small": noise(LARGE - 1)}, {"x": (1,)}, {"y": (1,)})
    for name, array in {"large": noise(LARGE), "grid": noise(8, 40), "few": noise(3)}.items():
        graph.graph.initializer.append(numpy_helper.from_array(array, name))
    words = TensorProto(
        name="words", data_type=TensorProto.STRING, dims=[3], string_data=[b"a", b"b", b"\xff"]
    )
    nibbles = numpy_helper.from_array(np.arange(8).astype(ml_dtypes.int4), "nibbles")
    floats = helper.make_tensor("floats", TensorProto.FLOAT, [LARGE], noise(LARGE))  # in float_data
    outside = TensorProto(name="outside", data_type=TensorProto.FLOAT, dims=[LARGE])
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="elsewhere")
    graph.graph.initializer.extend([words, nibbles, floats, outside])
    graph.graph.initializer.append(numpy_helper.from_array(noise(9, 30), "last"))
    graph.graph.initializer[1].doc_string = "of the large one"
    return graph


def taking(*stays: list[int] | None) -> Edit:
    """An edit that takes some rows, columns and so on."""
    places = [None if stay is None else np.array(stay) for stay in stays]
    return Edit(slicer(places), tuple(-1 if stay is None else len(stay) for stay in stays), in_pieces(places))


EDITS = {
    "grid": taking([1, 3], [0, 2, 39]),
    "few": taking([2, 0]),
    "words": taking([0, 2]),
    "nibbles": taking([1, 2, 7]),
}
CHANGED: dict[str, Any] = {
    "grid": noise(8, 40)[[1, 3]][:, [0, 2, 39]],
    "few": noise(3)[[2, 0]],
    "words": ["a", "\udcff"],
    "nibbles": [1, 2, 7],
}


def values(made: onnx.ModelProto) -> dict[str, Any]:
    """What a model's initializers hold, but for the one in another file."""
    return {t.name: tensors.read(t).tolist() for t in made.graph.initializer if not tensors.is_external(t)}


def test_what_is_large_or_changed_is_put_off() -> None:
    original = model()
    draft = start(Graph(original), EDITS.get)
    assert set(draft.content) == {"large", "grid", "few", "words", "nibbles", "last"}
    structure = {tensor.name: tensor for tensor in draft.model.graph.initializer}
    assert list(structure) == [tensor.name for tensor in original.graph.initializer]
    for tensor in original.graph.initializer:
        if tensor.name not in draft.content:
            assert structure[tensor.name] == tensor
    changed = {"grid": [2, 3], "few": [2], "words": [2], "nibbles": [3]}
    assert structure["large"] == TensorProto(
        name="large", data_type=TensorProto.FLOAT, dims=[LARGE], doc_string="of the large one"
    )
    for name, dims in changed.items():
        kind = next(t.data_type for t in original.graph.initializer if t.name == name)
        assert structure[name] == TensorProto(name=name, data_type=kind, dims=dims)
    by_pieces = {name for name, make in draft.content.items() if isinstance(make, Pieces)}
    assert by_pieces == {"grid", "few", "words"}  # nibbles have two numbers in a byte


def test_whole_and_lent_models_hold_the_same() -> None:
    original = model()
    expected = values(original) | {name: np.asarray(v).tolist() for name, v in CHANGED.items()}
    draft = start(Graph(original), EDITS.get)
    lent, again = draft.lent(), draft.lent()
    put_off = {tensor.name for tensor in lent.graph.initializer if lazy.is_put_off(tensor)}
    assert put_off == set(draft.content) - {"words"}
    assert not any(tensor.raw_data for tensor in draft.model.graph.initializer if tensor.name in put_off)
    assert values(lent) == values(again) == expected
    assert values(draft.whole()) == expected
    assert not draft.content


def test_a_loaded_model_s_data_stay_in_its_file(tmp_path: Path) -> None:
    """However little they are, once they are not in memory."""
    original = build(["y = Relu(x)"], {"w": noise(LARGE - 1), "v": noise(4)}, {"x": (1,)}, {"y": (1,)})
    onnx.save(original, tmp_path / "a.onnx")
    loaded = files.load(tmp_path / "a.onnx")
    away = {tensor.name for tensor in loaded.graph.initializer if lazy.is_put_off(tensor)}
    draft = start(Graph(loaded), lambda name: None)
    assert set(draft.content) == away == {"w"}
    assert draft.whole() == original


@pytest.mark.parametrize("where", ["model", "graph", "node"])
def test_fields_of_a_newer_onnx_stay(where: str) -> None:
    original = model()
    part = {"model": original, "graph": original.graph, "node": original.graph.node[0]}[where]
    part.MergeFromString(b"\x82\x7d\x05hello" + b"\x88\x7d\x07")
    made = start(Graph(original), lambda name: None).whole()
    assert made.SerializeToString() == original.SerializeToString()


def test_constants_of_one_name_are_numbered() -> None:
    draft = Draft(build([], {"c": noise(1), "c_2": noise(1)}, {}, {}))
    array = np.arange(6).reshape(2, 3).T
    assert [add_constant(draft, name, array) for name in ("c", "d", "c", "d")] == ["c_1", "d", "c_3", "d_1"]
    assert all(np.array_equal(initializers(draft.model)[name], array) for name in ("c_1", "d", "c_3", "d_1"))
