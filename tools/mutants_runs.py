"""Runs the tests against mutants: mutmut makes these, pytest collects once, and each mutant is a fork of it.

mutmut leaves functions with decorators alone, and all rules have one: in the copy that is mutated they are
registered by a call below.  Its own runner collects the tests anew for each mutant, and runs them in any
order; here the quickest run first, but before them those that killed other mutants of the function, and
before these the one that killed this mutant the last time.
"""

from __future__ import annotations

import ast
import difflib
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from pathlib import Path

import pytest
from mutmut.configuration import config
from mutmut.mutation.file_mutation import MutatedFile, mutate_file_contents
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state
from mutmut.utils.format_utils import get_mutant_name, mangled_name_from_mutant_name

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("onnx_prune", "tests", "tools", "models", "pyproject.toml", "README.md")
_CPU = 3  # times what the tests of a mutant take without it, and
_SPARE = 10  # seconds beside it, are how long they may take
_WALL = 20  # times that on the clock
_MEMORY = 8 << 30


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one function.

    Attributes:
        name: mutmut's: the module, the function and a number.
        function: the module and the function.
        change: the lines that went, after "-", and those that came, after "+".
    """

    name: str
    function: str
    change: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the tests say about a mutant: killed, timeout, survived, or untested where none calls it.

    `by` is the test that killed it.
    """

    status: str
    by: str = ""


def undecorated(source: str) -> str:
    r"""A module whose decorated functions are decorated by a call below them.

    >>> print(undecorated("@cache\ndef one():\n    return 1\n"))
    def one():
        return 1
    one = cache(one)
    <BLANKLINE>
    """
    lines = source.splitlines(keepends=True)
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and n.decorator_list]
    for node in sorted(nodes, key=lambda node: node.lineno, reverse=True):
        made = node.name
        for decorator in reversed(node.decorator_list):
            made = f"{ast.unparse(decorator)}({made})"
        assert node.end_lineno is not None
        lines.insert(node.end_lineno, f"{' ' * node.col_offset}{node.name} = {made}\n")
        del lines[node.decorator_list[0].lineno - 1 : node.lineno - 1]
    return "".join(lines)


def mutated(folder: Path, sources: Iterable[Path]) -> dict[Path, list[Mutant]]:
    """A copy of the project in `folder` with all mutants of `sources` in it, none of them switched on."""
    for name in COPIED:
        if (old := folder / name).exists():
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)  # type: ignore[operator]
    found = {}
    (folder / "setup.cfg").write_text("[mutmut]\nsource_paths = onnx_prune\n")
    os.chdir(folder)  # where mutmut looks for that
    for path in sources:
        made = mutate_file_contents(str(path), undecorated((ROOT / path).read_text()))
        (folder / path).write_text(made.code)
        found[path] = list(_mutants(path, made))
    return found


def _mutants(path: Path, made: MutatedFile) -> Iterable[Mutant]:
    lines = made.code.splitlines()

    def body(name: str) -> list[str]:
        span = made.line_span_by_function_name[name]
        return [line.replace(name, "it") for line in lines[span.start - 1 : span.end]]

    for name in made.mutant_names:
        mangled = mangled_name_from_mutant_name(name)
        compared = difflib.ndiff(body(f"{mangled}__mutmut_orig"), body(name))
        change = "\n".join(f"{line[0]} {line[1:].strip()}" for line in compared if line[0] in "+-")
        function = mangled.removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")
        module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        yield Mutant(get_mutant_name(path, name), f"{module}.{function}", change)


