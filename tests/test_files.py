"""Saving: nothing is lost on the way, with data inside and outside of the file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import EncodeError
from onnx import GraphProto, ModelProto, StringStringEntryProto, TensorProto, helper, numpy_helper

from onnx_prune.errors import InputError
from onnx_prune.model import files, tensors
from onnx_prune.model.pieces import Pieces
from tests.file_models import FLOAT, OUTSIDE, build, names, run, value, weight, write, write_external

# Nothing is lost


def everything() -> ModelProto:
    """A model with each thing that tools like to lose, unknown fields among them."""
    model = build(producer_name="p", doc_string="doc", domain="d", model_version=3)
    model.metadata_props.add(key="k", value="v")
    model.graph.doc_string = "graph doc"
    model.graph.initializer[0].doc_string = "tensor doc"
    model.graph.node[0].doc_string = "node doc"
    model.graph.node[0].metadata_props.add(key="k", value="v")
    entry = StringStringEntryProto(key="SCALE_TENSOR", value="s")
    model.graph.quantization_annotation.add(tensor_name="w", quant_parameter_tensor_names=[entry])
    model.graph.value_info.append(value("a"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    constant = helper.make_node("Constant", [], ["c"], value=weight("inside"))
    model.graph.node.insert(0, constant)
    model.functions.add(name="f", domain="d", input=["i"], output=["i"]).node.append(constant)
    model.training_info.add().algorithm.initializer.append(weight("t"))
    model.graph.sparse_initializer.add(
        values=weight("sp"), indices=helper.make_tensor("i", 7, [2048], range(2048)), dims=[4096]
    )
    return model


UNKNOWN = b"\x82\x7d\x05hello" + b"\x88\x7d\x07"


def with_unknown_fields(where: str) -> ModelProto:
    model = everything()
    graph = model.graph
    part = {"model": model, "graph": graph, "tensor": graph.initializer[0], "node": graph.node[0]}[where]
    part.MergeFromString(UNKNOWN)
    return model


@pytest.mark.parametrize("where", ["nowhere", "model", "graph", "tensor", "node"])
def test_unchanged_models_come_out_byte_for_byte(tmp_path: Path, where: str) -> None:
    model = everything() if where == "nowhere" else with_unknown_fields(where)
    whole = model.SerializeToString()
    assert (where == "nowhere") == (UNKNOWN not in whole)
    loaded = files.load(write(tmp_path, model))
    assert files.save(loaded, tmp_path / "out.onnx") == len(whole)
    assert (tmp_path / "out.onnx").read_bytes() == whole


def test_texts_that_are_not_utf8_come_out_byte_for_byte(tmp_path: Path) -> None:
    path = write(tmp_path, build(doc_string="made by ???", producer_name="???"))
    whole = path.read_bytes().replace(b"???", b"\xcd\xf8\xc2")
    path.write_bytes(whole)
    assert b"\xcd" in whole
    files.save(files.load(path), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == whole


def test_an_explicit_default_location_stays(tmp_path: Path) -> None:
    model = build()
    model.graph.initializer[0].data_location = TensorProto.DEFAULT
    files.save(model, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == model.SerializeToString()


@pytest.mark.parametrize("where", ["nowhere", "model", "graph", "tensor", "node"])
def test_out_to_external_data_and_back_byte_for_byte(tmp_path: Path, where: str) -> None:
    model = everything() if where == "nowhere" else with_unknown_fields(where)
    files.save(model, tmp_path / "ext.onnx", external="always")
    loaded = files.load(tmp_path / "ext.onnx")
    assert [tensors.is_external(t) for t in loaded.graph.initializer] == [True, False]
    files.save(loaded, tmp_path / "out.onnx", external="never", source=tmp_path)
    assert (tmp_path / "out.onnx").read_bytes() == model.SerializeToString()


def test_content_is_written_in_place_of_the_data(tmp_path: Path) -> None:
    model, asked = everything(), []
    expected = everything()
    tensors.fill(expected.graph.initializer[0], np.arange(3, dtype=np.float32))
    tensors.clear(model.graph.initializer[0])
    model.graph.initializer[0].dims[:] = [3]
    before = model.SerializeToString()

    def compute() -> np.ndarray:
        asked.append("w")
        return np.arange(3, dtype=np.float32)

    files.save(model, tmp_path / "out.onnx", content={"w": compute})
    assert (tmp_path / "out.onnx").read_bytes() == expected.SerializeToString()
    assert model.SerializeToString() == before
    assert asked == ["w"]


@pytest.mark.parametrize("external", ["never", "always"])
def test_content_in_pieces(tmp_path: Path, external: str) -> None:
    values = np.arange(OUTSIDE, dtype=np.float32)
    content = {"w": Pieces(values.shape, values.dtype, lambda: iter(np.array_split(values, 3)))}
    files.save(build(), tmp_path / "out.onnx", content=content, external=external)  # type: ignore[arg-type]
    loaded = files.load(tmp_path / "out.onnx")
    assert tensors.is_external(loaded.graph.initializer[0]) == (external == "always")
    assert np.array_equal(tensors.read(loaded.graph.initializer[0], tmp_path), values)


def test_content_of_strings_and_of_four_bits(tmp_path: Path) -> None:
    packed = TensorProto(name="q", data_type=TensorProto.INT4, dims=[3])
    text = TensorProto(name="t", data_type=TensorProto.STRING, dims=[1])
    model = build(initializers=[packed, text, weight("w"), weight("s")])
    four = np.array([1, -2, 3]).astype(helper.tensor_dtype_to_np_dtype(TensorProto.INT4))
    content = {"q": lambda: four, "t": lambda: np.array(["a"], object)}
    for external in ("never", "always"):
        files.save(model, tmp_path / "out.onnx", content=content, external=external)
        loaded = files.load(tmp_path / "out.onnx")
        assert tensors.read(loaded.graph.initializer[0]).tolist() == four.tolist()
        assert list(loaded.graph.initializer[1].string_data) == [b"a"]


@pytest.mark.parametrize("array", [np.ones(5, np.float32), np.ones(OUTSIDE, np.float64)])
def test_content_that_does_not_fit_writes_nothing(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="not as declared"):
        files.save(build(), tmp_path / "out.onnx", content={"w": lambda: array}, external="always")
    with pytest.raises(ValueError, match="no initializers"):
        files.save(build(), tmp_path / "out.onnx", content={"x": lambda: array})
    short = Pieces((OUTSIDE,), np.dtype(np.float32), lambda: iter([np.ones(OUTSIDE - 1, np.float32)]))
    for external in ("never", "always"):
        with pytest.raises(ValueError, match="its dims need"):
            files.save(build(), tmp_path / "out.onnx", content={"w": short}, external=external)
    model = build()
    model.graph.initializer[0].dims[:] = [OUTSIDE + 1]
    with pytest.raises(ValueError, match="its dims need"):
        files.save(model, tmp_path / "out.onnx")
    assert os.listdir(tmp_path) == []


# External data


def test_external_data_in_and_out_elsewhere(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    model = files.load(write_external(tmp_path))
    written = files.save(model, there / "out.onnx", source=tmp_path)
    assert names(there) == ["out.onnx", "out.onnx.data"]
    assert written == sum((there / name).stat().st_size for name in names(there))
    assert run(there / "out.onnx") == 2.0


def test_offsets_are_aligned(tmp_path: Path) -> None:
    model = build(initializers=[weight("w"), weight("s", 2.0, 1001), weight("u", 3.0, 1001)])
    files.save(model, tmp_path / "a.onnx", external="always")
    entries = [
        {e.key: e.value for e in t.external_data} for t in files.load(tmp_path / "a.onnx").graph.initializer
    ]
    assert [int(entry["offset"]) for entry in entries] == [0, 8192, 12224]


def test_typed_data_move_too(tmp_path: Path) -> None:
    typed = helper.make_tensor("w", FLOAT, [OUTSIDE], [1.0] * OUTSIDE)
    files.save(build(initializers=[typed, weight("s", 2.0, 1)]), tmp_path / "a.onnx", external="always")
    assert run(tmp_path / "a.onnx") == 2.0
    assert (tmp_path / "a.onnx.data").stat().st_size == 4 * OUTSIDE


def test_tensors_of_subgraphs_stay_external(tmp_path: Path) -> None:
    inner = GraphProto(name="body", output=[value("b")], initializer=[weight("b", 7.0)])
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    condition = numpy_helper.from_array(np.array(True), "c")
    model = build([node], initializers=[condition])
    onnx.save(model, tmp_path / "in.onnx", save_as_external_data=True, size_threshold=0, location="d")
    loaded = files.load(tmp_path / "in.onnx")
    files.save(loaded, tmp_path / "out.onnx", source=tmp_path)
    assert run(tmp_path / "out.onnx") == 7.0
    assert any(map(tensors.is_external, tensors.tensors(files.load(tmp_path / "out.onnx").graph)))
    (tmp_path / "d").unlink()
    assert run(tmp_path / "out.onnx") == 7.0


def test_automatic_above_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PROTOBUF_LIMIT", 4000)
    files.save(build(), tmp_path / "a.onnx")
    assert names(tmp_path) == ["a.onnx", "a.onnx.data"]
    assert run(tmp_path / "a.onnx") == 2.0
    message = r"^the model is over 2 GB \([0-9,]+ bytes\) and cannot be one file; allow external data$"
    with pytest.raises(InputError, match=message):
        files.save(build(), tmp_path / "b.onnx", external="never")
    constant = build([helper.make_node("Constant", [], ["y"], value=weight("c"))])
    message = r"^over 2 GB are not raw data of initializers; make them so$"
    with pytest.raises(InputError, match=message):
        files.save(constant, tmp_path / "b.onnx")
    assert names(tmp_path) == ["a.onnx", "a.onnx.data"]


def test_automatic_follows_the_input(tmp_path: Path) -> None:
    files.save(build(), tmp_path / "a.onnx", was_external=True)
    assert names(tmp_path) == ["a.onnx", "a.onnx.data"]


class Huge:
    """A model that protobuf refuses to serialize, without the 2 GB that it takes."""

    graph = build(initializers=[]).graph

    def SerializeToString(self) -> bytes:  # noqa: N802
        """Refuse."""
        raise EncodeError


def test_protobuf_refuses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^over 2 GB are not raw data of initializers; make them so$"):
        files.save(Huge(), tmp_path / "a.onnx")  # type: ignore[arg-type]
    assert names(tmp_path) == []


def test_saving_again_and_again_leaves_one_pair(tmp_path: Path) -> None:
    for fill in range(5):
        path = write_external(tmp_path, fill=float(fill))
        assert len(names(tmp_path)) == 2
        assert run(path) == 2.0 * fill


def test_output_is_input_with_external_data(tmp_path: Path) -> None:
    path = write_external(tmp_path)
    model = files.load(path)
    mapped = tensors.read(model.graph.initializer[0], tmp_path)
    files.save(model, path, source=tmp_path, content={"w": lambda: 2 * mapped})
    assert run(path) == 4.0
    assert mapped[0] == 1.0
    assert len(names(tmp_path)) == 2
    files.save(files.load(path), path, source=tmp_path)
    assert run(path) == 4.0
    assert len(names(tmp_path)) == 2


def test_output_is_input_inline(tmp_path: Path) -> None:
    path = write(tmp_path, build())
    files.save(files.load(path), path, content={"w": lambda: np.full(OUTSIDE, 5, np.float32)})
    assert run(path) == 10.0
    assert names(tmp_path) == ["in.onnx"]


def test_data_files_that_others_use_are_left_alone(tmp_path: Path) -> None:
    path = write_external(tmp_path)
    twin = tmp_path / "twin.onnx"
    twin.write_bytes(path.read_bytes())
    files.save(build(), path, external="always")
    assert run(twin) == run(path) == 2.0
    assert len(names(tmp_path)) == 4


def test_data_files_of_other_names_are_left_alone(tmp_path: Path) -> None:
    onnx.save(build(), tmp_path / "a.onnx", save_as_external_data=True, location="weights.bin")
    files.save(build(), tmp_path / "a.onnx")
    assert names(tmp_path) == ["a.onnx", "weights.bin"]


def test_data_files_that_a_model_above_may_use_are_left_alone(tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    path = write_external(below)
    files.save(build(), path, source=tmp_path)
    assert names(below) == ["in.onnx", "in.onnx.data"]


def test_a_file_in_the_way_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "a.onnx.data").write_text("mine")
    files.save(build(), tmp_path / "a.onnx", external="always")
    assert (tmp_path / "a.onnx.data").read_text() == "mine"
    assert run(tmp_path / "a.onnx") == 2.0


def test_an_old_file_that_is_no_model_is_replaced(tmp_path: Path) -> None:
    for content in (b"hello", b"", b"\x3a\x80"):
        (tmp_path / "a.onnx").write_bytes(content)
        files.save(build(), tmp_path / "a.onnx")
        assert run(tmp_path / "a.onnx") == 2.0


def test_symbolic_links_are_written_through(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link.onnx").symlink_to("real/a.onnx")
    for _ in range(2):
        files.save(build(), tmp_path / "link.onnx", external="always")
        assert (tmp_path / "link.onnx").is_symlink()
        assert run(real / "a.onnx") == 2.0
    assert len(names(real)) == 2


def test_permissions_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path, build())
    path.chmod(0o640)
    files.save(build(), path, external="always")
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in names(tmp_path)] == [0o640, 0o640]
