"""The way back into training, without a framework: parameters are arrays by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import onnx_prune
import onnx_prune.keras
import onnx_prune.torch
from onnx_prune import InputError
from onnx_prune.model.graph import Graph
from onnx_prune.plan import Plan
from onnx_prune.sparse.bits import Bits
from onnx_prune.sparse.maskfile import Manifest, MaskFile
from onnx_prune.training.carry import cuts, masks
from onnx_prune.training.matching import match
from onnx_prune.training.stored import Stored
from tests import zoo

Array = NDArray[Any]
State = dict[str, Array]
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> None:
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


def normal(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def norm(
    prefix: str, n: int, names: tuple[str, ...] = ("weight", "bias", "running_mean", "running_var")
) -> State:
    values = RNG.uniform(0.5, 1.5, n), normal(n), normal(n), RNG.uniform(0.5, 2, n)
    return {f"{prefix}.{k}": np.float32(v) for k, v in zip(names, values, strict=True)}


def state() -> State:
    """Of conv, norm, conv, norm, flatten, linear, linear."""
    return {
        "conv1.weight": normal(8, 3, 3, 3),
        **norm("bn1", 8),
        "conv2.weight": normal(8, 8, 3, 3),
        "conv2.bias": normal(8),
        **norm("bn2", 8),
        "fc1.weight": normal(12, 8 * 16),
        "fc1.bias": normal(12),
        "fc2.weight": normal(5, 12),
        "fc2.bias": normal(5),
    }


def folded(params: State, conv: str, bn: str, epsilon: float = 1e-5) -> tuple[Array, Array]:
    """A convolution's kernel and bias with the normalization behind it, as exporters fold it."""
    factors = params[f"{bn}.weight"] / np.sqrt(params[f"{bn}.running_var"] + np.float32(epsilon))
    bias = params.get(f"{conv}.bias", np.float32(0)) - params[f"{bn}.running_mean"]
    return params[f"{conv}.weight"] * factors[:, None, None, None], bias * factors + params[f"{bn}.bias"]


def weights(params: State) -> State:
    """What an exporter stores: norms folded, matrices transposed, every name its own."""
    stored = dict(zip(("c1", "c1b"), folded(params, "conv1", "bn1"), strict=True))
    stored |= dict(zip(("c2", "c2b"), folded(params, "conv2", "bn2"), strict=True))
    rows = params["fc1.weight"].reshape(12, 8, 4, 4).transpose(0, 2, 3, 1).reshape(12, -1)
    return stored | {
        "m1": np.ascontiguousarray(rows.T),  # behind a flatten of the other layout
        "a1": params["fc1.bias"],
        "m2": np.ascontiguousarray(params["fc2.weight"].T),
        "a2": params["fc2.bias"],
    }


