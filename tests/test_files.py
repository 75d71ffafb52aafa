"""Models in and out: every message, nothing lost on the way, nothing broken when it fails."""

from __future__ import annotations

import os
import re
import resource
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf.message import EncodeError
from onnx import GraphProto, ModelProto, NodeProto, StringStringEntryProto, TensorProto, helper, numpy_helper

from onnx_prune import files, tensors
from onnx_prune.errors import InputError, Interrupted, Unwritable

FLOAT = TensorProto.FLOAT
OUTSIDE = 2048  # elements of a tensor that goes to the data file


def value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, [OUTSIDE])


def weight(name: str, fill: float = 1.0, size: int = OUTSIDE) -> TensorProto:
    return numpy_helper.from_array(np.full(size, fill, np.float32), name)


def build(nodes: list[NodeProto] | None = None, **fields: object) -> ModelProto:
    if nodes is None:
        nodes = [
            helper.make_node("Add", ["x", "w"], ["a"], "add"),
            helper.make_node("Mul", ["a", "s"], ["y"]),
        ]
    initializers = fields.pop("initializers", [weight("w"), weight("s", 2.0, 1)])
    graph = helper.make_graph(nodes, "g", [value("x")], [value("y")], initializers)
    options = {"opset_imports": [helper.make_opsetid("", 17)], "ir_version": 8} | fields
    return helper.make_model(graph, **options)


def write(folder: Path, model: ModelProto, name: str = "in.onnx") -> Path:
    (folder / name).write_bytes(model.SerializeToString())
    return folder / name


def write_external(folder: Path, name: str = "in.onnx", fill: float = 1.0) -> Path:
    files.save(build(initializers=[weight("w", fill), weight("s", 2.0, 1)]), folder / name, external="always")
    return folder / name


def run(path: Path) -> float:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return float(session.run(None, {"x": np.zeros(OUTSIDE, np.float32)})[0][0])


def refuse(path: Path, message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(f'{str(path)!r}: {message}')}$"):
        files.load(path)


# Loading


def test_missing(tmp_path: Path) -> None:
    refuse(tmp_path / "a.onnx", "no such file; check the path")


def test_directory(tmp_path: Path) -> None:
    refuse(tmp_path, "is a directory; name the .onnx file in it")


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").touch()
    refuse(tmp_path / "a.onnx", "is empty; export or copy the model again")


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.onnx")
    refuse(tmp_path / "a.onnx", "is not a regular file; save the model to one first")


def test_name_that_no_file_can_have(tmp_path: Path) -> None:
    refuse(tmp_path / ("a" * 300), "cannot be read: File name too long; check its permissions")


def test_unreadable(tmp_path: Path) -> None:
    path = write(tmp_path, build())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read everything")
    refuse(path, "cannot be read: Permission denied; check its permissions")


def test_git_lfs_pointer(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    refuse(tmp_path / "a.onnx", "is a Git LFS pointer, not the model; run git lfs pull")


def test_over_the_limit_of_protobuf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, build())
    monkeypatch.setattr(files, "PROTOBUF_LIMIT", 100)
    refuse(path, "is over 2 GB, which protobuf cannot read; export it with external data")


NOT_ONNX = "not an ONNX model, or cut short; export or copy it again"
WHOLE = build().SerializeToString()


