"""What pruning did to the model's answers and to its speed: measures, not assertions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Drift:
    """How far the pruned model's outputs are from the unpruned model's.

    Attributes:
        relative_error: mean absolute difference over mean absolute value, the worst output.
        cosine: cosine similarity, the worst output.
        top1: fraction of samples with the same arg max; None where no output looks like class scores.
        samples: number of samples compared.
        source: "random inputs", or the file they came from.
    """

    relative_error: float
    cosine: float
    top1: float | None
    samples: int
    source: str


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of one run in onnxruntime on the CPU, before and after, measured in turns.

    Attributes:
        before_ms: median of the original.
        after_ms: median of the pruned model.
        before_min_ms: minimum of the original.
        after_min_ms: minimum of the pruned model.
        runs: number of timed runs of each.
        threads: intra-op threads (0: onnxruntime's choice).
    """

    before_ms: float
    after_ms: float
    before_min_ms: float
    after_min_ms: float
    runs: int
    threads: int

    @property
    def speedup(self) -> float:
        """Median before over median after."""
        return self.before_ms / self.after_ms
