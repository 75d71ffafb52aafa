"""Random graphs by the number: the property of `tests.soundness` over the models of `tests.strategies`."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from hypothesis import HealthCheck, Phase, given, reject, seed, settings

from onnx_prune.rules import RULES
from onnx_prune.settings import Budget
from tests import soundness
from tests.strategies import budgets, models

_BATCH = 250  # examples for which Hypothesis is asked at once: it stops at the first failure
_SHRINK = 15.0  # seconds of CPU for making one failure smaller


@dataclass
class Tally:
    """What was seen so far; a graph counts if something in it was cut and proved.

    Attributes:
        proved: how many graphs count.
        engines: how many of these another engine, or other masks, were asked about too.
        rejected: the reasons for which graphs do not count.
        groups: how many graphs have so many groups.
        operators: how many of the graphs have the operator.
        failures: the message of each failure.
    """

    proved: int = 0
    engines: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    groups: Counter[int] = field(default_factory=Counter)
    operators: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        many = sum(n for size, n in self.groups.items() if size >= 3)
        unmet = sorted({_operator(*key) for key in RULES} - self.operators.keys())
        lines = [
            f"{self.proved} graphs proved, {self.engines} of them checked beside the proof; "
            f"{many} have three groups or more ({many / max(self.proved, 1):.0%})",
            "groups: " + ", ".join(f"{size}: {n}" for size, n in sorted(self.groups.items())),
            "operators: " + ", ".join(f"{op} {n}" for op, n in self.operators.most_common()),
            "rules never met: " + (", ".join(unmet) or "none"),
            "not counted: " + (", ".join(f"{n} {why}" for why, n in self.rejected.most_common()) or "none"),
            f"{len(self.failures)} failures" + "".join(f"\n  {line}" for line in self.failures),
        ]
        return "\n".join(lines)


def random_graphs(number: int, start: int, keep: Path) -> int:
    """Check so many graphs, and print what they were.

    Args:
        number: graphs in which something is cut.
        start: the first seed; each batch takes the next.
        keep: folder for shrunk models that fail.

    Returns:
        The number of failures.
    """
    tally, batch = Tally(), 0
    while tally.proved < number:
        failed = _run(tally, start * 1_000_003 + batch, min(_BATCH, number - tally.proved))
        batch += 1
        if failed is not None:
            model, budget, error = failed
            keep.mkdir(parents=True, exist_ok=True)
            name = f"graph-{start}-{batch}.onnx"
            onnx.save(model, keep / name)
            tally.failures.append(f"{name}, {len(model.graph.node)} nodes, {budget}: {_line(error)}")
            print(tally.failures[-1], flush=True)
    print(tally)
    return len(tally.failures)


def _run(tally: Tally, number: int, most: int) -> tuple[onnx.ModelProto, Budget, Exception] | None:
    """One batch; the smallest failure if there is one."""
    last: list[tuple[onnx.ModelProto, Budget, Exception]] = []
    since = 0.0

    @seed(number)
    @settings(
        max_examples=most,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(models(), budgets())
    def property_(model: onnx.ModelProto, budget: Budget) -> None:
        nonlocal since
        if last and time.process_time() - since > _SHRINK and (model, budget) != last[0][:2]:
            return  # small enough
        try:
            verdict = soundness.check(model, budget)
        except Exception as error:
            since = since or time.process_time()
            last[:] = [(model, budget, error)]
            raise
        if last:
            return  # it is being shrunk
        if verdict.status != "proved":
            tally.rejected[_line(verdict.status)] += 1
            reject()
        tally.proved += 1
        tally.engines += verdict.engines > 0
        tally.groups[verdict.groups] += 1
        tally.operators.update({_operator(node.domain, node.op_type) for node in model.graph.node})

    try:
        property_()
    except Exception as error:
        if not last:
            raise
        return *last[0][:2], error
    return None


def _operator(domain: str, name: str) -> str:
    return f"{domain}.{name}" if domain else name


def _line(what: object) -> str:
    text = " ".join(str(what).split())
    return text[:200] if isinstance(what, str) else f"{type(what).__name__}: {text}"[:300]
