"""Zeros in a model: exact counts, nothing else touched, masks as a contract."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_prune.errors import InputError, NothingToPrune, ProofFailed
from onnx_prune.model import files
from onnx_prune.runtime import Session
from onnx_prune.sparse import maskfile, zeroing
from onnx_prune.sparse.bits import Bits
from onnx_prune.sparse.sparsify import SparseResult, sparsify
from onnx_prune.sparse.sparsity import Sparsity
from tests import zoo
from tests.graphs import Array, analyse, build, initializers, node, noise
from tests.models import small_cnn

FC = "fc.weight"


def zeros(result: SparseResult) -> dict[str, int]:
    return {layer.name: layer.zeros for layer in result.report.layers}


def arrays(result: SparseResult) -> dict[str, Array]:
    assert result.model is not None
    return initializers(result.model)


def linear(weight: Array, **kind: Any) -> onnx.ModelProto:
    """One MatMul."""
    rows, columns = weight.shape
    model = build(["y = MatMul(x, w)"], {"w": weight}, {"x": ("n", rows)}, {"y": ("n", columns)}, **kind)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = model.graph.initializer[0].data_type
    return model


def test_each_layer_loses_its_share_to_the_weight() -> None:
    model = small_cnn()
    result = sparsify(model, asked=Sparsity(ratio=0.7))
    assert zeros(result) == {"conv1.weight": 151, "conv2.weight": 806, FC: 112}  # of 216, 1152 and 160
    report = result.report
    assert (report.asked, report.zeros, report.size) == (1069, 1069, 1528)
    assert report.runs
    before, after = initializers(model), arrays(result)
    for name, array in before.items():
        mask = result.mask.bits[name].keep() if name in result.mask.bits else np.ones(array.shape, bool)
        assert np.array_equal(after[name], np.where(mask, array, 0))
        assert np.abs(array[~mask]).max(initial=0) <= np.abs(array[mask]).min()
    assert report.untouched == 3


def test_over_all_layers() -> None:
    model = small_cnn()
    result = sparsify(model, asked=Sparsity(ratio=0.7, across=True))
    assert sum(zeros(result).values()) == 1069  # 0.7 of 1528
    before, kept = initializers(model), result.mask.bits
    smallest = min(np.abs(before[name][mask.keep()]).min() for name, mask in kept.items())
    largest = max(np.abs(before[name][~mask.keep()]).max() for name, mask in kept.items())
    assert largest <= smallest


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Sparsity(ratio=0.5, layer_ratios=(("fc*", 0.25), ("*conv2", 0.9))), [108, 1036, 40]),
        (Sparsity(ratio=0.5, ignore=("conv1*",)), [576, 80]),
        (Sparsity(ratio=0.5, spare="first"), [576, 80]),
        (Sparsity(ratio=0.5, spare="both"), [576]),
        (Sparsity(ratio=0.5, criterion="random"), [108, 576, 80]),
        (Sparsity(pattern="2:4"), [72, 576, 80]),  # of three inputs two stay
        (Sparsity(ratio=0.5, pattern="channel"), [4 * 27, 8 * 72, 5 * 16]),
        (Sparsity(ratio=0.5, pattern="block:4x1"), [108, 576, 80]),
        (Sparsity(ratio=0.0), [0, 0, 0]),
    ],
)
def test_counts(asked: Sparsity, expected: list[int]) -> None:
    result = sparsify(small_cnn(), asked=asked)
    assert list(zeros(result).values()) == expected
    assert result.report.asked == sum(expected)


def test_lamp_and_erk_reach_the_count_over_all_layers() -> None:
    for criterion in ("lamp", "erk"):
        result = sparsify(small_cnn(), asked=Sparsity(ratio=0.7, criterion=criterion))
        assert sum(zeros(result).values()) == 1069


def test_zeros_that_are_there_count() -> None:
    weight = noise(8, 8)
    weight[:2] = 0
    weight[0, 0] = -0.0
    for criterion in ("magnitude", "random"):
        result = sparsify(linear(weight), asked=Sparsity(ratio=0.5, criterion=criterion))
        assert result.report.zeros == 32
        assert not arrays(result)["w"][:2].any()
    more = sparsify(linear(weight), asked=Sparsity(ratio=0.1))
    assert (more.report.asked, more.report.zeros) == (6, 16)
    assert "10 more weights are zero than were asked for: they were so before" in more.report.notes


def test_scores_of_the_user() -> None:
    weight, scores = noise(2, 3), np.array([[1, 6, 2], [5, 3, 4]])
    result = sparsify(linear(weight), asked=Sparsity(ratio=0.5, scores={"w": scores}))
    assert (arrays(result)["w"] != 0).tolist() == [[False, True, False], [True, False, True]]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "scores: none for 'w'; give an array of that name, or --ignore it"),
        ({"w": np.ones(6)}, "scores: 'w' has [6], its weight [2, 3]"),
        ({"w": np.full((2, 3), np.nan)}, "scores: 'w' has scores that are not numbers"),
        (Path("no.npz"), "cannot read the scores no.npz: No such file or directory"),
    ],
)
def test_scores_that_do_not_fit(scores: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        sparsify(linear(noise(2, 3)), asked=Sparsity(scores=scores))
    assert str(error.value) == message


@pytest.mark.parametrize("kind", [np.float16, np.float64, "bfloat16"])
def test_float_types(kind: Any) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16) if kind == "bfloat16" else np.dtype(kind)
    weight = noise(8, 4).astype(dtype)
    result = sparsify(linear(weight, opset=17), asked=Sparsity(ratio=0.5))
    assert result.report.zeros == 16
    assert arrays(result)["w"].dtype == dtype


def test_quantized_weights_are_zero_at_their_zero_point() -> None:
    weight = np.random.default_rng(0).integers(0, 256, (6, 4)).astype(np.uint8)
    points = np.array([128, 3, 250, 77], np.uint8)
    nodes = [node("d = DequantizeLinear(w, s, z)", axis=1), "y = MatMul(x, d)"]
    stored = {"w": weight, "s": np.array([1, 2, 3, 4], np.float32), "z": points}
    result = sparsify(build(nodes, stored, {"x": (1, 6)}, {"y": (1, 4)}), asked=Sparsity(ratio=0.5))
    new = arrays(result)["w"]
    assert ((new == points).sum(), result.report.zeros) == (12, 12)
    real = np.abs((weight.astype(float) - points) * [1, 2, 3, 4])
    assert real[new == points].max() <= real[new != points].min()
    assert np.array_equal(new[new != points], weight[new != points])


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_four_bits_in_blocks(pattern: str) -> None:
    kind = helper.tensor_dtype_to_np_dtype(TensorProto.INT4)
    weight = np.random.default_rng(0).integers(-8, 8, (16, 4)).astype(kind)
    stored = {"w": weight, "s": noise(2, 4), "z": np.full((2, 4), 3).astype(kind)}
    layer = node("d = DequantizeLinear(w, s, z)", axis=0, block_size=8)
    model = build([layer, "y = MatMul(x, d)"], stored, {"x": (1, 16)}, {"y": (1, 4)}, opset=21)
    model.ir_version = 10
    result = sparsify(model, asked=Sparsity(pattern=pattern))
    new = arrays(result)["w"]
    assert new.dtype == kind
    assert (new.astype(int) == 3).sum() == result.report.zeros >= 32
    assert result.report.runs


def holds(array: Array, dim: int, n: int, m: int) -> bool:
    """Whether of each m values in a row along a dim at most n are not zero, a short last row included."""
    rows = np.moveaxis(array, dim, -1)
    return all(((rows[..., j : j + m] != 0).sum(-1) <= n).all() for j in range(0, rows.shape[-1], m))


@pytest.mark.parametrize(
    ("layer", "shape", "dim", "x", "y"),
    [
        (node("y = Conv(x, w)"), (4, 10, 3, 3), 1, (1, 10, 5, 5), (1, 4, 3, 3)),
        (node("y = Conv(x, w)", group=2), (4, 10, 3, 3), 1, (1, 20, 5, 5), (1, 4, 3, 3)),
        (node("y = ConvTranspose(x, w)"), (10, 4, 3), 0, (1, 10, 5), (1, 4, 7)),
        (node("y = Gemm(x, w)"), (10, 4), 0, (2, 10), (2, 4)),
        (node("y = Gemm(x, w)", transB=1), (4, 10), 1, (2, 10), (2, 4)),
        (node("y = MatMul(x, w)"), (10, 4), 0, (2, 10), (2, 4)),
    ],
)
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 8)])
def test_n_of_m_along_what_is_summed_over(
    layer: onnx.NodeProto, shape: tuple[int, ...], dim: int, x: Any, y: Any, n: int, m: int
) -> None:
    model = build([layer], {"w": noise(*shape)}, {"x": x}, {"y": y})
    result = sparsify(model, asked=Sparsity(pattern=f"{n}:{m}"))
    assert holds(arrays(result)["w"], dim, n, m)
    assert result.report.zeros == result.report.asked > 0


def test_groups_of_a_transposed_convolution_do_not_run_into_each_other() -> None:
    weight = noise(12, 2, 3)  # two groups of six inputs: runs of four and two in each
    model = build(
        [node("y = ConvTranspose(x, w)", group=2)], {"w": weight}, {"x": (1, 12, 5)}, {"y": (1, 4, 7)}
    )
    new = arrays(sparsify(model, asked=Sparsity(pattern="2:4")))["w"]
    assert ((new[0:4] != 0).sum(0) == 2).all()
    assert (new[4:6] != 0).all()
    assert ((new[6:10] != 0).sum(0) == 2).all()


def test_weights_in_bodies_and_constants() -> None:
    model = zoo.load("d_onnx_if_outer_weights-opset17")
    result = sparsify(model, asked=Sparsity(ratio=0.5))
    assert (
        result.report.zeros == result.report.asked == sum(layer.size // 2 for layer in result.report.layers)
    )
    assert result.report.runs


def inner(weight: Array) -> onnx.ModelProto:
    """A loop whose body stores a weight, and a Constant node that does."""
    body = helper.make_graph(
        [node("b = MatMul(a, w)"), node("c = Identity(go)")],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("a", TensorProto.FLOAT, [2, 4]),
        ],
        [
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, [2, 4]),
        ],
        [numpy_helper.from_array(weight, "w")],
    )
    nodes = [
        node("k = Constant()", value=numpy_helper.from_array(weight)),
        node("h = MatMul(x, k)"),
        node("y = Loop(n, , h)", "loop", body=body),
    ]
    return build(nodes, {"n": np.array(3)}, {"x": (2, 4)}, {"y": (2, 4)})


def test_a_body_stores_a_weight_under_its_path() -> None:
    weight = noise(4, 4)
    model = inner(weight)
    result = sparsify(model, asked=Sparsity(ratio=0.5))
    assert zeros(result) == {"k": 8, "loop/body/w": 8}
    assert result.model is not None
    stored = result.model.graph.node[2].attribute[0].g.initializer[0]
    assert np.array_equal(
        numpy_helper.to_array(stored), np.where(result.mask.bits["loop/body/w"].keep(), weight, 0)
    )
    assert inner(weight) == model  # left as it was


def test_what_is_an_input_too_and_what_is_shared() -> None:
    model = linear(noise(4, 4))
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 4]))
    assert sparsify(model, asked=Sparsity(ratio=0.5)).report.zeros == 8
    shared = build(["a = MatMul(x, w)", "y = MatMul(a, w)"], {"w": noise(4, 4)}, {"x": (1, 4)}, {"y": (1, 4)})
    [layer] = sparsify(shared, asked=Sparsity(ratio=0.5)).report.layers
    assert (layer.size, layer.zeros) == (16, 8)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model: model.graph.initializer[0].dims.__setitem__(0, 9), "tensor 'conv1.bias' has no mask"),
        (lambda model: setattr(model.graph.node[0], "op_type", "ConvTranspose"), "node 'conv1' has changed"),
        (lambda model: model.graph.initializer.pop(), "other tensors than the original"),
    ],
)
def test_the_check_fails_where_something_else_changed(
    spoil: Callable[[onnx.ModelProto], object], message: str
) -> None:
    model = small_cnn()
    model.graph.initializer.insert(0, model.graph.initializer.pop(1))
    coupling, bits = analyse(model), {FC: Bits.of(noise(10, 16) > 0)}
    draft = zeroing.zero_out(coupling, bits).draft
    zeroing.require_untouched(coupling, draft, bits)
    spoil(draft.model)
    with pytest.raises(ProofFailed, match=message):
        zeroing.require_untouched(coupling, draft, bits)


def test_the_check_fails_where_a_mask_was_not_obeyed() -> None:
    weight = noise(4, 4)
    zero, keep = np.zeros((), np.float32), noise(4, 4, seed=1) > 0
    new = np.where(keep, weight, np.float32(0))
    assert zeroing.inspect("w", keep, weight, new, weight, zero)[1].zeros == (~keep).sum()
    other = np.where(keep, 2 * weight, np.float32(0))
    for wrong in (weight, other, new.astype(np.float64)):
        with pytest.raises(ProofFailed, match="tensor 'w' is not its mask times its weights"):
            zeroing.inspect("w", keep, weight, wrong, weight, zero)


# The mask file.


def test_a_mask_in_three_lines_of_numpy(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    result = sparsify(small_cnn(), tmp_path / "out.onnx", Sparsity(ratio=0.5), save_mask=path)
    file = np.load(path)
    shapes = {name: row["shape"] for name, row in json.loads(str(file["manifest"]))["initializers"].items()}
    masks = {n: np.unpackbits(file[n], count=int(np.prod(s))).reshape(s) for n, s in shapes.items()}
    assert masks.keys() == result.mask.bits.keys()
    after = initializers(onnx.load(tmp_path / "out.onnx"))
    for name, mask in masks.items():
        assert np.array_equal(after[name] != 0, mask == 1)


def test_a_mask_on_other_weights(tmp_path: Path) -> None:
    first = sparsify(small_cnn(), tmp_path / "a.onnx", Sparsity(ratio=0.5), save_mask=tmp_path / "m.npz")
    again = sparsify(small_cnn(seed=1), asked=Sparsity(apply_mask=tmp_path / "m.npz"))
    assert zeros(again) == zeros(first)
    assert again.mask.manifest == first.mask.manifest
    assert "764 weights that the mask removes were not zero; they are now" in again.report.notes
    for name, mask in first.mask.bits.items():
        assert not arrays(again)[name][~mask.keep()].any()


def test_any_name_will_do_but_one(tmp_path: Path) -> None:
    bits = {name: Bits.of(np.arange(9) < 4) for name in ("file", "a/b.npy", "", "ü", "allow_pickle")}
    made = maskfile.Manifest("", "unstructured", "magnitude", 0.5)
    maskfile.write(maskfile.MaskFile(made, bits), tmp_path / "m.npz")
    read = maskfile.read(tmp_path / "m.npz")
    assert {name: b.keep().tolist() for name, b in read.bits.items()} == {
        name: b.keep().tolist() for name, b in bits.items()
    }
    with pytest.raises(InputError) as error:
        maskfile.to_bytes(maskfile.MaskFile(made, {"manifest": bits["file"]}))
    message = "a tensor is called 'manifest', as the manifest of a mask file is; rename it first"
    assert str(error.value) == message


def test_the_same_mask_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        sparsify(small_cnn(), tmp_path / f"{name}.onnx", Sparsity(), save_mask=tmp_path / f"{name}.npz")
    for kind in ("onnx", "npz"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_rounds_are_monotone(tmp_path: Path) -> None:
    sparsify(small_cnn(), tmp_path / "a.onnx", Sparsity(ratio=0.5), save_mask=tmp_path / "a.npz")
    parent = maskfile.read(tmp_path / "a.npz")
    # retrained from other weights: what was removed is first to go all the same
    more = Sparsity(ratio=0.7, parent_mask=tmp_path / "a.npz")
    result = sparsify(small_cnn(seed=1), asked=more)
    assert sum(zeros(result).values()) == 1069
    assert all(bits.within(parent.bits[name]) for name, bits in result.mask.bits.items())
    assert (result.mask.manifest.round, result.mask.manifest.parent_sha256) == (1, parent.sha256)
    with pytest.raises(InputError) as error:
        sparsify(small_cnn(seed=1), asked=Sparsity(ratio=0.4, parent_mask=tmp_path / "a.npz"))
    assert str(error.value) == (
        f"{tmp_path}/a.npz: 22 weights of 'conv1.weight' that an earlier round removed would come back; "
        "ask for no less than it did"
    )


def save(path: Path, manifest: Any = None, **arrays: Array) -> None:
    base = {
        "format": "onnx-prune-mask",
        "version": 1,
        "model_sha256": "",
        "pattern": "unstructured",
        "criterion": "magnitude",
        "ratio": 0.5,
        "round": 0,
        "schedule": "one-shot",
        "parent_sha256": "",
        "initializers": {},
    }
    text = manifest if isinstance(manifest, str) else json.dumps(base | (manifest or {}))
    np.savez(path, manifest=np.array(text), **arrays)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("manifest", "stored", "message"),
    [
        ("{", {}, "its manifest is not that of a mask; write one with --save-mask"),
        ({"format": "x"}, {}, "not a mask file; write one with --save-mask"),
        ({"version": 2}, {}, "mask format 2 is not 1, the one known here"),
        (
            {"initializers": {FC: {"shape": [10, 16]}}},
            {},
            "the mask of 'fc.weight' is missing, or not as its shape says",
        ),
        (
            {"initializers": {FC: {"shape": [10, 16]}}},
            {FC: np.zeros(19, np.uint8)},
            "the mask of 'fc.weight' is missing, or not as its shape says",
        ),
    ],
)
def test_files_that_are_no_masks(tmp_path: Path, manifest: Any, stored: Any, message: str) -> None:
    save(tmp_path / "m.npz", manifest, **stored)
    with pytest.raises(InputError) as error:
        maskfile.read(tmp_path / "m.npz")
    assert str(error.value) == f"'{tmp_path}/m.npz': {message}"


def test_files_that_are_no_archives(tmp_path: Path) -> None:
    (tmp_path / "m.npz").write_bytes(b"text")
    with pytest.raises(InputError, match="not a mask file; write one with --save-mask"):
        maskfile.read(tmp_path / "m.npz")
    with pytest.raises(InputError, match="cannot be read: No such file or directory; check the path"):
        maskfile.read(tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"w": {"shape": [8]}}, "the model has no initializer 'w'; is it another network?"),
        ({FC: {"shape": [8]}}, "'fc.weight' has shape [10, 16], the mask says [8]"),
        ({}, "the mask has no tensors"),
    ],
)
def test_masks_of_another_model(tmp_path: Path, rows: Any, message: str) -> None:
    save(tmp_path / "m.npz", {"initializers": rows}, **{name: np.zeros(1, np.uint8) for name in rows})
    with pytest.raises(InputError) as error:
        sparsify(small_cnn(), asked=Sparsity(apply_mask=tmp_path / "m.npz"))
    assert str(error.value) == f"{tmp_path}/m.npz: {message}"


# Files.


def test_external_data_stream_and_stay_outside(tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    files.save(small_cnn((32, 64)), source, external="always")
    result = sparsify(source, tmp_path / "out.onnx", Sparsity(ratio=0.5, validate=False))
    assert result.model is None
    assert not result.report.runs
    before, after = (initializers(onnx.load(tmp_path / name)) for name in ("in.onnx", "out.onnx"))
    assert (tmp_path / "out.onnx.data").exists()
    for name, array in before.items():
        mask = result.mask.bits[name].keep() if name in result.mask.bits else True
        assert np.array_equal(after[name], np.where(mask, array, 0))


def test_sparse_initializers_run_alike(tmp_path: Path) -> None:
    result = sparsify(small_cnn(), tmp_path / "s.onnx", Sparsity(ratio=0.9, sparse_initializers=True))
    dense = sparsify(small_cnn(), asked=Sparsity(ratio=0.9))
    assert (result.report.stored_sparsely, result.report.storage) == (3, dense.report.storage)
    model = onnx.load(tmp_path / "s.onnx")
    assert [s.values.name for s in model.graph.sparse_initializer] == ["conv1.weight", "conv2.weight", FC]
    feeds = {"input": np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)}
    assert dense.model is not None
    [want], [got] = Session(dense.model).run(feeds), Session(model).run(feeds)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    half = sparsify(small_cnn(), asked=Sparsity(ratio=0.5, sparse_initializers=True))
    assert half.report.stored_sparsely == 0  # above the break-even density


def test_nothing_to_zero() -> None:
    model = build(["y = Relu(x)"], {}, {"x": (2, 3)}, {"y": (2, 3)})
    with pytest.raises(NothingToPrune) as error:
        sparsify(model)
    assert str(error.value) == "nothing to prune: no layer multiplies its inputs with a stored weight"
    with pytest.raises(NothingToPrune) as error:
        sparsify(linear(noise(4, 4)), asked=Sparsity(ignore=("w",)))
    assert str(error.value) == "nothing to prune: --ignore and --spare cover every layer"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"ratio": 1.5}, "ratio 1.5 is not in [0, 1): it is the fraction removed, 0.5 for half"),
        ({"spare": "middle"}, "unknown layers to spare 'middle'. Known: first, last, both"),
        ({"seed": -1}, "seed -1 is negative: give 0 or more"),
        (
            {"pattern": "2:4", "ratio": 0.5},
            "pattern 2:4 says how much goes; leave ratio, layer-ratio and global out",
        ),
        (
            {"pattern": "channel", "across": True},
            "whole channels are not ranked across layers; leave out one of the two",
        ),
        (
            {"pattern": "block:2x2", "criterion": "lamp"},
            "criterion lamp is for single weights; leave out the pattern",
        ),
        (
            {"criterion": "erk", "across": True},
            "criterion erk gives each layer its density; leave out global",
        ),
        ({"criterion": "wanda"}, "criterion wanda needs inputs: give them with --data FILE.npz"),
        (
            {"criterion": "wanda", "data": Path("x"), "across": True},
            "criterion wanda ranks within outputs: unstructured or N:M only",
        ),
    ],
)
def test_settings_that_do_not_go_together(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        Sparsity(**asked)
    assert str(error.value) == message


def test_globs_that_match_nothing() -> None:
    with pytest.raises(InputError) as error:
        sparsify(small_cnn(), asked=Sparsity(ignore=("foo",)))
    message = "--ignore 'foo' matches no weight and no layer; --dry-run -v shows their names"
    assert str(error.value) == message
