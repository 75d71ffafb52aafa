"""Measured curves as a drawing, by Matplotlib."""

from __future__ import annotations

from pathlib import Path

from onnx_prune.curves.sensitivity import WORDS, Sensitivity
from onnx_prune.html.chart import saved
from onnx_prune.model import files
from onnx_prune.terminal.extras import require_extra

_NAMED = 10  # curves that the legend names: those that rise highest


def require() -> None:
    """Raise InputError where Matplotlib is not there."""
    require_extra("--plot", "report", ("matplotlib",))


def plot(found: Sensitivity, path: Path) -> None:
    """Draw how far the answers move by the share of each group's channels that is gone.

    Args:
        found: the curves.
        path: where to; its suffix says how, .svg or .png.

    Raises:
        Unwritable: the operating system refused; an old file is as it was.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    tallest = sorted(found.curves, key=lambda curve: -curve.most(found.measure))
    for j, curve in enumerate(tallest):
        x = [0.0, *(point.removed / curve.size for point in curve.points)]
        y = [0.0, *(point.by(found.measure) for point in curve.points)]
        named = {"label": curve.name.replace("$", r"\$")} if j < _NAMED else {"color": "0.8", "zorder": 1}
        axes.plot(x, y, marker="o", markersize=3, **named)
    axes.set(
        xlabel="share of the group's channels gone, all others whole",
        ylabel=WORDS[found.measure],
        xlim=(0, 1),
    )
    axes.set_ylim(bottom=0)
    axes.set_title(f"{found.samples} samples, {found.data}".replace("$", r"\$"), fontsize="small")
    figure.legend(loc="outside right upper", fontsize="x-small")
    files.write_bytes(path, saved(figure, path.suffix.lower().removeprefix(".")))
