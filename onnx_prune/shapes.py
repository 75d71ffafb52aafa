"""The concrete shape of every tensor, at two assignments of the dynamic axes.

Each dynamic axis is given a prime, a different one for each name and each assignment; whatever
differs between the two is dynamic.  onnx's shape inference answers for most models; where it leaves
a tensor open, the graph itself is run in onnxruntime with a Shape output a tensor, which is complete
by construction.  The bodies of If, Loop and Scan are laid out beside them for one step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import onnx

from onnx_prune.graph import Graph
from onnx_prune.layout import element, probing, skeleton
from onnx_prune.runtime import RunError, Session, random_feeds

Shape = tuple[int, ...]
_BATCHES = ((2, 3), (3, 2), (5, 7), (7, 5))
_SIZES = ((11, 13), (17, 19), (23, 29), (31, 37), (41, 43), (47, 53), (59, 61), (67, 71), (73, 79), (83, 89))
_SCALES = (1, 8, 32)  # images often want a multiple of the network's stride
_NOISES = ((1.0, 0.1, 0.0), (0.1, 0.0, 1.0))  # standard deviations to try, at each assignment
# The step of loops at which their bodies are looked at, at each assignment: sizes may differ from step to
# step.  There may be no second step, or (None) a body may not run on its own: a branch that is not taken.
_STEPS: tuple[tuple[int | None, ...], ...] = ((0, 1), (0, 0), (None, None))
_VALUE_SHAPED = {"NonZero", "NonMaxSuppression", "Unique", "Compress", "If", "Loop", "Loop.stack", "Range"}


@dataclass(frozen=True, slots=True)
class Shapes:
    """Shapes of all tensors at one assignment.

    Attributes:
        inputs: shapes given to the graph's inputs, to the elements of those that are sequences.
        known: shape of every tensor that is known.
        types: element type (TensorProto.DataType) of every tensor that is known.
        lists: values that are no tensors but sequences, maps or optionals.
    """

    inputs: dict[str, Shape]
    known: dict[str, Shape] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    lists: set[str] = field(default_factory=set)


def infer(graph: Graph) -> tuple[Shapes, Shapes | None]:
    """Shapes at the first assignment, and at the second where something is dynamic.

    Where the runtime refuses every assignment (custom operators), what inference found is returned;
    tensors without a shape are then missing.
    """
    inside = {name for node in graph.nodes if node.inner for name in node.outputs}
    loops = any(node.part == ".count" for node in graph.nodes)
    for scale in _SCALES:
        for steps in _STEPS[0 if loops else 1 if inside else 2 :]:
            found = list(_found(graph, scale, steps))
            tensors = [name for name in _names(graph) if name not in found[0].lists]
            missing = [n for n in tensors if any(n not in shapes.known for shapes in found)]
            if missing and len(found) == 1 and _value_shaped(graph):
                found.append(replace(found[0], known=dict(found[0].known)))
            if None in steps:
                missing = [name for name in missing if name not in inside]
            try:
                for shapes, noises, step in zip(found, _NOISES, steps, strict=False):
                    _probe(graph, shapes, missing, noises, step)
            except RunError:
                continue
            return _differing(found)
        if len(found) == 1 or found[0].inputs == found[1].inputs:
            break
    for shapes in found:
        _probe_prefix(graph, shapes, missing)
    return _differing(found)


def _found(graph: Graph, scale: int, steps: tuple[int | None, ...]) -> Iterator[Shapes]:
    """What is found without running anything, also for the second step of loops."""
    assignments = list(_assignments(graph, scale))
    if len(assignments) == 1 and steps[0] != steps[1]:
        assignments *= 2
    for inputs, step in zip(assignments, steps, strict=False):
        yield _static(graph, inputs, step or 0)


def _differing(found: list[Shapes]) -> tuple[Shapes, Shapes | None]:
    same = len(found) == 1 or found[0].known == found[1].known
    return found[0], None if same else found[1]


def _value_shaped(graph: Graph) -> bool:
    """Whether shapes may depend on what the inputs hold, beyond the inputs' own shapes."""
    fed = {value.name for value in graph.inputs}
    for node in graph.nodes:
        if node.op in ("Shape", "Size"):
            continue
        if node.crossing or node.closed or node.op.startswith("Random") or not fed.isdisjoint(node.inputs):
            if node.op in _VALUE_SHAPED:
                return True
            fed.update(node.outputs)
    return False


def at_batch_one(graph: Graph, analysed: Shapes, probe: Shapes | None) -> Shapes:
    """Shapes for a batch of one, which costs are told for; the analysed ones where the batch is fixed."""
    if probe is None:
        return analysed
    inputs = {
        name: shape if not shape or shape[0] == probe.inputs[name][0] else (1, *shape[1:])
        for name, shape in analysed.inputs.items()
    }
    if inputs == analysed.inputs:
        return analysed
    found = _static(graph, inputs, 0)
    return found if all(name in found.known for name in analysed.known) else analysed


