"""What one run does with its calibration data: rank channels, and recover after the cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune import criteria
from onnx_prune.axes.axis import Atom
from onnx_prune.calibration import data as calibration
from onnx_prune.calibration.biases import growth
from onnx_prune.calibration.data import Calibration
from onnx_prune.coupling import Coupling, Group
from onnx_prune.errors import InputError
from onnx_prune.kept import Plan
from onnx_prune.model.graph import Graph
from onnx_prune.runtime import RunError
from onnx_prune.settings import CALIBRATED_NAMES, Settings
from onnx_prune.validate import Drift, drift_feeds, measure_drift
from onnx_prune.words import some

if TYPE_CHECKING:
    from onnx_prune.calibration.recover import Method, Recovery

_FEW = 64


class Calibrator:
    """The calibration data of a run, read once, and the stages that need them.

    Args:
        settings: what is asked for.
        notes: gains a sentence for what is worth knowing.

    Attributes:
        errors: groups whose scores are the error itself that a cut makes.
    """

    def __init__(self, settings: Settings, notes: list[str]) -> None:
        self._settings, self._notes = settings, notes
        self._data: Calibration | None = None
        self.errors: frozenset[Atom] = frozenset()

    def data(self, coupling: Coupling) -> Calibration | None:
        """The calibration data, None where none are given.

        Raises:
            InputError: they are not usable, or do not fit the model.
        """
        settings = self._settings
        if self._data is None and settings.data is not None:
            self._data = calibration.load(
                settings.data,
                coupling.graph,
                coupling.shapes.inputs,
                mean=settings.input_mean,
                std=settings.input_std,
                span=settings.input_range,
            )
            if self._data.samples < _FEW:
                count = some(self._data.samples, "sample")
                self._notes.append(f"{count} to calibrate on are few: from {_FEW} on more is recovered")
        return self._data

    def scores(self, coupling: Coupling, groups: Sequence[Group]) -> Mapping[Atom, NDArray[np.float64]]:
        """Scores by the criterion that holds, from weights alone or with the data.

        Raises:
            InputError: the data are not usable, or onnxruntime can't run the model.
        """
        settings, name = self._settings, self._settings.ranking
        if name not in CALIBRATED_NAMES:
            score = criteria.named(name)
            return {group.atom: score(coupling, group) for group in groups}
        from onnx_prune.calibration.criteria import rank  # most runs have no data

        found = self.data(coupling)
        assert found is not None
        try:
            scores, alone = rank(
                coupling,
                groups,
                name,
                found,
                compared=settings.budget.target is not None,
                memory=settings.memory,
                progress=settings.progress,
            )
        except RunError as error:
            raise InputError(f"{name} can't look into the model: {error}; --criterion l1 need not") from None
        self.errors = frozenset(scores) - {group.atom for group in alone} if name == "obs" else frozenset()
        if alone:
            self._notes.append(
                f"{some(len(alone), 'group')} ranked by l1, for no layer with constant weights sums over "
                f"{'its' if len(alone) == 1 else 'their'} channels, such as {alone[0].name}"
            )
        return scores

    def growth(self, coupling: Coupling, plan: Plan, cut: Graph) -> tuple[int, int]:
        """How many parameters and bytes recovery adds to a cut model at most."""
        if self._settings.recovery not in ("lstsq", "bias"):
            return 0, 0
        from onnx_prune.calibration.recover import drifted

        return growth(cut, drifted(coupling, plan))

    def recover(
        self, coupling: Coupling, plan: Plan, model: onnx.ModelProto
    ) -> tuple[Drift | None, Recovery]:
        """Recover a cut model, in place; and how far it was off before, unless nothing is to be validated.

        Raises:
            InputError: the data are not usable, or onnxruntime can't run one of the models.
        """
        from onnx_prune.calibration.recover import recover  # most runs recover nothing

        settings, drift, found = self._settings, None, self.data(coupling)
        assert found is not None
        try:
            if settings.validate:
                feeds, source = drift_feeds(coupling, settings, found)
                drift = measure_drift(coupling.graph.model, model, feeds, source, coupling.graph.folder)
            recovery = recover(
                coupling,
                plan,
                model,
                found,
                cast("Method", settings.recovery),
                memory=settings.memory,
                progress=settings.progress,
            )
        except RunError as error:
            raise InputError(
                f"the model can't be recovered: {error}; --recover none leaves it as it is cut"
            ) from None
        if not recovery.layers:
            self._notes.append(f"--recover {settings.recovery} found no layer that it could mend")
        return drift, recovery
