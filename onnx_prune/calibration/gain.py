"""How far an error of a layer's result reaches the model's outputs.

A loss that is summed over layers must know what an error in each of them does in the end: what a residual
stream carries past a layer hides its errors, the last layer passes all of them on.  So one result after
another is moved a little towards that of another sample, and the outputs are looked at.  Nothing is
differentiated.  White noise would not do: pooling averages it out, and not what neighbours share, as they do
the error of a cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune.calibration import taps
from onnx_prune.calibration.countdown import Countdown
from onnx_prune.calibration.data import Calibration, count
from onnx_prune.calibration.linear import Linear
from onnx_prune.model import tensors
from onnx_prune.model.graph import Graph
from onnx_prune.runtime import Feeds, Session
from onnx_prune.settings import Progress

Array = NDArray[Any]
_ENOUGH = 32  # samples
_STEP = 0.1  # in standard deviations of the result
_LEAST = 1e-4  # of the largest gain: what shows nowhere on these samples may show on others


def gains(
    graph: Graph,
    layers: Sequence[Linear],
    calibration: Calibration,
    *,
    progress: Progress = lambda stage: None,
) -> dict[int, float]:
    """Relative mean squared error of the outputs for each unit of that of a layer's result.

    The result of each sample is moved towards that of another one, by a tenth of the result's standard
    deviation in the mean.  An error is relative to the variance over samples, and the mean over all outputs
    of floats that keep their shape.

    Args:
        graph: the model.
        layers: the layers.
        calibration: inputs to run it on, of which about 32 samples are used.
        progress: told how far it is.

    Returns:
        By index of the layer's node its gain.

    Raises:
        RunError: onnxruntime can't run the model.
    """
    feeds = _some(calibration.feeds)
    by_node = {layer.node.index: layer for layer in layers}
    model, names = _opened(graph, list(by_node.values()))
    session, outputs = Session(model, graph.folder, optimize=True), [value.name for value in graph.outputs]
    silent = {
        name: np.zeros((), tensors.dtype_of(graph.weights[layer.stored]))
        for layer, name in zip(by_node.values(), names, strict=True)
    }
    answers = [session.run({**feed, **silent}, outputs) for feed in feeds]
    ticks = Countdown(progress, "seeing how far errors reach", len(names))
    found = {}
    for (index, layer), name in zip(by_node.items(), names, strict=True):
        results = [session.run({**feed, **silent}, [_raw(name)])[0] for feed in feeds]
        steps = [_step(layer, result, results[j - 1]) for j, result in enumerate(results)]
        changed = [
            session.run({**feed, **silent, name: step}, outputs)
            for feed, step in zip(feeds, steps, strict=True)
        ]
        found[index] = relative(answers, changed) / _STEP**2
        ticks.step()
    return found


def weights(found: Mapping[int, float]) -> dict[int, float]:
    """What an error of each layer counts in a sum: the root of its gain, 1 for all where none shows.

    An error that is alike in all places, as a step towards another sample is, reaches further than what a cut
    leaves, and not equally so in all layers; the root lies halfway between gains and counting all alike.

    Example:
        >>> weights({0: 1.0, 1: 0.25, 2: 0.0})
        {0: 1.0, 1: 0.5, 2: 0.01}
    """
    most = max(found.values(), default=0.0)
    if most <= 0:
        return dict.fromkeys(found, 1.0)
    return {index: float(np.sqrt(max(gain, _LEAST * most))) for index, gain in found.items()}


def relative(answers: Sequence[Sequence[Array]], changed: Sequence[Sequence[Array]]) -> float:
    """Mean squared change of outputs relative to their variance over samples, the mean over outputs.

    Args:
        answers: outputs for one set of inputs after another.
        changed: the same when something is off.

    Returns:
        0.0 where no output of floats can be compared.

    Example:
        >>> relative([[np.array([[1.0], [3.0]])]], [[np.array([[1.5], [3.0]])]])
        0.125
    """
    errors = []
    for before, after in zip(zip(*answers, strict=True), zip(*changed, strict=True), strict=True):
        pairs = [(a, b) for a, b in zip(before, after, strict=True) if _comparable(a, b)]
        if not pairs:
            continue
        off = [np.square(b.astype(np.float64) - a).mean() for a, b in pairs]
        spread = np.mean([_variance(a) for a, _ in pairs])
        if np.isfinite(spread) and spread > 0 and np.isfinite(off).all():
            errors.append(np.mean(off) / spread)
    return float(np.mean(errors)) if errors else 0.0


def _comparable(a: Any, b: Any) -> bool:
    arrays = isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
    return arrays and a.shape == b.shape and a.dtype.kind == "f" and a.size > 0


def _variance(output: Array) -> float:
    """Over the samples of a set, or over all numbers where there is one sample."""
    wide = output.astype(np.float64)
    return float(wide.var(0).mean() if output.ndim and len(output) > 1 else wide.var())


def _step(layer: Linear, result: Array, other: Array) -> Array:
    """What is added to a result: a part of the way to other samples, those of another set where it fits."""
    target = np.roll(other if other.shape == result.shape else result, 1, 0)
    way = target.astype(np.float64) - result
    spread = layer.results(result).astype(np.float64).var(1).mean()
    length = np.square(layer.results(way)).mean()
    scale = _STEP * np.sqrt(spread / length) if length > 0 else 0.0
    return np.asarray((scale * way).astype(result.dtype))


def _some(feeds: Sequence[Feeds]) -> list[Feeds]:
    """The first sets that have enough samples together."""
    found: list[Feeds] = []
    for feed in feeds:
        found.append(feed)
        if sum(map(count, found)) >= _ENOUGH:
            break
    return found


def _opened(graph: Graph, layers: Sequence[Linear]) -> tuple[onnx.ModelProto, list[str]]:
    """The model with an input for each layer that is added to its result, and the names of those inputs."""
    outputs = [value.name for value in graph.outputs]
    wanted = [*outputs, *(layer.result for layer in layers if layer.result not in outputs)]
    model = taps.part(graph.model, graph.model.graph.input, wanted)
    taken = {*graph.makers, *graph.weights, *(value.name for value in graph.inputs)}
    at = {name: j for j, node in enumerate(model.graph.node) for name in node.output}
    names, after = [], {}
    for layer in layers:
        name = f"{layer.result}.step"
        while name in taken or _raw(name) in taken:
            name += "_"
        taken |= {name, _raw(name)}
        kind = onnx.helper.np_dtype_to_tensor_dtype(tensors.dtype_of(graph.weights[layer.stored]))
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, None))
        model.graph.output.append(onnx.ValueInfoProto(name=_raw(name)))
        node = model.graph.node[at[layer.result]]
        node.output[0] = _raw(name)
        after[at[layer.result]] = onnx.helper.make_node("Add", [_raw(name), name], [layer.result])
        names.append(name)
    nodes = [n for j, node in enumerate(model.graph.node) for n in (node, after.get(j)) if n is not None]
    fresh = onnx.GraphProto(node=nodes)
    del model.graph.node[:]
    model.graph.node.extend(fresh.node)
    return model, names


def _raw(step: str) -> str:
    """The name of what a step is added to."""
    return f"{step}.raw"
