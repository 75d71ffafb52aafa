"""All that a user can ask for, with its defaults: what the command line and the API share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from onnx_prune.choose import Budget

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """One run's settings.

    Attributes:
        budget: how much to remove, and where.
        criterion: name of the criterion, see `onnx_prune.criteria.CRITERIA`.
        scores: the user's own scores instead: a .npz file, or arrays by weight name.
        apply_plan: a plan file to replay instead of choosing.
        validate: prove the cut and run both models; False writes an unproved file.
        drift_data: a .npz file with an array for each input, stacked on the batch axis.
        threads: onnxruntime threads for the latency; 0 lets onnxruntime choose.
        strict: fail (exit code 4) if the channels removed differ from those asked by over 10 %.
        external_data: whether the output keeps weights in a file of their own.
        progress: called with the name of each stage as it starts.
    """

    budget: Budget = field(default_factory=Budget)
    criterion: str = "l1"
    scores: Path | Mapping[str, NDArray[Any]] | None = None
    apply_plan: Path | None = None
    validate: bool = True
    drift_data: Path | None = None
    threads: int = 0
    strict: bool = False
    external_data: Literal["auto", "always", "never"] = "auto"
    progress: Progress = lambda stage: None
