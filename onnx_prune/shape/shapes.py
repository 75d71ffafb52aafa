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

from onnx_prune.model.graph import Graph
from onnx_prune.model.memory import require_fits
from onnx_prune.runtime import RunError, Session, random_feeds
from onnx_prune.shape.assignments import BATCHES, SINGLE, Shape, assignments, pinned
from onnx_prune.shape.layout import probing, skeleton, telling

_LONG = 1 << 18  # of a vector: inference with values makes one of each entry, though it be 2^60 of them
_SCALES = (1, 8, 32, 128)  # images often want a multiple of the network's stride, sound more than a window
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
        others: names of sequences, maps and optionals, which have no shape.
    """

    inputs: dict[str, Shape]
    known: dict[str, Shape] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)


_Refused = tuple[list[Shapes], list[str]]  # at an assignment that does not run, and what is not known there


def infer(graph: Graph) -> tuple[Shapes, Shapes | None]:
    """Shapes at the first assignment, and at the second where something is dynamic.

    Where the runtime refuses every assignment (custom operators), what inference found is returned;
    tensors without a shape are then missing.  An input too short for a window leaves nothing of it, which
    says little: the assignment counts that leaves the fewest tensors empty.  Where an input has fixed dims
    beside dynamic ones, such as a state for a batch of one, the graph is run to see whether they agree.

    Raises:
        InputError: the graph would have to be run, and needs more memory than there is, or does not end.
    """
    inside = {name for node in graph.nodes if node.inner for name in node.outputs}
    loops = any(node.part == ".count" for node in graph.nodes)
    best: list[Shapes] = []
    first: list[Shapes] = []
    refused: list[_Refused] = []
    least = 0
    fixed_too = pinned(graph)
    tries = [(scale, batches) for scale in _SCALES for batches in (BATCHES, SINGLE)[: 1 + fixed_too]]
    for scale, batches in tries:
        assigned = list(assignments(graph, scale, batches))
        fixed = len(assigned) == 1
        if best and assigned[0] == best[0].inputs:  # no axis but that of the batch is dynamic
            break
        for steps in _STEPS[0 if loops else 1 if inside else 2 :]:
            found = list(_found(graph, assigned, steps))
            tensors = [name for name in _names(graph) if name not in found[0].others]
            missing = [n for n in tensors if any(n not in shapes.known for shapes in found)]
            if missing and scale == 1:
                require_fits(found[0].known, found[0].types)
            told_by_values = (missing or not fixed) and _value_shaped(graph)
            if missing and len(found) == 1 and told_by_values:
                found.append(replace(found[0], known=dict(found[0].known)))
            first = first or found
            if None in steps:
                missing = [name for name in missing if name not in inside]
            try:
                for shapes, noises, step in zip(found, _NOISES, steps, strict=False):
                    _probe(graph, shapes, missing, noises, step)
                if fixed_too and not missing:
                    Session(graph.model, graph.folder).run(random_feeds(graph.inputs, found[0].inputs))
            except RunError:
                continue
            break
        else:
            refused.append((found, missing))
            if not fixed and (best or (scale, batches) != tries[-1]):
                continue
            if not missing:  # nothing here runs the graph, of which inference knows all
                best = first
                break
            found = _furthest(graph, refused)
        empty = sum(0 in found[0].known.get(name, ()) for name in _names(graph))
        if not best or empty < least:
            best, least = found, empty
        if fixed or told_by_values or not least:
            break
    if len(best) > 1:  # what is known at one assignment alone could be anything at others
        for name in best[0].known.keys() ^ best[1].known.keys():
            best[0].known.pop(name, None)
            best[1].known.pop(name, None)
    return best[0], None if len(best) == 1 or best[0].known == best[1].known else best[1]


def _found(graph: Graph, assigned: list[dict[str, Shape]], steps: tuple[int | None, ...]) -> Iterator[Shapes]:
    """What is found without running anything, also for the second step of loops."""
    if len(assigned) == 1 and steps[0] != steps[1]:
        assigned = assigned * 2
    for inputs, step in zip(assigned, steps, strict=False):
        yield _static(graph, inputs, step or 0)


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
    """Shapes for a batch of one, which costs are told for; the analysed ones where the batch is fixed.

    The analysed ones, too, where a batch of one gives tensors of another rank (a Squeeze drops it).
    """
    if probe is None:
        return analysed
    inputs = {
        name: shape if not shape or shape[0] == probe.inputs[name][0] else (1, *shape[1:])
        for name, shape in analysed.inputs.items()
    }
    if inputs == analysed.inputs:
        return analysed
    found = _static(graph, inputs, 0)
    ranks, before = ({name: len(shape) for name, shape in s.known.items()} for s in (found, analysed))
    alike = (name in ranks and ranks[name] == before.get(name, ranks[name]) for name in _names(graph))
    return found if all(alike) else analysed


def _names(graph: Graph) -> list[str]:
    return [name for node in graph.nodes if node.op != "Constant" for name in node.outputs if name]


def _static(graph: Graph, inputs: dict[str, Shape], step: int) -> Shapes:
    """What onnx's own inference finds without running anything, at a step of loops."""
    tensors = [value.name for value in graph.inputs if value.type.HasField("tensor_type")]
    shapes = Shapes(inputs, {name: inputs[name] for name in tensors})
    for name, tensor in graph.weights.items():
        shapes.known[name] = tuple(tensor.dims)
        shapes.types[name] = tensor.data_type
    bare = skeleton(graph, inputs, step)
    _read(onnx.shape_inference.infer_shapes(bare), shapes)
    short = all(len(shape) != 1 or shape[0] <= _LONG for shape in shapes.known.values())
    if short and any(name not in shapes.known for name in _names(graph)):
        _read(onnx.shape_inference.infer_shapes(bare, data_prop=True), shapes)
    outputs = ((value.name, value.type.WhichOneof("value")) for value in graph.model.graph.output)
    shapes.others.update(name for name, kind in outputs if kind not in (None, "tensor_type"))
    return shapes


