"""Does the sparse model run, and how far are its answers from the dense one's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from onnx_prune import samples
from onnx_prune.coupling import Coupling
from onnx_prune.errors import ProofFailed
from onnx_prune.runtime import Feeds, RunError, Session
from onnx_prune.validate import Drift, measure_drift

_SCALES = (1.0, 0.1, 0.01)


def run_both(
    coupling: Coupling, model: onnx.ModelProto, drift_data: Path | None
) -> tuple[Drift | None, str, list[str]]:
    """Run the dense and the sparse model.

    Args:
        coupling: the analysed original.
        model: the sparse model.
        drift_data: an .npz file of inputs; random ones are made where there is none.

    Returns:
        Drift, why they were not run ("" if they were), and sentences on what could not be measured.

    Raises:
        InputError: the drift data are not usable.
        ProofFailed: onnxruntime refuses the sparse model alone.
    """
    graph = coupling.graph
    try:
        Session(graph.model, graph.folder)
    except RunError as error:
        return None, str(error), []
    try:
        Session(model, graph.folder)
    except RunError as error:
        raise ProofFailed(f"the masked model does not load, the original does: {error}") from None
    if drift_data is not None:
        tries: list[tuple[str, list[Feeds]]] = [
            (str(drift_data), list(samples.load(drift_data, graph.inputs)))
        ]
    else:
        batches = list(samples.random_batches(graph.inputs, coupling.shapes.inputs))
        tries = [("random inputs", [_scaled(feeds, scale) for feeds in batches]) for scale in _SCALES]
    why = ""
    for source, feeds in tries:
        try:
            drift = measure_drift(graph.model, model, feeds, source, graph.folder)
        except RunError as error:
            why = why or str(error)
            continue
        except ProofFailed as error:  # the weights are right: it is zero weights that make it so
            return None, "", [str(error).replace("the pruned model", "the sparse model")]
        notes = [] if drift else ["drift was not measured: no float output keeps its shape"]
        return drift, "", notes
    return None, why, []


def _scaled(feeds: Feeds, scale: float) -> Feeds:
    """The same inputs, smaller: some detectors fail in plain noise."""
    floats = {n: v for n, v in feeds.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f"}
    return {**feeds, **{name: value * value.dtype.type(scale) for name, value in floats.items()}}
