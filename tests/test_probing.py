"""Graphs that are run to find out shapes: at which sizes, and what that takes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from onnx_prune.model.graph import Graph
from onnx_prune.shape.shapes import infer
from tests.graphs import build, noise

ROOT = Path(__file__).parent.parent


def test_what_is_refused_at_every_size_is_looked_at_in_the_smallest() -> None:
    """Found: it was looked at in the largest, and took gigabytes."""
    nodes = ["h = MatMul(x, w)", "c = foo.Bar(h)", "y = MatMul(c, v)"]
    weights = {"w": noise(4, 8), "v": noise(8, 3)}
    model = build(nodes, weights, {"x": ["n", "s", 4]}, {"y": ["n", "s", 3]}, domains=["foo"])
    shapes, probe = infer(Graph(model))
    assert probe is not None
    assert (shapes.inputs, probe.inputs) == ({"x": (2, 11, 4)}, {"x": (3, 13, 4)})


def test_what_is_refused_is_looked_at_where_it_runs_furthest() -> None:
    """The window is longer than signals of 11 and of 88; at 352 only the operator that nobody has is left."""
    nodes = ["a = Conv(x, w)", "k = Shape(a)", "t = Abs(k)", "r = Reshape(a, t)", "y = foo.Bar(r)"]
    model = build(nodes, {"w": noise(8, 3, 100)}, {"x": ["n", 3, "s"]}, {"y": ["n", 8, "s"]}, domains=["foo"])
    shapes, probe = infer(Graph(model))
    assert probe is not None
    assert (shapes.inputs, probe.inputs) == ({"x": (2, 3, 352)}, {"x": (3, 3, 416)})
    assert (shapes.known["r"], probe.known["r"]) == ((2, 8, 253), (3, 8, 317))


def test_types_behind_an_operator_that_onnx_does_not_know() -> None:
    nodes = ["a = com.microsoft.Gelu(x)", "k = Shape(a)", "t = Abs(k)", "r = Reshape(a, t)"]
    nodes += ["b = com.microsoft.Gelu(r)", "i = IsNaN(b)", "y = Where(i, b, b)"]
    model = build(nodes, {}, {"x": ["n", 4]}, {"y": ["n", 4]}, domains=["com.microsoft"])
    shapes, _ = infer(Graph(model))
    assert {name: (shapes.known[name], shapes.types[name]) for name in "abi"} == {
        "a": ((2, 4), 1),
        "b": ((2, 4), 1),
        "i": ((2, 4), 9),
    }


CHAIN = """
    import resource
    from onnx_prune.model.graph import Graph
    from onnx_prune.shape.shapes import infer
    from tests.graphs import build

    nodes = ["k = Shape(x)", "t = Abs(k)", "r0 = Reshape(x, t)"]
    nodes += [f"r{j + 1} = Neg(r{j})" for j in range(40)]
    graph = Graph(build(nodes, {}, {"x": [1 << 22]}, {"r40": [1 << 22]}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert infer(graph)[0].known["r40"] == (1 << 22,)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_tensors_are_not_kept_until_the_end() -> None:
    """Found: they were outputs of the model that was run, all 40 of 16 MB."""
    command = [sys.executable, "-c", textwrap.dedent(CHAIN)]
    told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert int(told) << 10 < 300e6
