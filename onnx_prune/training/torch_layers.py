"""What the layers of `torch.nn` say about their sizes besides their parameters, and how that follows a cut.

PyTorch itself is not needed here: layers are known by the names of their classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune.errors import InputError
from onnx_prune.training.sizes import groups, stays
from onnx_prune.words import plain

Mask = NDArray[np.bool_]
Sizes = dict[str, Any]
Rule = Callable[[Any, Mapping[str, Mask]], Sizes]


def sizes(layer: Any, masks: Mapping[str, Mask], name: str) -> Sizes:
    """The attributes that a layer has after a cut.

    Args:
        layer: as it is before.
        masks: by parameter of the layer, what stays of it, as booleans in its shape.
        name: of the layer, for messages.

    Raises:
        InputError: the layer can't be cut in this way.
    """
    for base in type(layer).__mro__:
        rule = _RULES.get(base.__name__) if base.__module__.startswith("torch.nn.") else None
        if rule is not None:
            try:
                return rule(layer, masks)
            except ValueError as error:
                raise InputError(
                    f"{type(layer).__name__} {plain(name)!r}: {error}; leave it whole with --ignore"
                ) from None
    return {}


def _conv(layer: Any, masks: Mapping[str, Mask]) -> Sizes:
    weight = masks["weight"]
    count, out = groups(stays(weight, 0), layer.groups)
    return {
        "groups": count,
        "out_channels": count * out,
        "in_channels": count * int(stays(weight, 1).sum()),
    }


def _conv_transpose(layer: Any, masks: Mapping[str, Mask]) -> Sizes:
    weight = masks["weight"]
    count, into = groups(stays(weight, 0), layer.groups)
    return {"groups": count, "in_channels": count * into, "out_channels": count * int(stays(weight, 1).sum())}


def _linear(layer: Any, masks: Mapping[str, Mask]) -> Sizes:
    weight = masks["weight"]
    return {"out_features": int(stays(weight, 0).sum()), "in_features": int(stays(weight, 1).sum())}


def _batch_norm(layer: Any, masks: Mapping[str, Mask]) -> Sizes:
    return {"num_features": int(next(iter(masks.values())).sum())}


def _group_norm(layer: Any, masks: Mapping[str, Mask]) -> Sizes:
    count, each = groups(masks["weight"], layer.num_groups)
    return {"num_groups": count, "num_channels": count * each}


def _layer_norm(layer: Any, masks: Mapping[str, Mask]) -> Sizes:
    weight = masks["weight"]
    return {"normalized_shape": tuple(int(stays(weight, j).sum()) for j in range(weight.ndim))}


def _embedding(layer: Any, masks: Mapping[str, Mask]) -> Sizes:
    weight = masks["weight"]
    return {"num_embeddings": int(stays(weight, 0).sum()), "embedding_dim": int(stays(weight, 1).sum())}


def _prelu(layer: Any, masks: Mapping[str, Mask]) -> Sizes:
    return {"num_parameters": int(masks["weight"].sum())}


def _recurrent(layer: Any, masks: Mapping[str, Mask]) -> Sizes:
    hidden = {int(stays(mask, 1).sum()) for name, mask in masks.items() if name.startswith("weight_hh")}
    if len(hidden) != 1 or layer.proj_size:
        raise ValueError(f"its layers would have different sizes, {sorted(hidden)}")
    return {"hidden_size": hidden.pop(), "input_size": int(stays(masks["weight_ih_l0"], 1).sum())}


def _attention(layer: Any, masks: Mapping[str, Mask]) -> Sizes:
    if layer.bias_k is not None or layer.add_zero_attn:
        raise ValueError("a key of its own (add_bias_kv, add_zero_attn) can't be cut")
    if "in_proj_weight" in masks:
        rows = np.split(stays(masks["in_proj_weight"], 0), 3)
        width = int(stays(masks["in_proj_weight"], 1).sum())
    else:
        rows = [stays(masks[f"{which}_proj_weight"], 0) for which in "qkv"]
        width = int(stays(masks["q_proj_weight"], 1).sum())
    query, key, value = (groups(part, layer.num_heads) for part in rows)
    if query != key or query[0] != value[0]:
        raise ValueError("queries, keys and values would have different heads")
    return {"num_heads": query[0], "head_dim": query[1], "value_dim": value[1], "embed_dim": width}


_RULES: dict[str, Rule] = {
    "_ConvTransposeNd": _conv_transpose,
    "_ConvNd": _conv,
    "Linear": _linear,
    "_NormBase": _batch_norm,
    "GroupNorm": _group_norm,
    "LayerNorm": _layer_norm,
    "RMSNorm": _layer_norm,
    "Embedding": _embedding,
    "EmbeddingBag": _embedding,
    "PReLU": _prelu,
    "RNNBase": _recurrent,
    "MultiheadAttention": _attention,
}
