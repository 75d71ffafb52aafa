"""Data that stay in the model's file: the same model, and nothing that a file says makes us read another."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from onnx_prune.errors import InputError
from onnx_prune.model import files, lazy, tensors
from onnx_prune.runtime import Session
from tests.graphs import build, noise


def product(rows: int) -> onnx.ModelProto:
    return build(["y = MatMul(x, w)"], {"w": noise(rows, 8)}, {"x": ["n", rows]}, {"y": ["n", 8]})


@pytest.mark.parametrize("rows", [4, 64, 1 << 16])  # in the structure, read when asked for, mapped
def test_the_values_are_the_file_s(rows: int, tmp_path: Path) -> None:
    model = product(rows)
    onnx.save(model, tmp_path / "a.onnx")
    [tensor] = files.load(tmp_path / "a.onnx").graph.initializer
    assert lazy.is_put_off(tensor) == (rows > 4)
    assert not tensors.is_external(tensor)
    assert np.array_equal(tensors.read(tensor), noise(rows, 8))


def test_a_loaded_model_runs(tmp_path: Path) -> None:
    model = product(64)
    onnx.save(model, tmp_path / "a.onnx")
    loaded = files.load(tmp_path / "a.onnx")
    feeds = {"x": noise(2, 64)}
    for optimize in (False, True):
        [want], [got] = (Session(m, optimize=optimize).run(feeds) for m in (model, loaded))
        assert np.array_equal(want, got)


def test_a_name_that_is_no_utf_8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path / "a") + b"\xff.onnx"))
    path.write_bytes(product(64).SerializeToString())
    [tensor] = files.load(path).graph.initializer
    assert np.array_equal(tensors.read(tensor), noise(64, 8))


def test_a_file_that_changed_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    onnx.save(product(64), path)
    [tensor] = files.load(path).graph.initializer
    other = tmp_path / "b.onnx"
    onnx.save(product(64), other)
    os.replace(other, path)
    with pytest.raises(InputError, match=r"^'.*a\.onnx' has changed since it was loaded; start again$"):
        tensors.read(tensor)
    path.unlink()
    message = r"^cannot read '.*a\.onnx' again: No such file or directory; leave it there meanwhile$"
    with pytest.raises(InputError, match=message):
        tensors.read(tensor)


def test_a_file_can_not_name_another(tmp_path: Path) -> None:
    """Of a mark that was made in another process, or copied out of a model in memory."""
    (tmp_path / "secret").write_bytes(bytes(2048))
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[512])
    lazy.put_off(tensor, tmp_path / "secret", (tmp_path / "secret").stat(), 0, 2048)
    mark = lazy._MARK.encode()
    theirs = TensorProto.FromString(tensor.SerializeToString().replace(mark, bytes(len(mark))))
    assert lazy.is_put_off(tensor)
    assert not lazy.is_put_off(theirs)
    model = product(64)
    model.graph.initializer[0].CopyFrom(theirs)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"its external data name no file; re-export the model$"):
        files.load(tmp_path / "a.onnx")


@pytest.mark.parametrize("change", ["twice", "short", "negative"])
def test_what_is_odd_is_refused_as_ever(change: str, tmp_path: Path) -> None:
    tensor = numpy_helper.from_array(noise(64, 8), "w")
    extra = b""
    if change == "twice":  # the last of two counts
        extra = TensorProto(raw_data=bytes(2048)).SerializeToString()
    elif change == "short":
        tensor.dims[0] = 65
    else:
        tensor.dims[0] = -64
    model = product(64)
    model.graph.initializer[0].CopyFrom(TensorProto.FromString(tensor.SerializeToString()))
    if extra:
        model.graph.initializer[0].MergeFromString(extra)
        assert not np.frombuffer(model.graph.initializer[0].raw_data, np.float32).any()
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    if change == "twice":
        [read] = files.load(tmp_path / "a.onnx").graph.initializer
        assert not tensors.read(read).any()
    else:
        with pytest.raises(InputError, match=r"^'.*': tensor 'w': dims \["):
            files.load(tmp_path / "a.onnx")
