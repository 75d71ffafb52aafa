"""Attention from end to end: what is cut, what the node says afterwards, and the proof."""

from __future__ import annotations

from typing import Any, Literal

import onnx
import pytest

from onnx_prune import criteria
from onnx_prune.choose import candidates, choose
from onnx_prune.cut import cut
from onnx_prune.proof.prove import prove
from onnx_prune.settings import Budget
from tests.graphs import analyse, build, initializers, node, noise

What = Literal["heads", "dims", "both"]
MICROSOFT = "com.microsoft"
X: dict[str, list[int | str]] = {"x": [2, 5, 12]}


def three(attention: onnx.NodeProto) -> onnx.ModelProto:
    """Projections to 4 heads of 6, an attention node, and a projection back."""
    projections = ["q = MatMul(x, wq)", "k = MatMul(x, wk)", "v = MatMul(x, wv)"]
    weights = {name: noise(12, 24, seed=j) for j, name in enumerate(("wq", "wk", "wv"))}
    return build(
        [*projections, attention, "y = MatMul(a, wo)"],
        weights | {"wo": noise(24, 12), "bias": noise(72)},
        X,
        {"y": [2, 5, 12]},
        opset=23,
        domains=[MICROSOFT],
    )


def one(**attrs: Any) -> onnx.ModelProto:
    """The projections inside the node."""
    return build(
        [node("a = com.microsoft.Attention(x, wqkv, bias)", num_heads=4, **attrs), "y = MatMul(a, wo)"],
        {"wqkv": noise(12, 72), "bias": noise(72), "wo": noise(24, 12)},
        X,
        {"y": [2, 5, 12]},
        domains=[MICROSOFT],
    )


def halve(model: onnx.ModelProto, what: What, *, mixed: bool = False) -> onnx.ModelProto:
    """Half of each group cut, and proved."""
    coupling = analyse(model)
    budget = Budget(ratio=0.5, round_to=1, attention=what, mixed=mixed)
    groups = candidates(coupling, budget)
    scores = {group.atom: criteria.l1(coupling, group) for group in groups}
    plan = choose(coupling, scores, budget, groups).plan
    small = cut(coupling, plan).whole()
    assert prove(coupling, plan, small).error < 1e-5
    return small


def attributes(model: onnx.ModelProto, op: str) -> dict[str, Any]:
    [found] = [n for n in model.graph.node if n.op_type == op]
    return {a.name: onnx.helper.get_attribute_value(a) for a in found.attribute}


OWN = node("a = Attention(q, k, v)", q_num_heads=4, kv_num_heads=4)
SCALED = node("a = Attention(q, k, v)", q_num_heads=4, kv_num_heads=4, scale=0.25)
MULTI = node("a = com.microsoft.MultiHeadAttention(q, k, v, bias)", num_heads=4)


@pytest.mark.parametrize(
    ("what", "heads", "scale", "widths"),
    [("heads", 2, None, (12, 12, 12)), ("dims", 4, 6**-0.5, (12, 12, 12)), ("both", 2, 6**-0.5, (6, 6, 6))],
)
def test_heads_and_dims_of_onnx_attention(
    what: What, heads: int, scale: float | None, widths: tuple[int, ...]
) -> None:
    small = halve(three(OWN), what)
    attrs = attributes(small, "Attention")
    assert (attrs["q_num_heads"], attrs["kv_num_heads"]) == (heads, heads)
    assert attrs.get("scale") == (scale and pytest.approx(scale))
    assert tuple(initializers(small)[w].shape[1] for w in ("wq", "wk", "wv")) == widths


def test_a_given_scale_stays() -> None:
    assert attributes(halve(three(SCALED), "dims"), "Attention")["scale"] == 0.25


@pytest.mark.parametrize(("what", "heads", "width"), [("heads", 2, 12), ("dims", 4, 12), ("both", 2, 6)])
def test_multi_head_attention_with_its_bias(what: What, heads: int, width: int) -> None:
    small = halve(three(MULTI), what)
    attrs = attributes(small, "MultiHeadAttention")
    assert attrs["num_heads"] == heads
    assert ("scale" in attrs) == (what != "heads")
    assert initializers(small)["bias"].shape == (3 * width,)


@pytest.mark.parametrize(("what", "heads", "width"), [("heads", 2, 12), ("dims", 4, 12), ("both", 2, 6)])
def test_projections_inside_the_node(what: What, heads: int, width: int) -> None:
    small = halve(one(), what)
    attrs = attributes(small, "Attention")
    assert attrs["num_heads"] == heads
    assert attrs["qkv_hidden_sizes"] == [width] * 3
    assert initializers(small)["wqkv"].shape == (12, 3 * width)


def test_the_width_of_a_fused_residual_stream_is_mixed() -> None:
    model = build(
        [
            "h = MatMul(x, w)",
            "s, , , t = com.microsoft.SkipLayerNormalization(h, h, gamma, beta)",
            "g = com.microsoft.BiasGelu(s, bias)",
            "r = com.microsoft.SkipSimplifiedLayerNormalization(g, t, gamma)",
            "y = MatMul(r, v)",
        ],
        {"w": noise(12, 8), "gamma": noise(8), "beta": noise(8, seed=1), "bias": noise(8), "v": noise(8, 3)},
        X,
        {"y": [2, 5, 3]},
        domains=[MICROSOFT],
    )
    assert {bool(group.mixed) for group in analyse(model).groups} == {True}
    assert initializers(halve(model, "heads", mixed=True))["w"].shape == (12, 4)
