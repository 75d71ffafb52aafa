"""onnxruntime, behind one door: making sessions, running them, and random inputs.

It is loaded with the first session: a third of what is imported, and many models are cut without a run.
"""

from __future__ import annotations

import json
import re
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune.errors import InputError, PruneError
from onnx_prune.model import lazy, tensors
from onnx_prune.model.memory import available
from onnx_prune.words import human

if TYPE_CHECKING:
    import onnxruntime as ort

Array = NDArray[Any]
Feeds = Mapping[str, Array]
_FOLDER = "session.model_external_initializers_file_folder_path"
_INLINE = 1 << 26  # bytes of weights from which on they are handed over as arrays, not as a serialized copy
_LARGE = 1 << 16  # bytes of a weight that is worth it
_MISSING = (
    re.compile(r"(?P<domain>[\w.]*):(?P<op>\w+)\(-?\d+\) is not a registered function/op"),
    re.compile(r"No Op registered for (?P<op>\w+)"),
    re.compile(r"Could not find an implementation for (?P<op>\w+)\("),
)


_ALLOCATION = re.compile(r"Failed to allocate memory for requested buffer of size (\d+)")
_PATIENCE = 12  # seconds of CPU that one run of a model with a Loop in it may take
_TENSOR = re.compile(r"tensor\((\w+)\)")


def _element(name: str) -> int:
    """The element type that onnxruntime calls `name`, 0 for one that onnx does not know.

    >>> _element("float") == onnx.TensorProto.FLOAT, _element("uint8") == onnx.TensorProto.UINT8
    (True, True)
    """
    return dict(onnx.TensorProto.DataType.items()).get(name.upper(), 0)


class RunError(PruneError):
    """onnxruntime refuses the model or fails while running it."""


def missing_operators(error: Exception) -> list[str]:
    """The operators that onnxruntime says it lacks, with their domain where it names one.

    >>> missing_operators(RunError("Fatal error: com.foo:Bar(-1) is not a registered function/op"))
    ['com.foo.Bar']
    """
    found = (match for pattern in _MISSING for match in pattern.finditer(str(error)))
    names = (".".join(filter(None, (m.groupdict().get("domain"), m["op"]))) for m in found)
    return list(dict.fromkeys(names))


class Session:
    """A model in onnxruntime on the CPU.

    Args:
        model: the model; tensors may be external, in `folder`.
        folder: where external data are.
        optimize: whether onnxruntime may fuse and rewrite (as a user would run it).
        threads: intra-op threads; 0 lets onnxruntime choose.
        profile: time every node, see `profiled`.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Path | None = None,
        *,
        optimize: bool = False,
        threads: int = 0,
        profile: bool = False,
    ) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        self._profiles = tempfile.TemporaryDirectory(prefix="onnx-prune-") if profile else None
        if self._profiles is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(self._profiles.name, "profile"))
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        if folder is not None:
            options.add_session_config_entry(_FOLDER, str(folder.resolve()))
        if not optimize:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # nobody is timing
            if sum(map(tensors.nbytes, model.graph.initializer)) >= _INLINE:
                options.add_session_config_entry("session.disable_prepacking", "1")  # which copies weights
            # a Shape is told before the next tensor is made: halves what a model takes that is asked for many
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._loops = _has_loop(model)
        self._weights: list[Any] = []  # onnxruntime reads them where they are
        self._fed: dict[str, Array] = {}  # weights that are inputs to it
        try:
            self._session = ort.InferenceSession(
                self._slim(model, options, optimize).SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:  # onnxruntime raises a dozen types without a common base
            raise RunError(f"onnxruntime refuses the model: {_one_line(error)}") from None
        self.inputs = [v.name for v in self._session.get_inputs() if v.name not in self._fed]
        self.outputs = [output.name for output in self._session.get_outputs()]

    @property
    def types(self) -> dict[str, int]:
        """The element types (TensorProto.DataType) of the outputs that are tensors."""
        kinds = {output.name: _TENSOR.fullmatch(output.type) for output in self._session.get_outputs()}
        return {name: _element(kind[1]) for name, kind in kinds.items() if kind}

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> list[Array]:
        """The outputs by name, in the order asked (all of them by default).

        Raises:
            RunError: onnxruntime fails.
            InputError: the model asks for more memory than there is, or a loop of it does not end.
        """
        from onnxruntime import RunOptions

        options, watch = RunOptions(), _Watch()
        if self._loops:
            watch.start(options)
        try:
            return list(self._session.run(list(outputs or self.outputs), {**self._fed, **feeds}, options))
        except Exception as error:  # as above
            if watch.stopped:
                raise InputError(
                    f"the model ran for {_PATIENCE} seconds of CPU time and was stopped, a Loop may never "
                    "end; give it fewer turns, or try --no-validate"
                ) from None
            asked = _ALLOCATION.search(str(error))
            if asked and int(asked[1]) > available():
                raise InputError(
                    f"the model asks for more memory ({human(int(asked[1]), 'B')} at once) than there is; "
                    "give it smaller inputs or sizes"
                ) from None
            raise RunError(f"onnxruntime fails while running the model: {_one_line(error)}") from None
        finally:
            watch.over.set()

    def profiled(self) -> list[tuple[str, float]]:
        """What onnxruntime called each node that it ran, and its milliseconds, in order; ends the profile."""
        assert self._profiles is not None
        with self._profiles:
            events = json.loads(Path(self._session.end_profiling()).read_text())
        end = "_kernel_time"
        return [
            (event["name"].removesuffix(end), event["dur"] / 1e3)
            for event in events
            if event.get("cat") == "Node" and event["name"].endswith(end)
        ]

    def _slim(self, model: onnx.ModelProto, options: ort.SessionOptions, optimize: bool) -> onnx.ModelProto:
        """The model with its large weights handed to onnxruntime as arrays, and none left in its file.

        Saves the copies that serializing makes, and protobuf cannot serialize more than 2 GB.  What is not to
        be optimised gets its floats as inputs: of arrays that are to be constants onnxruntime makes a copy.
        """
        within = [t for t in model.graph.initializer if t.HasField("raw_data") or lazy.is_put_off(t)]
        large = {t.name for t in within if tensors.nbytes(t) >= _LARGE and _plain(t)}
        if sum(tensors.nbytes(t) for t in within if t.name in large) < _INLINE:
            large = set()
        waiting = any(map(lazy.is_put_off, within))
        if not large and not waiting:
            return model
        slim = onnx.ModelProto()
        tensors.copy_fields(model, slim, skip=("graph",))
        tensors.copy_fields(model.graph, slim.graph, skip=("initializer",))
        arrays = {}
        declared = {value.name for value in model.graph.input}
        for tensor in model.graph.initializer:
            fed = not optimize and tensor.name in large and tensors.dtype_of(tensor).kind == "f"
            if fed:
                self._fed[tensor.name] = np.require(tensors.read(tensor), requirements="A")
                if tensor.name not in declared:
                    info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                    slim.graph.input.append(info)
                continue
            stub = slim.graph.initializer.add()
            if tensor.name in large:
                stub.name, stub.data_type, stub.dims[:] = tensor.name, tensor.data_type, tensor.dims
                stub.data_location = onnx.TensorProto.EXTERNAL
                stub.external_data.add(key="location", value="in memory")
                arrays[tensor.name] = np.require(tensors.read(tensor), requirements="A")
                continue
            stub.CopyFrom(tensor)
            if lazy.is_put_off(tensor):
                tensors.clear(stub)
                stub.raw_data = lazy.data(tensor).tobytes()
        if arrays:
            from onnxruntime import OrtValue

            self._weights = [OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
            options.add_external_initializers(list(arrays), self._weights)
        return slim


@cache
def saturates() -> bool:
    """Whether this CPU's kernels saturate sums of two 8-bit products (those without VNNI do)."""
    node = onnx.helper.make_node("MatMulInteger", ["a", "b"], ["c"])
    kinds = {"a": onnx.TensorProto.UINT8, "b": onnx.TensorProto.INT8, "c": onnx.TensorProto.INT32}
    a, b, c = (onnx.helper.make_tensor_value_info(name, kind, (64, 64)) for name, kind in kinds.items())
    graph = onnx.helper.make_graph([node], "largest", [a, b], [c])
    imports = [onnx.helper.make_opsetid("", 10)]
    session = Session(onnx.helper.make_model(graph, opset_imports=imports, ir_version=8))
    largest = {"a": np.full((64, 64), 255, np.uint8), "b": np.full((64, 64), 127, np.int8)}
    return bool((session.run(largest)[0] != 64 * 255 * 127).any())


