"""Stops runs at random moments and fills disks under them: the old file or the whole new one is there.

    python -m tools.kills [--kills 200] [--full 50] [--seed 0]

The runs are structured and unstructured, with one file and with data beside it, to a new name, over an
old model, over the input itself and through a link.  Half of the kills come by the clock, anywhere in a
run, half at a random system call of its writing; SIGKILL, SIGTERM and SIGINT take turns.  A disk is full
by a file system of that size (where one may be mounted), by a limit on the size of a file, or from a
random write on.  Only after SIGKILL may anything else be left, and then the next run must do its work all
the same.  Exit code 1 on a failure.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from tools.kills_runs import (
    SCENARIOS,
    Ending,
    Scenario,
    disturbed,
    full_from,
    killed_at,
    limited,
    nothing,
    warm,
)

_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_PAGE = 4096

Found = tuple[str, Ending, list[str]]  # what was done, how it ended, what is wrong with that


@click.command(help=__doc__)
@click.option("--kills", default=200, help="Runs to stop.")
@click.option("--full", default=50, help="Runs to fill the disk under.")
@click.option("--seed", default=0)
def main(kills: int, full: int, seed: int) -> None:
    """Run what is asked for."""
    print(f"seed {seed}")
    tally: Counter[str] = Counter()
    failures = 0
    warm()
    with tempfile.TemporaryDirectory() as scratch:
        whole: dict[Scenario, Ending] = {}
        for number in range(kills + full):
            rng = random.Random(f"{seed}.{number}")
            scenario = SCENARIOS[(number if number < kills else number - kills) % len(SCENARIOS)]
            if scenario not in whole:
                whole[scenario] = _undisturbed(scenario, Path(scratch))
            act = _kill if number < kills else _fill
            what, ending, faults = act(rng, scenario, whole[scenario], Path(scratch))
            tally[f"{what}: {'new' if ending.after == whole[scenario].after else 'old'} file there"] += 1
            failures += len(faults)
            for fault in faults:
                print(f"{number} {scenario}, {what}: {fault} (exit code {ending.code})", flush=True)
    for line in sorted(tally):
        print(f"{tally[line]:5} {line}")
    print(f"{kills} kills, {full} full disks: {failures} failures")
    sys.exit(failures > 0)


def _undisturbed(scenario: Scenario, scratch: Path) -> Ending:
    with _folder(scratch) as folder:
        ending = disturbed(scenario, folder, nothing)
    if ending.code or ending.after == ending.before or ending.strays:
        raise SystemExit(f"{scenario}: a run that nothing disturbs ends with {ending}")
    return ending


def _kill(rng: random.Random, scenario: Scenario, whole: Ending, scratch: Path) -> Found:
    number = rng.choice(_SIGNALS)
    moment, step = (rng.uniform(0, whole.seconds), number), rng.randrange(whole.steps)
    by_clock = rng.random() < 0.5
    with _folder(scratch) as folder:
        if by_clock:
            ending = disturbed(scenario, folder, nothing, moment)
        else:
            ending = disturbed(scenario, folder, killed_at(step, number))
        faults = ending.faults(whole, {0, -number, 128 + number})
        if number != signal.SIGKILL:
            faults += [f"left {', '.join(ending.strays)}"] if ending.strays else []
            faults += [f"said {ending.said!r}"] if ending.said else []
        elif scenario.output != "input":  # where it is the input, another run prunes what was pruned
            again = disturbed(scenario, folder, nothing)
            faults += [f"the next run: {fault}" for fault in again.faults(whole, {0})]
    where = "by the clock" if by_clock else "while writing"
    return f"{signal.Signals(number).name} {where}", ending, faults


def _fill(rng: random.Random, scenario: Scenario, whole: Ending, scratch: Path) -> Found:
    room = whole.room + rng.randrange(0, whole.size + 4 * _PAGE, _PAGE)
    way = rng.randrange(3)
    with _folder(scratch, room if way == 0 else None) as folder:
        if way == 0 and os.path.ismount(folder):
            what, ending = "full file system", disturbed(scenario, folder, nothing)
        elif way == 1:
            disturb = limited(rng.randrange(whole.size))
            what, ending = "files of limited size", disturbed(scenario, folder, disturb)
        else:
            disturb = full_from(rng.randrange(whole.writes))
            what, ending = "full from a write on", disturbed(scenario, folder, disturb)
    faults = ending.faults(whole, {0, 2})
    faults += [f"left {', '.join(ending.strays)}"] if ending.strays else []
    if ending.code == 2 and not ("cannot write" in ending.said and ending.said.count("\n") == 1):
        faults.append(f"said {ending.said!r}")
    return what, ending, faults


@contextmanager
def _folder(scratch: Path, size: int | None = None) -> Iterator[Path]:
    """A folder for one run; of that many bytes, if a size is given and such a thing can be mounted."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        if size is not None and os.geteuid() == 0:
            command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder]
            subprocess.run(command, capture_output=True)
        try:
            yield Path(folder)
        finally:
            if os.path.ismount(folder):
                subprocess.run(["umount", "--lazy", folder], check=True)


if __name__ == "__main__":
    main()
