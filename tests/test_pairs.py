"""One network from several exporters and simplifiers: the same groups, and the same parameters left."""

from __future__ import annotations

import doctest
from collections import Counter
from functools import cache

import pytest

import tools.pairs
from onnx_prune.settings import Budget
from tests import zoo
from tools.pairs import Cut, cut_of, pairs, verdict

# What every pair of shipped models has in common, see `tools.pairs`.
COMMON = {
    "a_mobilenet_v2-ts17-db": "vectors",  # against -ts11-raw, which stores equal biases once
    "a_vit_small4-dynamo23": "same",
    "c_bert-dynamo20": "same",
    "c_llama_gqa-dynamo20": "same",
    "d_attn_fused_qkv-dynamo20-db": "same",
    "d_siamese_shared-dynamo20": "explained",
    "d_unet_bilinear-dynamo20": "constants",  # scales of Resize
    "k_d_unet_bilinear-ts17--onnxsim": "constants",
    "k_d_unet_bilinear-ts17--onnxslim": "constants",
}
PAIRS = list(pairs(zoo.NAMES))


@cache
def halved(name: str, mixed: bool = False) -> Cut:
    return cut_of(name, zoo.load(name), Budget(ratio=0.5, round_to=1, mixed=mixed))


@pytest.mark.parametrize(("base", "other"), PAIRS, ids=[other for _, other in PAIRS])
def test_the_same_is_cut_of_every_export(base: str, other: str) -> None:
    a, b = halved(base), halved(other)
    word, _ = verdict(a, b)
    assert word == COMMON[other]
    if word in ("same", "constants"):
        assert (a.groups, a.removed) == (b.groups, b.removed)
        assert a.removed > 0
    if word == "vectors":
        assert (a.groups, a.matrices) == (b.groups, b.matrices)
        assert a.matrices[1] < a.matrices[0]


def test_every_pair_is_looked_at() -> None:
    assert {other for _, other in PAIRS} == COMMON.keys()


def test_two_ways_to_write_a_norm_differ_only_without_mixed() -> None:
    """ReduceL2 is a statistic, a sum of squares is not: the proof of what `tools.pairs` says."""
    names = ("d_siamese_shared-ts17", "d_siamese_shared-dynamo20")
    plain, mixed = ([halved(name, flag) for name in names] for flag in (False, True))
    assert plain[0].widths - plain[1].widths == Counter({(24, 12): 1})
    assert mixed[0].widths == mixed[1].widths
    assert mixed[0].matrices == mixed[1].matrices


def test_the_examples_of_the_tool() -> None:
    found = doctest.testmod(tools.pairs)
    assert found.attempted
    assert not found.failed


def test_networks_that_are_not_the_same_are_told_apart() -> None:
    word, why = verdict(halved("c_bert-ts17"), halved("c_llama_gqa-ts17"))
    assert word == "DIFFERENT"
    assert why == "only in c_bert-ts17: 2x 4->2; only in c_llama_gqa-ts17: 2x 2->1"
