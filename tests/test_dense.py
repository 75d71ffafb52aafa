"""Sparse tensors: a model that has them is pruned as the same model without them is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper

from onnx_prune import prune
from onnx_prune.cli import main
from onnx_prune.errors import InputError
from onnx_prune.model import dense, files
from onnx_prune.model.graph import Graph
from onnx_prune.rounds import prune_in_rounds
from onnx_prune.settings import Budget, Settings
from onnx_prune.sparse.sparsify import sparsify
from onnx_prune.sparse.sparsity import Sparsity
from tests.bodies import branching
from tests.graphs import Array, build, initializers, noise
from tests.models import small_cnn

Write = Callable[[Array, str], SparseTensorProto]
NOTE = "3 sparse tensors read as dense, such as conv1.weight; written so, too, without --sparse-initializers"
CNN = ["conv1.weight", "conv2.weight", "fc.weight"]


def linear(array: Array, name: str, kind: type = np.int64) -> SparseTensorProto:
    flat = array.reshape(-1)
    at = np.flatnonzero(flat)
    values, places = (numpy_helper.from_array(a, name) for a in (flat[at], at.astype(kind)))
    return helper.make_sparse_tensor(values, places, array.shape)


def coordinates(array: Array, name: str) -> SparseTensorProto:
    values, places = (numpy_helper.from_array(a, name) for a in (array[array != 0], np.argwhere(array)))
    return helper.make_sparse_tensor(values, places, array.shape)


def stored_sparsely(
    model: onnx.ModelProto, names: Sequence[str] = CNN, write: Write = linear
) -> onnx.ModelProto:
    """The same model with some initializers stored sparsely."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    made = [write(array, name) for name, array in initializers(model).items() if name in names]
    rest = [tensor for tensor in model.graph.initializer if tensor.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(rest)
    graph.sparse_initializer.extend(made)
    return copy


def thin(seed: int = 0) -> onnx.ModelProto:
    """The network with a fifth of its weights left."""
    model = sparsify(small_cnn(seed=seed), asked=Sparsity(ratio=0.8, validate=False)).model
    assert model is not None
    return model


def same_weights(one: onnx.ModelProto | None, other: onnx.ModelProto | None) -> bool:
    assert one is not None
    assert other is not None
    left, right = initializers(one), initializers(other)
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("write", [linear, coordinates])
def test_they_are_pruned_alike(write: Write) -> None:
    model = thin()
    sparse = stored_sparsely(model, write=write)
    before = sparse.SerializeToString()
    structured = [prune(one, ratio=0.5, validate=False) for one in (model, sparse)]
    assert same_weights(*(result.model for result in structured))
    assert NOTE in structured[1].report.notes
    assert structured[0].report.before.params == structured[1].report.before.params
    assert structured[1].report.before.bytes == len(before)
    single = [sparsify(one, asked=Sparsity(ratio=0.9)) for one in (model, sparse)]
    assert same_weights(*(result.model for result in single))
    assert (single[1].report.zeros, single[1].report.notes[0]) == (single[0].report.zeros, NOTE)
    assert sparse.SerializeToString() == before  # what a caller holds stays as it is


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32, np.int64])
@pytest.mark.parametrize("element", [np.float32, np.float16, np.float64, np.int8, np.bool_])
def test_every_type_of_values_and_places(kind: type, element: type) -> None:
    array = (np.arange(12).reshape(3, 4) % 3).astype(element)
    found = dense.read(linear(array, "w", kind))
    assert (found.dtype, found.tolist()) == (array.dtype, array.tolist())


def test_strings_and_what_stores_nothing() -> None:
    text = helper.make_tensor("s", TensorProto.STRING, [1], [b"a"])
    places = helper.make_tensor("", TensorProto.INT64, [1], [1])
    assert dense.read(helper.make_sparse_tensor(text, places, [3])).tolist() == ["", "a", ""]
    nothing = SparseTensorProto(dims=[2, 2], values=helper.make_tensor("w", TensorProto.FLOAT, [0], []))
    assert dense.read(nothing).tolist() == [[0, 0], [0, 0]]
    assert not dense.read(linear(np.zeros((2, 2), np.float32), "w")).any()


def test_an_output_is_read_back(tmp_path: Path) -> None:
    source, sparse, again = (tmp_path / f"{name}.onnx" for name in ("in", "sparse", "again"))
    onnx.save(small_cnn(), source)
    sparsify(source, sparse, Sparsity(ratio=0.9, sparse_initializers=True), save_mask=tmp_path / "m.npz")
    other = sparsify(sparse, again, Sparsity(ratio=0.9, sparse_initializers=True))
    assert (other.report.stored_sparsely, other.report.zeros) == (3, 1374)
    for one in (sparse, again):
        assert len(onnx.load(one).graph.sparse_initializer) == 3
    assert same_weights(*(Graph(files.load(one)).model for one in (sparse, again)))
    applied = sparsify(sparse, asked=Sparsity(apply_mask=tmp_path / "m.npz"))
    assert same_weights(applied.model, Graph(files.load(sparse)).model)
    rounds = prune_in_rounds(sparse, None, Settings(budget=Budget(ratio=0.5), validate=False), 2)
    assert rounds.report.notes[0] == NOTE


