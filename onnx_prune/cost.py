"""What a model costs: parameters, and multiply-accumulates (1 MAC = one multiply and one add)."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Collection, Mapping
from math import prod as product

from onnx_prune.axes.axis import Atom, atoms
from onnx_prune.axes.relation import Op
from onnx_prune.coupling import Coupling
from onnx_prune.kept import size_kept
from onnx_prune.model.graph import Graph
from onnx_prune.model.nodes import Node, Path
from onnx_prune.rules.linear import einsum

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Counts = Mapping[Atom, int]


def _conv(op: Op) -> int:
    return product(op.out()) * product(op.shape(1)[1:])


def _conv_of_codes(op: Op) -> int:
    """With a scale and a zero point behind each operand."""
    return product(op.out()) * product(op.shape(3)[1:])


def _conv_transpose(op: Op) -> int:
    return product(op.shape()) * product(op.shape(1)[1:])


def _matmul(op: Op) -> int:
    return product(op.out()) * op.shape()[-1]


def _fused_matmul(op: Op) -> int:
    left = op.shape()
    rows = left[0] if op.integer("transBatchA") else left[-2:][0]
    return product(op.out()) * (rows if op.integer("transA") and len(left) > 1 else left[-1])


def _gemm(op: Op) -> int:
    inner = product(op.shape()) // max(op.out()[0], 1)
    return product(op.out()) * inner


def _recurrent(op: Op) -> int:
    """Both weights at every step, in every direction that they have."""
    steps = product(op.shape()[:2])
    return steps * (product(op.shape(1)) + product(op.shape(2)))


def _einsum(op: Op) -> int:
    """All letters, for the sum runs over those that the result has not."""
    operands = einsum(op).operands
    letters = {atom for dims in operands for axis in dims or () for atom in atoms(axis)}
    return product(atom.size for atom in letters) if len(operands) > 1 else 0


def _products(op: Op, query: int, keys: int, past: int) -> int:
    """Queries times keys, and their softmax times values, with the positions of the past."""
    keys += op.shape(past)[-2] if op.has(past) else 0
    return (query + product(op.out())) * keys


def _attention(op: Op) -> int:
    return _products(op, product(op.shape()), op.shape(1)[-2], 4)


def _fused_attention(op: Op) -> int:
    """With the projections; queries are as wide as keys, values as the result."""
    batch, positions, _ = op.shape()
    width = op.shape(1)[-1]
    query = batch * positions * (width - op.out()[-1]) // 2
    return product(op.shape()) * width + _products(op, query, positions, 4)


def _multi_head_attention(op: Op) -> int:
    query = op.shape()
    key = op.shape(1) if op.has(1) else query
    return _products(op, product(query) // (3 if len(query) == 5 else 1), key[2 if len(key) == 4 else 1], 6)


def _group_query_attention(op: Op) -> int:
    return _products(op, product(op.out()), op.shape()[1], 3)


MACS: dict[str, Callable[[Op], int]] = {
    "Attention": _attention,
    "Conv": _conv,
    "ConvInteger": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "GRU": _recurrent,
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearConv": _conv_of_codes,
    "QLinearMatMul": _matmul,
    "RNN": _recurrent,
    "com.microsoft.Attention": _fused_attention,
    "com.microsoft.DynamicQuantizeLSTM": _recurrent,
    "com.microsoft.DynamicQuantizeMatMul": _matmul,
    "com.microsoft.FusedConv": _conv,
    "com.microsoft.FusedGemm": _gemm,
    "com.microsoft.FusedMatMul": _fused_matmul,
    "com.microsoft.GroupQueryAttention": _group_query_attention,
    "com.microsoft.MatMulIntegerToFloat": _matmul,
    "com.microsoft.MatMulNBits": _matmul,
    "com.microsoft.MultiHeadAttention": _multi_head_attention,
    "com.microsoft.NhwcConv": _conv,
    "com.microsoft.NhwcFusedConv": _conv,
    "com.microsoft.QGemm": _gemm,
    "com.microsoft.QLinearConv": _conv_of_codes,
    "com.microsoft.TransposeMatMul": _fused_matmul,
}


def macs(node: Node, shapes: Shapes) -> int:
    """MACs of one node for tensors of these shapes; 0 for operators that multiply nothing up."""
    count = MACS.get(node.op)
    names = [name for name in (*node.inputs, *node.outputs) if name]
    if count is None or any(name not in shapes for name in names):
        return 0
    ins, outs = (
        tuple(shapes[name] if name else None for name in side) for side in (node.inputs, node.outputs)
    )
    return count(Op(node.type, ins, outs, node.attrs))


def total_macs(graph: Graph, shapes: Shapes) -> int:
    """MACs of the whole graph.

    Both branches of an If count, and the body of a loop as often as sizes tell that it runs, else once.
    """
    times = repeats(graph, shapes)
    return sum(macs(node, shapes) * times[node.place.path] for node in graph.nodes)


def repeats(graph: Graph, shapes: Shapes) -> dict[Path, int]:
    """How often each body runs."""
    steps: dict[Path, int] = {}
    for node in graph.nodes:
        sliced = {".slice": node.inputs, ".stack": node.outputs}.get(node.part, ())
        if sliced and sliced[0] in shapes:
            steps[(*node.place.path, (node.place.at, "body"))] = shapes[sliced[0]][node.attrs["axis"]]
    times: dict[Path, int] = {(): 1}
    for body in graph.bodies:
        times[body.path] = times[body.path[:-1]] * steps.get(body.path, 1)
    return times


def savings(coupling: Coupling, counts: Mapping[Atom, int], shapes: Shapes) -> dict[Atom, tuple[int, int]]:
    """What the cut of each group saves, (params, MACs), all other cuts being made.

    Args:
        coupling: the analysed model.
        counts: channels kept of each atom that is cut.
        shapes: of all tensors before the cut.
    """
    others = {atom: {a: n for a, n in counts.items() if a is not atom} for atom in counts}
    return _differences(coupling, shapes, counts, {atom: (others[atom], counts) for atom in counts})


def standing(coupling: Coupling, found: Collection[Atom], shapes: Shapes) -> dict[Atom, tuple[int, int]]:
    """What stands on the channels of each group, (params, MACs): it goes if all of them do, and nothing else.

    Args:
        coupling: the analysed model.
        found: the atoms asked for.
        shapes: of all tensors.
    """
    return _differences(coupling, shapes, {}, {atom: ({}, {atom: 0}) for atom in found})


def _differences(
    coupling: Coupling, shapes: Shapes, base: Counts, pairs: Mapping[Atom, tuple[Counts, Counts]]
) -> dict[Atom, tuple[int, int]]:
    """For each atom the cost at one count of it less that at another, all else being kept as in `base`."""
    graph = coupling.graph
    free = {group.atom for group in coupling.groups}
    times = repeats(graph, shapes)
    busy = [node for node in graph.nodes if node.op in MACS]
    counted = graph.weights.keys() | {name for node in busy for name in (*node.inputs, *node.outputs)}
    carriers: dict[Atom, set[str]] = {}
    for name in counted & coupling.axes.keys():
        for axis in coupling.axes[name]:
            for atom in atoms(axis):
                if atom in pairs:
                    carriers.setdefault(atom, set()).add(name)

    def kept(name: str, counts: Counts) -> Shape:
        dims = zip(coupling.axes[name], shapes[name], strict=True)
        return tuple(size_kept(axis, n, counts, free) for axis, n in dims)

    around = {n: kept(n, base) if n in coupling.axes else shapes[n] for n in counted if n in shapes}
    found: dict[Atom, tuple[int, int]] = {}
    for atom, sides in pairs.items():
        names = carriers.get(atom, set())
        more, less = ({name: kept(name, counts) for name in names} for counts in sides)
        params = sum(product(more[n]) - product(less[n]) for n in names if n in graph.weights)
        users = {i for name in names for i, _ in graph.uses.get(name, ())}
        users |= {graph.makers[name].index for name in names if name in graph.makers}
        nodes = [graph.nodes[i] for i in users]
        before, after = ChainMap(more, around), ChainMap(less, around)
        work = sum((macs(n, before) - macs(n, after)) * times[n.place.path] for n in nodes)
        found[atom] = (params, work)
    return found