class Runs:
    """A pytest plugin: in place of the tests it runs all mutants, each in a process of its own.

    Args:
        mutants: what to run.
        killers: for some of them, the test to try first.
        jobs: how many at a time.
        until: when to start no more of them, in seconds of the monotonic clock.
    """

    def __init__(
        self, mutants: list[Mutant], killers: dict[Mutant, str], jobs: int, until: float = inf
    ) -> None:
        self.outcomes: dict[Mutant, Outcome] = {}
        self._mutants, self._killers, self._jobs, self._until = mutants, killers, jobs, until
        self._callers: dict[str, list[pytest.Item]] = {}  # of each function, the quickest first
        self._seconds: dict[str, float] = {}
        self._often: dict[str, Counter[str]] = defaultdict(Counter)  # of each function, what killed others

    def run(self, tests: list[str]) -> None:
        """Collect `tests` in the copy and run the mutants.

        Raises:
            RuntimeError: pytest could not, or a test fails without any mutant.
        """
        os.environ["CI"] = "1"  # Hypothesis draws the same examples each time
        sys.path.insert(0, str(Path.cwd()))
        config()
        alone = ["-o", "addopts=", "--doctest-modules", "-p", "no:xdist", "-p", "no:cacheprovider"]
        code = pytest.main([*alone, "-q", *tests], plugins=[self])
        late = time.monotonic() > self._until
        if code != 0 or (len(self.outcomes) != len(self._mutants) and not late):
            raise RuntimeError(f"pytest ended with {code}")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """The examples in docstrings are run once, not again for each mutant's copy of the docstring."""
        items[:] = [item for item in items if "__mutmut" not in item.nodeid]

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Learn what each test calls, then run the mutants."""
        self._learn(session)
        running: dict[int, tuple[Mutant, int]] = {}
        waiting = list(reversed(self._mutants))
        while waiting or running:
            if time.monotonic() > self._until:
                waiting.clear()
            while waiting and len(running) < self._jobs:
                mutant = waiting.pop()
                tests = self._tests(mutant)
                if tests:
                    pid, pipe = _forked(lambda t=tests, m=mutant: self._try(t, m.name))
                    running[pid] = mutant, pipe
                else:
                    self._done(mutant, Outcome("untested"))
            if running:
                pid, status = os.wait()
                mutant, pipe = running.pop(pid)
                with os.fdopen(pipe, closefd=True) as told:
                    said = told.read()
                code = os.waitstatus_to_exitcode(status)
                if code == 0:
                    self._done(mutant, Outcome("survived"))
                elif code in (-signal.SIGXCPU, -signal.SIGKILL, -signal.SIGALRM):
                    self._done(mutant, Outcome("timeout"))
                else:
                    self._done(mutant, Outcome("killed", said))
        return True

    def _done(self, mutant: Mutant, outcome: Outcome) -> None:
        self.outcomes[mutant] = outcome
        self._often[mutant.function][outcome.by] += 1
        if not len(self.outcomes) % 100:
            clock = time.strftime("%H:%M:%S")
            print(f"{clock} {len(self.outcomes)} of {len(self._mutants)}", file=sys.__stderr__, flush=True)

    def _learn(self, session: pytest.Session) -> None:
        def learn() -> str:
            set_mutant_under_test("stats")
            found = {}
            for item in session.items:
                state()._stats.clear()
                began = time.process_time()
                if not _passes(item):
                    return f"{item.nodeid} fails without a mutant"
                found[item.nodeid] = time.process_time() - began, sorted(state()._stats)
            return json.dumps(found)

        pid, pipe = _forked(learn)
        with os.fdopen(pipe) as told:
            said = told.read()
        os.waitpid(pid, 0)
        if not said.startswith("{"):
            raise RuntimeError(said or "the tests end the process without a mutant")
        found = json.loads(said)
        self._seconds = {name: seconds for name, (seconds, _) in found.items()}
        for item in sorted(session.items, key=lambda item: self._seconds[item.nodeid]):
            for function in found[item.nodeid][1]:
                self._callers.setdefault(function, []).append(item)

    def _tests(self, mutant: Mutant) -> list[pytest.Item]:
        tests = self._callers.get(mangled_name_from_mutant_name(mutant.name), [])
        killer, often = self._killers.get(mutant), self._often[mutant.function]
        return sorted(tests, key=lambda item: (item.nodeid != killer, -often[item.nodeid]))

    def _try(self, tests: list[pytest.Item], name: str) -> str:
        set_mutant_under_test(name)
        seconds = int(_CPU * sum(self._seconds[item.nodeid] for item in tests)) + _SPARE
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_WALL * seconds)
        return next((item.nodeid for item in tests if not _passes(item)), "")


def _passes(item: pytest.Item) -> bool:
    from _pytest.runner import runtestprotocol

    reports = runtestprotocol(item, log=False)
    return not any(report.failed for report in reports)


def _forked(work) -> tuple[int, int]:  # type: ignore[no-untyped-def]
    """A process that does `work` and says its answer; its code is 0 for none, else 1."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    code = 1
    try:
        os.close(reading)
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        said = work()
        with os.fdopen(writing, "w") as pipe:
            pipe.write(said)
        code = int(bool(said))
    finally:
        os._exit(code)
