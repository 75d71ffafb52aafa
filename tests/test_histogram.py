"""How weights are spread: counts by hand, and drawings that a reader of the format takes."""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ElementTree
import zlib

import numpy as np

from onnx_prune.sparse.histogram import BINS, Histogram, histogram, png, svg

# Deviation 2: -1, 1 and 3 of it, with zeros that do not count; bins are 8 / 41 wide, the middle one is 20.
OLD = np.array([-2.0, 2, -2, 2], np.float32)
NEW = np.array([0.0, 6, 0, 100], np.float32)


def test_counts_by_hand() -> None:
    found = histogram([(OLD, NEW)])
    assert {j: n for j, n in enumerate(found.before) if n} == {15: 2, 25: 2}
    assert {j: n for j, n in enumerate(found.after) if n} == {35: 1, BINS - 1: 1}


def test_an_svg_has_a_bar_a_bin() -> None:
    root = ElementTree.fromstring(svg(histogram([(OLD, NEW)])))
    assert len(root.findall("{*}rect")) == 1 + 2 * BINS


def test_a_png_is_one() -> None:
    data = png(Histogram(4.0, (1,) * BINS, (2,) * BINS))
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, parts = 8, {}
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        parts[kind] = data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + parts[kind])
        at += 12 + size
    width, height = struct.unpack(">II", parts[b"IHDR"][:8])
    assert len(zlib.decompress(parts[b"IDAT"])) == height * (1 + 3 * width)
