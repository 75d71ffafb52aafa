"""Top-1 of the shipped Fashion-MNIST network at equal parameters, shared out evenly or by measured curves.

python -m tools.shares [--ratio 0.3 ...] [--criterion l1] [--recover lstsq ...] [--samples 256] [--draws 3]

Curves are measured and recovery is fitted on the same unlabelled images, another draw for each seed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx

from onnx_prune import prune, sensitivity
from tools.accuracy import MODELS, images, top1

MODEL, SAMPLE = MODELS / "fmnist_resnet20.onnx", MODELS / "fmnist_sample.npz"


@click.command()
@click.option("--ratio", "ratios", type=float, multiple=True, default=(0.3, 0.5))
@click.option("--criterion", default="l1")
@click.option("--recover", "recoveries", multiple=True, default=("none", "lstsq"))
@click.option("--samples", default=256)
@click.option("--draws", default=3)
def main(
    ratios: tuple[float, ...], criterion: str, recoveries: tuple[str, ...], samples: int, draws: int
) -> None:
    """Print a line for each ratio, recovery and way to share out."""
    name, pool = onnx.load(MODEL).graph.input[0].name, images(SAMPLE, "calibration")
    rows: dict[tuple[float, str, str], list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(draws):
            drawn = np.random.default_rng(seed).permutation(len(pool))[:samples]
            data: list[Any] = [{name: pool[drawn]}]
            curves = Path(folder, f"{seed}.json")
            sensitivity(MODEL, data=data, criterion=criterion, cache=curves)
            for ratio in ratios:
                for recover in recoveries:
                    for way, shared in (("uniform", None), ("curves", curves)):
                        result = prune(
                            MODEL,
                            ratio=ratio,
                            criterion=criterion,
                            data=data,
                            recover=recover,  # type: ignore[arg-type]  # one of the words, or it is refused
                            round_to=1,
                            sensitivity=shared,
                        )
                        assert result.model is not None
                        report = result.report
                        costs = (
                            report.after.params / report.before.params,
                            report.after.macs / report.before.macs,
                        )
                        rows.setdefault((ratio, recover, way), []).append(
                            (top1(result.model, SAMPLE), *costs)
                        )
    click.echo("ratio  recovery  shares   params   MACs  top-1 (least to most)")
    for (ratio, recover, way), found in rows.items():
        right, params, macs = np.array(found).T
        spread = f"{100 * right.mean():.1f} % ({100 * right.min():.1f} to {100 * right.max():.1f})"
        click.echo(f"{ratio:<6g} {recover:9} {way:8} {params.mean():.3f}  {macs.mean():.3f}  {spread}")


if __name__ == "__main__":
    main()
