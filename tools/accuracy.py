"""Top-1 of the shipped Fashion-MNIST network on its labelled sample, dense and pruned at some ratios.

python -m tools.accuracy [--ratio 0.1 --ratio 0.3 ...] [--criterion l1]
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import onnx

from onnx_prune import prune
from onnx_prune.runtime import Session

MODELS = Path(__file__).parent.parent / "models"
_BATCH = 500


def top1(model: onnx.ModelProto, sample: Path) -> float:
    """Fraction of the sample's test images whose largest logit is that of the label."""
    with np.load(sample) as data:
        pixels, labels = data["test"], data["labels"]
        images = ((pixels.astype(np.float32) / 255 - data["mean"]) / data["std"]).astype(np.float32)
    images = images.reshape(len(labels), 1, 28, 28)
    session = Session(model, optimize=True)
    batches = range(0, len(images), _BATCH)
    answers = [session.run({"image": images[i : i + _BATCH]})[0].argmax(1) for i in batches]
    return float((np.concatenate(answers) == labels).mean())


@click.command(help=__doc__)
@click.option("--ratio", "ratios", multiple=True, type=float, default=(0.1, 0.3, 0.5))
@click.option("--criterion", default="l1")
def main(ratios: tuple[float, ...], criterion: str) -> None:
    """Print a line a ratio."""
    source, sample = MODELS / "fmnist_resnet20.onnx", MODELS / "fmnist_sample.npz"
    print("ratio   left   MACs  top-1")
    print(f"dense  1.000  1.000  {top1(onnx.load(source), sample):.1%}")
    for ratio in ratios:
        result = prune(source, ratio=ratio, criterion=criterion, round_to=1, validate=False)
        before, after = result.report.before, result.report.after
        print(
            f"{ratio:5.2f}  {after.params / before.params:.3f}  {after.macs / before.macs:.3f}  "
            f"{top1(result.model, sample):.1%}"
        )


if __name__ == "__main__":
    main()
