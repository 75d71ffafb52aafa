"""Two sizes for every dynamic axis of a graph's inputs: a prime each, different for each name."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from onnx_prune.model.graph import Graph

Shape = tuple[int, ...]
BATCHES = ((2, 3), (3, 2), (5, 7), (7, 5))
SINGLE = ((1, 1),)
_SIZES = ((11, 13), (17, 19), (23, 29), (31, 37), (41, 43), (47, 53), (59, 61), (67, 71), (73, 79), (83, 89))


def assignments(graph: Graph, scale: int, batches: tuple[tuple[int, int], ...]) -> Iterator[dict[str, Shape]]:
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
                return batches[j % len(batches)][which]
            return _SIZES[j % len(_SIZES)][which] * scale

        yield {name: tuple(map(prime, row)) for name, row in layout.items()}


def element(kind: onnx.TypeProto) -> onnx.TypeProto.Tensor:
    """The tensors of a sequence or optional, or the tensor itself."""
    while not kind.HasField("tensor_type"):
        inner = kind.optional_type if kind.HasField("optional_type") else kind.sequence_type
        if not inner.HasField("elem_type"):  # a map, or no type at all
            break
        kind = inner.elem_type
    return kind.tensor_type


def pinned(graph: Graph) -> bool:
    """Whether some inputs have fixed dims while others are dynamic, which they may contradict."""
    dims = [element(value.type).shape.dim for value in graph.inputs]
    fixed = [all(d.dim_value > 0 for d in mine) for mine in dims if len(mine) > 1]
    return any(fixed) and not all(fixed)
