"""Files made to do harm: bombs are refused before they are run, and what has no end ends in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper

from onnx_prune import prune, runtime
from onnx_prune.errors import InputError, PruneError
from tests.graphs import build, node, noise

FLOAT = TensorProto.FLOAT
MILLION = 10**6


def bomb(*nodes: onnx.NodeProto | str, **constants: Any) -> ModelProto:
    """Two layers, between them a scalar `q` that the nodes make."""
    weights = {name: np.asarray(value) for name, value in constants.items()}
    layers = ["a = MatMul(x, w)", "b = Relu(a)", *nodes, "h = Add(b, q)", "y = MatMul(h, v)"]
    weights |= {"w": noise(8, 16), "v": noise(16, 4)}
    return build(layers, weights, {"x": (2, 8)}, {"y": (2, 4)})


TOTAL = node("q = ReduceSum(z)", keepdims=0)
LAST = node("q = ReduceMean(z)", keepdims=0)
BOMBS = {
    "ConstantOfShape": bomb("z = ConstantOfShape(s)", TOTAL, s=[MILLION, MILLION]),
    "Expand": bomb("z = Expand(k, s)", TOTAL, s=[MILLION, MILLION], k=np.float32([1])),
    "Tile": bomb("z = Tile(k, s)", TOTAL, s=[MILLION, MILLION], k=np.float32([[1]])),
    "Range": bomb(
        "r = Range(n, m, k)",
        node("z = Cast(r)", to=FLOAT),
        TOTAL,
        n=np.int64(0),
        m=np.int64(2**42),
        k=np.int64(1),
    ),
    "Resize": bomb(
        "z = Resize(k, , s)", TOTAL, s=np.float32([1, 1, MILLION, MILLION]), k=np.float32([[[[1]]]])
    ),
    "Pad": bomb("z = Pad(k, s)", TOTAL, s=[0, 0, MILLION, MILLION], k=np.float32([[1]])),
    "OneHot": bomb("z = OneHot(k, n, s)", TOTAL, k=[1, 2], n=np.int64(2**42), s=np.float32([0, 1])),
    "Random": bomb(node("z = RandomNormal()", shape=[MILLION, MILLION]), LAST),
    "broadcast": bomb(
        *("l = Reshape(k, s)", "r = Reshape(k, t)", "z = Mul(l, r)", TOTAL),
        k=np.ones(MILLION, np.float32),
        s=[-1, 1],
        t=[1, -1],
    ),
    "computed": bomb("n = Shape(b)", "s = Mul(n, k)", "z = ConstantOfShape(s)", TOTAL, k=[MILLION, MILLION]),
}


class Untouched:
    """A stand-in for onnxruntime's session that must not be asked for one of a bomb."""

    def __init__(self, serialized: bytes, *args: Any, **kwargs: Any) -> None:
        graph = ModelProto.FromString(serialized).graph
        assert not any("z" in n.output for n in graph.node), "the bomb was about to be run"
        self.session = SESSION(serialized, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)


SESSION = onnxruntime.InferenceSession


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_are_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", Untouched)
    with pytest.raises(
        InputError, match=r"^tensor '[a-z]' of shape \(.*\) takes more memory \([0-9.]+ [TPE]B\)"
    ):
        prune(BOMBS[name])


def test_inputs_that_ask_for_terabytes() -> None:
    for dims in ((MILLION, MILLION), (2**40, 2**40)):
        model = bomb("q = ReduceMax(x)")
        model.graph.input.append(helper.make_tensor_value_info("unused", FLOAT, dims))
        with pytest.raises(InputError, match=r"^tensor 'unused' of shape .* takes more memory"):
            prune(model)


def test_a_size_that_only_a_run_tells() -> None:
    """Nothing is allocated: the runtime is told how much at once, and cannot have it."""
    model = bomb("n = Shape(b)", "s = Pow(n, k)", "z = ConstantOfShape(s)", TOTAL, k=[20, 5])
    with pytest.raises(InputError, match=r"^the model asks for more memory \(4\.40 TB at once\)"):
        prune(model)


