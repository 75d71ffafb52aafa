"""Damaged files by the number: each is handed to the command in a process with limits of its own."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests import zoo
from tests.damage import damaged

_SECONDS = 20  # of CPU
_PATIENCE = 10 * _SECONDS  # by the clock, for what waits without working
_BYTES = 1 << 30  # beyond what the interpreter and its libraries take
_DOCUMENTED = {0, 2, 4}  # 3 is a bug of ours
_LARGEST = 3 << 20  # bytes of a model that is damaged
_OPTIONS = ([], [], ["--no-validate"], ["--dry-run", "--verbose"], ["--json"], ["--mixed", "--round-to", "1"])


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended.

    Attributes:
        code: exit code; minus the number of the signal that killed it.
        said: what it wrote to stderr.
        seconds: CPU time that it took, or the time by the clock where it had to be stopped.
        peak: its largest resident size in bytes.
        left: what it left in the folder beside its input.
    """

    code: int
    said: str
    seconds: float
    peak: int
    left: tuple[str, ...]

    @property
    def fault(self) -> str:
        """What is wrong with it, "" if nothing is."""
        if self.seconds >= _SECONDS - 1:
            return f"ran for {self.seconds:.0f} seconds"
        if self.code not in _DOCUMENTED:
            return f"exit code {self.code}"
        if "Traceback" in self.said or (self.code and self.said.count("\n") != 1):
            return "more than one line on stderr"
        if self.code and self.left:
            return f"left {', '.join(self.left)}"
        if self.peak > _BYTES:
            return f"took {self.peak >> 20} MB"
        return ""


def damaged_files(number: int, start: int, keep: Path) -> int:
    """Hand so many damaged models to the command, and print how it ended.

    Args:
        number: files.
        start: seed.
        keep: folder for files that fail.

    Returns:
        The number of failures.
    """
    _warm()
    models = [model for name in zoo.NAMES if (model := zoo.load(name)).ByteSize() < _LARGEST]
    codes: Counter[int] = Counter()
    said: Counter[str] = Counter()
    failures: list[str] = []
    slowest, largest = 0.0, 0
    for count in range(number):
        rng = random.Random(f"{start}.{count}")
        content = damaged(rng, models)
        options = rng.choice(_OPTIONS)
        outcome = run(content, options)
        codes[outcome.code] += 1
        slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.peak)
        said["memory" if "memory" in outcome.said else "other"] += outcome.code == 2
        if outcome.fault:
            keep.mkdir(parents=True, exist_ok=True)
            name = f"file-{start}-{count}.onnx"
            (keep / name).write_bytes(content)
            last = outcome.said.strip().splitlines()[-1:] or ["nothing said"]
            failures.append(f"{name} {' '.join(options)}: {outcome.fault}: {last[0][:300]}")
            print(failures[-1], flush=True)
    print(f"{number} files: exit codes {dict(sorted(codes.items()))}; {said['memory']} want more memory")
    print(f"longest {slowest:.1f} s, largest {largest >> 20} MB")
    print(f"{len(failures)} failures")
    return len(failures)


def run(content: bytes, options: list[str]) -> Outcome:
    """Run the command on a file of this content, in a forked process with limits."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.onnx"), Path(folder, "out.onnx")
        source.write_bytes(content)
        complaints = Path(folder, "stderr")
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _run_inside([str(source), str(target), *options], complaints)
        status, usage = _wait(child, started)
        seconds = usage.ru_utime + usage.ru_stime
        if time.monotonic() - started > _PATIENCE:
            seconds = _PATIENCE
        code = os.waitstatus_to_exitcode(status)
        said = complaints.read_text(errors="replace")
        left = set(os.listdir(folder)) - {"in.onnx", "stderr"}
        if code == 0:
            left -= {"out.onnx", "out.onnx.data"}
        return Outcome(code, said, seconds, usage.ru_maxrss << 10, tuple(sorted(left)))


def _wait(child: int, started: float) -> tuple[int, resource.struct_rusage]:
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return status, usage
        if time.monotonic() - started > _PATIENCE:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)


def _run_inside(arguments: list[str], complaints: Path) -> None:
    """The child's whole life."""
    code = 70
    try:
        out = os.open(os.devnull, os.O_WRONLY)
        err = os.open(complaints, os.O_WRONLY | os.O_CREAT)
        os.dup2(out, 1)
        os.dup2(err, 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + _BYTES, size + _BYTES))
        from onnx_prune.cli import main

        main(arguments)
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else 1
    except BaseException:  # a traceback is what is looked for
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _warm() -> None:
    """Import all that a run does, once; nothing is run before the fork, which threads do not survive."""
    import onnx_prune.pipeline
    import onnx_prune.show  # noqa: F401
