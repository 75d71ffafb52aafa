"""The page on fine-tuning does in PyTorch what it says, from the first block to the comparison."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from onnx_prune.cli import main
from tools.pages import ROOT, SHIPPED, blocks, prepare

PAGE = "howto/fine-tuning.md"


def test_the_page_is_done_from_the_top_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(PAGE, tmp_path, onnx.load(ROOT / "models" / SHIPPED))
    monkeypatch.chdir(tmp_path)
    for name in ("in.onnx", "tuned.onnx"):
        Path(name).unlink()
    scope: dict[str, Any] = {}
    for block in blocks(PAGE):
        if block.language == "py" and "keras" not in block.text:
            exec(block.text, scope)
        elif block.language == "sh":
            for line in block.text.splitlines():
                with pytest.raises(SystemExit) as leave:
                    main(shlex.split(line)[1:])
                assert leave.value.code == 0, line
        if "slice_module" in block.text:
            same(scope)
        if "onnx-prune compare" in block.text:
            break


def same(scope: dict[str, Any]) -> None:
    """The module that was cut computes what the pruned file does."""
    images = scope["images"][:16]
    [theirs] = onnxruntime.InferenceSession("out.onnx").run(None, {"image": images.numpy()})
    ours = scope["module"](images).detach().numpy()
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
