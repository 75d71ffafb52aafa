"""onnxruntime, behind one door: making sessions, running them, and random inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_prune.errors import PruneError

Array = NDArray[Any]
Feeds = Mapping[str, Array]
_FOLDER = "session.model_external_initializers_file_folder_path"


class RunError(PruneError):
    """onnxruntime refuses the model or fails while running it."""


class Session:
    """A model in onnxruntime on the CPU.

    Args:
        model: the model; tensors may be external, in `folder`.
        folder: where external data are.
        optimize: whether onnxruntime may fuse and rewrite (as a user would run it).
        threads: intra-op threads; 0 lets onnxruntime choose.
    """

    def __init__(
        self, model: onnx.ModelProto, folder: Path | None = None, *, optimize: bool = False, threads: int = 0
    ) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        if folder is not None:
            options.add_session_config_entry(_FOLDER, str(folder.resolve()))
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises a dozen types without a common base
            raise RunError(f"onnxruntime refuses the model: {_one_line(error)}") from None
        self.outputs = [output.name for output in self._session.get_outputs()]

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> list[Array]:
        """The outputs by name, in the order asked (all of them by default)."""
        try:
            return list(self._session.run(list(outputs or self.outputs), dict(feeds)))
        except Exception as error:  # as above
            raise RunError(f"onnxruntime fails while running the model: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def random_feeds(
    inputs: Sequence[onnx.ValueInfoProto],
    shapes: Mapping[str, tuple[int, ...]],
    seed: int = 0,
    scale: float = 1.0,
) -> dict[str, Array]:
    """Random values for the graph's inputs: normal floats, and 0 or 1 for integers and booleans.

    Zero and one are valid indices, token types and masks nearly everywhere.

    Args:
        inputs: the graph's inputs.
        shapes: the shape of each.
        seed: of the random generator.
        scale: standard deviation of the floats; some detectors find nothing in plain noise.
    """
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for value in inputs:
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        shape = shapes[value.name]
        if kind == np.dtype(object):
            feeds[value.name] = np.full(shape, "a", object)
        elif np.issubdtype(kind, np.integer) or kind == np.bool_:
            feeds[value.name] = rng.integers(0, 2, shape).astype(kind)
        else:
            feeds[value.name] = (scale * rng.standard_normal(shape)).astype(kind)
    return feeds