class _Watch:
    """Stops a run that takes too long; CPU time, since a busy machine is no fault of the model."""

    def __init__(self) -> None:
        self.over, self.stopped = threading.Event(), False

    def start(self, options: ort.RunOptions) -> None:
        began = time.process_time()

        def watch() -> None:
            while not self.over.wait(_PATIENCE / 20):
                if time.process_time() - began > _PATIENCE:
                    self.stopped = options.terminate = True
                    return

        threading.Thread(target=watch, daemon=True).start()


def _has_loop(model: onnx.ModelProto) -> bool:
    """Whether there is a Loop anywhere; Scan ends with its operand."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while nodes:
        node = nodes.pop()
        if node.op_type == "Loop":
            return True
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                nodes.extend(body.node)
    return False


def _plain(tensor: onnx.TensorProto) -> bool:
    """Whether numpy itself has the element type."""
    return tensors.dtype_of(tensor).kind in "biuf"


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"/\S+\.(?:cc|h):\d+ .*?\) (?=\S)", "", text)  # where in onnxruntime's sources
    return text[:300]


def random_feeds(
    inputs: Sequence[onnx.ValueInfoProto],
    shapes: Mapping[str, tuple[int, ...]],
    seed: int = 0,
    scale: float = 1.0,
    fill: int | None = None,
) -> dict[str, Any]:
    """Random values for the graph's inputs: normal floats, and 0 or 1 for integers and booleans.

    Zero and one are valid indices, token types and masks nearly everywhere.  A sequence is a list of
    one tensor, an optional is there.

    Args:
        inputs: the graph's inputs.
        shapes: the shape of each, of its elements where it is a sequence.
        seed: of the random generator.
        scale: standard deviation of the floats; some detectors find nothing in plain noise.
        fill: one value for all integers and booleans instead.
    """
    rng = np.random.default_rng(seed)

    def draw(kind: onnx.TypeProto, shape: tuple[int, ...]) -> Any:
        if kind.HasField("optional_type"):
            return draw(kind.optional_type.elem_type, shape)
        if kind.HasField("sequence_type"):
            return [draw(kind.sequence_type.elem_type, shape)]
        if not kind.HasField("tensor_type"):
            raise RunError("an input is no tensor, sequence or optional: no random value is made for it")
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type)
        if dtype == np.dtype(object):
            return np.full(shape, "a", object)
        if np.issubdtype(dtype, np.integer) or dtype == np.bool_:
            whole = rng.integers(0, 2, shape) if fill is None else np.full(shape, fill)
            return np.asarray(whole, dtype)
        return np.asarray(scale * rng.standard_normal(shape), dtype)  # a scalar, too, has to be an array

    return {value.name: draw(value.type, shapes[value.name]) for value in inputs}
