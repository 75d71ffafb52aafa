"""Data of single tensors: every element type, every place, every way to be wrong."""

from __future__ import annotations

import os
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnx import GraphProto, StringStringEntryProto, TensorProto, helper, numpy_helper

from onnx_prune.errors import InputError
from onnx_prune.model import tensors, wire

TYPES = [
    code for code in TensorProto.DataType.values() if code not in (TensorProto.UNDEFINED, TensorProto.STRING)
]


def sample(code: int, shape: tuple[int, ...] = (3, 5)) -> np.ndarray:
    dtype = helper.tensor_dtype_to_np_dtype(code)
    return (np.arange(np.prod(shape)) % 2).reshape(shape).astype(dtype)


def external(location: str, dims: list[int], offset: str = "0", length: str = "") -> TensorProto:
    entries = {"location": location, "offset": offset, "length": length}
    return TensorProto(
        name="w",
        data_type=TensorProto.FLOAT,
        dims=dims,
        data_location=TensorProto.EXTERNAL,
        external_data=[StringStringEntryProto(key=k, value=v) for k, v in entries.items() if v],
    )


def refuse(message: str, tensor: TensorProto, folder: Path | None = None) -> None:
    for call in (tensors.check, tensors.read):
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            call(tensor, folder)


@pytest.mark.parametrize("code", TYPES, ids=[TensorProto.DataType.Name(code) for code in TYPES])
def test_every_type_is_read_as_onnx_reads_it_and_comes_back(code: int, tmp_path: Path) -> None:
    array = sample(code)
    raw = numpy_helper.from_array(array, "w")
    typed = helper.make_tensor("w", code, array.shape, array.reshape(-1).tolist())
    for tensor in (raw, typed):
        tensors.check(tensor, None)
        read = tensors.read(tensor)
        assert read.dtype == array.dtype
        assert read.tobytes() == array.tobytes() == numpy_helper.to_array(tensor).tobytes()
        assert tensors.stored(tensor).tobytes() == raw.raw_data

    (tmp_path / "d").write_bytes(b"??" + raw.raw_data)
    outside = external("d", list(array.shape), "2", str(len(raw.raw_data)))
    outside.data_type = code
    assert tensors.read(outside, tmp_path).tobytes() == array.tobytes()

    again = TensorProto(name="w", data_type=code, doc_string="kept", dims=[1], int32_data=[1])
    tensors.fill(again, array)
    assert again.raw_data == raw.raw_data
    assert (again.name, again.doc_string, list(again.dims), len(again.int32_data)) == ("w", "kept", [3, 5], 0)
    assert tensors.nbytes(again) == len(raw.raw_data)


def test_empty_and_scalar() -> None:
    for shape in ((), (0,), (2, 0, 3)):
        tensor = TensorProto(data_type=TensorProto.BFLOAT16)
        tensors.fill(tensor, np.zeros(shape, ml_dtypes.bfloat16))
        assert tensors.read(tensor).shape == shape


def test_empty_external_data(tmp_path: Path) -> None:
    (tmp_path / "d").touch()
    assert tensors.read(external("d", [0, 3]), tmp_path).shape == (0, 3)


def test_strings() -> None:
    tensor = TensorProto(data_type=TensorProto.STRING, dims=[3], string_data=[b"a", "ü".encode(), b"\xff"])
    assert tensors.read(tensor).tolist() == ["a", "ü", "\udcff"]
    tensors.fill(tensor, np.array([["b"], ["\udcff"]], object))
    assert (list(tensor.dims), list(tensor.string_data)) == ([2, 1], [b"b", b"\xff"])


def test_fill_makes_external_data_internal() -> None:
    tensor = external("d", [9])
    tensors.fill(tensor, np.ones(2, np.float32))
    assert not tensors.is_external(tensor)
    assert not tensor.external_data
    assert tensors.read(tensor).tolist() == [1, 1]


def test_fill_takes_strided_and_big_endian_arrays() -> None:
    tensor = TensorProto(data_type=TensorProto.INT32)
    array = np.arange(12, dtype=np.int32).reshape(3, 4)
    tensors.fill(tensor, array.T[::2])
    assert (tensors.read(tensor) == array.T[::2]).all()
    assert tensors.payload(np.array([1], ">i4")).tolist() == [1, 0, 0, 0]


def test_fill_refuses_another_type() -> None:
    with pytest.raises(TypeError, match="holds float32, not float64"):
        tensors.fill(external("d", [1]), np.ones(1))


def test_raw_data_is_not_copied_by_read() -> None:
    array = tensors.read(numpy_helper.from_array(np.ones(4, np.float32)))
    assert not array.flags.owndata
    assert not array.flags.writeable


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"raw_data": bytes(8)}, "tensor 'w': dims [3] need 12 bytes, it has 8; re-export the model"),
        ({"float_data": [1.0]}, "tensor 'w': dims [3] need 3 values, it has 1; re-export the model"),
        ({}, "tensor 'w': dims [3] need 3 values, it has 0; re-export the model"),
        ({"dims": [-1, 3]}, "tensor 'w': dims [-1, 3] hold a negative size; re-export the model"),
        (
            {"dims": [2**62, 2**62]},
            f"tensor 'w': dims {[2**62] * 2} are impossibly large; re-export the model",
        ),
        ({"data_type": 99}, "tensor 'w': element type 99 is unknown; upgrade onnx or re-export"),
        ({"data_type": 0}, "tensor 'w': element type 0 is unknown; upgrade onnx or re-export"),
        (
            {"segment": TensorProto.Segment()},
            "tensor 'w' is in segments, which no runtime reads; re-export it",
        ),
    ],
)
def test_wrong_tensor(fields: dict[str, object], message: str) -> None:
    refuse(message, TensorProto(**{"name": "w", "data_type": TensorProto.FLOAT, "dims": [3]} | fields))


