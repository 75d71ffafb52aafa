"""Large arrays by pieces: what comes of them is what comes of the whole."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_prune.analyse import couple
from onnx_prune.errors import ProofFailed
from onnx_prune.model import files, pieces
from onnx_prune.model.graph import Graph
from onnx_prune.sparse import edges, storage, zeroing
from onnx_prune.sparse.bits import Bits
from onnx_prune.sparse.sparsify import sparsify
from onnx_prune.sparse.sparsity import Sparsity
from tests.graphs import build, noise
from tests.models import small_cnn

SIZE = 1000


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Pieces so small that little models have many, and a sample that says little."""
    patch.setattr(pieces, "PIECE", 64)
    patch.setattr(pieces, "SHORT", 8)
    patch.setattr(edges, "_COLLECT", 0)
    patch.setattr(edges, "_SAMPLE", 32)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)


@pytest.mark.usefixtures("small")
def test_pieces_come_in_order_and_cover_all() -> None:
    found = list(pieces.each(SIZE, lambda part: np.arange(part.start, part.stop)))
    assert len(found) == -(-SIZE // 64)
    assert np.array_equal(np.concatenate(found), np.arange(SIZE))
    assert list(pieces.each(0, lambda part: part)) == []


@pytest.mark.usefixtures("small")
def test_what_goes_wrong_in_a_piece_is_raised() -> None:
    def work(part: slice) -> int:
        if part.start == 640:
            raise ValueError("at 640")
        return part.start

    found = pieces.each(SIZE, work)
    with pytest.raises(ValueError, match="at 640"):
        list(found)


@pytest.fixture
def mapped(tmp_path: Path) -> np.ndarray:
    values = np.arange(SIZE, dtype=np.float32)
    (tmp_path / "data").write_bytes(b"head" + values.tobytes())
    return np.asarray(np.memmap(tmp_path / "data", np.uint8, "r", 4, (4 * SIZE,))).view(np.float32)


@pytest.mark.parametrize("shape", [(SIZE,), (25, 40)])
def test_runs_of_a_mapped_file_are_those_of_an_array(mapped: np.ndarray, shape: tuple[int, ...]) -> None:
    runs, whole = pieces.Runs(mapped.reshape(shape)), pieces.Runs(np.arange(SIZE, dtype=np.float32))
    for part in (slice(0, SIZE), slice(8, 20), slice(999, 1000), slice(5, 5)):
        assert np.array_equal(runs[part], np.arange(part.start, part.stop))
    assert np.array_equal(runs.sample(600), whole.sample(600))
    assert (runs.shape, runs.size) == (shape, SIZE)
    back = pieces.Runs(mapped[::-1])  # does not lie in the file like that
    assert back[slice(0, 2)].tolist() == [999, 998]


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="mapped files are not read there")
def test_a_file_that_has_become_shorter(mapped: np.ndarray, tmp_path: Path) -> None:
    runs = pieces.Runs(mapped)
    os.truncate(tmp_path / "data", 100)
    with pytest.raises(OSError, match="the file has become shorter"):
        runs[slice(0, SIZE)]


