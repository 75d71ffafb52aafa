"""What can be cut of a model, and why the rest can't, as data for people and programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from onnx_prune import files
from onnx_prune.analyse import couple
from onnx_prune.graph import Graph


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that `explain` has to say.

    Attributes:
        groups: name and size of every group that can be cut.
        held: weight, dimension and reason of every axis that can't.
    """

    groups: tuple[tuple[str, int], ...]
    held: tuple[tuple[str, int, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """The explanation as plain data, ready for JSON."""
        return asdict(self)


def explain(source: str | Path | onnx.ModelProto) -> Explanation:
    """Analyse a model, and cut nothing."""
    if isinstance(source, onnx.ModelProto):
        coupling = couple(Graph(source))
    else:
        coupling = couple(Graph(files.load(source), Path(source).parent))
    return Explanation(
        tuple((group.name, group.size) for group in coupling.groups),
        tuple((held.weight, held.dim, held.why) for held in coupling.held),
    )
