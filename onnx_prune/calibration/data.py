"""Unlabelled inputs to calibrate on: the user's own, or made up where there are none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune import samples
from onnx_prune.errors import InputError
from onnx_prune.model.graph import Graph
from onnx_prune.runtime import Feeds

Array = NDArray[Any]
Shape = tuple[int, ...]
Given = str | Path | Iterable[Mapping[str, Array]]
SYNTHETIC = "synthetic"
SYNTHETIC_SAMPLES = 128
_CHUNK, _FEWEST_SETS = 16, 5
_COLOURS = (1, 3, 4)  # sizes of a channel axis that an image may have
_ALPHA = 2.0
_FOLDS = 5


@dataclass(frozen=True, slots=True)
class Calibration:
    """Inputs in sets that the model takes, with where they are from.

    Attributes:
        feeds: sets of inputs.
        samples: how many samples they have together.
        source: the file or folder they come from, or what they are instead.
        synthetic: whether they were made up.
    """

    feeds: tuple[Feeds, ...]
    samples: int
    source: str
    synthetic: bool = False

    def is_held_out(self, j: int) -> bool:
        """Whether set `j` only checks what the others are fitted to: every fifth, and the last of fewer."""
        return j % _FOLDS == min(_FOLDS, len(self.feeds)) - 1


def load(
    data: Given,
    graph: Graph,
    shapes: Mapping[str, Shape],
    *,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    span: tuple[float, float] = (-np.inf, np.inf),
) -> Calibration:
    """Calibration data in whatever form they are given.

    Args:
        data: an .npz file (arrays stacked on the batch axis), a folder of .npz or .npy files, "synthetic",
            or sets of inputs in memory.
        graph: the model.
        shapes: a valid shape for each input, for synthetic ones.
        mean: of synthetic inputs, one number or one a channel.
        std: their standard deviation, likewise.
        span: the least and the largest value that they have.

    Raises:
        InputError: the data are not usable, or do not fit the model, or are fewer than two sets.
    """
    if data == SYNTHETIC:
        source = "synthetic inputs"
        made = synthetic(graph, shapes, mean=mean, std=std, span=span)
        feeds = _batches([(source, made)], graph.inputs, source)
    else:
        source = str(data) if isinstance(data, str | Path) else "data"
        feeds = _batches(_pieces(data, graph.inputs), graph.inputs, source)
    if len(feeds) < 2:
        raise InputError(
            f"{source}: one set of inputs is too few, a second has to check the first; give more samples"
        )
    return Calibration(tuple(feeds), sum(map(count, feeds)), source, data == SYNTHETIC)


def count(feed: Feeds) -> int:
    """How many samples a set of inputs has: the length of the first dim of the first that has one."""
    return next((len(value) for value in feed.values() if np.ndim(value)), 1)


def _pieces(data: Given, inputs: Sequence[onnx.ValueInfoProto]) -> list[tuple[str, dict[str, Array]]]:
    """The parts that the data come in: files of a folder, or sets in memory."""
    if not isinstance(data, str | Path):
        return [(f"data, set {j}", _mapping(piece, j, inputs)) for j, piece in enumerate(data)]
    path = Path(data)
    if not path.is_dir():
        return [(str(path), samples.read(path))]
    files = sorted(p for p in path.iterdir() if p.suffix in (".npz", ".npy"))
    if not files:
        raise InputError(f"{path} has no .npz or .npy file; write them with numpy.savez, or name one file")
    return [(str(p), _npy(p) if p.suffix == ".npy" else samples.read(p)) for p in files]


def _mapping(piece: object, j: int, inputs: Sequence[onnx.ValueInfoProto]) -> dict[str, Array]:
    if isinstance(piece, np.ndarray) and len(inputs) == 1:
        return {inputs[0].name: piece}
    if not isinstance(piece, Mapping):
        raise InputError(
            f"data, set {j}: is a {type(piece).__name__}, not a mapping from input names to arrays"
        )
    return {name: np.asarray(value) for name, value in piece.items()}


def _npy(path: Path) -> dict[str, Array]:
    try:
        return {path.stem: np.load(path, allow_pickle=False)}
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from None
    except (ValueError, EOFError):
        raise InputError(f"{path} is not an .npy file that numpy can read without pickle") from None


def _batches(
    pieces: list[tuple[str, dict[str, Array]]], inputs: Sequence[onnx.ValueInfoProto], source: str
) -> list[dict[str, Array]]:
    """Pieces of the same sizes are stacked first, so that a folder of single samples runs in batches."""
    for where, arrays in pieces:
        samples.fits(arrays, inputs, where)
    if not pieces:
        raise InputError(f"{source}: no samples")
    named = [list(samples.named(arrays, inputs).values()) for _, arrays in pieces]
    kinds = [[array.shape[1:] for array in arrays] for arrays in named]
    if all(_is_one_set(arrays, inputs) for arrays in named):
        return [{v.name: a for v, a in zip(inputs, arrays, strict=True)} for arrays in named]
    if len(pieces) > 1 and all(kind == kinds[0] for kind in kinds) and all(a.ndim for a in named[0]):
        stacked = [np.concatenate(arrays) for arrays in zip(*named, strict=True)]
        pieces = [(source, {v.name: a for v, a in zip(inputs, stacked, strict=True)})]
    feeds = []
    for where, arrays in pieces:
        chunk = max(1, min(_CHUNK, count(samples.named(arrays, inputs)) // _FEWEST_SETS))
        feeds += samples.batches(arrays, inputs, chunk, where)
    return feeds


def _is_one_set(arrays: Sequence[Array], inputs: Sequence[onnx.ValueInfoProto]) -> bool:
    """Whether the model takes the arrays at once, and not all of their first dims may count samples."""
    fixed = [(samples.batch(v), len(a)) for v, a in zip(inputs, arrays, strict=True) if a.ndim]
    return all(n in (0, m) for n, m in fixed) and any(n for n, _ in fixed)


def synthetic(
    graph: Graph,
    shapes: Mapping[str, Shape],
    *,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    span: tuple[float, float] = (-np.inf, np.inf),
    total: int = SYNTHETIC_SAMPLES,
) -> dict[str, Array]:
    """Inputs made up: images whose spectrum falls off as natural ones' do, tokens drawn uniformly.

    Float inputs of rank 4 are images with an amplitude spectrum of 1/f**2 and white noise otherwise;
    integers that look rows of a table up are drawn from the table's range; other integers and booleans
    (masks) are 1.  Arrays are stacked on the batch axis.  The same model always gets the same inputs.

    Args:
        graph: the model.
        shapes: a valid shape for each input; the first dim is the batch.
        mean: of the floats, one number or one a channel.
        std: their standard deviation, likewise.
        span: the least and the largest float; what is beyond is moved there, as overexposed pixels are.
        total: samples wanted.

    Raises:
        InputError: an input is neither numbers nor booleans, or has another number of channels.
    """
    rng = np.random.default_rng(0)
    arrays = {}
    for value in graph.inputs:
        shape, what = shapes[value.name], _not_made_up(value)
        if what:
            raise InputError(
                f"input {value.name} is {what}: synthetic inputs can't be made; give --data FILE"
            )
        if shape:
            batch = samples.batch(value) or 1
            shape = (max(2, -(-total // batch)) * batch, *shape[1:])
        arrays[value.name] = _made_up(graph, value, shape, rng, mean, std, span)
    return arrays


def _not_made_up(value: onnx.ValueInfoProto) -> str:
    """What an input is that can't be made up, "" for one that can."""
    if not value.type.HasField("tensor_type"):
        return "no tensor"
    return "text" if value.type.tensor_type.elem_type == onnx.TensorProto.STRING else ""


