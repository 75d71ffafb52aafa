"""Surgery: slice every weight, restate every size, and drop what the cut leaves dead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

import onnx

from onnx_prune.coupling import Coupling
from onnx_prune.draft import Draft, Edit, add_constant, rearrange, start
from onnx_prune.follow import Follower
from onnx_prune.kept import Plan, in_pieces, slicer, stays
from onnx_prune.model.graph import weight_of
from onnx_prune.model.nodes import Path, Place, graph_at, names_read


@dataclass(frozen=True, slots=True)
class Copy:
    """A private copy of a shared vector, for the users that need another cut of it.

    Attributes:
        name: the copy's name in the cut model.
        source: the shared vector's.
        key: the key in `Coupling.axes` of one of the users.
        users: (node index, operand index) pairs that read the copy.
    """

    name: str
    source: str
    key: str
    users: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Copies:
    """How shared vectors are parted.

    Attributes:
        leading: for each shared vector the key of the cut that most users need; it keeps the name.
        made: the copies for the others.
    """

    leading: dict[str, str]
    made: tuple[Copy, ...]


def copies_made(coupling: Coupling, plan: Plan) -> Copies:
    """Copy on write: exporters merge equal vectors, and their users may be cut differently."""
    taken = {*coupling.graph.weights, *coupling.shapes.known}
    shared: dict[str, dict[tuple[tuple[int, bytes], ...], list[tuple[tuple[int, int], str]]]] = {}
    for user, key in coupling.copies.items():
        found = enumerate(stays(coupling, key, plan))
        cuts = tuple((dim, places.tobytes()) for dim, places in found if places is not None)
        shared.setdefault(weight_of(key), {}).setdefault(cuts, []).append((user, key))
    leading: dict[str, str] = {}
    made: list[Copy] = []
    for name, versions in shared.items():
        ranked = sorted(versions.values(), key=len, reverse=True)
        leading[name] = ranked[0][0][1]
        for version in ranked[1:]:
            (index, _), key = version[0]
            fresh = f"{name}.{next(filter(None, coupling.graph.nodes[index].outputs))}"
            while fresh in taken:
                fresh += "_"
            taken.add(fresh)
            made.append(Copy(fresh, name, key, tuple(user for user, _ in version)))
    return Copies(leading, tuple(made))


def cut(coupling: Coupling, plan: Plan) -> Draft:
    """The smaller model.

    Args:
        coupling: the analysed original.
        plan: which channels of each group stay.

    Raises:
        CannotRestate: a dynamic shape operand can't follow.
    """
    graph = coupling.graph
    copies = copies_made(coupling, plan)

    def change(name: str) -> Edit | None:
        found = stays(coupling, copies.leading.get(name, name), plan)
        if all(places is None for places in found):
            return None
        sizes = zip(graph.dims(name), found, strict=True)
        dims = tuple(n if places is None else places.size for n, places in sizes)
        return Edit(slicer(found), dims, in_pieces(found))

    draft = start(graph, change)
    paths = [(), *(body.path for body in graph.bodies)]
    live = {path: _live_names(graph_at(graph.model.graph, path)) for path in paths}
    for copy in copies.made:
        array = slicer(stays(coupling, copy.key, plan))(graph.array(copy.source))
        add_constant(draft, copy.name, array)
        for index, k in copy.users:
            draft.rewire(graph.nodes[index], k, copy.name)
    Follower(coupling, plan, draft).run()
    _declare(coupling, plan, draft.model.graph, copies.leading)
    for body in graph.bodies:
        _declare(coupling, plan, graph_at(draft.model.graph, body.path), body.names)
    dead = set(draft.replaced)
    for path in reversed(paths):
        dead |= _dead(draft, path, live[path])
    rearrange(draft, before=draft.inserted, dropped=dead)
    return draft


def _declare(coupling: Coupling, plan: Plan, graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Shapes that the model declares for cut tensors follow; nothing else about them changes.

    A declaration inside the graph that is not so goes: onnxruntime ignores it, until a cut gives another
    tensor that very shape, and then lets the two share memory.
    """
    known = coupling.shapes.known
    for j in range(len(graph.value_info) - 1, -1, -1):
        value = graph.value_info[j]
        shape = known.get(names.get(value.name, value.name))
        if shape is not None and not _agrees(value, shape):
            del graph.value_info[j]
    for value in (*graph.value_info, *graph.input, *graph.output):
        found = stays(coupling, names.get(value.name, value.name), plan)
        for dim, places in zip(value.type.tensor_type.shape.dim, found, strict=False):
            if places is not None and dim.HasField("dim_value"):
                dim.dim_value = places.size


def _agrees(value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of this shape is one of those that are declared."""
    if not value.type.tensor_type.HasField("shape"):
        return True
    dims = value.type.tensor_type.shape.dim
    fixed = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
    return len(fixed) == len(shape) and all(a in (None, b) for a, b in zip(fixed, shape, strict=True))


def _live_names(graph: onnx.GraphProto) -> set[str]:
    return {value.name for value in graph.output} | set(names_read(graph.node))


def _dead(draft: Draft, path: Path, live: set[str]) -> set[Place]:
    """Nodes of one graph that the cut leaves unused; weights that it leaves unused are removed at once."""
    graph = graph_at(draft.model.graph, path)
    places = [Place(path, at) for at in range(len(graph.node))]
    users = Counter(names_read([*graph.node, *chain.from_iterable(draft.inserted.values())]))
    users.update(value.name for value in graph.output)
    dead = draft.replaced.intersection(places)
    users.subtract(names_read(graph.node[place.at] for place in dead))
    for place in reversed(places):
        node = graph.node[place.at]
        outputs = [name for name in node.output if name and place not in dead]
        if outputs and not any(users[name] for name in outputs) and any(name in live for name in outputs):
            dead.add(place)
            users.subtract(names_read([node]))
    declared = {value.name for value in graph.input}
    for j in range(len(graph.initializer) - 1, -1, -1):
        name = graph.initializer[j].name
        if name in live and not users[name] and name not in declared:
            del graph.initializer[j]
            draft.content.pop(name, None)
    made = declared | {tensor.name for tensor in graph.initializer}
    made |= {name for place in places if place not in dead for name in graph.node[place.at].output}
    for j in range(len(graph.value_info) - 1, -1, -1):
        name = graph.value_info[j].name
        if dead and name in live and name not in made:
            del graph.value_info[j]
    return dead