@pytest.mark.parametrize(
    "content",
    [
        WHOLE[: len(WHOLE) // 2],
        b"PK\x03\x04 a zip file",
        b"hello, world\n",
        b"\x08\x08",  # IR version alone
        build([], opset_imports=[]).SerializeToString(),
        ModelProto(
            ir_version=8, graph=GraphProto(name="g"), opset_import=build().opset_import
        ).SerializeToString(),
        ModelProto(graph=build().graph, opset_import=build().opset_import).SerializeToString(),
        build().graph.SerializeToString(),
    ],
)
def test_not_onnx(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    refuse(tmp_path / "a.onnx", NOT_ONNX)


def test_every_truncation_is_refused_in_one_line(tmp_path: Path) -> None:
    whole = build(initializers=[weight("w", 1.0, 2), weight("s", 1.0, 1)]).SerializeToString()
    path = tmp_path / "a.onnx"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"^'[^\n]*\Z"):
            files.load(path)


def test_versions(tmp_path: Path) -> None:
    newest, version = onnx.defs.onnx_opset_version(), onnx.__version__
    for fields, message in [
        (
            {"ir_version": 99},
            f"IR version 99 is newer than {onnx.IR_VERSION}, the newest that onnx {version} knows",
        ),
        ({"opset": ("", 99)}, f"opset 99 is newer than {newest}, the newest that onnx {version} knows"),
        (
            {"opset": ("ai.onnx", 99)},
            f"opset 99 is newer than {newest}, the newest that onnx {version} knows",
        ),
    ]:
        domain_and_version = fields.pop("opset", ("", 17))
        model = build(opset_imports=[helper.make_opsetid(*domain_and_version)], **fields)
        refuse(write(tmp_path, model), f"{message}; upgrade onnx")
    old = "opset {} is older than 7; convert the model with onnx.version_converter"
    refuse(write(tmp_path, build(opset_imports=[helper.make_opsetid("", 6)])), old.format(6))
    ancient = build(ir_version=2)
    ancient.ClearField("opset_import")
    refuse(write(tmp_path, ancient), old.format(1))


def test_custom_domain_alone(tmp_path: Path) -> None:
    node = helper.make_node("Mine", ["x"], ["y"], domain="mine")
    files.load(write(tmp_path, build([node], opset_imports=[helper.make_opsetid("mine", 1)])))


def test_bytes_that_disagree_with_dims(tmp_path: Path) -> None:
    model = build()
    model.graph.initializer[0].dims[:] = [10**6, 10**6]
    refuse(
        write(tmp_path, model),
        "tensor 'w': dims [1000000, 1000000] need 4000000000000 bytes, it has 8192; re-export the model",
    )


def test_tensors_of_functions_and_training_are_checked_too(tmp_path: Path) -> None:
    bad = TensorProto(name="bad", data_type=FLOAT, dims=[1])
    message = "tensor 'bad': dims [1] need 1 values, it has 0; re-export the model"
    in_training = build()
    in_training.training_info.add().algorithm.initializer.append(bad)
    refuse(write(tmp_path, in_training), message)
    in_function = build()
    in_function.functions.add(name="f").node.append(helper.make_node("Constant", [], ["c"], value=bad))
    refuse(write(tmp_path, in_function), message)


def test_external_data_missing(tmp_path: Path) -> None:
    path = write_external(tmp_path)
    (tmp_path / "in.onnx.data").unlink()
    refuse(path, f"tensor 'w': external data 'in.onnx.data' are not in {str(tmp_path)!r}; put the file there")


def subgraph(nodes: list[NodeProto], output: str) -> NodeProto:
    body = helper.make_graph(nodes, "body", [], [value(output)])
    return helper.make_node("If", ["x"], ["y"], "branch", then_branch=body, else_branch=body)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (
            [helper.make_node("Relu", ["q"], ["y"], "act")],
            "node Relu 'act': nobody makes its input 'q'; re-export the model",
        ),
        (
            [helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Relu", ["x"], ["a"])],
            "node Relu 'y': a later node makes its input 'a'; sort the nodes",
        ),
        ([helper.make_node("Relu", ["x"], ["z"])], "nobody makes the output 'y'; re-export the model"),
        (
            [helper.make_node("Relu", ["x"], ["y"], "a"), helper.make_node("Abs", ["x"], ["y"], "b")],
            "'y' is made twice, by node Relu 'a' and node Abs 'b'; re-export the model",
        ),
        (
            [helper.make_node("Relu", ["x"], ["w"], "a")],
            "'w' is made twice, by an input or initializer and node Relu 'a'; re-export the model",
        ),
        (
            [subgraph([helper.make_node("Relu", ["q"], ["b"], "act")], "b")],
            "node Relu 'act': nobody makes its input 'q'; re-export the model",
        ),
        ([subgraph([], "b")], "nobody makes the output 'b'; re-export the model"),
    ],
)
def test_names(tmp_path: Path, nodes: list[NodeProto], message: str) -> None:
    refuse(write(tmp_path, build(nodes)), message)


def test_subgraphs_see_what_is_around_them(tmp_path: Path) -> None:
    inner = helper.make_node("Add", ["w", "a"], ["b"])
    files.load(write(tmp_path, build([helper.make_node("Relu", ["x"], ["a"]), subgraph([inner], "b")])))


def test_two_initializers_of_one_name(tmp_path: Path) -> None:
    model = build(initializers=[weight("w"), weight("s"), weight("w")])
    refuse(write(tmp_path, model), "two initializers are called 'w'; re-export the model")


def test_name_made_by_nobody_in_a_function(tmp_path: Path) -> None:
    model = build()
    model.functions.add(name="f", input=["i"], output=["o"]).node.append(
        helper.make_node("Add", ["i", "w"], ["o"])
    )
    refuse(write(tmp_path, model), "node Add 'o': nobody makes its input 'w'; re-export the model")


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
        values=weight("sp"), indices=helper.make_tensor("i", 7, [1], [3]), dims=[9]
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
    assert (tmp_path / "out.onnx").read_bytes() == whole == loaded.SerializeToString()


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
    model = build()
    model.graph.initializer[0].dims[:] = [OUTSIDE + 1]
    with pytest.raises(ValueError, match="its dims need"):
        files.save(model, tmp_path / "out.onnx")
    assert os.listdir(tmp_path) == []