def _made_up(
    graph: Graph,
    value: onnx.ValueInfoProto,
    shape: Shape,
    rng: np.random.Generator,
    mean: Sequence[float],
    std: Sequence[float],
    span: tuple[float, float],
) -> Array:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    if dtype.kind in "iub":
        rows = _table(graph, value.name)
        return np.asarray(rng.integers(0, rows, shape) if rows else np.ones(shape), dtype)
    last = len(shape) == 4 and shape[1] not in _COLOURS and shape[3] in _COLOURS
    noise = rng.standard_normal(shape)
    if len(shape) == 4:
        noise = pink(noise, (1, 2) if last else (2, 3))
    channels = -1 if last else 1
    scaled = noise * _along(std, shape, channels, "std", value.name)
    moved = scaled + _along(mean, shape, channels, "mean", value.name)
    return np.asarray(np.clip(moved, *span), dtype)


def pink(noise: Array, dims: tuple[int, int], alpha: float = _ALPHA) -> Array:
    """White noise with its amplitude spectrum bent to 1/f**alpha over two dims, at mean 0 and spread 1.

    Field 1987, "Relations between the statistics of natural images and the response properties of
    cortical cells": natural images have amplitudes of about 1/f.
    """
    sizes = [noise.shape[dim] for dim in dims]
    y, x = np.meshgrid(np.fft.fftfreq(sizes[0]), np.fft.rfftfreq(sizes[1]), indexing="ij")
    frequency = np.hypot(y, x)
    frequency[0, 0] = 1 / max(sizes)
    weight = np.expand_dims(frequency**-alpha, tuple(d for d in range(noise.ndim) if d not in dims))
    bent = np.fft.irfftn(np.fft.rfftn(noise, axes=dims) * weight, s=sizes, axes=dims)
    everything = tuple(range(1, noise.ndim))
    bent -= bent.mean(everything, keepdims=True)
    return np.asarray(bent / (bent.std(everything, keepdims=True) + 1e-12))


def _table(graph: Graph, name: str) -> int:
    """How many rows the table has that an input looks up; 0 if it looks nothing up."""
    for index, k in graph.uses.get(name, ()):
        node = graph.nodes[index]
        if (
            k == 1
            and node.op == "Gather"
            and not node.attrs.get("axis", 0)
            and node.inputs[0] in graph.weights
        ):
            return graph.dims(node.inputs[0])[0]
    return 0


def _along(values: Sequence[float], shape: Shape, dim: int, what: str, name: str) -> Array:
    """One number, or one a channel, to broadcast against an input."""
    if len(values) == 1 or len(shape) < 2:
        return np.asarray(values[0])
    if shape[dim] != len(values):
        raise InputError(f"--input-{what} has {len(values)} numbers, input {name} has {shape[dim]} channels")
    spread = [1] * len(shape)
    spread[dim] = len(values)
    return np.reshape(values, spread)
