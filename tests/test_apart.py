"""Jobs shared among processes: each is done, whatever becomes of a process, and what it found comes back."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_prune.errors import ProofFailed
from onnx_prune.model import apart, files, threads
from onnx_prune.sparse import zeroing
from onnx_prune.sparse.sparsify import sparsify
from onnx_prune.sparse.sparsity import Sparsity
from onnx_prune.sparse.spool import Masks
from tests.models import small_cnn

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forks, though onnxruntime is there: what it does is not asked for in a child."""
    monkeypatch.setattr(apart, "allowed", lambda: True)
    monkeypatch.setattr(apart, "_WORTH", 1)
    monkeypatch.setattr(threads, "_processors", lambda: 3)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """A folder in which jobs leave a mark, and no process is left at the end."""
    yield tmp_path
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def job(folder: Path, number: int) -> int:
    (folder / f"{number}.{os.getpid()}").touch()
    return number * number


def shared(work: Callable[[int], Any], count: int) -> Iterator[tuple[int, Any]]:
    """So many jobs, which tell what `work` returned."""
    found: dict[int, Any] = {}

    def do(number: int) -> None:
        found[number] = work(number)

    return apart.shared([apart.Job(partial(do, j), partial(found.get, j), 1) for j in range(count)])


def made(folder: Path) -> list[tuple[int, int]]:
    """Which jobs were done, by which processes."""
    return sorted(
        (int(number), int(pid)) for number, pid in (file.name.split(".") for file in folder.iterdir())
    )


@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_each_job_is_done_once(mark: Path, count: int) -> None:
    found = dict(shared(partial(job, mark), count))
    done = made(mark)
    assert [number for number, _ in done] == list(range(count))
    assert found == {number: number * number for number, pid in done if pid != os.getpid()}


def test_several_processes_take_part(mark: Path) -> None:
    def slow(number: int) -> int:
        time.sleep(0.01)
        return job(mark, number)

    list(shared(slow, 30))
    assert len({pid for _, pid in made(mark)}) == 3


def test_what_a_process_does_not_live_to_do_is_done_here(mark: Path) -> None:
    here = os.getpid()

    def fatal(number: int) -> int:
        if os.getpid() == here:
            time.sleep(0.01)
        elif number > 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return job(mark, number)

    found = dict(shared(fatal, 20))
    done = dict(made(mark))
    assert sorted(done) == list(range(20))
    assert {done[number] for number in range(8, 20)} == {here}
    assert found == {number: number * number for number, pid in done.items() if pid != here}


def test_an_error_is_raised_here(mark: Path) -> None:
    def wrong(number: int) -> int:
        if number >= 2:
            raise ProofFailed(f"at {number}")
        return job(mark, number)

    with pytest.raises(ProofFailed, match="at "):
        list(shared(wrong, 6))


def test_no_process_outlives_an_error_here(mark: Path) -> None:
    here = os.getpid()

    def slow(number: int) -> None:
        if os.getpid() != here:
            time.sleep(1000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(shared(slow, 6))


def test_little_is_done_here(mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_WORTH", 6)
    assert list(shared(partial(job, mark), 5)) == []
    assert {pid for _, pid in made(mark)} == {os.getpid()}


def test_without_leave_all_is_done_here(mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "allowed", lambda: False)
    assert list(shared(partial(job, mark), 5)) == []
    assert {pid for _, pid in made(mark)} == {os.getpid()}


def test_no_fork_where_the_system_has_no_more_processes(mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", refuse)
    assert list(shared(partial(job, mark), 5)) == []
    assert len(made(mark)) == 5


@pytest.mark.parametrize("across", [False, True])
def test_a_model_by_processes_as_by_one(across: bool, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Sparsity(ratio=0.7, across=across, validate=False)
    files.save(small_cnn((32, 64)), mark / "in.onnx", external="always")
    (mark / "one").mkdir()
    (mark / "more").mkdir()
    found = {}
    for name, leave in (("one", False), ("more", True)):
        monkeypatch.setattr(apart, "allowed", lambda leave=leave: leave)
        found[name] = sparsify(
            mark / "in.onnx", mark / name / "o.onnx", asked, save_mask=mark / name / "mask.npz"
        ).report
    for file in ("o.onnx", "o.onnx.data", "mask.npz"):
        assert (mark / "one" / file).read_bytes() == (mark / "more" / file).read_bytes()
    assert found["one"].layers == found["more"].layers
    assert found["one"].bytes == found["more"].bytes


def test_a_fault_in_another_process_leaves_no_file(mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> object:
        raise ProofFailed("not its mask times its weights")

    files.save(small_cnn((32, 64)), mark / "in.onnx", external="always")
    monkeypatch.setattr(zeroing, "inspect", wrong)
    with pytest.raises(ProofFailed, match="not its mask"):
        sparsify(mark / "in.onnx", mark / "o.onnx", Sparsity(ratio=0.7, validate=False))
    assert sorted(file.name for file in mark.iterdir()) == ["in.onnx", "in.onnx.data"]


@pytest.mark.parametrize("in_memory", [0, 1 << 24])
def test_masks_have_places_that_forks_share(
    in_memory: int, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnx_prune.sparse.spool._IN_MEMORY", in_memory)
    masks = Masks({str(j): (j + 1, 8) for j in range(20)})

    def put(j: int) -> None:
        for byte in range(j + 1):
            masks.put(str(j), 8 * byte, np.full(1, j, np.uint8))
        job(mark, j)

    list(shared(put, 20))
    assert not masks
    for name in map(str, range(20)):
        masks.know(name)
    assert {name: bits.packed.tolist() for name, bits in masks.items()} == {
        str(j): [j] * (j + 1) for j in range(20)
    }
