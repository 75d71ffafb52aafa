"""Loading: every file that cannot be used is refused in one line that says why."""

from __future__ import annotations

import os
import re
from pathlib import Path

import onnx
import pytest
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from onnx_prune.errors import InputError
from onnx_prune.model import files
from tests.file_models import FLOAT, as_nobody, build, value, weight, write, write_external


def refuse(path: Path, message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(f'{str(path)!r}: {message}')}$"):
        files.load(path)


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


def test_unreadable() -> None:
    with as_nobody() as folder:
        path = write(folder, build())
        path.chmod(0)
        refuse(path, "cannot be read: Permission denied; check its permissions")
        path = write_external(folder, "a.onnx")
        (folder / "a.onnx.data").chmod(0)
        refuse(path, f"tensor 'w': external data 'a.onnx.data' in {str(folder)!r} are not a readable file")


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


def test_an_attribute_of_no_function(tmp_path: Path) -> None:
    node = helper.make_node("LeakyRelu", ["x"], ["y"], "act")
    node.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    refuse(
        write(tmp_path, build([node])),
        "node LeakyRelu 'act': its attribute 'alpha' refers to 'slope' of a function, and it is in none; "
        "re-export the model",
    )


def test_a_domain_that_is_not_imported(tmp_path: Path) -> None:
    for imports, domain, named in (("mine", "", "ai.onnx"), ("", "mine", "mine")):
        node = helper.make_node("Relu", ["x"], ["y"], "act", domain=domain)
        refuse(
            write(
                tmp_path, build([node], opset_imports=[helper.make_opsetid(imports, 1 if imports else 17)])
            ),
            f"node Relu 'act': no opset is imported for its domain {named!r}; re-export the model",
        )


def test_names_that_are_no_text(tmp_path: Path) -> None:
    broken = write(tmp_path, build())
    broken.write_bytes(broken.read_bytes().replace(b"add", b"a\xb1d"))
    refuse(broken, "the name b'a\\xb1d' is not UTF-8; re-export the model")


def test_name_made_by_nobody_in_a_function(tmp_path: Path) -> None:
    model = build()
    model.functions.add(name="f", input=["i"], output=["o"]).node.append(
        helper.make_node("Add", ["i", "w"], ["o"])
    )
    refuse(write(tmp_path, model), "node Add 'o': nobody makes its input 'w'; re-export the model")
