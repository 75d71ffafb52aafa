"""What a user can ask for when single weights are zeroed; nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from onnx_prune.errors import InputError
from onnx_prune.settings import Progress, require_ratio, unknown
from onnx_prune.words import plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

STORED_CRITERIA = ("magnitude", "lamp", "erk", "random")
CALIBRATED = ("wanda", "ria", "sparsegpt")
SPARSE_CRITERIA = (*STORED_CRITERIA, *CALIBRATED)
ENDS = ("first", "last", "both")


@dataclass(frozen=True, slots=True)
class Sparsity:
    """One run's settings.

    Attributes:
        ratio: fraction of the weights that is zero afterwards; None with an N:M pattern, which says itself.
        criterion: what makes a weight matter: one of `SPARSE_CRITERIA`.  `lamp` ranks all layers together,
            `erk` is magnitude with a density a layer.
        scores: the user's own scores instead: an .npz file, or arrays by weight name.
        across: rank the weights of all layers together.
        pattern: what goes together, as `granularity.parse` reads it.
        layer_ratios: (glob, ratio) pairs; the last that matches a weight or layer counts.
        ignore: globs; weights that they match stay as they are.
        spare: leave the "first" layers, the "last" ones or "both" as they are.
        seed: of the random criterion.
        apply_mask: a mask file to apply instead of choosing.
        parent_mask: the mask of an earlier round: what it removed stays removed.
        data: inputs for the criteria that need them: an .npz file, a folder, or "synthetic".
        validate: run both models; False only checks the weights.
        drift_data: inputs that the drift is measured on.
        external_data: whether the output keeps weights in a file of their own.
        sparse_initializers: store weights sparsely where that takes fewer bytes.
        progress: called with the name of each stage as it starts.

    Raises:
        InputError: a value is out of range, or two do not go together.

    Example:
        >>> Sparsity(ratio=1.0)
        Traceback (most recent call last):
        onnx_prune.errors.InputError: ratio 1 is not in [0, 1): it is the fraction removed, 0.5 for half
    """

    ratio: float | None = None
    criterion: str = "magnitude"
    scores: Path | Mapping[str, NDArray[Any]] | None = None
    across: bool = False
    pattern: str = "unstructured"
    layer_ratios: tuple[tuple[str, float], ...] = ()
    ignore: tuple[str, ...] = ()
    spare: Literal["first", "last", "both"] | None = None
    seed: int = 0
    apply_mask: Path | None = None
    parent_mask: Path | None = None
    data: str | Path | None = None
    validate: bool = True
    drift_data: Path | None = None
    external_data: Literal["auto", "always", "never"] = "auto"
    sparse_initializers: bool = False
    progress: Progress = lambda stage: None

    def __post_init__(self) -> None:
        if self.criterion not in SPARSE_CRITERIA:
            raise InputError(unknown("criterion", self.criterion, SPARSE_CRITERIA))
        if self.ratio is not None:
            require_ratio("ratio", self.ratio)
        for glob, ratio in self.layer_ratios:
            require_ratio(f"layer ratio for {plain(glob)!r}:", ratio)
        if self.spare is not None and self.spare not in ENDS:
            raise InputError(unknown("layers to spare", self.spare, ENDS))
        if self.seed < 0:
            raise InputError(f"seed {self.seed} is negative: give 0 or more")
        n_of_m = self.pattern[:1].isdigit()
        if n_of_m and (self.ratio is not None or self.layer_ratios or self.across):
            raise InputError(
                f"pattern {plain(self.pattern)} says how much goes; leave ratio, layer-ratio and global out"
            )
        if self.ranks_together and self.pattern == "channel":
            raise InputError("whole channels are not ranked across layers; leave out one of the two")
        if self.criterion in ("lamp", "erk") and self.pattern != "unstructured":
            raise InputError(f"criterion {self.criterion} is for single weights; leave out the pattern")
        if self.criterion == "erk" and self.across:
            raise InputError("criterion erk gives each layer its density; leave out global")
        if self.criterion in CALIBRATED and self.data is None:
            raise InputError(f"criterion {self.criterion} needs inputs: give them with --data FILE.npz")
        if self.criterion in CALIBRATED and (self.across or self.pattern[:5] in ("block", "chann")):
            raise InputError(f"criterion {self.criterion} ranks within outputs: unstructured or N:M only")

    @property
    def ranks_together(self) -> bool:
        """Whether the weights of all layers are ranked together."""
        return self.across or (self.criterion == "lamp" and self.scores is None)

    @property
    def asked(self) -> float:
        """The ratio, half unless given."""
        return 0.5 if self.ratio is None else self.ratio