def exported(params: State) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "c1", "c1b"], ["y1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y1"], ["r1"]),
        helper.make_node("Conv", ["r1", "c2", "c2b"], ["y2"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y2"], ["r2"]),
        helper.make_node("Transpose", ["r2"], ["t"], perm=[0, 2, 3, 1]),
        helper.make_node("Flatten", ["t"], ["f"]),
        helper.make_node("MatMul", ["f", "m1"], ["p1"]),
        helper.make_node("Add", ["p1", "a1"], ["s1"]),
        helper.make_node("Relu", ["s1"], ["r3"]),
        helper.make_node("MatMul", ["r3", "m2"], ["p2"]),
        helper.make_node("Add", ["p2", "a2"], ["y"]),
    ]
    return model(nodes, weights(params), [2, 3, 4, 4], [2, 5])


def model(nodes: list[onnx.NodeProto], stored: State, shape: list[int], result: list[int]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, result)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def arrays(proto: onnx.ModelProto) -> State:
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def pruned(source: onnx.ModelProto, **options: Any) -> tuple[Plan, State]:
    result = onnx_prune.prune(source, ratio=0.5, round_to=1, **options)
    return result.plan, arrays(result.model)


def test_what_an_exporter_folded_transposed_and_permuted_is_cut_alike() -> None:
    params = state()
    source = exported(params)
    plan, small = pruned(source)
    found = cuts(params, plan, source)
    cut = {name: found.of(name, array) for name, array in params.items()}
    assert {name: array.shape for name, array in cut.items()} == {
        "conv1.weight": (4, 3, 3, 3),
        **{f"bn1.{leaf}": (4,) for leaf in ("weight", "bias", "running_mean", "running_var")},
        "conv2.weight": (4, 4, 3, 3),
        "conv2.bias": (4,),
        **{f"bn2.{leaf}": (4,) for leaf in ("weight", "bias", "running_mean", "running_var")},
        "fc1.weight": (6, 64),
        "fc1.bias": (6,),
        "fc2.weight": (5, 6),
        "fc2.bias": (5,),
    }
    for kernel, bias, conv, bn in (("c1", "c1b", "conv1", "bn1"), ("c2", "c2b", "conv2", "bn2")):
        np.testing.assert_array_equal(folded(cut, conv, bn)[0], small[kernel])
        np.testing.assert_array_equal(folded(cut, conv, bn)[1], small[bias])
    rows = cut["fc1.weight"].reshape(6, 4, 4, 4).transpose(0, 2, 3, 1).reshape(6, -1)
    np.testing.assert_array_equal(rows.T, small["m1"])
    np.testing.assert_array_equal(cut["fc1.bias"], small["a1"])
    np.testing.assert_array_equal(cut["fc2.weight"].T, small["m2"])
    hows = {name: how for name, [(_, how)] in found.report.matched.items()}
    assert hows["conv2.bias"] == hows["bn2.running_var"] == hows["conv1.weight"] == "folded"
    assert (hows["fc1.weight"], hows["fc2.weight"], hows["fc1.bias"]) == ("reordered", "transposed", "values")
    assert (found.report.unmatched, found.report.missing) == ((), ())


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3])
def test_alike_norms_of_an_untrained_network_go_with_the_layers_before_them(epsilon: float) -> None:
    params = state()
    for name, array in params.items():
        if name.startswith("bn"):
            array[:] = name.endswith(("weight", "var"))
        elif name.endswith("bias"):
            array[:] = 0
    source = exported(params)
    if epsilon == 1e-3:
        for conv, bn in (("c1", "bn1"), ("c2", "bn2")):
            tensor = next(t for t in source.graph.initializer if t.name == conv)
            kernel, _ = folded(params, f"conv{conv[1]}", bn, epsilon)
            tensor.CopyFrom(numpy_helper.from_array(kernel, conv))
    plan, small = pruned(source, layer_ratios={"c1": 0.25})
    found = cuts(params, plan, source)
    cut = {name: found.of(name, array) for name, array in params.items()}
    np.testing.assert_array_equal(folded(cut, "conv1", "bn1", epsilon)[0], small["c1"])
    np.testing.assert_array_equal(folded(cut, "conv2", "bn2", epsilon)[0], small["c2"])
    assert cut["bn1.bias"].shape == (6,)
    assert cut["bn2.bias"].shape == (4,) == cut["conv2.bias"].shape


@pytest.mark.parametrize(
    "name",
    [
        "a_mobilenet_v2-ts17-db",
        "a_regnet_y_400mf-ts17",
        "a_vit_small4-dynamo23",
        "c_bert-ts17",
        "c_llama_gqa-dynamo20",
        "e_transformer_block-tf2onnx17-db",
        "f_resnet_groupnorm-jax2onnx21",
        "k_d_unet_bilinear-ts17--onnxsim",
    ],
)
def test_values_alone_tell_the_weights_of_a_real_model_apart(name: str) -> None:
    """Every weight is transposed and gets another name; all of them are cut as in the pruned model."""
    source = zoo.load(name)
    plan = onnx_prune.prune(source, ratio=0.5, validate=False).plan
    graph = Graph(source)
    names = [n for n in graph.weights if graph.elements(n) and graph.array(n).dtype.kind == "f"]
    names.sort(key=lambda n: graph.uses[n][0][0])  # a module lists its layers as they follow each other
    params = {f"layer{k}.w": graph.array(n).T.copy() for k, n in enumerate(names)}
    found = cuts(params, plan, source)
    assert found.report.unmatched == ()
    for stored, (param, array) in zip(names, params.items(), strict=True):
        expected = graph.array(stored)
        for axis, kept in plan.initializers.get(stored, {"keep": {}})["keep"].items():
            expected = expected.take(kept, int(axis))
        np.testing.assert_array_equal(found.of(param, array), expected.T)


