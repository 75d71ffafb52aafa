"""The record that a model carries of how it was made."""

from __future__ import annotations

from importlib.metadata import version

import onnx


def sign(model: onnx.ModelProto, **record: str) -> None:
    """Write `onnx_prune.*` entries into a model's metadata; other entries stay.

    Args:
        model: the model; it is changed.
        record: what to say beside the version.

    Example:
        >>> model = onnx.ModelProto()
        >>> sign(model, criterion="l1")
        >>> [entry.key for entry in model.metadata_props]
        ['onnx_prune.version', 'onnx_prune.criterion']
    """
    for key, value in {"version": version("onnx-prune"), **record}.items():
        name = f"onnx_prune.{key}"
        entry = next((p for p in model.metadata_props if p.key == name), None)
        if entry is None:
            entry = model.metadata_props.add(key=name)
        entry.value = value
