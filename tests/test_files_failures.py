"""Saving that fails or is stopped: the old files stay as they were, nothing is left behind."""

from __future__ import annotations

import os
import re
import resource
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from onnx_prune.errors import InputError, Interrupted, Unwritable
from onnx_prune.model import files, tensors
from onnx_prune.signals import terminable
from tests.file_models import as_nobody, build, names, run, weight, write, write_external


def cannot_write(path: Path, message: str, model: ModelProto | None = None, **options: object) -> None:
    with pytest.raises(Unwritable, match=f"^{re.escape(f'cannot write {str(path)!r}: {message}')}$"):
        files.save(model or build(), path, **options)  # type: ignore[arg-type]


def test_unwritable_places(tmp_path: Path) -> None:
    cannot_write(tmp_path, "it is a directory; name a file in it")
    cannot_write(tmp_path / "no" / "a.onnx", "its folder does not exist; make it first")
    (tmp_path / "file").touch()
    cannot_write(tmp_path / "file" / "a.onnx", "Not a directory; choose another place")
    cannot_write(Path("/dev/null"), "it is not a regular file; choose another name")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc, which nobody may write to")
def test_unwritable_folder() -> None:
    cannot_write(Path("/proc/a.onnx"), "No such file or directory; choose another place")


def test_write_protected_file_and_folder() -> None:
    with as_nobody() as folder:
        path = write(folder, build())
        path.chmod(0o444)
        cannot_write(path, "it is write-protected; choose another name")
        folder.chmod(0o555)
        for external in ("never", "always"):
            cannot_write(folder / "a.onnx", "Permission denied; choose another place", external=external)
        folder.chmod(0o755)
        assert names(folder) == ["in.onnx"]


def test_external_data_lost_while_saving(tmp_path: Path) -> None:
    path = write_external(tmp_path)
    model = files.load(path)
    (tmp_path / "in.onnx.data").unlink()
    with pytest.raises(InputError, match=r"^tensor 'w': external data 'in\.onnx\.data' are not in "):
        files.save(model, tmp_path / "out.onnx", source=tmp_path)
    assert names(tmp_path) == ["in.onnx"]


@pytest.fixture
def small_disk() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("external", ["never", "always"])
def test_full_disk(tmp_path: Path, small_disk: None, external: str) -> None:
    path = write_external(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    large = build(initializers=[weight("w"), weight("s", 1.0, 40_000)])
    cannot_write(path, "File too large; free space or choose another place", large, external=external)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def test_disk_that_is_really_full(tmp_path: Path) -> None:
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", tmp_path], capture_output=True
    ).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        path = write(tmp_path, build())
        before = path.read_bytes()
        for external in ("never", "always"):
            large = build(initializers=[weight("w"), weight("s", 1.0, 40_000)])
            message = "No space left on device; free space or choose another place"
            cannot_write(path, message, large, external=external)
            assert names(tmp_path) == ["in.onnx"]
            assert path.read_bytes() == before
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("external", ["never", "always"])
def test_stopped_half_way(tmp_path: Path, error: type[BaseException], external: str) -> None:
    path = write_external(tmp_path)
    before = names(tmp_path)

    def stop() -> np.ndarray:
        raise error

    with pytest.raises(error):
        files.save(build(), path, content={"s": stop}, external=external)  # type: ignore[arg-type]
    assert names(tmp_path) == before
    assert run(path) == 2.0


SAVER = """
    import signal, sys, numpy as np
    from onnx import TensorProto, helper
    from onnx_prune.model import files
    from onnx_prune.signals import terminable
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored where the tests run
    folder, external = sys.argv[1:]
    info = [helper.make_tensor_value_info("y", 1, [300_000])]
    stored = [TensorProto(name=n, data_type=1, dims=[300_000]) for n in "abcdefgh"]
    graph = helper.make_graph([helper.make_node("Sum", list("abcdefgh"), ["y"])], "g", [], info, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with terminable():
        print("ready", flush=True)
        for number in range(1000):
            content = {n: lambda: np.full(300_000, number, np.float32) for n in "abcdefgh"}
            files.save(model, folder + "/out.onnx", content=content, external=external)
"""


@pytest.mark.parametrize("external", ["never", "always"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_at_random_moments(tmp_path: Path, number: int, code: int, external: str) -> None:
    moments = np.random.default_rng(number).uniform(0, 0.25, 5)
    for moment in moments:
        command = [sys.executable, "-c", textwrap.dedent(SAVER), str(tmp_path), external]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(moment)
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (code, b"")
        found = names(tmp_path)
        if not found:
            continue  # stopped within the very first save
        model = files.load(tmp_path / "out.onnx")
        values = {float(tensors.read(t, tmp_path).mean()) for t in model.graph.initializer}
        assert len(values) == 1
        assert len(found) == (2 if external == "always" else 1)
        assert not [name for name in found if name.endswith(".tmp")]


def interrupt_twice() -> None:
    with terminable():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGTERM)


def test_terminable_counts_the_first_signal_only_and_restores() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as stopped:
        interrupt_twice()
    assert stopped.value.code == 130
    assert signal.getsignal(signal.SIGTERM) is before


def test_terminable_says_so_whatever_became_of_the_signal() -> None:
    def lose() -> None:
        with terminable(), suppress(Interrupted):
            signal.raise_signal(signal.SIGTERM)

    def turn() -> None:
        with terminable():
            try:
                signal.raise_signal(signal.SIGTERM)
            except Interrupted as stopped:
                raise ImportError("initialization failed") from stopped

    for act in (lose, turn):
        with pytest.raises(Interrupted) as stopped:
            act()
        assert stopped.value.code == 143


def test_nothing_is_said_of_a_signal_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python loses what is raised as an object is given up, and would print it."""
    said: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: said.append(lost.exc_type))

    class Given:
        def __init__(self, act: Callable[[], object]) -> None:
            self.act = act

        def __del__(self) -> None:
            self.act()

    def give_up() -> None:
        with terminable():
            Given(lambda: int("a fault of ours"))
            Given(lambda: signal.raise_signal(signal.SIGTERM))

    with pytest.raises(Interrupted):
        give_up()
    assert said == [ValueError]
    Given(lambda: int("another"))
    assert said == [ValueError] * 2


def test_terminable_leaves_ignored_signals_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminable():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_terminable_in_another_thread_changes_nothing() -> None:
    seen: list[Callable[..., object] | int | None] = []

    def work() -> None:
        with terminable():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
