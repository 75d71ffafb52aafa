"""Choosing and cutting as the pipeline does it, for tools and tests that prune many models."""

from __future__ import annotations

from onnx_prune import choose, criteria
from onnx_prune.axes.axis import Atom
from onnx_prune.coupling import Coupling
from onnx_prune.cut import cut
from onnx_prune.draft import Draft
from onnx_prune.follow import CannotRestate
from onnx_prune.kept import Plan
from onnx_prune.settings import Budget


def attempt(coupling: Coupling, budget: Budget) -> tuple[Plan, Draft | None, str]:
    """Choose and cut; what can't follow is held, and all is chosen again.

    Returns:
        The plan, the smaller model (None where the plan is empty), and the last hold's reason.
    """
    barred: set[Atom] = set()
    note = ""
    while True:
        groups = choose.candidates(coupling, budget, barred)
        scores = {group.atom: criteria.l1(coupling, group) for group in groups}
        plan = choose.choose(coupling, scores, budget, groups).plan
        if not plan:
            return plan, None, note
        try:
            return plan, cut(coupling, plan), note
        except CannotRestate as refusal:
            note = str(refusal)
            if not refusal.atoms - barred:
                raise
            barred |= refusal.atoms
