"""One run of the command in a forked process, with something going wrong, and what is there afterwards."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import onnx

from onnx_prune.model import atomic, files, tensors

_MODEL = Path(__file__).parent.parent / "models" / "fmnist_resnet20.onnx"
_PAGE = 4096
PATIENCE = 120.0  # seconds by the clock after which a run hangs

Disturb = Callable[["Step"], None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a run reads and writes.

    Attributes:
        output: a new name, an old model's, the input's, or a link to an old model in another folder.
        external: whether the input and the old model have their data in files beside them.
        options: of the command.
        extra: another file that the run writes.
    """

    output: Literal["new", "old", "input", "link"]
    external: bool
    options: tuple[str, ...]
    extra: str = ""

    def __str__(self) -> str:
        where = {"new": "to a new name", "old": "over an old model", "input": "over the input"}
        data = "external data" if self.external else "one file"
        return f"{data}, {where.get(self.output, 'through a link')}, {' '.join(self.options)}"

    @property
    def target(self) -> str:
        """The name that is written to."""
        return "in.onnx" if self.output == "input" else "out.onnx"

    def prepare(self, folder: Path) -> None:
        """Put the input, and what is to be replaced, into a folder."""
        model, external = onnx.load(_MODEL), "always" if self.external else "never"
        folder = folder / "here"
        folder.mkdir()
        files.save(model, folder / "in.onnx", external=external)  # type: ignore[arg-type]
        model.doc_string = "old"
        if self.output == "link":
            (folder.parent / "there").mkdir()
            (folder / "out.onnx").symlink_to(Path("..", "there", "real.onnx"))
        if self.output in ("old", "link"):
            files.save(model, folder / "out.onnx", external=external)  # type: ignore[arg-type]

    def command(self, folder: Path) -> list[str]:
        """The command's arguments."""
        options = [str(folder / self.extra) if word == self.extra else word for word in self.options]
        return [str(folder / "in.onnx"), str(folder / self.target), *options]


_CUT, _PROVED, _ZEROED = ("--no-validate", "-q"), ("--threads", "1", "-q"), ("--unstructured", "-q")
SCENARIOS = (
    Scenario("old", True, _CUT),
    Scenario("input", True, _CUT),
    Scenario("input", False, _ZEROED),
    Scenario("link", True, _CUT),
    Scenario("old", True, (*_ZEROED, "--no-validate", "--save-mask", "mask.npz"), "mask.npz"),
    Scenario("input", True, (*_ZEROED, "--no-validate")),
    Scenario("old", False, (*_CUT, "--save-plan", "plan.json"), "plan.json"),
    Scenario("new", True, _CUT),
    Scenario("new", False, (*_ZEROED, "--no-validate")),
    Scenario("input", True, _PROVED),
)


@dataclass(frozen=True, slots=True)
class Step:
    """A system call of a save that is about to be made.

    Attributes:
        number: how many came before it.
        writes: how many of these were writes.
        write: whether it is one.
    """

    number: int
    writes: int
    write: bool


def nothing(step: Step) -> None:
    """Let all go well."""


def killed_at(number: int, signum: int) -> Disturb:
    """A signal right before one of the calls."""

    def act(step: Step) -> None:
        if step.number == number:
            os.kill(os.getpid(), signum)

    return act


def full_from(number: int) -> Disturb:
    """A disk that is full from one of the writes on, in the middle of it."""

    def act(step: Step) -> None:
        if step.write and step.writes >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return act