def _read(model: onnx.ModelProto, shapes: Shapes) -> None:
    """Take over what inference found."""
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        if value.type.WhichOneof("value") not in (None, "tensor_type"):
            shapes.others.add(value.name)
        kind = value.type.tensor_type
        if kind.elem_type:
            shapes.types[value.name] = kind.elem_type
        # inference subtracts a window from a signal that is shorter, and goes on
        dims = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
        if kind.HasField("shape") and all(n >= 0 for n in dims):
            shapes.known.setdefault(value.name, dims)


def _probe(
    graph: Graph, shapes: Shapes, missing: list[str], noises: tuple[float, ...], step: int | None
) -> None:
    """Run the graph and read the shapes of the tensors that inference left open.

    A detector that finds nothing has empty tensors, which tell little: the input that leaves the
    fewest of them counts.
    """
    if not missing:
        return
    session = _probing(graph, shapes, missing, len(graph.nodes), step)
    best: dict[str, Shape] | None = None
    for noise in noises:
        try:
            feeds = random_feeds(graph.inputs, shapes.inputs, scale=noise)
            values = session.run(feeds, _outputs(missing))
        except RunError:
            if best is None and noise == noises[-1]:
                raise
            continue
        found = {name: tuple(map(int, v)) for name, v in zip(missing, values, strict=True)}
        if best is None or _empties(found) < _empties(best):
            best = found
        if not _empties(best):
            break
    shapes.known.update(best or {})


def _probing(graph: Graph, shapes: Shapes, wanted: list[str], nodes: int, step: int | None) -> Session:
    """The first nodes, which are to answer the shapes of tensors; types that are not known are told now.

    The runtime finds these out also downstream of operators that onnx does not know.
    """
    untold = [name for name in wanted if name not in shapes.types]
    if untold:
        told = Session(telling(graph, shapes.inputs, untold, nodes, step), graph.folder).types
        shapes.types.update((name, kind) for name, kind in told.items() if kind)
    return Session(probing(graph, shapes.inputs, wanted, nodes, step), graph.folder)


def _outputs(wanted: list[str]) -> list[str]:
    return [f"shape of {j}" for j in range(len(wanted))]


def _empties(shapes: dict[str, Shape]) -> int:
    return sum(0 in shape for shape in shapes.values())


def _furthest(graph: Graph, refused: list[_Refused]) -> list[Shapes]:
    """As much as can be known where the graph never runs whole: as far as it does.

    Returns:
        The shapes at the assignment at which it runs furthest, the smallest of those.
    """
    best, most = refused[0][0], -1
    for found, missing in refused:
        reached = len(graph.nodes)
        for shapes in found:
            reached = min(reached, _reach(graph, shapes, missing, max(most, 0)))
            if reached <= most:
                break
        else:
            best, most = found, reached
    return best


def _reach(graph: Graph, shapes: Shapes, missing: list[str], least: int) -> int:
    """How many nodes run, which a search over them finds out; `least` where these are no more than that."""
    index = {name: node.index for node in graph.nodes for name in node.outputs}
    good, bad = least, len(graph.nodes)
    middle = least + 1 if least else bad // 2
    while bad - good > 1:
        wanted = [name for name in missing if index[name] < middle]
        try:
            answer = _answer(graph, shapes, wanted, middle) if wanted else {}
        except RunError:
            if middle == least + 1:
                break
            bad = middle
        else:
            good = middle
            shapes.known.update(answer)
        middle = (good + bad) // 2
    return good


def _answer(graph: Graph, shapes: Shapes, wanted: list[str], nodes: int) -> dict[str, Shape]:
    """The shapes of tensors among the results of the first nodes; the session is gone with the answer."""
    session = _probing(graph, shapes, wanted, nodes, None)
    values = session.run(random_feeds(graph.inputs, shapes.inputs), _outputs(wanted))
    return {name: tuple(map(int, value)) for name, value in zip(wanted, values, strict=True)}
