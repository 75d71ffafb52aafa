"""Prune every model of a folder and prove every cut: a table, a summary, and exit code 1 on a failure.

    python tools/zoo.py FOLDER [--match 'a_*'] [--ratio 0.5] [--round-to 1] [--jobs 2] [--json]
    python tools/zoo.py FOLDER --zoo PACKED    also feeds the inputs recorded in PACKED/models/NAME.zoo.xz

FOLDER holds *.onnx files, or packed *.zoo.xz files that `--zoo` unpacks.
"""

from __future__ import annotations

import fnmatch
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import click

_TIMEOUT = 600
_SUFFIXES = (".zoo.xz", ".onnx")


@dataclass
class Row:
    """What became of one model."""

    name: str
    status: str  # proved, nothing, unproved, failed or crashed
    nodes: int = 0
    groups: int = 0
    cut: int = 0
    left: float = 1.0
    error: float | None = None
    outputs: int = 0
    seconds: float = 0.0
    note: str = ""


def zoo_module(folder: Path) -> ModuleType:
    """The packer that lies beside the packed models."""
    sys.path.insert(0, str(folder))
    return __import__("zoo")


def feeds_of(name: str, zoo: Path | None) -> list[dict[str, Any]]:
    """Inputs that travel with a packed model."""
    packed = zoo / "models" / f"{name}.zoo.xz" if zoo else None
    return [zoo_module(zoo).feeds(packed)] if zoo and packed and packed.exists() else []


def one(path: Path, ratio: float, round_to: int, zoo: Path | None) -> Row:
    """Couple, choose, cut and prove one model."""
    from attempt import attempt

    from onnx_prune import files
    from onnx_prune.analyse import couple
    from onnx_prune.errors import NotProved, ProofFailed
    from onnx_prune.graph import Graph
    from onnx_prune.prove import prove
    from onnx_prune.settings import Budget

    start = time.perf_counter()
    name = name_of(path)
    if path.name.endswith(".zoo.xz"):
        assert zoo is not None, "packed models need --zoo"
        graph = Graph(zoo_module(zoo).unpack(path))
    else:
        graph = Graph(files.load(path), path.parent)
    coupling = couple(graph)
    row = Row(name, "proved", len(graph.nodes), len(coupling.groups))
    plan, draft, row.note = attempt(coupling, Budget(ratio=ratio, round_to=round_to))
    row.cut = len(plan)
    if draft is None:
        reasons = Counter(held.why for held in coupling.held)
        reasons.update(group.mixed for group in coupling.groups if group.mixed)
        row.status, row.note = "nothing", "; ".join(f"{n}x {why}" for why, n in reasons.most_common(3))
    else:
        small = draft.whole()
        row.left = elements(small) / max(elements(graph.model), 1)
        try:
            proof = prove(coupling, plan, small, folder=graph.folder, feeds=feeds_of(name, zoo))
            row.error, row.outputs = proof.error, len(proof.outputs)
            pieces = f"in pieces, {proof.pieces} seams" if proof.pieces is not None else ""
            silent = f"not compared: {', '.join(proof.silent)}" if proof.silent else ""
            row.note = "; ".join(filter(None, (row.note, pieces, silent)))
        except NotProved as error:
            row.status, row.note = "unproved", str(error)
        except ProofFailed as error:
            row.status, row.note = "failed", str(error)
    row.seconds = time.perf_counter() - start
    return row


def elements(model: Any) -> int:
    """Parameters: elements of initializers and of tensors in Constant nodes."""
    from onnx_prune.graph import Graph

    total = 0
    for tensor in Graph(model).weights.values():
        count = 1
        for n in tensor.dims:
            count *= n
        total += count
    return total


def name_of(path: Path) -> str:
    """File name without its suffix."""
    return next(path.name.removesuffix(s) for s in _SUFFIXES if path.name.endswith(s))


def isolated(path: Path, arguments: list[str]) -> Row:
    """Run one model in a process of its own: a crash or a hang is a row, too."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as complaints:
        command = [sys.executable, __file__, str(path), "--worker", *arguments]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=complaints, timeout=_TIMEOUT)
        except subprocess.TimeoutExpired:
            return Row(name_of(path), "crashed", seconds=_TIMEOUT, note="timeout")
        complaints.seek(0)
        if done.returncode == 0:
            return Row(**json.loads(done.stdout.splitlines()[-1]))
        lines = complaints.read().decode(errors="replace").strip().splitlines() or ["no message"]
    where = next((line.strip() for line in reversed(lines) if "onnx_prune/" in line), "")
    note = f"exit {done.returncode}: {lines[-1]} ({where})"
    return Row(name_of(path), "crashed", seconds=time.perf_counter() - start, note=note)


def printed(row: Row) -> str:
    """The row as a line of the table."""
    error = "-" if row.error is None else f"{row.error:.1e}"
    return (
        f"{row.name:44s} {row.status:8s} {row.nodes:5d} {row.groups:5d} {row.cut:4d} {row.left:7.4f} "
        f"{error:>8s} {row.seconds:6.1f}  {row.note}"
    ).rstrip()


def summary(rows: list[Row]) -> Iterator[str]:
    """Counts by the part of the name before the first underscore."""
    prefixes = sorted({row.name.split("_")[0] for row in rows})
    for prefix in prefixes:
        mine = [row for row in rows if row.name.split("_")[0] == prefix]
        counts = Counter(row.status for row in mine)
        worst = max((row.error for row in mine if row.error is not None), default=0.0)
        listed = ", ".join(f"{n} {status}" for status, n in counts.most_common())
        yield f"{prefix:10s} {len(mine):4d} models: {listed}; worst error {worst:.1e}"


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--match", default="*", help="Glob on names.")
@click.option("--ratio", default=0.5)
@click.option("--round-to", default=1)
@click.option("--zoo", type=click.Path(exists=True, path_type=Path), help="Folder of zoo.py and models/.")
@click.option("--jobs", default=2)
@click.option("--json", "as_json", is_flag=True, help="One JSON list on stdout.")
@click.option("--worker", is_flag=True, hidden=True)
def main(
    folder: Path,
    match: str,
    ratio: float,
    round_to: int,
    zoo: Path | None,
    jobs: int,
    as_json: bool,
    worker: bool,
) -> None:
    """Run the whole folder, or one file as a worker."""
    if worker:
        print(json.dumps(asdict(one(folder, ratio, round_to, zoo))))
        return
    paths = [p for p in sorted(folder.iterdir()) if p.name.endswith(_SUFFIXES)]
    paths = [p for p in paths if fnmatch.fnmatch(name_of(p), match)]
    arguments = ["--ratio", str(ratio), "--round-to", str(round_to), *(["--zoo", str(zoo)] if zoo else [])]
    if not as_json:
        print(f"{'name':44s} {'status':8s} nodes groups cut  left    error     sec  note")
    rows: list[Row] = []
    with ThreadPoolExecutor(jobs) as pool:
        for row in pool.map(lambda path: isolated(path, arguments), paths):
            rows.append(row)
            if not as_json:
                print(printed(row), flush=True)
    print(json.dumps([asdict(row) for row in rows]) if as_json else "\n".join(summary(rows)))
    sys.exit(any(row.status in ("failed", "crashed") for row in rows))


if __name__ == "__main__":
    main()
