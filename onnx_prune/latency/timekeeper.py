"""What one run does about its target in time: time the model, choose, and measure what is to be written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune.axes.axis import Atom
from onnx_prune.choose import Choice, Scores
from onnx_prune.coupling import Coupling, Group
from onnx_prune.cut import cut
from onnx_prune.errors import InputError
from onnx_prune.latency.aim import Aim, aim, confirm
from onnx_prune.latency.race import Race
from onnx_prune.model.memory import require_fits
from onnx_prune.runtime import RunError, random_feeds
from onnx_prune.settings import Settings
from onnx_prune.shape.shapes import at_batch_one
from onnx_prune.validate import Latency


class Timekeeper:
    """The race of a run against its original.

    Args:
        settings: what is asked for.

    Attributes:
        aim: how the target was met; None where there is none in time.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._race: Race | None = None
        self.aim: Aim | None = None

    def choose(
        self,
        coupling: Coupling,
        groups: Sequence[Group],
        scores: Scores,
        errors: Collection[Atom],
        losses: Mapping[Atom, NDArray[np.float64]] | None = None,
    ) -> Choice:
        """Which channels stay so that the target is met, as measured.

        Args:
            coupling: the analysed model.
            groups: the groups that may be cut.
            scores: for each a score a channel.
            errors: groups whose scores are losses already.
            losses: for each group its loss by channels removed, where that was measured.

        Raises:
            InputError: onnxruntime can't run the model, or the target is out of reach.
            TargetMissed: there is nothing within 5 % of it, or it can't be told.
            CannotRestate: a choice can't be built.
        """
        settings, graph = self._settings, coupling.graph
        require_fits(coupling.shapes.known, coupling.shapes.types)
        typical = at_batch_one(graph, coupling.shapes, coupling.probe)
        try:
            feeds = random_feeds(graph.inputs, typical.inputs)
            race = Race(graph.model, feeds, folder=graph.folder, threads=settings.threads)
            choice, self.aim = aim(
                coupling,
                groups,
                scores,
                settings.budget,
                race=race,
                build=lambda choice: cut(coupling, choice.plan).whole(),
                shapes=typical.known,
                threads=settings.threads,
                errors=errors,
                losses=losses,
                progress=settings.progress,
            )
        except RunError as error:
            raise InputError(f"--target {settings.budget.target} can't be measured: {error}") from None
        self._race = race
        return choice

    def measure(self, model: onnx.ModelProto) -> Latency:
        """The latency of the model that is to be written.

        Raises:
            TargetMissed: it is not what was asked for.
        """
        target = self._settings.budget.target
        assert self._race is not None
        assert target is not None
        return confirm(target, self._race, model)
