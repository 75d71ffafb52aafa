"""Top-1 of the shipped network with zeros in its weights, by criterion and sparsity, without retraining.

    python -m tools.sparsity [--images 256]

Calibrated criteria see the first so many of the unlabelled images that ship with it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np
import onnx

from onnx_prune.sparse.sparsify import sparsify
from onnx_prune.sparse.sparsity import Sparsity
from tools.accuracy import MODELS, top1

CRITERIA = ("magnitude", "lamp", "erk", "wanda", "ria", "sparsegpt")
RATIOS = (0.5, 0.8, 0.9, 0.95)


@click.command(help=__doc__)
@click.option("--images", default=256)
def main(images: int) -> None:
    """Print the table."""
    source, sample = MODELS / "fmnist_resnet20.onnx", MODELS / "fmnist_sample.npz"
    print(f"dense {top1(onnx.load(source), sample):.1%}; {images} images for those that are calibrated")
    print("| criterion | " + " | ".join(f"{ratio:.0%}" for ratio in RATIOS) + " | 2:4 |")
    print("|---|" + "---|" * (len(RATIOS) + 1))
    with tempfile.TemporaryDirectory() as folder, np.load(sample) as data:
        pixels = data["calibration"][:images].astype(np.float32) / 255
        feeds = Path(folder) / "feeds.npz"
        np.savez(
            feeds, image=((pixels - data["mean"]) / data["std"]).astype(np.float32).reshape(-1, 1, 28, 28)
        )
        for criterion in CRITERIA:
            cells = []
            for ratio in (*RATIOS, None):
                if ratio is None and criterion in ("lamp", "erk"):
                    cells.append("")
                    continue
                asked = Sparsity(
                    ratio=ratio,
                    criterion=criterion,
                    pattern="unstructured" if ratio else "2:4",
                    data=feeds,
                    validate=False,
                )
                result = sparsify(source, asked=asked)
                assert result.model is not None
                cells.append(f"{top1(result.model, sample):.1%}")
            print(f"| {criterion} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
