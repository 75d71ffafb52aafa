"""The documentation keeps its word: what its pages say to type runs, and what they name is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnx_prune
from onnx_prune.cli import main
from tools.pages import DOCS, PAGES, ROOT, SHIPPED, blocks, file_of, prepare, steps

# Installing and downloading take a network: python -m tools.newcomer does these, and runs the rest in full.
ELSEWHERE = ("python3 -m venv ", "pip ", "unzip ")


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    """The shipped network with half of its channels: calibrating takes an eighth of the time."""
    model = onnx_prune.prune(ROOT / "models" / SHIPPED, ratio=0.5, validate=False).model
    assert model is not None
    return model


def run(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints; it has to succeed."""
    with pytest.raises(SystemExit) as leave:
        main(shlex.split(command, comments=True)[1:])
    said = capsys.readouterr()
    missed = "--target latency" in command and "was missed" in said.err  # a busy machine cannot tell
    assert leave.value.code == (4 if missed else 0), (command, said.err)
    return "\n".join(line.rstrip() for line in said.out.splitlines())


def shorten(folder: Path) -> None:
    """Leave a few inputs in each file: what the commands do is tried here, not how well it works."""
    for path in folder.glob("*.npz"):
        with np.load(path) as file:
            if "image" in file:
                np.savez(path, **{name: file[name][:8] for name in file})


def stand_in(command: str, network: onnx.ModelProto) -> None:
    """Put the shipped network where a page has fetched a model of others; its head is called as a YOLO's."""
    for word in shlex.split(command):
        path = Path(word)
        if path.parent.name in ("ocr", "yolo", "vad") and path.suffix == ".onnx" and not path.exists():
            path.parent.mkdir(exist_ok=True)
            text = network.SerializeToString()
            path.write_bytes(text.replace(b"14.weight", b"22.weight").replace(b"14.bias", b"22.bias"))


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_says_to_type_runs(
    page: str,
    network: onnx.ModelProto,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prepare(page, tmp_path, network)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    scope: dict[str, Any] = {}
    typed, shown = "", ""
    for step in steps(page):
        if step.language == "toml":
            file_of(step, tmp_path)
        elif step.language == "python":
            exec(step.text, scope)
            shorten(tmp_path)
            capsys.readouterr()
        elif step.language == "text":
            if typed.startswith("onnx-prune explain"):
                assert step.text.rstrip("\n") == shown, f"{typed} says something else"
        elif not step.text.startswith(ELSEWHERE):
            stand_in(step.text, network)
            typed, shown = step.text, run(step.text, capsys)


def test_blocks_are_of_a_kind_that_is_checked_or_is_said_not_to_be() -> None:
    kinds = {block.language for page in PAGES for block in blocks(page)}
    assert kinds <= {"sh", "python", "toml", "text", "yaml", "py"}  # py: needs PyTorch or Keras


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", (DOCS / page).read_text()):
            assert ((DOCS / page).parent / link).exists(), f"{page}: {link}"


def test_every_page_is_in_the_table_of_contents() -> None:
    index = (DOCS / "index.md").read_text()
    listed = {f"{line}.md" for line in re.findall(r"^[\w/-]+$", index, re.MULTILINE)}
    assert listed == set(PAGES) - {"index.md"}


def test_the_reference_names_all_that_is_public() -> None:
    page = (DOCS / "reference" / "python.md").read_text()
    named = re.findall(r"^\.\. auto(?:function|exception):: (?:onnx_prune\.)?(\w+)$", page, re.MULTILINE)
    assert set(named) >= set(onnx_prune.__all__)
    assert sorted(onnx_prune.__all__) == onnx_prune.__all__
    for name in onnx_prune.__all__:
        assert (getattr(onnx_prune, name).__doc__ or "").strip(), f"{name} says nothing of itself"


def test_the_version_is_one_that_what_changed_tells_of() -> None:
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared is not None
    assert re.search(rf"^## {re.escape(declared[1])}\b", (DOCS / "changes.md").read_text(), re.MULTILINE)
