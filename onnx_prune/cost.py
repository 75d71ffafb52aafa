"""What a model costs: parameters, and multiply-accumulates (1 MAC = one multiply and one add)."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from math import prod as product

from onnx_prune.axis import Atom, atoms
from onnx_prune.coupling import Coupling
from onnx_prune.graph import Graph, Node
from onnx_prune.kept import size_kept

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


def _conv(ins: list[Shape], outs: list[Shape]) -> int:
    return product(outs[0]) * product(ins[1][1:])


def _conv_transpose(ins: list[Shape], outs: list[Shape]) -> int:
    return product(ins[0]) * product(ins[1][1:])


def _matmul(ins: list[Shape], outs: list[Shape]) -> int:
    return product(outs[0]) * ins[0][-1]


def _gemm(ins: list[Shape], outs: list[Shape]) -> int:
    inner = product(ins[0]) // max(outs[0][0], 1)
    return product(outs[0]) * inner


MACS: dict[str, Callable[[list[Shape], list[Shape]], int]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "Gemm": _gemm,
}


def macs(node: Node, shapes: Shapes) -> int:
    """MACs of one node for tensors of these shapes; 0 for operators that multiply nothing up."""
    count = MACS.get(node.op)
    names = [name for name in (*node.inputs, *node.outputs) if name]
    if count is None or any(name not in shapes for name in names):
        return 0
    return count([shapes[n] for n in node.inputs if n], [shapes[n] for n in node.outputs if n])


def total_macs(graph: Graph, shapes: Shapes) -> int:
    """MACs of the whole graph (the bodies of If, Loop and Scan are not counted)."""
    return sum(macs(node, shapes) for node in graph.nodes)


def savings(coupling: Coupling, counts: Mapping[Atom, int], shapes: Shapes) -> dict[Atom, tuple[int, int]]:
    """What the cut of each group saves, (params, MACs), all other cuts being made.

    Args:
        coupling: the analysed model.
        counts: channels kept of each atom that is cut.
        shapes: of all tensors before the cut.
    """
    graph = coupling.graph
    free = {group.atom for group in coupling.groups}
    busy = [node for node in graph.nodes if node.op in MACS]
    counted = graph.weights.keys() | {name for node in busy for name in (*node.inputs, *node.outputs)}
    dims: dict[Atom, dict[str, list[int]]] = {}
    for name in counted & coupling.axes.keys():
        for j, axis in enumerate(coupling.axes[name]):
            for atom in {a for a in atoms(axis) if a in counts}:
                dims.setdefault(atom, {}).setdefault(name, []).append(j)

    def kept(name: str) -> Shape:
        pairs = zip(coupling.axes[name], shapes[name], strict=True)
        return tuple(size_kept(axis, n, counts, free) for axis, n in pairs)

    after = {n: kept(n) if n in coupling.axes else shapes[n] for n in counted if n in shapes}
    saved: dict[Atom, tuple[int, int]] = {}
    for atom in counts:
        others = {a: n for a, n in counts.items() if a is not atom}
        without = {}
        for name, cut in dims.get(atom, {}).items():
            shape = list(after[name])
            for j in cut:
                shape[j] = size_kept(coupling.axes[name][j], shapes[name][j], others, free)
            without[name] = tuple(shape)
        params = sum(product(s) - product(after[n]) for n, s in without.items() if n in graph.weights)
        users = {i for name in without for i, _ in graph.uses.get(name, ())}
        users |= {graph.makers[name].index for name in without if name in graph.makers}
        around = ChainMap(without, after)
        work = sum(macs(graph.nodes[i], around) - macs(graph.nodes[i], after) for i in users)
        saved[atom] = (params, work)
    return saved
