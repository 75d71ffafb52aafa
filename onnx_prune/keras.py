"""Carry a plan or a mask over to the Keras model that was exported, to fine-tune it.

Keras is imported when a function is called, and is no dependency.

    smaller, report = onnx_prune.keras.slice_model(model, "plan.json", "in.onnx")
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from math import prod as product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_prune.errors import InputError
from onnx_prune.plan import Plan
from onnx_prune.sparse.maskfile import MaskFile
from onnx_prune.training.carry import Cuts, Report, Source, cuts, masks
from onnx_prune.training.keras_layers import config
from onnx_prune.words import plain

__all__ = ["Report", "mask_model", "masks_of", "slice_model", "slice_weights"]

Array = NDArray[Any]


def slice_weights(
    model: Any, plan: str | Path | Plan, exported: Source | None = None, *, strict: bool = True
) -> tuple[list[Array], Report]:
    """The weights of a model, cut by a plan, in the order of `model.weights`.

    Args:
        model: the Keras model that was exported, whole.
        plan: what `--save-plan` wrote.
        exported: the ONNX model, before it was pruned; without it weights are known by name alone.
        strict: raise if a tensor that is cut holds none of the weights.

    Returns:
        The smaller arrays, for `set_weights`, and how they were found.

    Raises:
        InputError: Keras is missing, or the plan and the models do not belong together.
    """
    weights = _weights(model)
    found = cuts(weights, plan, exported, strict=strict)
    return [found.of(path, array) for path, array in weights.items()], found.report


def slice_model(
    model: Any, plan: str | Path | Plan, exported: Source | None = None, *, strict: bool = True
) -> tuple[Any, Report]:
    """A smaller model by a plan: layers made anew from their configurations, with the weights that stay.

    Args:
        model: the Keras model that was exported, Sequential or functional; it stays as it is.
        plan: what `--save-plan` wrote.
        exported: the ONNX model, before it was pruned; without it weights are known by name alone.
        strict: raise if a tensor that is cut holds none of the weights.

    Returns:
        The model, which is not compiled yet, and how its weights were found.

    Raises:
        InputError: Keras is missing, the model is a subclass of its own, or the plan and the models do not
            belong together.
    """
    keras = _keras()
    weights = _weights(model)
    found = cuts(weights, plan, exported, strict=strict)

    def clone(layer: Any) -> Any:
        return type(layer).from_config(config(layer, _own(layer, found)))

    try:
        smaller = _clone(keras, model, clone)
        smaller.set_weights([found.of(path, array) for path, array in weights.items()])
    except (ValueError, TypeError) as error:
        raise InputError(
            f"a smaller model can't be built from the layers' configurations: {_line(error)}; cut it with "
            "slice_weights, and build it smaller"
        ) from None
    return smaller, found.report


def masks_of(
    model: Any, mask: str | Path | MaskFile, exported: Source | None = None, *, strict: bool = True
) -> dict[str, NDArray[np.bool_]]:
    """The masks of a model's weights, by the path of the variable, True for what stays.

    Args:
        model: the Keras model that was exported.
        mask: what `--save-mask` wrote.
        exported: the ONNX model, dense; without it weights are known by name alone.
        strict: raise if a tensor that the mask zeroes holds none of the weights.

    Raises:
        InputError: Keras is missing, or the mask and the models do not belong together.
    """
    return dict(masks(_weights(model), mask, exported, strict=strict).keep)


def mask_model(
    model: Any, mask: str | Path | MaskFile, exported: Source | None = None, *, strict: bool = True
) -> Any:
    """Zero what a mask removes, in place.

    Args:
        model: the Keras model that was exported.
        mask: what `--save-mask` wrote.
        exported: the ONNX model, dense; without it weights are known by name alone.
        strict: raise if a tensor that the mask zeroes holds none of the weights.

    Returns:
        A callback for `fit` that zeroes it again after each step.

    Raises:
        InputError: Keras is missing, or the mask and the models do not belong together.
    """
    keras = _keras()
    found = masks_of(model, mask, exported, strict=strict)
    kept = [(v, found[v.path]) for v in model.weights if v.path in found]

    def apply(*_: Any, **__: Any) -> None:
        for variable, keep in kept:
            variable.assign(variable * keras.ops.cast(keep, variable.dtype))

    apply()
    return keras.callbacks.LambdaCallback(on_train_batch_end=apply)


def _keras() -> Any:
    try:
        return importlib.import_module("keras")
    except ImportError as error:
        raise InputError(
            f"onnx_prune.keras needs Keras and a backend, and {error.name} is not installed; pip install "
            "keras tensorflow"
        ) from None


def _weights(model: Any) -> dict[str, Array]:
    if not model.weights:
        raise InputError("the model has no weights; build it first, and load those that were exported")
    convert = _keras().ops.convert_to_numpy
    weights = {variable.path: np.asarray(convert(variable)) for variable in model.weights}
    if len(weights) != len(model.weights):
        raise InputError("two variables of the model have the same path; give its layers names of their own")
    return weights


def _own(layer: Any, found: Cuts) -> Mapping[str, NDArray[np.bool_]]:
    """Masks of a layer's variables by their path below it."""
    own = {}
    for variable in layer.weights:
        parts = variable.path.split("/")
        below = (
            "/".join(parts[len(parts) - parts[::-1].index(layer.name) :])
            if layer.name in parts
            else parts[-1]
        )
        own[below] = found.masks.get(variable.path, np.ones(tuple(variable.shape), np.bool_))
    return own


def _clone(keras: Any, model: Any, clone: Any) -> Any:
    if isinstance(model, keras.Sequential):
        return keras.models.clone_model(model, clone_function=clone)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, keras.layers.Reshape):
            _follow(layer, model.get_layer(layer.name).input.shape[1:], args[0].shape[1:])
        return layer(*args, **kwargs)

    return keras.models.clone_model(model, clone_function=clone, call_function=call)


def _follow(layer: Any, before: tuple[int | None, ...], after: tuple[int | None, ...]) -> None:
    """A Reshape that ends in the channels of its input ends in those that are left."""
    old, new = (product(n for n in shape if n is not None) for shape in (before, after))
    target = layer.target_shape
    if old != new and -1 not in target and target[-1] * new % old == 0:
        layer.target_shape = (*target[:-1], target[-1] * new // old)


def _line(error: Exception) -> str:
    return plain(str(error).strip().splitlines()[0].rstrip(". "))
