"""What must hold in a model before anything else looks at it: versions, and names that somebody makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

import onnx
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, defs

from onnx_prune.errors import InputError

OLDEST_OPSET = 7
_MOST_NODES = 5_000_000


def check_versions(model: ModelProto) -> None:
    """Require an IR version and a default opset that can be pruned.

    Raises:
        InputError: It is not an ONNX model, too new for the installed onnx, or too old.

    Example:
        >>> check_versions(ModelProto(ir_version=8))
        Traceback (most recent call last):
        onnx_prune.errors.InputError: not an ONNX model, or cut short; export or copy it again
    """
    empty = not model.graph.node and not model.graph.output
    nameless = not model.opset_import and model.ir_version > 2
    if not model.HasField("graph") or empty or nameless or model.ir_version < 1:
        raise InputError("not an ONNX model, or cut short; export or copy it again")
    upgrade = f"the newest that onnx {onnx.__version__} knows; upgrade onnx"
    if model.ir_version > onnx.IR_VERSION:
        raise InputError(f"IR version {model.ir_version} is newer than {onnx.IR_VERSION}, {upgrade}")
    newest = defs.onnx_opset_version()
    opset = max(
        (entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=None
    )
    if opset is None and model.ir_version <= 2:
        opset = 1  # what models had before they named their opset
    if opset is not None and opset > newest:
        raise InputError(f"opset {opset} is newer than {newest}, {upgrade}")
    if opset is not None and opset < OLDEST_OPSET:
        raise InputError(
            f"opset {opset} is older than {OLDEST_OPSET}; convert the model with onnx.version_converter"
        )


def check_names(model: ModelProto) -> None:
    """Require that every value is made once, before it is used, in subgraphs and functions too.

    Raises:
        InputError: An input or output that nobody makes, a name made twice or not UTF-8, or an operator of
            a domain of which no opset is imported.

    Example:
        >>> from onnx import helper
        >>> graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], "act")], "g", [], [])
        >>> check_names(ModelProto(graph=graph))
        Traceback (most recent call last):
        onnx_prune.errors.InputError: node Relu 'act': nobody makes its input 'x'; re-export the model
    """
    domains = {_domain(entry.domain) for entry in model.opset_import}
    if model.ir_version <= 2:
        domains.add("")  # what models had before they named their opset
    _check_graph(model.graph, (), domains)
    for node in _inside(model.graph):
        for attribute in node.attribute:
            if attribute.ref_attr_name:
                name, meant = attribute.name, attribute.ref_attr_name
                raise InputError(
                    f"node {_label(node)}: its attribute {name!r} refers to {meant!r} of a function, "
                    "and it is in none; re-export the model"
                )
    for function in model.functions:
        inside = {_domain(entry.domain) for entry in function.opset_import} or domains
        _check_nodes(function, dict.fromkeys(function.input, ""), function.output, (), inside)


def check_calls(model: ModelProto) -> None:
    """Require that functions, written out where they are called, make a graph that can be read.

    Thirty functions of a few bytes, each of which calls the next one twice, are a billion nodes.

    Raises:
        InputError: Functions call each other in a circle, or are too many nodes when written out.

    Example:
        >>> from onnx import helper
        >>> calls = [helper.make_node("f", ["x"], ["y"], domain="d")]
        >>> circle = helper.make_function("d", "f", ["x"], ["y"], calls, [])
        >>> check_calls(ModelProto(functions=[circle]))
        Traceback (most recent call last):
        onnx_prune.errors.InputError: function 'f' calls itself; re-export the model
    """
    bodies = {
        (_domain(f.domain), f.name): [(_domain(n.domain), n.op_type) for n in _inside(f)]
        for f in model.functions
    }
    order = TopologicalSorter({name: set(calls) & bodies.keys() for name, calls in bodies.items()})
    sizes: dict[tuple[str, str], int] = {}
    try:
        for name in order.static_order():
            sizes[name] = sum(sizes.get(call, 1) for call in bodies[name])
    except CycleError as error:
        raise InputError(f"function {error.args[1][0][1]!r} calls itself; re-export the model") from None
    total = sum(sizes.get((_domain(node.domain), node.op_type), 1) for node in _inside(model.graph))
    if total > _MOST_NODES:
        raise InputError(f"its functions, written out, are {total:,} nodes; re-export the model without them")


def _inside(root: GraphProto | FunctionProto) -> Iterator[NodeProto]:
    """Every node of a graph or function, in subgraphs too."""
    waiting = list(root.node)
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for subgraph in [attribute.g] * attribute.HasField("g") + list(attribute.graphs):
                waiting.extend(subgraph.node)


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _check_graph(graph: GraphProto, outer: tuple[Mapping[str, str], ...], domains: set[str]) -> None:
    _check_text([graph.name, *(value.name for value in (*graph.input, *graph.output, *graph.value_info))])
    stored: dict[str, str] = {}
    for name in [t.name for t in graph.initializer] + [t.values.name for t in graph.sparse_initializer]:
        _check_text([name])
        if name in stored:
            raise InputError(f"two initializers are called {name!r}; re-export the model")
        stored[name] = ""
    made = dict.fromkeys((value.name for value in graph.input), "") | stored
    _check_nodes(graph, made, [value.name for value in graph.output], outer, domains)


def _check_nodes(
    graph: GraphProto | FunctionProto,
    made: dict[str, str],
    outputs: Iterable[str],
    outer: tuple[Mapping[str, str], ...],
    domains: set[str],
) -> None:
    """Follow the nodes in order; `made` holds each value so far and who made it ("": no node).

    Recursive: protobuf lets messages nest 100 deep, three to a subgraph.
    """
    scopes = (made, *outer)
    for node in graph.node:
        _check_text([node.name, node.op_type, node.domain, *node.input, *node.output])
        _check_text([attribute.name for attribute in node.attribute])
        if _domain(node.domain) not in domains:
            raise InputError(
                f"node {_label(node)}: no opset is imported for its domain {node.domain or 'ai.onnx'!r}; "
                "re-export the model"
            )
        for name in node.input:
            if name and not any(name in scope for scope in scopes):
                later = any(name in other.output for other in graph.node)
                who = "a later node makes" if later else "nobody makes"
                way_out = "sort the nodes" if later else "re-export the model"
                raise InputError(f"node {_label(node)}: {who} its input {name!r}; {way_out}")
        for attribute in node.attribute:
            for subgraph in [attribute.g] * attribute.HasField("g") + list(attribute.graphs):
                _check_graph(subgraph, scopes, domains)
        for name in filter(None, node.output):
            if name in made:
                first = f"node {made[name]}" if made[name] else "an input or initializer"
                raise InputError(
                    f"{name!r} is made twice, by {first} and node {_label(node)}; re-export the model"
                )
            made[name] = _label(node)
    for name in outputs:
        if not any(name in scope for scope in scopes):
            raise InputError(f"nobody makes the output {name!r}; re-export the model")


def _check_text(names: Iterable[str | bytes]) -> None:
    """Require that names are text: protobuf hands out what is not UTF-8 as bytes, and takes none of these."""
    for name in names:
        if isinstance(name, bytes):
            raise InputError(f"the name {name!r} is not UTF-8; re-export the model")


def _label(node: NodeProto) -> str:
    return f"{node.op_type} {node.name or ', '.join(node.output)!r}"
