"""Saving where others write too: two runs with one output, folders that vanish, other file systems."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from onnx_prune.errors import Unwritable
from onnx_prune.model import files, tensors
from tests.file_models import OUTSIDE, build, names, run, weight, write_external

TWO = [weight("w"), weight("s", 1.0)]


@pytest.mark.parametrize("external", ["never", "always"])
def test_another_run_finishes_first(tmp_path: Path, external: str) -> None:
    """The last one to put its file in place wins, and nothing of the other stays."""
    path = write_external(tmp_path, "out.onnx")

    def meanwhile() -> np.ndarray:
        other = build(initializers=[weight("w", 7.0), weight("s", 2.0, 1)])
        files.save(other, path, external="always")
        assert run(path) == 14.0
        return np.full(OUTSIDE, 3, np.float32)

    files.save(build(initializers=TWO), path, content={"w": meanwhile}, external=external)  # type: ignore[arg-type]
    assert run(path) == 3.0
    assert len(names(tmp_path)) == (2 if external == "always" else 1)


def test_data_that_another_run_is_writing_are_left_alone(tmp_path: Path) -> None:
    """The old data's name becomes free, and a third run takes it, while the first still writes."""
    path = write_external(tmp_path, "out.onnx")

    def meanwhile() -> np.ndarray:
        files.save(build(), path, external="always")
        assert not (tmp_path / "out.onnx.data").exists()
        (tmp_path / "out.onnx.data").write_bytes(b"of a run that has not finished")
        return np.full(OUTSIDE, 3, np.float32)

    model = build(initializers=TWO)
    files.save(model, path, content={"w": meanwhile}, external="never")
    assert names(tmp_path) == ["out.onnx", "out.onnx.data"]
    assert run(path) == 3.0


SAVER = """
    import sys, numpy as np
    from onnx import TensorProto, helper
    from onnx_prune.model import files
    path, start = sys.argv[1:]
    info = [helper.make_tensor_value_info("y", 1, [3000])]
    stored = [TensorProto(name=n, data_type=1, dims=[3000]) for n in "ab"]
    graph = helper.make_graph([helper.make_node("Sum", list("ab"), ["y"])], "g", [], info, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(int(start), int(start) + 40):
        content = {n: lambda: np.full(3000, number, np.float32) for n in "ab"}
        files.save(model, path, content=content, external="always")
"""


def test_runs_with_one_output(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    command = [sys.executable, "-c", textwrap.dedent(SAVER), str(path)]
    runs = [
        subprocess.Popen([*command, str(start)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for start in (0, 100, 200)
    ]
    for process in runs:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in runs:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in runs:
        process.communicate(timeout=60)
        assert process.returncode == 0
    model = files.load(path)
    values = {float(tensors.read(t, tmp_path).mean()) for t in model.graph.initializer}
    assert len(values) == 1
    assert len(names(tmp_path)) == 2


@pytest.mark.parametrize("external", ["never", "always"])
def test_a_folder_that_vanishes(tmp_path: Path, external: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "out.onnx"

    def vanish() -> np.ndarray:
        shutil.rmtree(folder)
        return np.ones(OUTSIDE, np.float32)

    message = f"^cannot write {re.escape(repr(str(path)))}: No such file or directory; choose another place$"
    with pytest.raises(Unwritable, match=message):
        files.save(build(), path, content={"w": vanish}, external=external)  # type: ignore[arg-type]
    assert names(tmp_path) == []


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than `tmp_path`."""
    there = Path("/dev/shm")
    if not there.is_dir() or there.stat().st_dev == tmp_path.stat().st_dev or not os.access(there, os.W_OK):
        pytest.skip("no second file system that may be written to")
    with tempfile.TemporaryDirectory(dir=there) as folder:
        yield Path(folder)


@pytest.mark.parametrize("external", ["never", "always"])
def test_a_link_to_another_file_system(tmp_path: Path, elsewhere: Path, external: str) -> None:
    source = write_external(tmp_path)
    link = tmp_path / "link.onnx"
    link.symlink_to(elsewhere / "out.onnx")
    model = files.load(source)
    for _ in range(2):
        files.save(model, link, source=tmp_path, external=external)  # type: ignore[arg-type]
        assert link.is_symlink()
        assert run(elsewhere / "out.onnx") == 2.0
        assert len(names(elsewhere)) == (2 if external == "always" else 1)
    assert names(tmp_path) == ["in.onnx", "in.onnx.data", "link.onnx"]