def test_a_norm_stored_as_two_vectors_is_cut() -> None:
    params = {"fc1.weight": normal(8, 6), **norm("bn", 8), "fc2.weight": normal(3, 8)}
    factors = params["bn.weight"] / np.sqrt(params["bn.running_var"] + 1e-3)
    shift = params["bn.bias"] - params["bn.running_mean"] * factors
    stored = {"w1": params["fc1.weight"].T, "s": factors, "t": shift, "w2": params["fc2.weight"].T}
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Mul", ["a", "s"], ["b"]),
        helper.make_node("Add", ["b", "t"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w2"], ["y"]),
    ]
    source = model(nodes, {n: np.ascontiguousarray(a, np.float32) for n, a in stored.items()}, [2, 6], [2, 3])
    plan, small = pruned(source)
    found = cuts(params, plan, source)
    cut = {name: found.of(name, array) for name, array in params.items()}
    made = cut["bn.weight"] / np.sqrt(cut["bn.running_var"] + 1e-3)
    np.testing.assert_allclose(made, small["s"], rtol=1e-6)
    np.testing.assert_array_equal(cut["fc1.weight"].T, small["w1"])
    assert found.report.matched["bn.running_mean"] == (("s", "computed"),)
    assert found.report.missing == ()


def test_equal_vectors_that_are_stored_once_are_cut_each_in_its_own_way() -> None:
    shared = normal(8)
    params = {
        "one.weight": normal(8, 6),
        "one.bias": shared,
        "two.weight": normal(8, 8),
        "two.bias": shared.copy(),
        "last.weight": normal(3, 8),
    }
    stored = {
        "w1": params["one.weight"],
        "b": shared,
        "w2": params["two.weight"],
        "w3": params["last.weight"],
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b"], ["a"], transB=1),
        helper.make_node("Relu", ["a"], ["c"]),
        helper.make_node("Gemm", ["c", "w2", "b"], ["d"], transB=1),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "w3"], ["y"], transB=1),
    ]
    source = model(nodes, stored, [2, 6], [2, 3])
    result = onnx_prune.prune(source, ratio=0.5, round_to=1)
    small = arrays(result.model)
    found = cuts(params, result.plan, source)
    biases = [small[node.input[2]] for node in result.model.graph.node if len(node.input) == 3]
    assert not np.array_equal(*biases)
    for bias, name in zip(biases, ("one.bias", "two.bias"), strict=True):
        np.testing.assert_array_equal(found.of(name, params[name]), bias)


def rows(**tensors: tuple[list[int], dict[str, list[int]]]) -> Plan:
    """A plan by hand."""
    entries = {n.replace("_", "."): {"shape": s, "keep": k} for n, (s, k) in tensors.items()}
    return Plan("", "l1", 0.5, entries, (), ())


def test_names_are_enough_where_the_exporter_kept_them() -> None:
    params = {"fc.weight": normal(4, 3), "fc.bias": normal(4), "out.weight": normal(2, 4)}
    plan = rows(
        fc_weight=([4, 3], {"0": [1, 3]}),
        fc_bias=([4], {"0": [1, 3]}),
        net_out_weight=([4, 2], {"0": [1, 3]}),
    )
    found = cuts(params, plan)
    np.testing.assert_array_equal(found.of("fc.weight", params["fc.weight"]), params["fc.weight"][[1, 3]])
    np.testing.assert_array_equal(
        found.of("out.weight", params["out.weight"]), params["out.weight"][:, [1, 3]]
    )
    assert found.report.matched["out.weight"] == (("net.out.weight", "end of name"),)