# External data


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


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
    message = r"^over 2 GB are stored outside of initializers; make initializers of constants$"
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
    with pytest.raises(InputError, match=r"^the model holds over 2 GB; load it"):
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
    files.save(build(), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


# Failures


def cannot_write(path: Path, message: str, model: ModelProto | None = None, **options: object) -> None:
    with pytest.raises(Unwritable, match=f"^{re.escape(f'cannot write {str(path)!r}: {message}')}$"):
        files.save(model or build(), path, **options)  # type: ignore[arg-type]


def test_unwritable_places(tmp_path: Path) -> None:
    cannot_write(tmp_path, "it is a directory; name a file in it")
    cannot_write(tmp_path / "no" / "a.onnx", "its folder does not exist; make it first")
    (tmp_path / "file").touch()
    cannot_write(tmp_path / "file" / "a.onnx", "Not a directory; choose another place")
    cannot_write(Path("/dev/null"), "it is not a regular file; choose another name")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc, which nobody may write to")
def test_unwritable_folder() -> None:
    cannot_write(Path("/proc/a.onnx"), "No such file or directory; choose another place")


def test_write_protected_file(tmp_path: Path) -> None:
    path = write(tmp_path, build())
    path.chmod(0o444)
    if os.access(path, os.W_OK):
        pytest.skip("root may write everything")
    cannot_write(path, "it is write-protected; choose another name")


def test_external_data_lost_while_saving(tmp_path: Path) -> None:
    path = write_external(tmp_path)
    model = files.load(path)
    (tmp_path / "in.onnx.data").unlink()
    with pytest.raises(InputError, match=r"^tensor 'w': external data 'in\.onnx\.data' are not in "):
        files.save(model, tmp_path / "out.onnx", source=tmp_path)
    assert names(tmp_path) == ["in.onnx"]


@pytest.fixture
def small_disk() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("external", ["never", "always"])
def test_full_disk(tmp_path: Path, small_disk: None, external: str) -> None:
    path = write_external(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    large = build(initializers=[weight("w"), weight("s", 1.0, 40_000)])
    cannot_write(path, "File too large; free space or choose another place", large, external=external)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def test_disk_that_is_really_full(tmp_path: Path) -> None:
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", tmp_path], capture_output=True
    ).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        path = write(tmp_path, build())
        before = path.read_bytes()
        for external in ("never", "always"):
            large = build(initializers=[weight("w"), weight("s", 1.0, 40_000)])
            message = "No space left on device; free space or choose another place"
            cannot_write(path, message, large, external=external)
            assert names(tmp_path) == ["in.onnx"]
            assert path.read_bytes() == before
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("external", ["never", "always"])
def test_stopped_half_way(tmp_path: Path, error: type[BaseException], external: str) -> None:
    path = write_external(tmp_path)
    before = names(tmp_path)

    def stop() -> np.ndarray:
        raise error

    with pytest.raises(error):
        files.save(build(), path, content={"s": stop}, external=external)  # type: ignore[arg-type]
    assert names(tmp_path) == before
    assert run(path) == 2.0


SAVER = """
    import sys, numpy as np
    from onnx import TensorProto, helper
    from onnx_prune import files
    folder, external = sys.argv[1:]
    info = [helper.make_tensor_value_info("y", 1, [300_000])]
    stored = [TensorProto(name=n, data_type=1, dims=[300_000]) for n in "abcdefgh"]
    graph = helper.make_graph([helper.make_node("Sum", list("abcdefgh"), ["y"])], "g", [], info, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    print("ready", flush=True)
    with files.terminable():
        for number in range(1000):
            content = {n: lambda: np.full(300_000, number, np.float32) for n in "abcdefgh"}
            files.save(model, folder + "/out.onnx", content=content, external=external)
"""


@pytest.mark.parametrize("external", ["never", "always"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_at_random_moments(tmp_path: Path, number: int, code: int, external: str) -> None:
    moments = np.random.default_rng(number).uniform(0, 0.25, 5)
    for moment in moments:
        command = [sys.executable, "-c", textwrap.dedent(SAVER), str(tmp_path), external]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(moment)
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (code, b"")
        found = names(tmp_path)
        if not found:
            continue  # stopped within the very first save
        model = files.load(tmp_path / "out.onnx")
        values = {float(tensors.read(t, tmp_path).mean()) for t in model.graph.initializer}
        assert len(values) == 1
        assert len(found) == (2 if external == "always" else 1)
        assert not [name for name in found if name.endswith(".tmp")]


def interrupt_twice() -> None:
    with files.terminable():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGTERM)


def test_terminable_counts_the_first_signal_only_and_restores() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped:
        interrupt_twice()
    assert stopped.value.code == 130
    assert signal.getsignal(signal.SIGTERM) is before


def test_terminable_leaves_ignored_signals_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with files.terminable():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_terminable_in_another_thread_changes_nothing() -> None:
    seen: list[Callable[..., object] | int | None] = []

    def work() -> None:
        with files.terminable():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
