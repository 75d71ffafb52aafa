"""Top-1 of the shipped Fashion-MNIST networks by ratio, criterion, recovery and calibration data.

python -m tools.accuracy [--model in.onnx ...] [--draws 3]
                         [--ratio 0.3 ...] [--target macs=0.5 ...] [--criterion obs ...] [--recover lstsq ...]
                         [--samples 256 ...]

Without options it runs all that the README has, of every network.  Any of the last five makes it run all
combinations of what is given instead, the rest being as `--data` has it by default.  Calibration images are
drawn from the sample's unlabelled part, another draw for each seed; labels only count what is right.  Each
line has the mean, least and most of the draws, seconds and peak memory of one run, a process of its own.
"""

from __future__ import annotations

import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune import prune
from onnx_prune.runtime import Session
from onnx_prune.settings import ATTENTION, CALIBRATED_NAMES, CRITERIA_NAMES, RECOVERIES

MODELS = Path(__file__).parent.parent / "models"
_BATCH = 500
_SYNTHETIC = "synthetic"
Amount = float | str


def images(sample: Path, part: str) -> NDArray[np.float32]:
    """A part of the sample as the network takes it."""
    with np.load(sample) as data:
        pixels = (data[part].astype(np.float32) / 255 - data["mean"]) / data["std"]
    return pixels.reshape(-1, 1, 28, 28).astype(np.float32)


def top1(model: onnx.ModelProto, sample: Path) -> float:
    """Fraction of the sample's test images whose largest logit is that of the label."""
    with np.load(sample) as data:
        labels = data["labels"]
    inputs, session = images(sample, "test"), Session(model, optimize=True)
    name = model.graph.input[0].name
    answers = [
        session.run({name: inputs[i : i + _BATCH]})[0].argmax(1) for i in range(0, len(inputs), _BATCH)
    ]
    return float((np.concatenate(answers) == labels).mean())


@dataclass(frozen=True)
class Task:
    """One run: what is asked for, on which images."""

    model: Path
    sample: Path
    amount: Amount
    criterion: str
    recover: str
    samples: int
    seed: int
    attention: str = "auto"

    @property
    def blind(self) -> bool:
        """Whether it looks at no data."""
        return self.criterion not in CALIBRATED_NAMES and self.recover == "none"

    def options(self) -> dict[str, Any]:
        """What `prune` is told."""
        amount = "target" if isinstance(self.amount, str) else "ratio"
        options: dict[str, Any] = {amount: self.amount, "criterion": self.criterion, "round_to": 1}
        options["attention"] = self.attention
        if self.blind:
            return options
        if not self.samples:
            with np.load(self.sample) as data:
                black, white = ((level - data["mean"]) / data["std"] for level in (0.0, 1.0))
            made_up = {"data": _SYNTHETIC, "input_range": (float(black), float(white))}
            return options | made_up | {"recover": self.recover}
        pool = images(self.sample, "calibration")
        drawn = np.random.default_rng(self.seed).permutation(len(pool))[: self.samples]
        name = onnx.load(self.model).graph.input[0].name
        return options | {"data": [{name: pool[drawn]}], "recover": self.recover}


@dataclass(frozen=True)
class Outcome:
    """What one run gave."""

    top1: float
    macs: float
    params: float
    seconds: float
    cpu_seconds: float
    peak_mb: float


def run(task: Task) -> Outcome:
    """Prune, recover, and count what is right."""
    options = task.options()
    start, cpu = time.perf_counter(), time.process_time()
    result = prune(task.model, validate=False, **options)
    took, used = time.perf_counter() - start, time.process_time() - cpu
    before, after = result.report.before, result.report.after
    assert result.model is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    right = top1(result.model, task.sample)
    return Outcome(right, before.macs / after.macs, after.params / before.params, took, used, peak)


@dataclass(frozen=True)
class Sweep:
    """All combinations of these are run."""

    amounts: tuple[Amount, ...] = (0.5,)
    criteria: tuple[str, ...] = ("obs",)
    recoveries: tuple[str, ...] = ("lstsq",)
    sizes: tuple[int, ...] = (256,)


SWEEPS = (
    Sweep(amounts=(0.3, 0.5), criteria=("l1", "obs"), recoveries=("none", "lstsq")),
    Sweep(amounts=("macs=0.5", "macs=0.25")),
    Sweep(criteria=("l1",), recoveries=("bias", "bn")),
    Sweep(sizes=(16, 64, 1024)),
)


def row(pool: ProcessPoolExecutor, tasks: list[Task]) -> str:
    """A line of the table: the same task with several draws of calibration images."""
    first, found = tasks[0], list(pool.map(run, tasks))
    tops = [outcome.top1 for outcome in found]
    seconds, cpu, peak = (
        np.mean([getattr(outcome, name) for outcome in found])
        for name in ("seconds", "cpu_seconds", "peak_mb")
    )
    used = "-" if first.blind else first.samples or _SYNTHETIC
    spread = f"{min(tops):.1%}, {max(tops):.1%}" if len(tops) > 1 else ""
    return (
        f"| {first.model.stem} | {first.amount} | {found[0].macs:.2f}x | {first.criterion} | {first.recover} "
        f"| {used} | {np.mean(tops):.1%} | {spread} | {seconds:.0f} | {cpu:.0f} | {peak:.0f} |"
    )


@click.command(help=__doc__)
@click.option("--model", "models", multiple=True, type=Path, help="All that ship by default.")
@click.option("--sample", type=Path, default=MODELS / "fmnist_sample.npz")
@click.option("--ratio", "ratios", multiple=True, type=float)
@click.option("--target", "targets", multiple=True, help="Shared out among the groups.")
@click.option("--criterion", "criteria", multiple=True)
@click.option("--recover", "recoveries", multiple=True)
@click.option("--samples", "sizes", multiple=True, type=int, help="0 for synthetic images.")
@click.option("--attention", type=click.Choice(ATTENTION), default="auto", help="Heads or their dims.")
@click.option("--draws", type=int, default=3)
def main(
    models: tuple[Path, ...],
    sample: Path,
    ratios: tuple[float, ...],
    targets: tuple[str, ...],
    criteria: tuple[str, ...],
    recoveries: tuple[str, ...],
    sizes: tuple[int, ...],
    attention: str,
    draws: int,
) -> None:
    """Print a line for each combination."""
    unknown = {*criteria} - {*CRITERIA_NAMES, *CALIBRATED_NAMES} | {*recoveries} - {*RECOVERIES}
    if unknown:
        raise click.UsageError(f"unknown: {', '.join(sorted(unknown))}")
    named = {"amounts": (*ratios, *targets), "criteria": criteria, "recoveries": recoveries, "sizes": sizes}
    given = {name: values for name, values in named.items() if values}
    sweeps = (Sweep(**given),) if given else SWEEPS
    networks = models or tuple(sorted(MODELS.glob("fmnist_*.onnx")))
    for model in networks:
        print(f"{model.stem}, dense: {top1(onnx.load(model), sample):.1%}")
    print("\n| model | asked | MACs | criterion | recovery | images | top-1 | range | s | CPU s | peak MB |")
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    asked = chain.from_iterable(product(s.amounts, s.criteria, s.recoveries, s.sizes) for s in sweeps)
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        for (amount, criterion, recover, size), model in product(list(asked), networks):
            task = Task(model, sample, amount, criterion, recover, size, 0, attention)
            seeds = range(draws if size and not task.blind else 1)
            print(row(pool, [replace(task, seed=seed) for seed in seeds]), flush=True)


if __name__ == "__main__":
    main()
