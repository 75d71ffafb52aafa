"""A short run of what `tools.kills` does at length, and that it would see what it looks for."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tools.kills_runs import SCENARIOS, Ending, meaning

ROOT = Path(__file__).parent.parent
WHOLE = Ending(0, "", "old", "new", True, (), "", 1.0, 9, 5, 100, 100)


def test_stopped_runs_and_full_disks_lose_nothing() -> None:
    command = [sys.executable, "-m", "tools.kills", "--kills", "4", "--full", "3"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("4 kills, 3 full disks: 0 failures\n")


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        ({"after": ""}, "the target is gone"),
        ({"after": "broken: cut short"}, "the target is broken: cut short"),
        ({"after": "old"}, "nothing was written, and nobody told"),
        ({"kept": False}, "the input is not what it was"),
        ({"extra": "half"}, "the other file is a part"),
        ({"code": 3}, "exit code 3"),
        ({"code": -signal.SIGBUS}, "exit code -7"),
        ({"seconds": 1000.0}, "it hung"),
        ({"said": "Traceback\nValueError: no\n"}, "said ValueError: no"),
    ],
)
def test_what_is_lost_is_seen(found: dict[str, object], fault: str) -> None:
    fields = {name: getattr(WHOLE, name) for name in WHOLE.__dataclass_fields__}
    assert WHOLE.faults(WHOLE, {0}) == []
    assert Ending(**fields | found).faults(WHOLE, {0}) == [fault]


def test_a_part_of_a_model_is_seen(tmp_path: Path) -> None:
    SCENARIOS[0].prepare(tmp_path)
    path = tmp_path / "here" / "out.onnx"
    data = path.with_name("out.onnx.data")
    assert len(meaning(path)) == 64
    data.write_bytes(data.read_bytes()[:-1])
    assert meaning(path).startswith("broken: ")
    path.write_bytes(path.read_bytes()[:-1])
    assert meaning(path).startswith("broken: ")