def limited(size: int) -> Disturb:
    """No file may grow beyond a size."""

    def act(step: Step) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return act


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended.

    Attributes:
        code: exit code; minus the number of the signal that killed it.
        said: what it wrote to stderr.
        before: the target's meaning before the run, and `after` it; "" where there is none.
        kept: whether an input that is not the target is what it was.
        strays: files that nobody asked for.
        extra: the meaning of the other file.
        seconds: time by the clock.
        steps: system calls of its saves; `writes` of them were writes (both of a run that ended by itself).
        size: bytes of the largest file there, and `room`: bytes that all took before the run, in pages.
    """

    code: int
    said: str
    before: str
    after: str
    kept: bool
    strays: tuple[str, ...]
    extra: str
    seconds: float
    steps: int
    writes: int
    size: int
    room: int

    def faults(self, whole: Ending, codes: set[int]) -> list[str]:
        """What is wrong with it, given a run that nothing disturbed and the exit codes that are right."""
        found = []
        if self.after not in (self.before, whole.after):
            found.append(f"the target is {self.after or 'gone'}")
        elif self.code == 0 and self.after != whole.after:
            found.append("nothing was written, and nobody told")
        if not self.kept:
            found.append("the input is not what it was")
        if self.extra not in ("", whole.extra):
            found.append("the other file is a part")
        if self.code not in codes:
            found.append(f"exit code {self.code}")
        if self.seconds > PATIENCE:
            found.append("it hung")
        if "Traceback" in self.said:
            found.append(f"said {self.said.splitlines()[-1]}")
        return found


def disturbed(
    scenario: Scenario, folder: Path, disturb: Disturb, kill: tuple[float, int] | None = None
) -> Ending:
    """Run a scenario in a folder; one that is empty is prepared first.

    Args:
        scenario: what is run.
        folder: where.
        disturb: called before each system call of a save.
        kill: the seconds after which a signal is sent, and which one.
    """
    if not os.listdir(folder):
        scenario.prepare(folder)
    home, folder = folder, folder / "here"
    target, source = folder / scenario.target, folder / "in.onnx"
    before, given = meaning(target), meaning(source)
    room = sum(-(-path.stat().st_size // _PAGE) * _PAGE for path in home.rglob("*") if path.is_file())
    (told, tell), (heard, say) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told), os.close(heard)
        _inside(scenario.command(folder), disturb, tell, say)
    os.close(tell), os.close(say)
    os.read(told, 1)
    start = time.monotonic()
    status = _wait(child, start, kill)
    seconds = time.monotonic() - start
    with os.fdopen(told) as counts, os.fdopen(heard, errors="replace") as stderr:
        steps, writes = json.loads(counts.read() or "[0, 0]")
        said = stderr.read()
    extra = folder / scenario.extra
    digest = hashlib.sha256(extra.read_bytes()).hexdigest() if extra.is_file() else ""
    largest = max(path.stat().st_size for path in home.rglob("*") if path.is_file())
    kept = source == target or meaning(source) == given
    return Ending(
        *(os.waitstatus_to_exitcode(status), said, before, meaning(target), kept, _strays(scenario, home)),
        *(digest, seconds, steps, writes, largest, room),
    )


def _wait(child: int, start: float, kill: tuple[float, int] | None) -> int:
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        now = time.monotonic() - start
        if kill is not None and now >= kill[0]:
            os.kill(child, kill[1])
            kill = None
        if now > PATIENCE:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.001)


def meaning(path: Path) -> str:
    """A digest of a model with all its data, wherever these are; "" if there is none, or what is wrong."""
    path = Path(os.path.realpath(path))
    if not path.exists():
        return ""
    try:
        model = files.load(path)
        for tensor in tensors.tensors(model.graph):
            tensors.fill(tensor, tensors.read(tensor, path.parent))
    except Exception as error:  # a part of a model: what is looked for
        return f"broken: {error}"
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def _strays(scenario: Scenario, folder: Path) -> tuple[str, ...]:
    """Files beside the models, their data, and the one that was asked for."""
    asked = {folder / "here" / scenario.extra}
    for path in folder.rglob("*.onnx"):
        asked.add(path)
        path = Path(os.path.realpath(path))
        if path.exists() and not meaning(path).startswith("broken"):
            used = tensors.tensors(files.load(path).graph)
            entries = (entry for tensor in used for entry in tensor.external_data)
            asked.update(path.parent / entry.value for entry in entries if entry.key == "location")
    return tuple(sorted(path.name for path in folder.rglob("*") if path.is_file() and path not in asked))


class _Calls:
    """Counts the system calls of saves, and lets each be disturbed."""

    def __init__(self, disturb: Disturb) -> None:
        self.number, self.writes = 0, 0
        self._disturb = disturb

    def step(self, write: bool = False) -> None:
        """One is about to be made."""
        step = Step(self.number, self.writes, write)
        self.number, self.writes = self.number + 1, self.writes + write
        self._disturb(step)

    def watch(self, owner: Any, name: str) -> None:
        """Count the calls of a function."""
        call = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.step()
            return call(*args, **kwargs)

        setattr(owner, name, counted)

    def open(self, *args: Any, **kwargs: Any) -> _File:
        """Open a file, and count what is done with it."""
        self.step()
        return _File(self, open(*args, **kwargs))


class _File:
    """An open file whose writes are counted."""

    def __init__(self, calls: _Calls, file: IO[bytes]) -> None:
        self._calls, self._file = calls, file

    def write(self, data: bytes) -> int:
        """Write, or half of it where the disk is full."""
        try:
            self._calls.step(write=True)
        except OSError:
            self._file.write(data[: len(data) // 2])
            raise
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def warm() -> None:
    """Import all that a run does, once; nothing is run before the forks, which threads do not survive."""
    import onnx_prune.pipeline
    import onnx_prune.show
    import onnx_prune.sparse.sparsify  # noqa: F401


def _inside(arguments: list[str], disturb: Disturb, tell: int, say: int) -> None:
    """The child's whole life."""
    code, calls = 70, _Calls(disturb)
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(say, 2)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # as the program does first; a shell may have it ignored
        atomic.open = calls.open  # type: ignore[attr-defined]
        for owner, name in ((os, "replace"), (os, "fsync"), (Path, "unlink"), (Path, "chmod")):
            calls.watch(owner, name)
        from onnx_prune.cli import main

        os.write(tell, b" ")
        main(arguments)
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else 1
        os.write(tell, json.dumps([calls.number, calls.writes]).encode())
    except BaseException:  # a traceback is what is looked for
        traceback.print_exc()
    finally:
        os._exit(code)
