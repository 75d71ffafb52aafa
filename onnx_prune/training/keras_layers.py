"""What the configuration of a Keras layer says about its sizes, and how that follows a cut.

Keras itself is not needed here: layers are known by the names of their classes.
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
Config = dict[str, Any]
Rule = Callable[[Config, Mapping[str, Mask]], Config]


def config(layer: Any, masks: Mapping[str, Mask]) -> Config:
    """The configuration of a layer after a cut.

    Args:
        layer: as it is before.
        masks: by variable, the path below the layer such as "kernel" or "query/kernel", what stays of
            it, as booleans in its shape.

    Raises:
        InputError: the layer can't be cut in this way.
    """
    before: Config = layer.get_config()
    for base in type(layer).__mro__:
        rule = _RULES.get(base.__name__) if base.__module__.startswith("keras.") else None
        if rule is not None:
            try:
                return before | rule(before, masks)
            except ValueError as error:
                raise InputError(
                    f"{type(layer).__name__} {plain(layer.name)!r}: {error}; leave it whole with --ignore"
                ) from None
    return before


def _conv(before: Config, masks: Mapping[str, Mask]) -> Config:
    count, out = groups(stays(masks["kernel"], -1), before["groups"])
    return {"groups": count, "filters": count * out}


def _conv_transpose(before: Config, masks: Mapping[str, Mask]) -> Config:
    return {"filters": int(stays(masks["kernel"], -2).sum())}


def _depthwise(before: Config, masks: Mapping[str, Mask]) -> Config:
    return {"depth_multiplier": int(stays(masks["kernel"], -1).sum())}


def _separable(before: Config, masks: Mapping[str, Mask]) -> Config:
    return {
        "filters": int(stays(masks["pointwise_kernel"], -1).sum()),
        "depth_multiplier": int(stays(masks["depthwise_kernel"], -1).sum()),
    }


def _dense(before: Config, masks: Mapping[str, Mask]) -> Config:
    return {"units": int(stays(masks["kernel"], -1).sum())}


def _embedding(before: Config, masks: Mapping[str, Mask]) -> Config:
    kept = masks["embeddings"]
    return {"input_dim": int(stays(kept, 0).sum()), "output_dim": int(stays(kept, 1).sum())}


def _group_norm(before: Config, masks: Mapping[str, Mask]) -> Config:
    mask = next(iter(masks.values()))
    count = mask.size if before["groups"] == -1 else before["groups"]
    return {"groups": groups(mask, count)[0]}


def _recurrent(before: Config, masks: Mapping[str, Mask]) -> Config:
    recurrent = next(mask for name, mask in masks.items() if name.endswith("recurrent_kernel"))
    return {"units": int(stays(recurrent, 0).sum())}


def _attention(before: Config, masks: Mapping[str, Mask]) -> Config:
    heads, size = (int(stays(masks["query/kernel"], j).sum()) for j in (1, 2))
    if size != before["key_dim"]:
        raise ValueError("parts of heads can't go, as its scores are divided by the root of their size")
    return {"num_heads": heads, "value_dim": int(stays(masks["value/kernel"], 2).sum())}


_RULES: dict[str, Rule] = {
    "BaseConv": _conv,
    "BaseConvTranspose": _conv_transpose,
    "BaseDepthwiseConv": _depthwise,
    "BaseSeparableConv": _separable,
    "Dense": _dense,
    "Embedding": _embedding,
    "GroupNormalization": _group_norm,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "SimpleRNN": _recurrent,
    "MultiHeadAttention": _attention,
}