def test_parameters_that_were_trained_on_are_known_by_their_names() -> None:
    params = {"fc.weight": normal(8, 3), "out.weight": normal(2, 8)}
    nodes = [
        helper.make_node("Gemm", ["x", "fc.weight"], ["a"], transB=1),
        helper.make_node("Gemm", ["a", "out.weight"], ["y"], transB=1),
    ]
    source = model(nodes, params, [2, 3], [2, 2])
    plan, _ = pruned(source)
    later = {name: array + np.float32(1) for name, array in params.items()}
    found = cuts(later, plan, source)
    assert found.of("fc.weight", later["fc.weight"]).shape == (4, 3)
    assert found.report.matched["fc.weight"] == (("fc.weight", "name, other values"),)


def test_a_fused_matrix_is_cut_in_its_parts() -> None:
    qkv = normal(12, 4)
    tensors = [
        Stored(n, (4, 4), qkv[at : at + 4].T, readers=(k,))
        for k, (n, at) in enumerate((("q", 0), ("k", 4), ("v", 8)))
    ]
    [found] = match({"in_proj_weight": qkv}, tensors).pieces.values()
    mask = np.ones((12, 4), np.bool_)
    for piece in found:
        kept = np.ones((4, 4), np.bool_)
        kept[:, :2] = piece.tensor == "v"
        piece.brought(kept, mask)
    assert mask.all(1).tolist() == [False, False, True, True] * 2 + [True] * 4
    parts = {name: qkv[at : at + 4] for name, at in (("q", 0), ("k", 4), ("v", 8))}
    joined = match(parts, [Stored("qkv", (12, 4), qkv)]).pieces
    assert [joined[name][0].within.start for name in "qkv"] == [0, 4, 8]  # type: ignore[union-attr]


def test_gates_in_another_order_are_found() -> None:
    kernel, first, second = normal(8, 3), normal(8), normal(8)
    iofc = [0, 1, 6, 7, 2, 3, 4, 5]
    tensors = [
        Stored("W", (1, 8, 3), kernel[iofc][None]),
        Stored("B", (1, 16), np.concatenate([first[iofc], second[iofc]])[None]),
    ]
    found = match({"weight_ih": kernel, "bias_ih": first, "bias_hh": second}, tensors).pieces
    mask, kept = np.ones(8, np.bool_), np.ones((1, 16), np.bool_)
    kept[0, 8:10] = False  # the first gate of the second bias
    found["bias_hh"][0].brought(kept, mask)
    assert mask.tolist() == [False] * 2 + [True] * 6
    assert found["weight_ih"][0].how == "reordered"


def test_a_mask_goes_back_to_where_the_weights_were() -> None:
    params = state()
    source = exported(params)
    stored = weights(params)
    bits = {name: Bits.of(RNG.random(stored[name].shape) < 0.5) for name in ("c1", "c2", "m1", "m2")}
    found = masks(params, MaskFile(Manifest("", "unstructured", "magnitude", 0.5), bits), source)
    assert sorted(found.keep) == ["conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"]
    masked = params | {name: params[name] * keep for name, keep in found.keep.items()}
    for name in bits:
        np.testing.assert_array_equal(weights(masked)[name], stored[name] * bits[name].keep())


def broken(change: Callable[[State], object]) -> tuple[State, Plan, onnx.ModelProto]:
    params = state()
    source = exported(params)
    plan, _ = pruned(source)
    change(params)
    return params, plan, source


LOST = r"normalization 'bn3.weight' is not in the exported model, neither as it is nor folded into a layer"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: p.update({"fc2.weight": normal(5, 12)}),
            r"^the plan cuts 'm2', which holds none of the module's parameters; export the module as it is "
            r"now, and prune that, or pass strict=False to leave it at that$",
        ),
        (lambda p: p.update(norm("bn2", 8)), r"^the plan cuts 'c2', 'c2b', which hold none of the module's"),
        (lambda p: p.update(norm("bn3", 8)), f"^{LOST}; export the module as it is now"),
    ],
)
def test_what_was_not_found_is_named(change: Callable[[State], object], message: str) -> None:
    params, plan, source = broken(change)
    with pytest.raises(InputError, match=message):
        cuts(params, plan, source)
    report = cuts(params, plan, source, strict=False).report
    assert f"{report.unmatched[0]}: not found, stays as it is" in str(report)


