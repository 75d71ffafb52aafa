"""A model that does not fit is proved a block at a time, or it is said that it can't be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_prune import prune
from onnx_prune.axes.axis import Atom, Mask
from onnx_prune.choose import choose
from onnx_prune.coupling import Coupling
from onnx_prune.cut import cut
from onnx_prune.errors import NotProved, ProofFailed
from onnx_prune.proof import blocks
from onnx_prune.proof.blocks import prove_in_blocks
from onnx_prune.proof.footprint import LIBRARIES, alive, footprint, together
from onnx_prune.settings import Budget
from tests import zoo
from tests.graphs import analyse, build, noise

WIDTH, DEPTH = 32, 4
WEIGHT = 4 * WIDTH * WIDTH


def stack(act: str = "Relu") -> onnx.ModelProto:
    """Residual blocks of two matrices each."""
    nodes, weights, at = [], {}, "x"
    for j in range(DEPTH):
        weights |= {f"u{j}": noise(WIDTH, WIDTH, seed=j), f"d{j}": noise(WIDTH, WIDTH, seed=j) / WIDTH}
        nodes += [f"h{j} = MatMul({at}, u{j})", f"a{j} = {act}(h{j})", f"f{j} = MatMul(a{j}, d{j})"]
        nodes.append(f"y{j} = Add({at}, f{j})")
        at = f"y{j}"
    return build(nodes, weights, {"x": ["n", WIDTH]}, {at: ["n", WIDTH]})


def halves(coupling: Coupling) -> Mapping[Atom, Mask]:
    """Every other channel of each group, as far as their counts go together."""
    scores = {group.atom: (np.arange(group.size) % 2).astype(float) for group in coupling.groups}
    return choose(coupling, scores, Budget(round_to=1), coupling.groups).plan


def budget(coupling: Coupling, weights: int) -> int:
    return LIBRARIES + alive(coupling) + weights


def test_as_many_blocks_as_the_budget_makes() -> None:
    coupling = analyse(stack())
    plan = halves(coupling)
    small = cut(coupling, plan).whole()
    found = {
        n: prove_in_blocks(coupling, plan, small, budget=budget(coupling, n * WEIGHT)) for n in (0, 3, 8)
    }
    assert {n: proof.blocks for n, proof in found.items()} == {0: 2 * DEPTH, 3: 3, 8: 1}
    for proof in found.values():
        assert proof.error < 1e-6
        assert (proof.outputs, proof.runs, proof.silent) == ((f"y{DEPTH - 1}",), 2, ())


@pytest.mark.parametrize("block", range(DEPTH))
def test_a_fault_in_any_block_is_found(block: int) -> None:
    coupling = analyse(stack())
    plan = halves(coupling)
    small = cut(coupling, plan).whole()
    [tensor] = [t for t in small.graph.initializer if t.name == f"d{block}"]
    wrong = numpy_helper.to_array(tensor).copy()
    wrong += 0.5
    tensor.CopyFrom(numpy_helper.from_array(wrong, tensor.name))
    with pytest.raises(ProofFailed, match=r"^a block of the cut model differs from the masked original: "):
        prove_in_blocks(coupling, plan, small, budget=0)


@pytest.mark.parametrize(
    "name",
    ["c_bert-ts17", "c_llama_gqa-dynamo20", "a_shufflenet_v2_x1_0-ts17", "d_attn_fused_qkv-ts17-db"],
)
def test_real_models_in_blocks(name: str) -> None:
    coupling = analyse(zoo.load(name))
    plan = halves(coupling)
    draft = cut(coupling, plan)
    size = sum(len(t.raw_data) for t in coupling.graph.model.graph.initializer)
    proof = prove_in_blocks(coupling, plan, draft.lent(), budget=budget(coupling, size // 4))
    assert proof.blocks > 2
    assert proof.error < 1e-4


def test_what_can_not_be_taken_apart_is_not_proved() -> None:
    coupling = analyse(zoo.load("d_onnx_if_outer_weights-opset17"))
    plan = halves(coupling)
    message = "^the model does not fit into --max-memory, nor can it be proved in blocks: it has bodies "
    with pytest.raises(NotProved, match=message):
        prove_in_blocks(coupling, plan, cut(coupling, plan).whole(), budget=0)


def test_a_jump_may_be_a_rounding() -> None:
    coupling = analyse(stack("Round"))
    plan = halves(coupling)
    small = cut(coupling, plan).whole()
    [tensor] = [t for t in small.graph.initializer if t.name == "d0"]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(0.5), tensor.name))
    with pytest.raises(NotProved, match=r"in blocks: a rounding can become a jump in it$"):
        prove_in_blocks(coupling, plan, small, budget=0)


def test_silent_outputs_prove_nothing() -> None:
    zero = np.zeros((WIDTH, WIDTH), np.float32)
    nodes = ["h = MatMul(x, u0)", "a = Relu(h)", "f = MatMul(a, d0)"]
    model = build(nodes, {"u0": zero, "d0": zero}, {"x": ["n", WIDTH]}, {"f": ["n", WIDTH]})
    coupling = analyse(model)
    plan = halves(coupling)
    with pytest.raises(
        NotProved, match=r"^the outputs are empty, constant or not finite on the inputs tried$"
    ):
        prove_in_blocks(coupling, plan, cut(coupling, plan).whole(), budget=0)


def test_footprints_by_hand() -> None:
    coupling = analyse(stack())
    rows = coupling.shapes.inputs["x"][0]
    # the most at a time: y, h and a, or y, a and f
    assert alive(coupling) == 3 * 4 * rows * WIDTH
    assert footprint(coupling) == LIBRARIES + 2 * DEPTH * WEIGHT + 3 * 4 * rows * WIDTH
    small = cut(coupling, halves(coupling)).model
    assert together(coupling, small) == footprint(coupling) + 2 * DEPTH * WEIGHT + 2 * DEPTH * WEIGHT


def test_max_memory_proves_in_blocks_and_says_what_was_not_measured(tmp_path: Path) -> None:
    onnx.save(stack(), tmp_path / "in.onnx")
    whole = prune(tmp_path / "in.onnx", tmp_path / "a.onnx", round_to=1)
    blockwise = prune(tmp_path / "in.onnx", tmp_path / "b.onnx", round_to=1, max_memory=LIBRARIES)
    assert whole.report.proof is not None
    assert whole.report.proof.blocks == 0
    assert blockwise.report.proof is not None
    assert blockwise.report.proof.blocks == 2 * DEPTH
    assert blockwise.report.drift is None
    assert blockwise.report.latency is None
    proved, measured = blockwise.report.notes
    assert proved == f"proved in {2 * DEPTH} blocks of nodes, one after the other: --max-memory"
    assert measured.startswith("drift and latency were not measured: it takes ")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_what_does_not_cross_is_computed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    coupling = analyse(stack())
    plan = halves(coupling)
    monkeypatch.setattr(blocks, "FLOATS", set())
    proof = prove_in_blocks(coupling, plan, cut(coupling, plan).whole(), budget=0)
    assert proof.error < 1e-6
    assert proof.outputs == (f"y{DEPTH - 1}",)
