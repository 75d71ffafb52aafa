"""How the weights are spread before and after, as Han et al. 2015 show it: as text, SVG and PNG."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
BINS, REACH = 41, 4.0  # an odd number of bins, so that one has its middle at zero
_SAMPLE = 1 << 20  # weights of a tensor that are looked at
_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of the weights that are not zero, each divided by its tensor's standard deviation.

    Attributes:
        reach: the first and last bins end there, and hold what lies beyond.
        before: counts.
        after: counts.
    """

    reach: float
    before: tuple[int, ...]
    after: tuple[int, ...]


def histogram(pairs: Iterable[tuple[Array, Array]]) -> Histogram:
    """Count over the tensors of a model; of a large tensor every so many-th weight.

    Args:
        pairs: for each tensor its values before and after.
    """
    before, after = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    edges = np.linspace(-REACH, REACH, BINS + 1)
    for old, new in pairs:
        step = -(-old.size // _SAMPLE)
        one, other = (a.reshape(-1)[::step].astype(np.float64) for a in (old, new))
        scale = float(one[np.isfinite(one)].std()) if np.isfinite(one).any() else 0.0
        for counts, values in ((before, one), (after, other)):
            found = values[np.isfinite(values) & (values != 0)] / (scale or 1.0)
            counts += np.histogram(np.clip(found, -REACH, REACH), edges)[0]
    return Histogram(REACH, tuple(map(int, before)), tuple(map(int, after)))


def sparkline(counts: Iterable[int], most: int) -> str:
    """Counts as bars, a character each.

    Example:
        >>> sparkline([0, 1, 4, 8], 8)
        ' ▁▄█'
    """
    top = len(_BARS) - 1
    return "".join(_BARS[min(top, -(-count * top // max(most, 1)))] for count in counts)


def svg(found: Histogram) -> str:
    """Both histograms over each other as a drawing of its own."""
    width, height, left = 14, 220, 20
    most = max(*found.before, *found.after, 1)
    total = left * 2 + width * len(found.before)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="{height + 70}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{total}" height="{height + 70}" fill="white"/>',
    ]
    for counts, colour, opacity in ((found.before, "#b0b0b0", 1.0), (found.after, "#1f77b4", 0.7)):
        for j, count in enumerate(counts):
            tall = height * count / most
            parts.append(
                f'<rect x="{left + j * width}" y="{20 + height - tall:.1f}" width="{width - 1}" '
                f'height="{tall:.1f}" fill="{colour}" fill-opacity="{opacity}"/>'
            )
    for value in (-found.reach, 0.0, found.reach):
        x = left + width * len(found.before) * (value + found.reach) / (2 * found.reach)
        parts.append(f'<text x="{x:.0f}" y="{height + 38}" text-anchor="middle">{value:g}</text>')
    caption = "weights that are not zero, in standard deviations of their layer: before grey, after blue"
    parts += [f'<text x="{left}" y="{height + 58}">{caption}</text>', "</svg>"]
    return "\n".join(parts) + "\n"


def png(found: Histogram) -> bytes:
    """The same without words: before grey, after blue, both counted from the ground up."""
    width, height, margin = 14, 220, 20
    most = max(*found.before, *found.after, 1)
    canvas = np.full((height + 2 * margin, 2 * margin + width * BINS, 3), 255, np.uint8)
    for counts, colour, inset in ((found.before, (176, 176, 176), 0), (found.after, (31, 119, 180), 3)):
        for j, count in enumerate(counts):
            left = margin + j * width
            top = margin + height - round(height * count / most)
            canvas[top : margin + height, left + inset : left + width - 1 - inset] = colour
    rows = np.concatenate([np.zeros((len(canvas), 1), np.uint8), canvas.reshape(len(canvas), -1)], 1)
    size = struct.pack(">IIBBBBB", canvas.shape[1], canvas.shape[0], 8, 2, 0, 0, 0)
    parts = [(b"IHDR", size), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
