"""Pruned models run at sizes that the analysis did not see: nothing dynamic was frozen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest

from onnx_prune.errors import ProofFailed
from onnx_prune.proof.prove import prove
from onnx_prune.settings import Budget
from tests import zoo
from tests.graphs import analyse, build, node, noise
from tools.attempt import attempt
from tools.sizes import assignments, further


def recurrent() -> onnx.ModelProto:
    """An LSTM in both directions and a layer that reads it; batch and sequence are dynamic."""
    return build(
        [
            node("h, , = LSTM(x, w, r)", hidden_size=8, direction="bidirectional"),
            node("t = Transpose(h)", perm=[0, 2, 1, 3]),
            "u = Reshape(t, shape)",
            "y = MatMul(u, v)",
        ],
        {
            "w": noise(2, 32, 6),
            "r": noise(2, 32, 8),
            "shape": np.array([0, 0, -1], np.int64),
            "v": noise(16, 3),
        },
        {"x": ["sequence", "batch", 6]},
        {"y": ["sequence", "batch", 3]},
    )


def image() -> onnx.ModelProto:
    """A decoder that is brought back to its input's height and width, whatever these are."""
    return build(
        [
            node("a = Conv(x, c1)", strides=[2, 2], pads=[1, 1, 1, 1]),
            "b = Relu(a)",
            node("c = Conv(b, c2)", pads=[1, 1, 1, 1]),
            "s = Shape(x)",
            "size = Slice(s, two, four)",
            "t = Shape(c)",
            "kept = Slice(t, zero, two)",
            node("sizes = Concat(kept, size)", axis=0),
            node("d = Resize(c, , , sizes)", mode="nearest"),
            node("y = Conv(d, c3)", pads=[1, 1, 1, 1]),
        ],
        {
            "c1": noise(8, 3, 3, 3),
            "c2": noise(12, 8, 3, 3),
            "c3": noise(2, 12, 3, 3),
            **{name: np.array([n], np.int64) for name, n in (("zero", 0), ("two", 2), ("four", 4))},
        },
        {"x": ["batch", 3, "height", "width"]},
        {"y": ["batch", 2, "height", "width"]},
    )


def shipped(name: str) -> Callable[[], onnx.ModelProto]:
    return lambda: zoo.load(name)


_ENDS: tuple[dict[str, Sequence[int | str]], ...] = ({"x": ["batch", 6]}, {"y": ["batch", 3]})
BATCH = [
    *("c_whisper_encoder-ts17", "d_attn_fused_qkv-dynamo20-db"),
    *("d_attn_fused_qkv-ts17-db", "d_unet_convtranspose-ts17-db", "e_transformer_block-tf2onnx17-db"),
    "e_unet-tf2onnx17-db",
]
SEQUENCE = [
    *("c_bert-dynamo20", "c_bert-ts17", "c_deberta_v2-ts17", "c_gpt2-ts17"),
    *("c_llama_gqa-dynamo20", "c_llama_gqa-ts17"),
]
MODELS = {
    **{name: (shipped(name), 1) for name in BATCH},
    **{name: (shipped(name), 2) for name in SEQUENCE},
    "recurrent": (recurrent, 2),
    "image": (image, 3),
}


@pytest.mark.parametrize("name", MODELS)
def test_proved_at_three_more_sizes(name: str) -> None:
    make, dynamic = MODELS[name]
    coupling = analyse(make())
    plan, draft, _ = attempt(coupling, Budget(ratio=0.5, round_to=1))
    assert draft is not None
    feeds, refused = further(coupling, 3)
    assert refused == []
    seen = [coupling.shapes.inputs, coupling.probe.inputs] if coupling.probe else []
    for shapes in ({key: np.shape(value) for key, value in feed.items()} for feed in feeds):
        changed = [
            {(key, j) for key in old for j in range(len(old[key])) if shapes[key][j] != old[key][j]}
            for old in seen
        ]
        # every dynamic axis of some input has another size than at both analysed assignments
        assert all(max(sum(k == key for k, _ in dims) for key in shapes) == dynamic for dims in changed)
    proof = prove(coupling, plan, draft.whole(), feeds=feeds)
    assert proof.error <= 1e-4
    assert proof.runs == 2 + 3


def test_what_the_original_refuses_is_said_and_another_size_taken() -> None:
    """A table of 14 positions: sequences of 16 and 40 do not fit."""
    model = build(
        [
            *("s = Shape(x)", "n = Slice(s, one, two)", "p = Slice(table, zero, n)", "a = Add(x, p)"),
            *("b = MatMul(a, v)", "y = MatMul(b, w)"),
        ],
        {
            "table": noise(14, 6),
            "v": noise(6, 8),
            "w": noise(8, 3),
            **{name: np.array([n], np.int64) for name, n in (("zero", 0), ("one", 1), ("two", 2))},
        },
        {"x": ["batch", "sequence", 6]},
        {"y": ["batch", "sequence", 3]},
    )
    coupling = analyse(model)
    feeds, refused = further(coupling, 3)
    assert [feed["x"].shape for feed in feeds] == [(1, 5, 6), (4, 1, 6), (1, 8, 6)]
    assert len(refused) == 2
    assert refused[0].startswith("the original refuses x 6x16x6: onnxruntime fails")


def test_a_frozen_size_fails_the_proof_at_another() -> None:
    """Right at both analysed sizes, wrong at a third: what further inputs are for."""
    model = build(["a = MatMul(x, v)", "y = MatMul(a, w)"], {"v": noise(6, 8), "w": noise(8, 3)}, *_ENDS)
    coupling = analyse(model)
    plan, draft, _ = attempt(coupling, Budget(ratio=0.5, round_to=1))
    assert draft is not None
    small = draft.whole()
    prove(coupling, plan, small, feeds=further(coupling, 3)[0])
    [last] = [n for n in small.graph.node if n.output[0] == "y"]
    last.output[0] = "z"
    small.graph.node.append(node("y = Slice(z, start, end)"))
    for name, n in (("start", 0), ("end", 3)):  # the batch was 2 and 3
        small.graph.initializer.append(onnx.numpy_helper.from_array(np.array([n], np.int64), name))
    prove(coupling, plan, small)
    with pytest.raises(ProofFailed):
        prove(coupling, plan, small, feeds=further(coupling, 3)[0])


def test_a_model_of_fixed_sizes_has_no_others() -> None:
    coupling = analyse(build(["y = MatMul(x, v)"], {"v": noise(6, 8)}, {"x": [2, 6]}, {"y": [2, 8]}))
    assert list(assignments(coupling)) == []
    assert further(coupling, 3) == ([], [])