@pytest.mark.parametrize("dims", [[4], [2, 2]])
def test_typed_data_of_the_wrong_length(dims: list[int]) -> None:
    four_bits = TensorProto(name="w", data_type=TensorProto.INT4, dims=dims, int32_data=[1, 1, 1])
    refuse(f"tensor 'w': dims {dims} need 2 values, it has 3; re-export the model", four_bits)
    pairs = TensorProto(name="w", data_type=TensorProto.COMPLEX64, dims=dims, float_data=[1, 1, 1])
    refuse(f"tensor 'w': dims {dims} need 8 values, it has 3; re-export the model", pairs)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with 16 bytes of data in `d`; beside it, data that nothing in it may reach."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "d").write_bytes(bytes(16))
    (tmp_path / "secret").write_bytes(bytes(16))
    return folder


def test_external_data_in_a_folder_below_or_through_a_link_inside(home: Path) -> None:
    (home / "sub").mkdir()
    (home / "sub" / "d").write_bytes(np.float32([1, 2]).tobytes())
    (home / "link").symlink_to("sub/d")
    for location in ("sub/d", "link"):
        assert tensors.read(external(location, [2]), home).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("location", "dims", "offset", "length", "message"),
    [
        ("gone", [4], "0", "16", "external data 'gone' are not in {home}; put the file there"),
        ("", [4], "0", "16", "its external data name no file; re-export the model"),
        ("a\0b", [4], "0", "16", "its external data name no file; re-export the model"),
        ("d", [4], "x", "16", "offset and length of its external data must be numbers"),
        ("d", [3], "0", "16", "dims [3] need 12 bytes, its external data say 16; re-export the model"),
        ("d", [4], "4", "16", "bytes 4 to 20 are not inside 'd' of 16 bytes; copy the file again"),
        ("d", [4], "-4", "16", "bytes -4 to 12 are not inside 'd' of 16 bytes; copy the file again"),
        (
            "d",
            [10**6, 10**6],
            "0",
            "",
            "bytes 0 to 4000000000000 are not inside 'd' of 16 bytes; copy the file again",
        ),
        (".", [4], "0", "16", "external data '.' in {home} are not a readable file"),
        ("../secret", [4], "0", "16", "external data '../secret' lie outside {home}; copy the file into it"),
        ("../home/d", [4], "0", "16", "external data '../home/d' lie outside {home}; copy the file into it"),
        (
            "/etc/passwd",
            [4],
            "0",
            "16",
            "external data '/etc/passwd' lie outside {home}; copy the file into it",
        ),
        ("link", [4], "0", "16", "external data 'link' lie outside {home}; copy the file into it"),
        (
            "out/secret",
            [4],
            "0",
            "16",
            "external data 'out/secret' lie outside {home}; copy the file into it",
        ),
        (
            "hard",
            [4],
            "0",
            "16",
            "external data 'hard' are a hard link and may be a file outside {home}; copy it",
        ),
    ],
)
def test_wrong_external_data(
    home: Path, location: str, dims: list[int], offset: str, length: str, message: str
) -> None:
    (home / "link").symlink_to("../secret")
    (home / "out").symlink_to("..")
    os.link(home.parent / "secret", home / "hard")
    refuse(
        f"tensor 'w': {message.format(home=repr(str(home)))}", external(location, dims, offset, length), home
    )


def test_external_data_that_are_a_pipe_are_not_waited_for(home: Path) -> None:
    os.mkfifo(home / "pipe")
    refuse(
        f"tensor 'w': external data 'pipe' in {str(home)!r} are not a readable file",
        external("pipe", [4]),
        home,
    )


def test_external_data_without_a_folder() -> None:
    refuse("tensor 'w': its data are in 'd', beside a file; give the model's path", external("d", [4]))


def test_external_strings(home: Path) -> None:
    tensor = external("d", [4])
    tensor.data_type = TensorProto.STRING
    refuse("tensor 'w': strings cannot be external data; re-export the model", tensor, home)


def test_tensors_of_deeply_nested_graphs() -> None:
    root = GraphProto()
    graph = root
    for level in range(3000):
        graph.initializer.add(name=f"i{level}")
        attribute = graph.node.add().attribute.add(name="body", type=5)
        attribute.t.name = f"t{level}"
        graph = attribute.g
    names = [tensor.name for tensor in tensors.tensors(root)]
    assert names[:4] == ["i0", "t0", "i1", "t1"]
    assert len(names) == 6000


@pytest.mark.parametrize("broken", [b"\x0a\x05a", b"\xff" * 20, b"\x0f", b"\x0c", b"\x09\x01", b"\0\0"])
def test_wire_refuses_what_is_no_message(broken: bytes) -> None:
    with pytest.raises(ValueError, match=r"wire type|longer than|does not end|number 0"):
        list(wire.fields(memoryview(broken)))


def test_wire_passes_over_groups_and_fixed_fields() -> None:
    message = b"\x0d1234" + b"\x0911111111" + b"\x1b\x0a\x01x\x1c" + b"\x10\x07"
    found = list(wire.fields(memoryview(message)))
    assert [number for number, *_ in found] == [1, 1, 0, 0, 0, 2]
    assert found[-1][3] == len(message)
