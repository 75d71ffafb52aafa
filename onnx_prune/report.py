"""What a run found out and did, as data: what the table, the JSON and the API show."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from onnx_prune.calibration.evaluate import Accuracy
from onnx_prune.latency.aim import Aim
from onnx_prune.layers import Layer
from onnx_prune.proof.prove import Proof
from onnx_prune.validate import Drift, Latency

if TYPE_CHECKING:
    from onnx_prune.calibration.recover import Recovery


@dataclass(frozen=True, slots=True)
class Size:
    """What a model costs.

    Attributes:
        params: elements of all weights.
        macs: multiply-accumulates of one run at the analysed input shapes.
        bytes: size of the file (with its external data); None where it was not written.
    """

    params: int
    macs: int
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class GroupCut:
    """One group that was cut.

    Attributes:
        name: the group's name, its first producer's weight and dimension.
        size: channels before.
        kept: channels after.
        asked: channels that the ratio alone would have kept, before rounding.
        members: (weight, dimension) pairs.
        params: parameters that its cut removes, the other cuts being made.
        macs: the same in MACs.
    """

    name: str
    size: int
    kept: int
    asked: int
    members: tuple[tuple[str, int], ...]
    params: int
    macs: int


@dataclass(frozen=True, slots=True)
class HeldBack:
    """Axes that stay whole for one reason.

    Attributes:
        why: the reason in plain words.
        axes: how many axes of weights it holds.
        params: parameters of the weights that have no free axis because of it.
        examples: some (weight, dimension) pairs.
    """

    why: str
    axes: int
    params: int
    examples: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Whole:
    """Channels that all stay: those of a group, or of an axis that belongs to none.

    Attributes:
        name: the group's name, or the weight and dimension.
        size: how many.
        why: the reason in plain words.
        members: (weight, dimension) pairs.
    """

    name: str
    size: int
    why: str
    members: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """All that is known after a run.

    Attributes:
        source: the input's path, None for a model given as an object.
        output: the output's path, None where nothing was written.
        criterion: how channels were ranked.
        asked_ratio: the fraction of channels asked to be removed.
        reached_ratio: the fraction removed, over all groups that could be cut.
        before: the original's cost.
        after: the pruned model's.
        groups: what was cut, the most parameters saved first.
        held: what was not, the most parameters first.
        whole: the same one by one, and the groups that rounding leaves whole.
        layers: what each layer costs before and after, in the order of the graph.
        proof: the proof, None with `--no-validate` and in a dry run.
        not_proved: why there is no proof, "" where there is one.
        target: what was asked to be left instead, "" where a ratio was asked for.
        aim: how a target in time was met; None where none was given.
        recovery: what recovery did to the cut model; None where there was none.
        drift_cut: how far the outputs were off before recovery; None where there was none.
        drift: how far the outputs moved from the unpruned model's; None where not measured.
        accuracy: top-1 before and after; None where no labels are given.
        latency: before and after in onnxruntime; None where not measured.
        notes: other things worth knowing, one sentence each.
        shapes: the input shapes that MACs and latency are for.
        seconds: time taken by each stage.
        versions: versions of onnx-prune and what it stands on.
    """

    source: str | None
    output: str | None
    criterion: str
    asked_ratio: float
    reached_ratio: float
    before: Size
    after: Size
    groups: tuple[GroupCut, ...]
    held: tuple[HeldBack, ...]
    whole: tuple[Whole, ...] = ()
    layers: tuple[Layer, ...] = ()
    proof: Proof | None = None
    not_proved: str = ""
    target: str = ""
    aim: Aim | None = None
    recovery: Recovery | None = None
    drift_cut: Drift | None = None
    drift: Drift | None = None
    accuracy: Accuracy | None = None
    latency: Latency | None = None
    notes: tuple[str, ...] = ()
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, ready for JSON."""
        return asdict(self)
