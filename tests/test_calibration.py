"""Calibration data in every form, what is made up where there are none, and every message about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_prune.calibration import data as calibration
from onnx_prune.calibration.data import Calibration, load
from onnx_prune.errors import InputError
from onnx_prune.model.graph import Graph
from tests.graphs import Array, build, noise

SHAPES = {"x": (2, 3)}


def graph(**inputs: Any) -> Graph:
    """A model that adds its inputs up."""
    model = build(["y = Relu(x)"], {}, inputs or {"x": ["n", 3]}, {"y": []})
    return Graph(model)


def images(batch: int | str = "n", channels: int = 3, size: int = 16) -> Graph:
    return graph(x=[batch, channels, size, size])


def stacked(found: Calibration) -> Array:
    return np.concatenate([feed["x"] for feed in found.feeds])


def test_an_npz_file_in_batches(tmp_path: Path) -> None:
    np.savez(tmp_path / "feeds.npz", x=noise(40, 3))
    found = load(tmp_path / "feeds.npz", graph(), SHAPES)
    assert (found.samples, found.synthetic) == (40, False)
    assert [len(feed["x"]) for feed in found.feeds] == [8] * 5
    np.testing.assert_array_equal(stacked(found), noise(40, 3))


def test_a_folder_of_single_samples_is_stacked(tmp_path: Path) -> None:
    for j in range(10):
        np.save(tmp_path / f"{j}.npy", noise(1, 3, seed=j))
    (tmp_path / "notes.txt").write_text("not data")
    found = load(str(tmp_path), graph(), SHAPES)
    assert [len(feed["x"]) for feed in found.feeds] == [2] * 5
    np.testing.assert_array_equal(stacked(found)[4], noise(1, 3, seed=4)[0])


def test_files_of_different_sizes_stay_apart(tmp_path: Path) -> None:
    for j in (4, 5):
        np.savez(tmp_path / f"{j}.npz", noise(2, j))
    found = load(tmp_path, graph(x=["n", "m"]), SHAPES)
    assert {feed["x"].shape for feed in found.feeds} == {(1, 4), (1, 5)}


def test_sets_in_memory(tmp_path: Path) -> None:
    found = load(({"x": noise(2, 3, seed=j)} for j in range(5)), graph(), SHAPES)
    assert (found.samples, found.source) == (10, "data")
    assert load([noise(2, 3), noise(2, 3)], graph(), SHAPES).samples == 4


def test_a_batch_of_minus_one_is_any() -> None:
    model = graph()
    model.inputs[0].type.tensor_type.shape.dim[0].dim_value = -1
    found = load([{"x": noise(2, 3)}] * 5, model, SHAPES)
    assert [len(feed["x"]) for feed in found.feeds] == [2] * 5


def test_a_fixed_batch_is_respected() -> None:
    found = load([{"x": noise(9, 3)}], graph(x=[4, 3]), SHAPES)
    assert [len(feed["x"]) for feed in found.feeds] == [4, 4]


def test_sets_of_a_model_whose_first_dims_are_no_batch() -> None:
    model = graph(x=[4, 3], state=[2, 3])
    sets = [{"x": noise(4, 3, seed=j), "state": noise(2, 3)} for j in range(3)]
    found = load(sets, model, SHAPES)
    assert [feed["x"].shape for feed in found.feeds] == [(4, 3)] * 3
    assert [feed["state"].shape for feed in found.feeds] == [(2, 3)] * 3


def test_sets_with_an_input_that_is_no_batch() -> None:
    model = graph(x=["n", 3], scale=[1, 3])
    found = load([{"x": noise(4, 3), "scale": noise(1, 3)}] * 2, model, SHAPES)
    assert [{name: value.shape for name, value in feed.items()} for feed in found.feeds] == [
        {"x": (4, 3), "scale": (1, 3)}
    ] * 2


@pytest.mark.parametrize(("sets", "held"), [(2, [1]), (4, [3]), (5, [4]), (12, [4, 9])])
def test_what_is_held_out(sets: int, held: list[int]) -> None:
    found = Calibration(({},) * sets, sets, "x")
    assert [j for j in range(sets) if found.is_held_out(j)] == held


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([{"x": noise(4, 2)}], r"data, set 0: input x is \(n, 3\), the file has \(4, 2\)"),
        (
            [{"x": noise(4, 3)}, {"x": np.zeros((4, 3))}],
            "data, set 1: input x is float32, the file has float64",
        ),
        ([3], "data, set 0: is a int, not a mapping from input names to arrays"),
        ([], "data: no samples"),
        ([{"x": noise(1, 3)}], "data: one set of inputs is too few"),
    ],
)
def test_data_that_do_not_fit(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(data, graph(), SHAPES)


def test_an_input_without_data() -> None:
    model = graph(x=["n", 3], mask=["n", 3])
    with pytest.raises(InputError, match="no array for input mask; the file has x"):
        load([{"x": noise(4, 3)}], model, SHAPES)


def test_a_folder_without_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no \.npz or \.npy file; write them with numpy\.savez"):
        load(tmp_path, graph(), SHAPES)


def test_a_file_in_the_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_text("no")
    with pytest.raises(InputError, match=r"a\.npy is not an \.npy file that numpy can read"):
        load(tmp_path, graph(), SHAPES)


def test_a_file_in_the_folder_that_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.npy").mkdir()
    with pytest.raises(InputError, match=r"a\.npy can't be read: Is a directory"):
        load(tmp_path, graph(), SHAPES)


def test_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "none.npz", graph(), SHAPES)


def test_synthetic_images_look_natural() -> None:
    """Neighbours are alike, each image has the spread asked for, and every run draws the same."""
    found = load("synthetic", images(), {"x": (2, 3, 16, 16)}, mean=(0.1, 0.2, 0.3), std=(1, 2, 3))
    assert (found.synthetic, found.samples, found.source) == (True, 128, "synthetic inputs")
    x = stacked(found)
    np.testing.assert_allclose(x.std((0, 2, 3)), [1, 2, 3], rtol=0.2)
    np.testing.assert_allclose(x.mean((0, 2, 3)), [0.1, 0.2, 0.3], atol=0.5)
    y = x - x.mean((2, 3), keepdims=True)
    assert (y[..., 1:] * y[..., :-1]).mean() > 0.8 * (y**2).mean()
    np.testing.assert_array_equal(
        stacked(load("synthetic", images(), {"x": (2, 3, 16, 16)})),
        stacked(load("synthetic", images(), {"x": (2, 3, 16, 16)})),
    )


def test_synthetic_images_stay_in_their_range() -> None:
    x = stacked(load("synthetic", images(), {"x": (2, 3, 16, 16)}, span=(-0.5, 1.0)))
    assert (x.min(), x.max()) == (-0.5, 1.0)


def test_synthetic_images_with_channels_last_and_a_fixed_batch() -> None:
    found = load("synthetic", graph(x=[4, 16, 16, 3]), {"x": (4, 16, 16, 3)}, mean=(5, 0, -5))
    assert [feed["x"].shape for feed in found.feeds] == [(4, 16, 16, 3)] * 32
    assert stacked(found).mean((0, 1, 2)).round().tolist() == [5, 0, -5]


def test_synthetic_tokens_stay_in_their_table() -> None:
    model = build(
        ["e = Gather(table, ids)", "m = Cast(mask)", "y = Mul(e, m)"], {"table": noise(7, 4)}, {}, {"y": []}
    )
    model.graph.node[1].attribute.append(onnx.helper.make_attribute("to", onnx.TensorProto.FLOAT))
    for name in ("ids", "mask"):
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["n", 5])
        model.graph.input.append(value)
    found = load("synthetic", Graph(model), {"ids": (2, 5), "mask": (2, 5)})
    ids = np.concatenate([feed["ids"] for feed in found.feeds])
    assert ids.shape == (128, 5)
    assert (ids.min(), ids.max()) == (0, 6)
    assert all((feed["mask"] == 1).all() for feed in found.feeds)


def test_a_number_a_channel() -> None:
    with pytest.raises(InputError, match=r"--input-mean has 2 numbers, input x has 3 channels"):
        load("synthetic", images(), {"x": (2, 3, 16, 16)}, mean=(0, 1))


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (onnx.helper.make_tensor_type_proto(onnx.TensorProto.STRING, ["n"]), "is text"),
        (
            onnx.helper.make_sequence_type_proto(onnx.helper.make_tensor_type_proto(1, ["n"])),
            "is no tensor",
        ),
    ],
)
def test_inputs_that_can_not_be_made_up(kind: onnx.TypeProto, what: str) -> None:
    model = build(["y = Relu(x)"], {}, {}, {"y": []})
    model.graph.input.append(onnx.helper.make_value_info("x", kind))
    with pytest.raises(InputError, match=f"input x {what}: synthetic inputs can't be made; give --data FILE"):
        load("synthetic", Graph(model), {"x": (2,)})


def test_noise_is_bent_over_two_dims_alone() -> None:
    bent = calibration.pink(noise(2, 8, 8, 3), (1, 2))
    np.testing.assert_allclose(bent.mean((1, 2, 3)), 0, atol=1e-9)
    np.testing.assert_allclose(bent.std((1, 2, 3)), 1)
