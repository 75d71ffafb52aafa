"""What layers cost: sums are the model's, before a cut and after, and weights belong to who reads them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from onnx import helper, numpy_helper

from onnx_prune.layers import REST, Layer, layers, pair
from onnx_prune.model.graph import Graph
from onnx_prune.pipeline import prune
from onnx_prune.rounds import prune_in_rounds
from onnx_prune.settings import Budget, Settings
from tests import zoo
from tests.models import small_cnn

PRUNED = [name for name in zoo.NAMES if name != "d_onnx_scan_outer_weights-opset17"]  # that has no group


def test_layers_by_hand() -> None:
    [first, second, third] = prune(small_cnn(), None, Settings(validate=False)).report.layers
    assert first == Layer("conv1", "Conv", "a", ("conv1.weight", "conv1.bias"), 224, 13_824, 112, 6912)
    assert (second.params, second.macs) == (16 * 8 * 9 + 16, 16 * 8 * 9 * 64)
    assert (second.params_after, second.macs_after) == (8 * 4 * 9 + 8, 8 * 4 * 9 * 64)
    assert (third.name, third.params, third.params_after, third.macs) == ("fc", 170, 90, 160)


@pytest.mark.parametrize("name", PRUNED)
def test_sums_are_those_of_the_model(name: str) -> None:
    report = prune(zoo.load(name), None, Settings(Budget(ratio=0.5, round_to=1), validate=False)).report
    for before, after in (("params", "params_after"), ("macs", "macs_after")):
        assert sum(getattr(row, before) for row in report.layers) == getattr(report.before, before)
        assert sum(getattr(row, after) for row in report.layers) == getattr(report.after, before)


def test_rounds_compare_the_last_with_the_first() -> None:
    report = prune_in_rounds(small_cnn((32, 64)), None, Settings(Budget(ratio=0.75)), 2).report
    assert sum(row.params for row in report.layers) == report.before.params
    assert sum(row.params_after or 0 for row in report.layers) == report.after.params


def test_a_weight_behind_arithmetic_belongs_to_its_reader_and_one_nobody_reads_to_none() -> None:
    model = small_cnn()
    graph = model.graph
    graph.node.insert(0, helper.make_node("Identity", ["conv1.weight"], ["w"], "same"))
    graph.node[1].input[1] = "w"
    graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(graph.initializer[0]), "lost"))
    found = layers(Graph(model), {})
    assert [(row.name, row.weights[:1]) for row in found][::3] == [
        ("conv1", ("conv1.weight",)),
        (REST, ("lost",)),
    ]
    assert sum(row.params for row in found) == Graph(model).params()


def test_what_is_no_more_costs_nothing() -> None:
    old = Layer("a", "Conv", "x", (), 5, 7)
    assert pair([old], []) == (replace(old, params_after=0, macs_after=0),)