def coarse(model: onnx.ModelProto, step: float) -> onnx.ModelProto:
    """A model whose weights have few values, so that many are equal, not-a-number among them."""
    for tensor in model.graph.initializer:
        array = np.round(numpy_helper.to_array(tensor) / step) * np.float32(step)
        if array.size > 500:
            array.reshape(-1)[7::97] = np.nan
        tensor.raw_data = array.tobytes()
    return model


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [0, 2, 1], [0, 0, 1, 2]])
def test_tensors_are_made_in_any_order_and_again(order: list[int], tmp_path: Path) -> None:
    model = build(
        ["a = MatMul(x, v)", "b = MatMul(a, w)", "y = MatMul(b, z)"],
        {"v": noise(50, 50), "w": noise(50, 50), "z": noise(50, 50)},
        {"x": (1, 50)},
        {"y": (1, 50)},
    )
    files.save(model, tmp_path / "m.onnx", external="always")
    coupling = couple(Graph(files.load(tmp_path / "m.onnx"), tmp_path), loose=False)
    masks = {name: Bits.of(np.random.default_rng(j).random((50, 50)) < 0.5) for j, name in enumerate("vwz")}
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        content = zeroing.zero_out(coupling, masks).draft.content
        names = list(content)
        for j in order:
            name = names[j]
            assert np.array_equal(content[name](), coupling.graph.array(name) * masks[name].keep())
        stopped = content[names[0]].make()  # type: ignore[attr-defined]
        next(stopped)
        stopped.close()
        assert np.array_equal(content[names[1]](), coupling.graph.array(names[1]) * masks[names[1]].keep())


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("ratio", [0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("step", [1e-6, 0.05])
def test_a_model_by_pieces_as_a_whole(across: bool, ratio: float, step: float, tmp_path: Path) -> None:
    source, asked = tmp_path / "in.onnx", Sparsity(ratio=ratio, across=across, validate=False)
    files.save(coarse(small_cnn((32, 64)), step), source, external="always")
    whole = sparsify(source, tmp_path / "whole.onnx", asked)
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        found = sparsify(source, tmp_path / "found.onnx", asked)
    assert (tmp_path / "found.onnx.data").read_bytes() == (tmp_path / "whole.onnx.data").read_bytes()
    assert found.report.layers == whole.report.layers
    assert found.report.asked == sum(layer.asked for layer in whole.report.layers)


@pytest.mark.parametrize("most", [0, storage.GZ_BELOW])  # bytes of weights that are looked at
def test_masks_are_kept_where_they_are_wanted(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "GZ_BELOW", most)
    asked = Sparsity(ratio=0.6, validate=False)
    kept = sparsify(small_cnn(), tmp_path / "kept.onnx", asked)
    gone = sparsify(small_cnn(), tmp_path / "gone.onnx", asked, keep_mask=False)
    assert (tmp_path / "kept.onnx").read_bytes() == (tmp_path / "gone.onnx").read_bytes()
    assert (kept.report.layers, kept.report.storage) == (gone.report.layers, gone.report.storage)
    assert len(kept.mask.bits) == len(kept.report.layers)
    assert bool(gone.mask.bits) == bool(most)


def test_more_tensors_than_files_may_be_open(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    count = 200
    nodes = [f"x{j + 1} = MatMul(x{j}, w{j})" for j in range(count)]
    weights = {f"w{j}": noise(20, 20) for j in range(count)}
    files.save(
        build(nodes, weights, {"x0": (1, 20)}, {f"x{count}": (1, 20)}), tmp_path / "m.onnx", external="always"
    )
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, limits[1]))
    try:
        with pytest.MonkeyPatch.context() as patch:
            make_small(patch)
            asked = Sparsity(ratio=0.5, across=True, validate=False)
            report = sparsify(tmp_path / "m.onnx", tmp_path / "o.onnx", asked).report
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert report.zeros == count * 200


def test_in_its_own_place(tmp_path: Path) -> None:
    path, other, mask = tmp_path / "m.onnx", tmp_path / "o.onnx", tmp_path / "m.npz"
    files.save(small_cnn((32, 64)), path, external="always")
    elsewhere = sparsify(path, other, Sparsity(ratio=0.5, validate=False))
    found = sparsify(path, path, Sparsity(ratio=0.5, validate=False), save_mask=mask)
    assert found.report.layers == elsewhere.report.layers
    assert found.report.storage == elsewhere.report.storage
    assert len(np.load(mask).files) == 4


def test_scores_of_two_types_are_ranked_together() -> None:
    tensors = [np.array([0.1, 0.3], np.float32), np.array([0.1, 0.2, 0.3])]
    # float32's 0.1 and 0.3 are a little more than the doubles
    for count, gone in enumerate([[[0, 0], [1, 0, 0]], [[1, 0], [1, 0, 0]], [[1, 0], [1, 1, 0]]], 1):
        found = edges.edges(lambda: tensors, count, 5)
        assert [edge.goes(a).astype(int).tolist() for edge, a in zip(found, tensors, strict=True)] == gone


@pytest.mark.usefixtures("small")
def test_no_score_of_two_types_is_lost_beside_an_end() -> None:
    """The lower end is a double that float32 does not have, and some of its scores equal the upper one."""
    rng = np.random.default_rng(0)
    steps = np.round(rng.integers(1, 8, 600) * 0.05, 2)
    tensors = [rng.permutation(steps).astype(np.float32), rng.permutation(steps)]
    for count in range(25, 1200, 25):
        found = edges.edges(lambda: tensors, count, 1200)
        gone = [edge.goes(scores) for scores, edge in zip(tensors, found, strict=True)]
        assert sum(map(np.count_nonzero, gone)) == count


class Promising(Bits):
    """A mask that says beforehand that it removes one weight more."""

    @property
    def removes(self) -> int:
        """One too many."""
        return super().removes + 1


def test_the_check_fails_where_a_mask_removes_another_number() -> None:
    model = build(["y = MatMul(x, w)"], {"w": noise(4, 4)}, {"x": (1, 4)}, {"y": (1, 4)})
    bits = Bits.of(noise(4, 4) > 0)
    coupling = couple(Graph(model))
    assert zeroing.zero_out(coupling, {"w": bits}).draft.whole()
    with pytest.raises(ProofFailed, match="'w' has another number of zeros than its mask was to make"):
        zeroing.zero_out(coupling, {"w": Promising(bits.packed, bits.shape)}).draft.whole()
