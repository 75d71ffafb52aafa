"""Round trips through PyTorch: the module that is cut by the plan computes what the pruned file does."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune
from torch.nn.utils.parametrizations import weight_norm

import onnx_prune
from onnx_prune import InputError
from onnx_prune.torch import mask_module, masks_of, slice_module, slice_state
from onnx_prune.training.attention import PrunedAttention
from tests.frameworks import torch_nets as nets

IMAGE = (2, 3, 32, 32)
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)  # TorchScript cannot export it
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def export(module: nn.Module, x: Tensor, exporter: str, path: Path) -> Path:
    module.eval()
    options: dict[str, Any] = {"dynamo": True}
    if exporter == "torchscript":
        options = {"dynamo": False, "opset_version": 17}
    with torch.no_grad():
        torch.onnx.export(module, (x,), path, verbose=False, **options)
    return path


def run(path: Path, x: Tensor) -> Any:
    session = onnxruntime.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def error(path: Path, module: nn.Module, x: Tensor) -> float:
    """Largest difference between a file and a module, relative to the largest value."""
    with torch.no_grad():
        ours = module.eval()(x).numpy()
    theirs = run(path, x)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def fewer_heads(module: nn.Module) -> None:
    module.heads = module.qkv.out_features // 48


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, Any]]] = {
    "resnet18": (nets.ResNet18, IMAGE, {}),
    "mobilenet_v2": (nets.MobileNetV2, IMAGE, {}),
    "encoder": (nets.Encoder, (2, 7, 16), {}),
    "encoder, residual width and dims of heads": (
        lambda: nets.Encoder(norm_first=True),
        (2, 7, 16),
        {"mixed": True, "attention": "dims"},
    ),
    "decoder": (nets.Decoder, (2, 7, 16), {}),
    "attention": (nets.Attention, (2, 7, 64), {}),
    "mixed": (nets.Mixed, (2, 3, 4, 4), {}),
    "lstm": (nets.Recurrent, (2, 7, 12), {}),
}


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("untrained", [False, True], ids=["trained", "untrained"])
@pytest.mark.parametrize("name", CASES)
def test_a_cut_module_computes_the_pruned_model(
    name: str, untrained: bool, exporter: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    make, shape, options = CASES[name]
    module = make() if untrained else nets.trained(make())
    x = torch.randn(shape)
    source = export(module, x, exporter, tmp_path / "in.onnx")
    small, plan = tmp_path / "out.onnx", tmp_path / "plan.json"
    onnx_prune.prune(source, small, ratio=0.5, save_plan=plan, **options)
    before = sum(p.numel() for p in module.parameters())
    state, _ = slice_state(module.state_dict(), plan, source)
    report = slice_module(module, plan, source)
    if name == "attention":
        fewer_heads(module)
    assert not report.missing
    assert not report.unmatched
    assert sum(p.numel() for p in module.parameters()) < 0.6 * before
    assert {n: t.shape for n, t in module.state_dict().items()} == {n: t.shape for n, t in state.items()}
    found = error(small, module, x)
    record_property("error", found)
    print(f"{name}, {exporter}: {found:.1e}")
    assert found < TOLERANCE


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", ["encoder", "mixed"])
def test_a_cut_module_is_exported_again(name: str, exporter: str, tmp_path: Path) -> None:
    make, shape, options = CASES[name]
    module, x = nets.trained(make()), torch.randn(shape)
    source = export(module, x, exporter, tmp_path / "in.onnx")
    onnx_prune.prune(source, tmp_path / "out.onnx", save_plan=tmp_path / "plan.json", **options)
    slice_module(module, tmp_path / "plan.json", source)
    again = export(module, x, exporter, tmp_path / "again.onnx")
    assert error(again, module, x) < TOLERANCE
    assert error(tmp_path / "out.onnx", module, x) < TOLERANCE


def test_a_cut_module_trains_and_is_pickled(tmp_path: Path) -> None:
    module, x = nets.trained(nets.Encoder()), torch.randn(2, 7, 16)
    source = export(module, x, "dynamo", tmp_path / "in.onnx")
    onnx_prune.prune(source, tmp_path / "out.onnx", save_plan=tmp_path / "plan.json")
    slice_module(module, tmp_path / "plan.json", source)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    before = copy.deepcopy(module.state_dict())
    module.train()(x).square().mean().backward()
    optimizer.step()
    assert all(
        not torch.equal(before[name], tensor)
        for name, tensor in module.named_parameters()
        if tensor.grad.abs().max() > 1e-5
    )
    assert isinstance(module.layer.self_attn, PrunedAttention)
    again = pickle.loads(pickle.dumps(module))
    assert torch.equal(again.eval()(x), module.eval()(x))


@pytest.mark.parametrize("batch_first", [False, True])
def test_pruned_attention_is_attention_over_what_stays(batch_first: bool) -> None:
    whole = nn.MultiheadAttention(8, 2, batch_first=batch_first)
    nn.init.normal_(whole.in_proj_bias)
    pruned = copy.deepcopy(whole)
    pruned.__class__ = PrunedAttention
    pruned.scale, pruned.value_dim = 0.5, 4
    x, y = torch.randn(3, 3, 8), torch.randn(3, 3, 8)
    causal = nn.Transformer.generate_square_subsequent_mask(3)
    padding = torch.tensor([[False, False, True]] * 3)
    for options in (
        {},
        {"attn_mask": causal},
        {"attn_mask": causal == float("-inf")},
        {"key_padding_mask": padding, "average_attn_weights": False},
        {"need_weights": False},
    ):
        for ours, theirs in zip(pruned(x, y, y, **options), whole(x, y, y, **options), strict=True):
            assert (ours is None and theirs is None) or torch.allclose(ours, theirs, atol=1e-6)
    for ours, theirs in zip(pruned(x[0], y[0], y[0]), whole(x[0], y[0], y[0]), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    with pytest.raises(ValueError, match="a mask for each head"):
        pruned(x, y, y, attn_mask=torch.zeros(6, 3, 3))


def masked(tmp_path: Path) -> tuple[nn.Module, Path, Path, Tensor]:
    module, x = nets.trained(nets.Mixed()), torch.randn(2, 3, 4, 4)
    source = export(module, x, "dynamo", tmp_path / "in.onnx")
    mask = tmp_path / "mask.npz"
    asked = onnx_prune.sparsify(source, tmp_path / "out.onnx", ratio=0.8, save_mask=mask)
    assert asked.model is not None
    return module, source, mask, x


def test_a_masked_module_computes_the_masked_model_and_stays_masked(tmp_path: Path) -> None:
    module, source, mask, x = masked(tmp_path)
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    module.train()(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    module.load_state_dict(masked(tmp_path)[0].state_dict())
    kept = mask_module(module, mask, source, optimizer=optimizer)
    assert error(tmp_path / "out.onnx", module, x) < TOLERANCE
    parameters = dict(module.named_parameters())
    for _ in range(2):
        module.train()(x).square().mean().backward()
        optimizer.step()
        assert all((parameters[name][~keep] == 0).all() for name, keep in kept.items())
    assert {"a.weight", "b.weight", "t.weight", "f.weight", "o.weight"} == kept.keys()


def test_masks_suit_pytorchs_own_pruning(tmp_path: Path) -> None:
    module, source, mask, x = masked(tmp_path)
    for name, keep in masks_of(module, mask, source).items():
        layer, _, leaf = name.rpartition(".")
        torch_prune.custom_from_mask(module.get_submodule(layer), leaf, keep)
    assert error(tmp_path / "out.onnx", module, x) < TOLERANCE


def test_a_module_stays_as_it_is_if_anything_is_wrong(tmp_path: Path) -> None:
    module, x = nets.trained(nets.Encoder()), torch.randn(2, 7, 16)
    source = export(module, x, "dynamo", tmp_path / "in.onnx")
    onnx_prune.prune(source, tmp_path / "out.onnx", save_plan=tmp_path / "plan.json")
    nn.init.normal_(module.layer.linear1.weight)
    module.layer.linear1 = nn.Sequential(module.layer.linear1)  # not known by name, either
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(InputError, match="none of the module's parameters"):
        slice_module(module, tmp_path / "plan.json", source)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_weight_normalization_is_refused(exporter: str, tmp_path: Path) -> None:
    layers = (weight_norm(nn.Linear(16, 32)), nn.ReLU(), nn.Linear(32, 4))
    module = nn.Sequential(*layers)
    source = export(module, torch.randn(2, 16), exporter, tmp_path / "in.onnx")
    onnx_prune.prune(source, tmp_path / "out.onnx", save_plan=tmp_path / "plan.json")
    with pytest.raises(InputError, match=r"the plan cuts .*, which holds none of the module's parameters"):
        slice_module(module, tmp_path / "plan.json", source)


def test_a_tied_parameter_that_the_plan_cuts_in_two_ways_is_refused(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(2, 8)
    source = export(module, x, "torchscript", tmp_path / "in.onnx")
    onnx_prune.prune(source, tmp_path / "out.onnx", round_to=1, save_plan=tmp_path / "plan.json")
    module[2].weight = module[0].weight
    with pytest.raises(InputError, match="are one parameter, and the plan cuts it in two ways"):
        slice_module(module, tmp_path / "plan.json")
