"""Recovery on a network that was trained elsewhere: PP-OCR's classifier of text lines, from a package.

    python -m tools.lines FOLDER [--ratio 0.3] [--samples 256] [--draws 3]

FOLDER is where `tools.shipped` put the packages; needs Pillow.  Inputs are made here: lines of random words
in random sizes and colours on plain ground, 48 by 192 pixels, half of them upside down, scaled as PP-OCR does
it.  Cosines are those of all outputs to the original's, on 256 lines that were not calibrated on.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune import prune
from onnx_prune.runtime import Session

FILE = "rapidocr-onnxruntime==1.4.4/models-ch_ppocr_mobile_v2.0_cls_infer.onnx"
HIGH, WIDE = 48, 192
_BATCH = 32
LETTERS = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:-/")


def line(rng: np.random.Generator) -> NDArray[np.float32]:
    """One line of text as the network takes it, shape (3, 48, 192)."""
    from PIL import Image, ImageDraw, ImageFont

    ground, ink = rng.integers(150, 256, 3), rng.integers(0, 110, 3)
    if rng.random() < 0.3:
        ground, ink = ink, ground
    words = ("".join(rng.choice(LETTERS, rng.integers(2, 9))) for _ in range(rng.integers(1, 4)))
    page = Image.new("RGB", (800, HIGH), tuple(map(int, ground)))
    font = ImageFont.load_default(int(rng.integers(22, 38)))
    draw, text = ImageDraw.Draw(page), " ".join(words)
    draw.text((6, HIGH // 2), text, tuple(map(int, ink)), font, anchor="lm")
    width = min(max(int(draw.textlength(text, font)) + 12, 24), 800)
    page = page.crop((0, 0, width, HIGH)).resize((min(width, WIDE), HIGH))
    if rng.random() < 0.5:
        page = page.rotate(180)
    pixels = np.asarray(page, np.float32) + rng.normal(0, rng.uniform(0, 12), (HIGH, page.width, 3))
    found = np.zeros((3, HIGH, WIDE), np.float32)
    found[:, :, : page.width] = (np.clip(pixels, 0, 255).transpose(2, 0, 1) / 255 - 0.5) / 0.5
    return found


def lines(count: int, seed: int) -> NDArray[np.float32]:
    """Lines of text, shape (count, 3, 48, 192)."""
    rng = np.random.default_rng([20240229, seed])
    return np.stack([line(rng) for _ in range(count)])


def answers(model: onnx.ModelProto, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """The first output for all inputs."""
    session, name = Session(model, optimize=True), model.graph.input[0].name
    pieces = [session.run({name: inputs[i : i + _BATCH]})[0] for i in range(0, len(inputs), _BATCH)]
    return np.concatenate(pieces).astype(np.float64)


def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Of two arrays as vectors."""
    return float((a * b).sum() / np.sqrt(np.square(a).sum() * np.square(b).sum()))


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--ratio", default=0.3)
@click.option("--samples", default=256)
@click.option("--draws", default=3)
def main(folder: Path, ratio: float, samples: int, draws: int) -> None:
    """Print a line for each draw of calibration data."""
    dense, judged = onnx.load(folder / FILE), lines(256, 10**6)
    truth = answers(dense, judged)
    print("| draw | recovery | MACs | cosine | top-1 agreement | proof | CPU s |")
    print("|---|---|---|---|---|---|---|")
    for draw in range(draws):
        feed: dict[str, Any] = {dense.graph.input[0].name: lines(samples, draw)}
        for recover in ("none", "lstsq"):
            start = time.process_time()
            result = prune(dense, ratio=ratio, data=[feed], recover=recover, round_to=1)
            used, found, report = time.process_time() - start, answers(result.model, judged), result.report
            agree = (found.argmax(-1) == truth.argmax(-1)).mean()
            macs = report.before.macs / report.after.macs
            print(
                f"| {draw} | {recover} | {macs:.2f}x | {cosine(found, truth):.4f} | {agree:.1%} "
                f"| {report.proof.error:.1e} | {used:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