def loop(turns: int) -> ModelProto:
    inner = [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["i", "one"], ["o"])]
    scalar = helper.make_tensor_value_info
    body = helper.make_graph(
        inner,
        "body",
        [scalar("turn", TensorProto.INT64, []), scalar("go", TensorProto.BOOL, []), scalar("i", FLOAT, [])],
        [scalar("on", TensorProto.BOOL, []), scalar("o", FLOAT, [])],
    )
    return bomb(
        node("q = Loop(m, c, k)", body=body),
        m=np.int64(turns),
        c=np.bool_(True),
        k=np.float32(0),
        one=np.float32(1),
    )


def test_a_loop_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_PATIENCE", 0.3)
    with pytest.raises(
        InputError, match=r"^the model ran for 0\.3 seconds of CPU time and was stopped, a Loop"
    ):
        prune(loop(2**62))
    assert prune(loop(3)).report.proof is not None


@pytest.mark.parametrize(
    ("depth", "message"),
    [(3, "nothing to prune"), (40, r"its functions, written out, are 1,099,511,627,777 nodes")],
)
def test_functions_that_call_functions(depth: int, message: str, tmp_path: Path) -> None:
    model = build(
        ["b = f.f0(x)", "y = MatMul(b, v)"], {"v": noise(8, 4)}, {"x": (2, 8)}, {"y": (2, 4)}, domains=["f"]
    )
    for k in range(depth):
        name, domain = ("Relu", "") if k == depth - 1 else (f"f{k + 1}", "f")
        calls = [helper.make_node(name, [x], [y], domain=domain) for x, y in (("i", "t"), ("t", "o"))]
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
        model.functions.append(helper.make_function("f", f"f{k}", ["i"], ["o"], calls, imports))
    onnx.save(model, tmp_path / "in.onnx")
    with pytest.raises(PruneError, match=message):
        prune(tmp_path / "in.onnx")


def test_a_sparse_weight_that_is_huge_when_written_out(tmp_path: Path) -> None:
    model = bomb("q = ReduceMean(z)")
    values = helper.make_tensor("z", FLOAT, [1], [1.0])
    indices = helper.make_tensor("at", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [MILLION, MILLION]))
    onnx.save(model, tmp_path / "in.onnx")
    with pytest.raises(InputError, match=r"tensor 'z' of shape \(1000000, 1000000\) takes more memory"):
        prune(tmp_path / "in.onnx")


def nested(depth: int) -> bytes:
    """A model with subgraphs inside subgraphs, written by hand: protobuf would not."""

    def field(number: int, value: bytes) -> bytes:
        size, length = len(value), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + value

    output = helper.make_tensor_value_info("b", FLOAT, None)
    leaf = GraphProto(name="leaf", node=[helper.make_node("Identity", ["x"], ["b"])], output=[output])
    inner = leaf.SerializeToString()
    for _ in range(depth):
        branches = b"".join(
            field(5, field(1, name) + field(6, graph) + b"\xa0\x01\x05")
            for name, graph in ((b"then_branch", inner), (b"else_branch", leaf.SerializeToString()))
        )
        branching = field(1, b"c") + field(2, b"b") + field(4, b"If") + branches
        inner = field(1, branching) + field(2, b"g") + field(12, output.SerializeToString())
    condition = onnx.numpy_helper.from_array(np.array(True), "c").SerializeToString()
    x = helper.make_tensor_value_info("x", FLOAT, [2]).SerializeToString()
    graph = inner + field(11, x) + field(5, condition)
    return b"\x08\x08" + field(7, graph) + field(8, helper.make_opsetid("", 17).SerializeToString())


@pytest.mark.parametrize(("depth", "message"), [(10, "nothing to prune"), (1000, "over 100 messages deep")])
def test_subgraphs_in_subgraphs(depth: int, message: str, tmp_path: Path) -> None:
    path = tmp_path / "in.onnx"
    path.write_bytes(nested(depth))
    with pytest.raises(Exception, match=message) as refused:
        prune(path)
    assert "\n" not in str(refused.value)
