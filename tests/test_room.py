"""Room for a file: there at once where the system can, and missed at once where there is none."""

from __future__ import annotations

import errno
import os
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from onnx_prune.errors import Unwritable
from onnx_prune.model import files, room

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="room is made on Linux alone")
SIZE = 1 << 21


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


@pytest.fixture
def limit() -> Iterator[None]:
    """No file may be longer than a megabyte."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_room_is_there_at_once(file: int) -> None:
    room.make(file, SIZE, SIZE)
    found = os.fstat(file)
    if not found.st_size:
        pytest.skip("this file system cannot")
    assert found.st_size == 2 * SIZE
    assert 512 * found.st_blocks >= SIZE


def test_little_is_left_to_the_writing(file: int) -> None:
    room.make(file, 0, 1000)
    assert os.fstat(file).st_size == 0


def test_what_cannot_have_room_made_is_left_to_the_writing() -> None:
    ends = os.pipe()
    room.make(ends[1], 0, SIZE)
    for end in ends:
        os.close(end)


@pytest.mark.usefixtures("limit")
def test_too_little_room_is_an_error(file: int) -> None:
    with pytest.raises(OSError, match="File too large") as found:
        room.make(file, 0, SIZE)
    assert found.value.errno == errno.EFBIG


@pytest.mark.usefixtures("limit")
@pytest.mark.parametrize("external", ["always", "never"])
def test_without_room_nothing_is_computed(external: str, tmp_path: Path) -> None:
    def compute() -> np.ndarray:
        raise AssertionError("there is no room for it")

    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[SIZE // 4])
    model = ModelProto(graph=helper.make_graph([], "g", [], [], [weight]))
    message = "File too large; free space or choose another place"
    with pytest.raises(Unwritable, match=re.escape(message)):
        files.save(model, tmp_path / "a.onnx", content={"w": compute}, external=external)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
