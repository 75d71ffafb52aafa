"""Inputs to measure on: random ones, or the user's own from an .npz file."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune.errors import InputError
from onnx_prune.runtime import random_feeds

Array = NDArray[Any]
Shape = tuple[int, ...]
SAMPLES = 8  # random samples that drift is measured on
CHUNK = 8  # of the user's samples that run at once, where the batch axis is dynamic


def random_batches(
    inputs: Sequence[onnx.ValueInfoProto], shapes: Mapping[str, Shape], samples: int = SAMPLES
) -> Iterator[dict[str, Array]]:
    """Sets of random inputs, together of at least `samples` samples.

    Args:
        inputs: the graph's inputs.
        shapes: a valid shape for each; the first dim is taken for the batch, so shapes of batch 1 give
            `samples` sets.
        samples: how many are wanted.
    """
    batch = max((shapes[v.name][0] for v in inputs if shapes[v.name]), default=1)
    for seed in range(-(-samples // max(batch, 1))):
        yield random_feeds(inputs, shapes, seed)


def load(
    path: str | Path, inputs: Sequence[onnx.ValueInfoProto], chunk: int = CHUNK
) -> list[dict[str, Array]]:
    """The user's inputs from an .npz file, cut into batches that the model takes.

    Args:
        path: the file; one array an input, stacked on the first axis, under the input's name.  A model
            with one input also takes a file with one array of any name.
        inputs: the graph's inputs.
        chunk: samples that run at once, where the batch axis is dynamic; a static batch is respected,
            and what is left over after the last full one is not used.

    Raises:
        InputError: the file is not usable, or does not fit the model.
    """
    return batches(read(Path(path)), inputs, chunk, path)


def batches(
    arrays: Mapping[str, Array], inputs: Sequence[onnx.ValueInfoProto], chunk: int, path: str | Path
) -> list[dict[str, Array]]:
    """Arrays stacked on the batch axis, cut into batches that the model takes; see `load`.

    Args:
        arrays: an array an input; a model with one input takes one array of any name.
        inputs: the graph's inputs.
        chunk: samples that run at once, where the batch axis is dynamic.
        path: where the arrays come from, for messages.

    Raises:
        InputError: the arrays do not fit the model.
    """
    arrays = fits(arrays, inputs, path)
    sizes = {v.name: batch(v) for v in inputs if arrays[v.name].ndim and _dims(v)}
    counts = {name: len(arrays[name]) for name in sizes}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {n}" for name, n in counts.items())
        raise InputError(f"{path}: inputs have different numbers of samples: {listed}")
    total = min(counts.values(), default=1)
    if total == 0:
        raise InputError(f"{path}: no samples")
    fixed = {n for n in sizes.values() if n}
    if len(fixed) > 1:
        raise InputError(f"{path}: the inputs' first dims differ ({sorted(fixed)}), they can't be stacked")
    step = fixed.pop() if fixed else min(chunk, total)
    if total < step:
        raise InputError(f"{path}: {total} samples, but the model takes {step} at a time")
    stop = total - total % step if any(sizes.values()) else total
    return [
        {n: a[at : at + step] if n in sizes else a for n, a in arrays.items()} for at in range(0, stop, step)
    ]


def named(arrays: Mapping[str, Array], inputs: Sequence[onnx.ValueInfoProto]) -> dict[str, Array]:
    """The arrays under the inputs' names: one input takes one array of any name."""
    if len(inputs) == 1 and len(arrays) == 1:
        return {inputs[0].name: next(iter(arrays.values()))}
    return {v.name: arrays[v.name] for v in inputs if v.name in arrays}


def fits(
    arrays: Mapping[str, Array], inputs: Sequence[onnx.ValueInfoProto], path: str | Path
) -> dict[str, Array]:
    """The arrays under the inputs' names, if they fit.

    Raises:
        InputError: an array is missing, or has another type or shape than its input.
    """
    found = named(arrays, inputs)
    missing = [v.name for v in inputs if v.name not in found]
    if missing:
        raise InputError(
            f"{path}: no array for input {', '.join(missing)}; the file has {', '.join(arrays) or 'none'}"
        )
    for value in inputs:
        _check(path, value, found[value.name])
    return found


def read(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file by name.

    Raises:
        InputError: the file is not there, or not usable.
    """
    if path.is_dir():
        raise InputError(f"{path} is a directory, not an .npz file")
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise InputError(f"{path} holds one array; an .npz file is needed (numpy.savez)")
        with file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile):
        raise InputError(f"{path} is not an .npz file that numpy can read without pickle") from None


def _dims(value: onnx.ValueInfoProto) -> list[int]:
    """Declared dims, 0 where dynamic; old exporters write -1."""
    return [max(d.dim_value, 0) for d in value.type.tensor_type.shape.dim]


def batch(value: onnx.ValueInfoProto) -> int:
    """The batch that the model insists on, 0 where it takes any."""
    return _dims(value)[0]


def _shown(value: onnx.ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    return (
        "("
        + ", ".join(str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in dims)
        + ")"
    )


def _check(path: str | Path, value: onnx.ValueInfoProto, array: Array) -> None:
    """Type and shape of one array; its first dim counts samples, and may be any multiple of the batch."""
    want = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    if array.dtype != want and not (want == np.dtype(object) and array.dtype.kind == "U"):
        raise InputError(f"{path}: input {value.name} is {want}, the file has {array.dtype}")
    if not value.type.tensor_type.HasField("shape"):
        return
    dims = _dims(value)
    fits = len(dims) == array.ndim and all(
        n in (0, m) for n, m in zip(dims[1:], array.shape[1:], strict=True)
    )
    if not fits:
        raise InputError(f"{path}: input {value.name} is {_shown(value)}, the file has {array.shape}")