def test_a_weight_that_the_model_computes_is_refused() -> None:
    source = zoo.load("d_weightnorm_unfolded-ts17")
    plan = onnx_prune.prune(source, ratio=0.5, validate=False).plan
    with pytest.raises(
        InputError, match=r"which the model computes from its weights .*; remove that from the"
    ):
        cuts(arrays(source), plan, source)


def test_without_the_model_renamed_tensors_are_not_found() -> None:
    params, plan, _ = broken(lambda p: None)
    with pytest.raises(InputError, match="give the exported model too, so that values can be compared"):
        cuts(params, plan)


def test_another_model_than_the_plan_was_made_of_is_refused() -> None:
    params, plan, source = broken(lambda p: None)
    other = onnx.ModelProto()
    other.CopyFrom(source)
    tensor = next(t for t in other.graph.initializer if t.name == "m2")
    tensor.CopyFrom(numpy_helper.from_array(normal(12, 6), "m2"))
    with pytest.raises(InputError, match=r"'m2' has shape \[12, 6\] in the model, \[12, 5\] was expected"):
        cuts(params, plan, other)
    tensor.name = "m3"
    with pytest.raises(
        InputError, match="the model has no tensor 'm2'; give the one that the plan or mask was"
    ):
        cuts(params, plan, other)


@pytest.mark.parametrize("keep", [{"0": [0, 4]}, {"0": []}, {"0": [-1]}, {"2": [0]}])
def test_a_plan_that_keeps_what_is_not_there_is_refused(keep: dict[str, list[int]]) -> None:
    with pytest.raises(InputError, match=r"the plan keeps what 'w' of shape \[4, 3\] does not have"):
        cuts({"w": normal(4, 3)}, rows(w=([4, 3], keep)))


def test_a_copy_that_nobody_reads_is_refused() -> None:
    plan = rows(w=([4], {"0": [1]}))
    plan.initializers["w"]["copy_of"] = "b"
    with pytest.raises(InputError, match="the plan does not say what reads the copy 'w'"):
        cuts({"b": normal(4)}, plan)


def test_a_cut_that_is_none_of_the_parameter_is_refused() -> None:
    params = {"w": np.arange(8, dtype=np.float32).reshape(2, 4), "v": normal(3, 8)}
    nodes = [
        helper.make_node("MatMul", ["x", "flat"], ["a"]),
        helper.make_node("MatMul", ["a", "v"], ["y"]),
    ]
    stored = {"flat": params["w"].reshape(1, 8), "v": params["v"].T.copy()}
    source = model(nodes, stored, [2, 1], [2, 3])
    plan, _ = pruned(source)
    plan.initializers["flat"]["keep"]["1"] = [0, 1, 2, 5]
    with pytest.raises(
        InputError, match=r"what the plan keeps of 'flat' is no cut of the parameter 'w' along"
    ):
        cuts(params, plan, source)


@pytest.mark.parametrize(
    ("use", "name"),
    [
        (lambda: onnx_prune.torch.slice_state({}, Path()), "torch"),
        (lambda: onnx_prune.keras.slice_model(None, Path()), "keras"),
    ],
)
def test_a_framework_that_is_missing_is_named(
    use: Callable[[], object], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=f"onnx_prune.{name} needs .* not installed; pip install"):
        use()


def test_a_plan_that_changes_the_order_of_channels_is_refused() -> None:
    rows = {"w": {"shape": [4, 2], "keep": {"0": [2, 0]}}}
    with pytest.raises(InputError, match=r"^the plan changes the order of the channels of 'w', as behind"):
        cuts({"w": np.zeros((4, 2))}, Plan("", "l1", 0.5, rows, [], []))


def test_a_plan_in_another_basis_is_refused() -> None:
    rows = {"w": {"shape": [4, 2], "keep": {"0": [0, 2]}}}
    groups = [{"name": "w:0", "turned": True}]
    with pytest.raises(InputError, match=r"^the plan changes the basis of .*w:0"):
        cuts({"w": np.zeros((4, 2))}, Plan("", "obs", 0.5, rows, groups, []))
