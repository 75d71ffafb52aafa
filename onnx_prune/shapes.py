"""The concrete shape of every tensor, at two assignments of the dynamic axes.

Each dynamic axis is given a prime, a different one for each name and each assignment; whatever
differs between the two is dynamic.  onnx's shape inference answers for most models; where it leaves
a tensor open, the graph itself is run in onnxruntime with a Shape output a tensor, which is complete
by construction.  The bodies of If, Loop and Scan are laid out beside them for one step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import onnx

from onnx_prune.graph import Graph
from onnx_prune.nodes import Node
from onnx_prune.runtime import RunError, Session, random_feeds

Shape = tuple[int, ...]
_SMALL = 1024  # elements: shape operands and index tables stay in the skeleton, weights do not
_BATCHES = ((2, 3), (3, 2), (5, 7), (7, 5))
_SIZES = ((11, 13), (17, 19), (23, 29), (31, 37), (41, 43), (47, 53), (59, 61), (67, 71), (73, 79), (83, 89))
_SCALES = (1, 8, 32)  # images often want a multiple of the network's stride
_NOISES = ((1.0, 0.1, 0.0), (0.1, 0.0, 1.0))  # standard deviations to try, at each assignment
_VALUE_SHAPED = {"NonZero", "NonMaxSuppression", "Unique", "Compress", "If", "Loop", "Loop.stack", "Range"}


@dataclass(frozen=True, slots=True)
class Shapes:
    """Shapes of all tensors at one assignment.

    Attributes:
        inputs: shapes given to the graph's inputs, to the elements of those that are sequences.
        known: shape of every tensor that is known.
        types: element type (TensorProto.DataType) of every tensor that is known.
    """

    inputs: dict[str, Shape]
    known: dict[str, Shape] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)


def infer(graph: Graph) -> tuple[Shapes, Shapes | None]:
    """Shapes at the first assignment, and at the second where something is dynamic.

    Where the runtime refuses every assignment (custom operators), what inference found is returned;
    tensors without a shape are then missing.  So are those in bodies that do not run on their own: a
    branch that is not taken may not.
    """
    for scale in _SCALES:
        found = [_static(graph, inputs) for inputs in _assignments(graph, scale)]
        missing = [n for n in _names(graph) if any(n not in shapes.known for shapes in found)]
        if missing and len(found) == 1 and _value_shaped(graph):
            found.append(replace(found[0], known=dict(found[0].known)))
        inside = {name for node in graph.nodes if node.inner for name in node.outputs}
        try:
            try:
                _probe_all(graph, found, missing)
            except RunError:
                if not inside:
                    raise
                missing = [name for name in missing if name not in inside]
                _probe_all(graph, found, missing, inside=False)
        except RunError:
            if len(found) > 1 and scale != _SCALES[-1] and found[0].inputs != found[1].inputs:
                continue
            for shapes in found:
                _probe_prefix(graph, shapes, missing)
        break
    if len(found) == 1 or found[0].known == found[1].known:
        return found[0], None
    return found[0], found[1]


def _probe_all(graph: Graph, found: list[Shapes], missing: list[str], *, inside: bool = True) -> None:
    for shapes, noises in zip(found, _NOISES, strict=False):
        _probe(graph, shapes, missing, noises, inside)


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
    found = _static(graph, inputs)
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
        for j, dim in enumerate(_element(value.type).shape.dim):
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


def _element(kind: onnx.TypeProto) -> onnx.TypeProto.Tensor:
    """The tensors of a sequence or optional, or the tensor itself."""
    while not kind.HasField("tensor_type"):
        inner = kind.optional_type if kind.HasField("optional_type") else kind.sequence_type
        if not inner.HasField("elem_type"):  # a map, or no type at all
            break
        kind = inner.elem_type
    return kind.tensor_type


def skeleton(graph: Graph, inputs: dict[str, Shape]) -> onnx.ModelProto:
    """The model without its large weights (their shapes stay, as inputs) and with fixed inputs."""
    source = graph.model
    model = onnx.ModelProto(ir_version=max(source.ir_version, 4))
    model.opset_import.extend(source.opset_import)
    model.functions.extend(source.functions)
    model.graph.name = source.graph.name
    model.graph.node.extend(_laid_out(graph.nodes))
    for value in graph.inputs:
        if not value.type.HasField("tensor_type"):
            model.graph.input.append(value)
            continue
        kind = value.type.tensor_type.elem_type
        fixed = onnx.helper.make_tensor_value_info(value.name, kind, inputs[value.name])
        model.graph.input.append(fixed)
    for name, tensor in graph.initializers.items():
        count = 1
        for n in tensor.dims:
            count *= n
        if count > _SMALL or tensor.data_location == onnx.TensorProto.EXTERNAL:
            info = onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
            model.graph.input.append(info)
        else:
            model.graph.initializer.add().CopyFrom(tensor)
            model.graph.initializer[-1].name = name
    for value in source.graph.output:
        model.graph.output.append(onnx.ValueInfoProto(name=value.name))
    model.graph.value_info.extend(_declared(graph, inputs))
    return model


def _laid_out(nodes: Sequence[Node], *, inside: bool = True) -> Iterator[onnx.NodeProto]:
    """The nodes, and before each that has bodies one step of these, unless `inside` is False."""
    for node in nodes:
        if inside or not node.inner:
            yield from node.step


def _declared(graph: Graph, inputs: dict[str, Shape]) -> Iterator[onnx.ValueInfoProto]:
    """What the model declares of results that inference knows nothing of: custom operators'."""
    sizes = {
        dim.dim_param: n
        for value in graph.inputs
        for dim, n in zip(_element(value.type).shape.dim, inputs[value.name], strict=True)
        if dim.dim_param
    }
    foreign = {name for node in graph.nodes if node.domain for name in node.outputs}
    for value in graph.model.graph.value_info if foreign else ():
        if value.name in foreign:
            fixed = onnx.ValueInfoProto()
            fixed.CopyFrom(value)
            for dim in fixed.type.tensor_type.shape.dim:
                if dim.dim_param in sizes:
                    dim.dim_value = sizes[dim.dim_param]
            yield fixed