def _names(graph: Graph) -> list[str]:
    return [name for node in graph.nodes if node.op != "Constant" for name in node.outputs if name]


def _assignments(graph: Graph, scale: int) -> Iterator[dict[str, Shape]]:
    """Input shapes with a prime for every dynamic axis; one assignment if there is none."""
    names: dict[str, list[int]] = {"batch": [], "size": []}
    symbols: dict[str, tuple[str, int]] = {}
    layout: dict[str, list[int | str]] = {}
    for value in graph.inputs:
        row: list[int | str] = []
        for j, dim in enumerate(element(value.type).shape.dim):
            if dim.HasField("dim_value") and dim.dim_value > 0:
                row.append(dim.dim_value)
                continue
            symbol = dim.dim_param or f"{value.name}:{j}"
            kind = "batch" if j == 0 else "size"
            if symbol not in symbols:
                symbols[symbol] = (kind, len(names[kind]))
                names[kind].append(j)
            row.append(symbol)
        layout[value.name] = row
    for which in (0, 1) if symbols else (0,):

        def prime(entry: int | str, which: int = which) -> int:
            if isinstance(entry, int):
                return entry
            kind, j = symbols[entry]
            if kind == "batch":
                return _BATCHES[j % len(_BATCHES)][which]
            return _SIZES[j % len(_SIZES)][which] * scale

        yield {name: tuple(map(prime, row)) for name, row in layout.items()}


def _static(graph: Graph, inputs: dict[str, Shape], step: int) -> Shapes:
    """What onnx's own inference finds without running anything, at a step of loops."""
    tensors = [value.name for value in graph.inputs if value.type.HasField("tensor_type")]
    shapes = Shapes(inputs, {name: inputs[name] for name in tensors})
    for name, tensor in graph.weights.items():
        shapes.known[name] = tuple(tensor.dims)
        shapes.types[name] = tensor.data_type
    model = onnx.shape_inference.infer_shapes(skeleton(graph, inputs, step), data_prop=True)
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        kind = value.type.tensor_type
        if value.type.WhichOneof("value") not in (None, "tensor_type", "sparse_tensor_type"):
            shapes.lists.add(value.name)
        if kind.elem_type:
            shapes.types[value.name] = kind.elem_type
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            shapes.known.setdefault(value.name, tuple(d.dim_value for d in kind.shape.dim))
    return shapes


def _probe(
    graph: Graph, shapes: Shapes, missing: list[str], noises: tuple[float, ...], step: int | None
) -> None:
    """Run the graph and read the shapes of the tensors that inference left open.

    A detector that finds nothing has empty tensors, which tell little: the input that leaves the
    fewest of them counts.
    """
    if not missing:
        return
    session = Session(probing(graph, shapes.inputs, missing, len(graph.nodes), step), graph.folder)
    best: dict[str, Shape] | None = None
    error: RunError | None = None
    for noise in noises:
        try:
            feeds = random_feeds(graph.inputs, shapes.inputs, scale=noise)
            values = session.run(feeds, _outputs(missing))
        except RunError as refusal:
            error = refusal
            continue
        found = {name: tuple(map(int, v)) for name, v in zip(missing, values, strict=True)}
        if best is None or _empties(found) < _empties(best):
            best = found
        if not _empties(best):
            break
    if best is None:
        assert error is not None
        raise error
    shapes.known.update(best)
    shapes.types.update(_told(session, missing))


def _outputs(wanted: list[str]) -> list[str]:
    return [f"shape of {j}" for j in range(len(wanted))]


def _told(session: Session, wanted: list[str]) -> dict[str, int]:
    """The types that the runtime found out, also downstream of operators that onnx does not know."""
    return {name: kind for name, kind in session.types.items() if kind and name in wanted}


def _empties(shapes: dict[str, Shape]) -> int:
    return sum(0 in shape for shape in shapes.values())


def _probe_prefix(graph: Graph, shapes: Shapes, missing: list[str]) -> None:
    """As far as the graph runs, which a search over its nodes finds out."""
    index = {name: node.index for node in graph.nodes for name in node.outputs}
    good, bad = 0, len(graph.nodes)
    while bad - good > 1:
        middle = (good + bad) // 2
        wanted = [name for name in missing if index[name] < middle]
        try:
            session = Session(probing(graph, shapes.inputs, wanted, middle, None), graph.folder)
            values = session.run(random_feeds(graph.inputs, shapes.inputs), _outputs(wanted))
        except RunError:
            bad = middle
            continue
        good = middle
        shapes.known.update((n, tuple(map(int, v))) for n, v in zip(wanted, values, strict=True))
        shapes.types.update(_told(session, wanted))
