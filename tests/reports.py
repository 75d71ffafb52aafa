"""A report as a run would give it, for tests of what is shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from onnx_prune.proof.prove import Proof
from onnx_prune.report import GroupCut, HeldBack, Report, Size
from onnx_prune.validate import Drift, Latency


def group(name: str = "layer4.0.conv3.weight", size: int = 2048, kept: int = 1024) -> GroupCut:
    return GroupCut(name, size, kept, kept, ((name, 0),), 9_437_184, 412_000_000)


def resnet50(**changes: Any) -> Report:
    """A plausible report for a ResNet-50, with some fields changed."""
    report = Report(
        source="resnet50.onnx",
        output="half.onnx",
        criterion="l1",
        asked_ratio=0.5,
        reached_ratio=0.4983,
        before=Size(25_557_032, 4_111_514_624, 102_530_333),
        after=Size(6_778_312, 1_089_302_528, 27_302_115),
        groups=(group(), *(group(f"layer{i}.conv1.weight", 64, 32) for i in range(11))),
        held=(
            HeldBack("logits is a graph output", 2, 2_049_000, (("fc.weight", 0), ("fc.bias", 0))),
            HeldBack("input is a graph input", 1, 9408, (("conv1.weight", 1),)),
            *(HeldBack(f"no rule for Op{i}", 1, 0, ((f"w{i}", 0),)) for i in range(5)),
        ),
        proof=Proof(3.2e-7, 1e-4, ("logits",), 2),
        drift=Drift(1.17, 0.8123, 0.125, 64, "random inputs"),
        latency=Latency(31.2, 9.87, 30.5, 9.6, 40, 1),
        notes=("rounding kept 32 channels more",),
        shapes={"input": (1, 3, 224, 224)},
        seconds={"loading": 0.2, "proving": 1.4},
        versions={"onnx-prune": "0.1.0"},
    )
    return replace(report, **changes)
