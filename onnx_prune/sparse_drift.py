"""Does the sparse model run, and how far are its answers from the dense one's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx

from onnx_prune import samples
from onnx_prune.coupling import Coupling
from onnx_prune.errors import ProofFailed
from onnx_prune.runtime import Feeds, RunError, Session
from onnx_prune.validate import Drift, measure_drift


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
        source = str(drift_data)
        feeds: Iterable[Feeds] = samples.load(drift_data, graph.inputs)
    else:
        source = "random inputs"
        feeds = samples.random_batches(graph.inputs, coupling.shapes.inputs)
    try:
        drift = measure_drift(graph.model, model, feeds, source, graph.folder)
    except RunError as error:
        return None, str(error), []
    except ProofFailed as error:  # the weights are right: it is zero weights that make it so
        return None, "", [str(error).replace("the pruned model", "the sparse model")]
    notes = [] if drift else ["drift was not measured: no float output keeps its shape"]
    return drift, "", notes
