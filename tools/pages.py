"""The pages of the documentation as scripts: what a reader types and sees, and the files for it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from tests import zoo

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "tools" / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
SHIPPED = "fmnist_resnet20.onnx"
_TOPOLOGIES = {"bert.onnx": "c_bert-ts17", "decoder.onnx": "c_llama_gqa-ts17"}
_NETWORKS = ("in.onnx", "other.onnx", "model.onnx", "tuned.onnx")  # names of the shipped network here


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: what stands behind the fence.
        text: its lines, without what they are indented by.
    """

    language: str
    text: str


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, from the top down."""
    text = (DOCS / page).read_text()
    for margin, language, body in re.findall(r"^( *)```(\w+)\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE):
        yield Block(language, re.sub(f"^{margin}", "", body, flags=re.MULTILINE))


def steps(page: str) -> Iterator[Block]:
    """What a reader does and sees: single commands (sh), Python, files to write (toml), output (text)."""
    for block in blocks(page):
        if block.language == "sh":
            yield from (Block("sh", line) for line in block.text.splitlines())
        elif block.language == "yaml":
            found = re.findall(r"(?:run|entry): (onnx-prune .*)", block.text)
            yield from (Block("sh", line) for line in found)
        elif block.language in ("python", "toml", "text"):
            yield block


def prepare(page: str, folder: Path, network: onnx.ModelProto) -> None:
    """Write the models and inputs that a page takes for granted.

    Args:
        page: its path.
        folder: where to.
        network: what stands for the shipped network, and for a model of the reader's own.
    """
    said = (DOCS / page).read_text()
    (folder / "models").mkdir()
    shutil.copy(ROOT / "models" / "fmnist_sample.npz", folder / "models")
    onnx.save(network, folder / "models" / SHIPPED)
    for name in _NETWORKS:
        if name in said:
            onnx.save(network, folder / name)
    for name, packed in _TOPOLOGIES.items():
        if name in said:
            onnx.save(zoo.load(packed), folder / name)
    images = np.random.default_rng(0).standard_normal((4, 1, 28, 28), np.float32)
    feeds = zoo.feeds(_TOPOLOGIES["bert.onnx"]) if "bert.onnx" in said else {"image": images}
    np.savez(folder / "feeds.npz", **feeds)
    np.savez(folder / "labels.npz", image=images, labels=np.arange(4))


def file_of(block: Block, folder: Path) -> None:
    """Write the file that a block of TOML shows; its first line is its name."""
    name, _, text = block.text.partition("\n")
    (folder / name.removeprefix("# ")).write_text(text)
