"""Carry a plan or a mask over to the PyTorch module that was exported, to fine-tune it.

PyTorch is imported when a function is called, and is no dependency.

    report = onnx_prune.torch.slice_module(module, "plan.json", "in.onnx")
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune.errors import InputError
from onnx_prune.plan import Plan
from onnx_prune.sparse.maskfile import MaskFile
from onnx_prune.training.carry import Cuts, Report, Source, cuts, masks
from onnx_prune.training.torch_layers import sizes
from onnx_prune.words import plain

if TYPE_CHECKING:
    from torch import Tensor, nn, optim

__all__ = ["Report", "mask_module", "masks_of", "slice_module", "slice_state"]


def slice_state(
    state: Mapping[str, Tensor], plan: str | Path | Plan, model: Source | None = None, *, strict: bool = True
) -> tuple[dict[str, Tensor], Report]:
    """Cut a state_dict by a plan.

    Args:
        state: of the module that was exported, whole: statistics of normalizations are needed too.
        plan: what `--save-plan` wrote.
        model: the exported model, before it was pruned; without it parameters are known by name alone.
        strict: raise if a tensor that is cut holds none of the parameters.

    Returns:
        The smaller state_dict, and how the parameters were found.

    Raises:
        InputError: PyTorch is missing, or the plan, the model and the state do not belong together.
    """
    torch = _torch()
    found = cuts({name: _array(tensor, torch) for name, tensor in state.items()}, plan, model, strict=strict)
    return {name: _cut(tensor, name, found, torch) for name, tensor in state.items()}, found.report


def slice_module(
    module: nn.Module, plan: str | Path | Plan, model: Source | None = None, *, strict: bool = True
) -> Report:
    """Cut a module by a plan, in place: its parameters, buffers, and the sizes that its layers keep.

    Layers of `torch.nn` follow by themselves, a `MultiheadAttention` becomes a
    `onnx_prune.training.attention.PrunedAttention`.  Sizes that a module of your own keeps in attributes
    (a number of heads for a reshape) are yours to change.  Make the optimizer afterwards.

    Args:
        module: that was exported; left as it is if anything is wrong.
        plan: what `--save-plan` wrote.
        model: the exported model, before it was pruned; without it parameters are known by name alone.
        strict: raise if a tensor that is cut holds none of the parameters.

    Raises:
        InputError: PyTorch is missing, or the plan, the model and the module do not belong together.
    """
    torch = _torch()
    tensors = _tensors(module)
    found = cuts({name: _array(t, torch) for name, t in tensors.items()}, plan, model, strict=strict)
    _require_tied_alike(tensors, found)
    resized = []
    for prefix, layer in module.named_modules():
        own = [*layer._parameters, *layer._buffers]
        paths = {leaf: f"{prefix}.{leaf}".lstrip(".") for leaf in own}
        if any(path in found.keep for path in paths.values()):
            whole = {leaf: np.ones(tensors[p].shape, np.bool_) for leaf, p in paths.items() if p in tensors}
            own_masks = {leaf: found.masks.get(paths[leaf], mask) for leaf, mask in whole.items()}
            own_masks = {leaf: mask for leaf, mask in own_masks.items() if mask.ndim}
            resized.append((layer, sizes(layer, own_masks, prefix)))
    new = {id(t): _cut(t.data, name, found, torch) for name, t in tensors.items() if name in found.keep}
    for layer, attributes in resized:
        if "value_dim" in attributes:
            _prune_attention(layer)
        for attribute, value in attributes.items():
            setattr(layer, attribute, value)
    for tensor in tensors.values():
        if id(tensor) in new:
            tensor.data, tensor.grad = new[id(tensor)], None
    return found.report


def masks_of(
    module: nn.Module, mask: str | Path | MaskFile, model: Source | None = None, *, strict: bool = True
) -> dict[str, Tensor]:
    """The masks of a module's parameters, by name, True for what stays: for `torch.nn.utils.prune`, say.

    Args:
        module: that was exported.
        mask: what `--save-mask` wrote.
        model: the exported model, dense; without it parameters are known by name alone.
        strict: raise if a tensor that the mask zeroes holds none of the parameters.

    Raises:
        InputError: PyTorch is missing, or the mask, the model and the module do not belong together.
    """
    torch = _torch()
    tensors = _tensors(module)
    found = masks({name: _array(t, torch) for name, t in tensors.items()}, mask, model, strict=strict)
    return {n: torch.from_numpy(keep).to(tensors[n].device) for n, keep in found.keep.items()}


def mask_module(
    module: nn.Module,
    mask: str | Path | MaskFile,
    model: Source | None = None,
    *,
    optimizer: optim.Optimizer | None = None,
    strict: bool = True,
) -> dict[str, Tensor]:
    """Zero what a mask removes, in place, and again after each step of an optimizer.

    Args:
        module: that was exported.
        mask: what `--save-mask` wrote.
        model: the exported model, dense; without it parameters are known by name alone.
        optimizer: one that trains the module.
        strict: raise if a tensor that the mask zeroes holds none of the parameters.

    Returns:
        The masks by parameter.

    Raises:
        InputError: PyTorch is missing, or the mask, the model and the module do not belong together.
    """
    found = masks_of(module, mask, model, strict=strict)
    tensors = _tensors(module)

    def apply(*_: Any) -> None:
        for name, keep in found.items():
            tensors[name].data.masked_fill_(~keep, 0)

    apply()
    if optimizer is not None:
        optimizer.register_step_post_hook(apply)
    return found


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError:
        raise InputError(
            "onnx_prune.torch needs PyTorch, which is not installed; pip install torch"
        ) from None


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers layer by layer, as in a state_dict, those that it leaves out too."""
    return {
        f"{prefix}.{leaf}".lstrip("."): tensor
        for prefix, layer in module.named_modules()
        for leaf, tensor in (*layer._parameters.items(), *layer._buffers.items())
        if tensor is not None
    }


def _array(tensor: Tensor, torch: Any) -> NDArray[Any]:
    detached = tensor.detach().cpu()
    array: NDArray[Any] = (detached.float() if detached.dtype == torch.bfloat16 else detached).numpy()
    return array


def _cut(tensor: Tensor, name: str, found: Cuts, torch: Any) -> Tensor:
    for dim, kept in found.keep.get(name, {}).items():
        tensor = tensor.index_select(dim, torch.from_numpy(kept).to(tensor.device))
    return tensor


def _require_tied_alike(tensors: Mapping[str, Tensor], found: Cuts) -> None:
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        other = first.setdefault(id(tensor), name)
        one, two = (found.masks.get(n) for n in (other, name))
        if one is not two and (one is None or two is None or not np.array_equal(one, two)):
            raise InputError(
                f"{plain(other)!r} and {plain(name)!r} are one parameter, and the plan cuts it in two "
                "ways; leave it whole with --ignore"
            )


def _prune_attention(layer: Any) -> None:
    from onnx_prune.training.attention import PrunedAttention

    if not isinstance(layer, PrunedAttention):
        layer.scale = layer.head_dim**-0.5
        layer.__class__ = PrunedAttention
    layer._qkv_same_embed_dim = False  # so that a TransformerEncoderLayer calls it