def _static(graph: Graph, inputs: dict[str, Shape]) -> Shapes:
    """What onnx's own inference finds without running anything."""
    tensors = [value.name for value in graph.inputs if value.type.HasField("tensor_type")]
    shapes = Shapes(inputs, {name: inputs[name] for name in tensors})
    for name, tensor in graph.weights.items():
        shapes.known[name] = tuple(tensor.dims)
        shapes.types[name] = tensor.data_type
    model = onnx.shape_inference.infer_shapes(skeleton(graph, inputs), data_prop=True)
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        kind = value.type.tensor_type
        if kind.elem_type:
            shapes.types[value.name] = kind.elem_type
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            shapes.known.setdefault(value.name, tuple(d.dim_value for d in kind.shape.dim))
    return shapes


def _probe(graph: Graph, shapes: Shapes, missing: list[str], noises: tuple[float, ...], inside: bool) -> None:
    """Run the graph and read the shapes of the tensors that inference left open.

    A detector that finds nothing has empty tensors, which tell little: the input that leaves the
    fewest of them counts.
    """
    if not missing:
        return
    session = Session(_probing(graph, shapes, missing, len(graph.nodes), inside), graph.folder)
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
            session = Session(_probing(graph, shapes, wanted, middle, inside=False), graph.folder)
            values = session.run(random_feeds(graph.inputs, shapes.inputs), _outputs(wanted))
        except RunError:
            bad = middle
            continue
        good = middle
        shapes.known.update((n, tuple(map(int, v))) for n, v in zip(wanted, values, strict=True))
        shapes.types.update(_told(session, wanted))


def _probing(graph: Graph, shapes: Shapes, wanted: list[str], nodes: int, inside: bool) -> onnx.ModelProto:
    """The first `nodes` nodes of the graph, with a Shape output for every wanted tensor.

    The tensors are outputs too: nobody fetches them, but the runtime tells their types.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    _fix_inputs(model, shapes.inputs)
    del model.graph.node[:]
    model.graph.node.extend(_laid_out(graph.nodes[:nodes], inside=inside))
    own = {tensor.name for tensor in graph.model.graph.initializer}
    for name, tensor in graph.initializers.items():
        if name not in own and inside:
            model.graph.initializer.add().CopyFrom(tensor)
            model.graph.initializer[-1].name = name
    del model.graph.value_info[:]
    del model.graph.output[:]
    for j, name in enumerate(wanted):
        model.graph.node.append(onnx.helper.make_node("Shape", [name], [f"shape of {j}"]))
        model.graph.output.append(onnx.ValueInfoProto(name=f"shape of {j}"))
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    return model


def _fix_inputs(model: onnx.ModelProto, inputs: dict[str, Shape]) -> None:
    for value in model.graph.input:
        for dim, n in zip(value.type.tensor_type.shape.dim, inputs.get(value.name, ()), strict=False):
            dim.dim_value = n
