"""Sizes of framework layers after a cut, on classes that only have the names of those layers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_prune import InputError
from onnx_prune.training.keras_layers import config
from onnx_prune.training.torch_layers import sizes


def layer(framework: str, kind: str, **attributes: Any) -> Any:
    """Something that says it is a layer of a framework."""
    made = type(
        kind,
        (SimpleNamespace,),
        {"__module__": f"{framework}.layers", "get_config": lambda self: dict(vars(self))},
    )
    return made(name="layer", **attributes)


def kept(shape: tuple[int, ...], **gone: list[int]) -> NDArray[np.bool_]:
    mask = np.ones(shape, np.bool_)
    for dim, indices in gone.items():
        mask[(slice(None),) * int(dim[1:]) + (indices,)] = False
    return mask


@pytest.mark.parametrize(
    ("kind", "attributes", "masks_of", "expected"),
    [
        (
            "_ConvNd",
            {"groups": 1},
            {"weight": kept((4, 3, 3), d0=[1], d1=[0])},
            {"groups": 1, "out_channels": 3, "in_channels": 2},
        ),
        (
            "_ConvNd",
            {"groups": 4},
            {"weight": kept((4, 1, 3), d0=[1])},
            {"groups": 3, "out_channels": 3, "in_channels": 3},
        ),
        (
            "_ConvNd",
            {"groups": 2},
            {"weight": kept((4, 3, 3), d0=[1, 3], d1=[2])},
            {"groups": 2, "out_channels": 2, "in_channels": 4},
        ),
        (
            "_ConvTransposeNd",
            {"groups": 2},
            {"weight": kept((4, 3, 3), d0=[0, 1])},
            {"groups": 1, "in_channels": 2, "out_channels": 3},
        ),
        ("Linear", {}, {"weight": kept((4, 3), d0=[0], d1=[1, 2])}, {"out_features": 3, "in_features": 1}),
        ("_NormBase", {}, {"running_mean": kept((4,), d0=[0])}, {"num_features": 3}),
        (
            "GroupNorm",
            {"num_groups": 2},
            {"weight": kept((4,), d0=[2, 3])},
            {"num_groups": 1, "num_channels": 2},
        ),
        ("LayerNorm", {}, {"weight": kept((4, 2), d0=[0])}, {"normalized_shape": (3, 2)}),
        ("Embedding", {}, {"weight": kept((9, 4), d1=[0])}, {"num_embeddings": 9, "embedding_dim": 3}),
        ("PReLU", {}, {"weight": kept((4,), d0=[0])}, {"num_parameters": 3}),
        (
            "RNNBase",
            {"proj_size": 0},
            {
                "weight_ih_l0": kept((8, 3), d0=[0, 2, 4, 6]),
                "weight_hh_l0": kept((8, 2), d0=[0, 2, 4, 6], d1=[0]),
            },
            {"hidden_size": 1, "input_size": 3},
        ),
        (
            "MultiheadAttention",
            {"num_heads": 2, "bias_k": None, "add_zero_attn": False},
            {"in_proj_weight": kept((12, 4), d0=[0, 1, 4, 5, 8, 9])},
            {"num_heads": 1, "head_dim": 2, "value_dim": 2, "embed_dim": 4},
        ),
        ("Dropout", {}, {}, {}),
    ],
)
def test_sizes_of_a_torch_layer(kind: str, attributes: Any, masks_of: Any, expected: Any) -> None:
    assert sizes(layer("torch.nn", kind, **attributes), masks_of, "layer") == expected


@pytest.mark.parametrize(
    ("kind", "attributes", "masks_of", "message"),
    [
        (
            "_ConvNd",
            {"groups": 2},
            {"weight": kept((4, 1), d0=[0])},
            "its 2 groups or heads keep unequal numbers of channels, [1, 2]; leave it whole with --ignore",
        ),
        (
            "RNNBase",
            {"proj_size": 0},
            {"weight_hh_l0": kept((8, 2)), "weight_hh_l1": kept((8, 2), d1=[0])},
            "its layers would have different sizes, [1, 2]; leave",
        ),
        (
            "MultiheadAttention",
            {"num_heads": 2, "bias_k": 1, "add_zero_attn": False},
            {},
            "a key of its own (add_bias_kv, add_zero_attn) can't be cut",
        ),
        (
            "MultiheadAttention",
            {"num_heads": 2, "bias_k": None, "add_zero_attn": False},
            {"in_proj_weight": kept((12, 4), d0=[0, 1])},
            "queries, keys and values would have different heads",
        ),
    ],
)
def test_a_torch_layer_that_cannot_be_cut_says_why(
    kind: str, attributes: Any, masks_of: Any, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        sizes(layer("torch.nn", kind, **attributes), masks_of, "net.layer")
    assert str(caught.value).startswith(f"{kind} 'net.layer': {message}")


@pytest.mark.parametrize(
    ("kind", "attributes", "masks_of", "expected"),
    [
        (
            "BaseConv",
            {"groups": 1, "filters": 4},
            {"kernel": kept((3, 3, 2, 4), d3=[0])},
            {"groups": 1, "filters": 3},
        ),
        (
            "BaseConv",
            {"groups": 2, "filters": 4},
            {"kernel": kept((3, 3, 2, 4), d3=[0, 1])},
            {"groups": 1, "filters": 2},
        ),
        ("BaseConvTranspose", {"filters": 4}, {"kernel": kept((3, 3, 4, 2), d2=[0])}, {"filters": 3}),
        (
            "BaseDepthwiseConv",
            {"depth_multiplier": 2},
            {"kernel": kept((3, 3, 4, 2), d2=[0])},
            {"depth_multiplier": 2},
        ),
        (
            "BaseSeparableConv",
            {"filters": 5, "depth_multiplier": 1},
            {
                "depthwise_kernel": kept((3, 4, 1), d1=[0]),
                "pointwise_kernel": kept((1, 4, 5), d1=[0], d2=[0]),
            },
            {"filters": 4, "depth_multiplier": 1},
        ),
        (
            "Dense",
            {"units": 4, "activation": "relu"},
            {"kernel": kept((2, 4), d1=[0])},
            {"units": 3, "activation": "relu"},
        ),
        (
            "Embedding",
            {"input_dim": 9, "output_dim": 4},
            {"embeddings": kept((9, 4), d1=[0])},
            {"input_dim": 9, "output_dim": 3},
        ),
        ("GroupNormalization", {"groups": 2}, {"gamma": kept((4,), d0=[0, 1])}, {"groups": 1}),
        ("GroupNormalization", {"groups": -1}, {"gamma": kept((4,), d0=[0])}, {"groups": 3}),
        (
            "LSTM",
            {"units": 2},
            {"lstm_cell/recurrent_kernel": kept((2, 8), d0=[0], d1=[0, 2, 4, 6])},
            {"units": 1},
        ),
        (
            "MultiHeadAttention",
            {"num_heads": 4, "key_dim": 2, "value_dim": 3},
            {"query/kernel": kept((8, 4, 2), d1=[0]), "value/kernel": kept((8, 4, 3), d1=[0])},
            {"num_heads": 3, "key_dim": 2, "value_dim": 3},
        ),
    ],
)
def test_configuration_of_a_keras_layer(kind: str, attributes: Any, masks_of: Any, expected: Any) -> None:
    assert config(layer("keras", kind, **attributes), masks_of) == {"name": "layer"} | expected


def test_a_keras_attention_cannot_lose_parts_of_heads() -> None:
    made = layer("keras", "MultiHeadAttention", num_heads=4, key_dim=2)
    with pytest.raises(
        InputError, match=r"^MultiHeadAttention 'layer': parts of heads can't go, as its scores"
    ):
        config(made, {"query/kernel": kept((8, 4, 2), d2=[0])})