def test_in_bodies_and_constants() -> None:
    own = noise(4, 8) * (noise(4, 8, seed=1) > 0)
    weights = {"zero": np.float32(0), "u": own, "w": noise(8, 3)}
    inner = {"v": own}
    model = branching(["t = MatMul(x, u)"], ["e = MatMul(x, v)"], weights, ({}, inner))
    sparse = stored_sparsely(model, ["u"])
    for attribute in next(node for node in sparse.graph.node if node.op_type == "If").attribute:
        if attribute.name == "else_branch":
            attribute.g.sparse_initializer.append(linear(own, "v"))
            del attribute.g.initializer[:]
    assert same_weights(*(prune(one, ratio=0.5, validate=False).model for one in (model, sparse)))
    one, other = (sparsify(one, asked=Sparsity(ratio=0.7)) for one in (model, sparse))
    assert [layer.name for layer in other.report.layers] == [layer.name for layer in one.report.layers]
    assert other.report.zeros == one.report.zeros

    value = helper.make_node("Constant", [], ["k"], sparse_value=coordinates(own, ""))
    constant = build([value, "y = MatMul(x, k)"], {}, {"x": (2, 4)}, {"y": (2, 8)})
    result = sparsify(constant, asked=Sparsity(ratio=0.7))
    assert [(layer.name, layer.zeros_before) for layer in result.report.layers] == [("k", (own == 0).sum())]
    assert result.report.zeros == 22
    assert result.report.notes[0].startswith("1 sparse tensor read as dense, such as k;")


def wrong(
    values: Sequence[int] = (2,),
    indices: Sequence[int] = (2,),
    at: Sequence[float] = (0, 1),
    *,
    dims: Sequence[int] = (2, 3),
    kind: int = TensorProto.INT64,
) -> SparseTensorProto:
    held = helper.make_tensor("w", TensorProto.FLOAT, values, [1.0] * int(np.prod(values)))
    return helper.make_sparse_tensor(held, helper.make_tensor("", kind, indices, at), dims)


@pytest.mark.parametrize(
    ("sparse", "message"),
    [
        (wrong(at=(0, 6)), "index 6 is not inside its dims [2, 3]"),
        (wrong(at=(-1, 5)), "index -1 is not inside its dims [2, 3]"),
        (wrong(indices=(2, 2), at=(0, 0, 0, 3)), "index [0, 3] is not inside its dims [2, 3]"),
        (wrong(at=(3, 1)), "its index 1 is not above the one before it"),
        (wrong(indices=(2, 2), at=(1, 0, 1, 0)), "its index [1, 0] is not above the one before it"),
        (
            wrong(indices=(3,), at=(0, 1, 2)),
            "its indices have dims [3], 2 values need [2] or [2, 2]",
        ),
        (
            wrong(indices=(2, 3), at=(0, 0, 0, 0, 0, 0)),
            "its indices have dims [2, 3], 2 values need [2] or [2, 2]",
        ),
        (wrong(values=(2, 1)), "its values have dims [2, 1], not one dimension"),
        (wrong(kind=TensorProto.FLOAT), "its indices are not signed integers"),
    ],
)
def test_bad_ones_are_refused(sparse: SparseTensorProto, message: str, tmp_path: Path) -> None:
    model = build(["y = MatMul(x, w)"], {}, {"x": (4, 2)}, {"y": (4, 3)})
    model.graph.sparse_initializer.append(sparse)
    expected = f"sparse tensor 'w': {message}; re-export the model"
    with pytest.raises(InputError) as error:
        prune(model)
    assert str(error.value) == expected
    source, output = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(model, source)
    found = run(str(source), str(output))
    assert (found.exit_code, output.exists()) == (2, False)
    assert found.stderr == f"onnx-prune: error: {str(source)!r}: {expected}\n"


def test_tensors_in_them_are_checked_too() -> None:
    sparse = wrong()
    sparse.values.dims[:] = [3]
    with pytest.raises(InputError, match=r"tensor 'w': dims \[3\] need 3 values, it has 2"):
        dense.check(sparse, None)
    with pytest.raises(InputError, match=r"tensor 'w': dims \[-2, 3\] hold a negative size"):
        dense.check(wrong(dims=(-2, 3)), None)


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def test_the_verbs_read_them(tmp_path: Path) -> None:
    trained, initial = str(tmp_path / "trained.onnx"), str(tmp_path / "initial.onnx")
    onnx.save(stored_sparsely(thin(1)), trained)
    onnx.save(stored_sparsely(thin(), write=coordinates), initial)
    done = run("schedule", trained, str(tmp_path), "--ratio", "0.9", "--rounds", "2")
    assert (done.exit_code, done.stderr, done.stdout.splitlines()[2]) == (0, "", NOTE)
    made = run("ticket", "--trained", trained, "--initial", initial, str(tmp_path / "t.onnx"))
    assert (made.exit_code, made.stderr, made.stdout.splitlines()[-1]) == (0, "", NOTE)
