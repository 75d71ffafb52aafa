"""Prune every model of a folder and prove every cut: a table, a summary, and exit code 1 on a failure.

    python tools/zoo.py FOLDER [--match 'a_*'] [--ratio 0.5] [--round-to 1] [--mixed] [--jobs 2] [--json]
    python tools/zoo.py FOLDER --sizes 3       also proves at three more sizes of all dynamic axes
    python tools/zoo.py FOLDER --zoo PACKED    also feeds the inputs recorded in PACKED/models/NAME.zoo.xz

FOLDER holds *.onnx files, or packed *.zoo.xz files that `--zoo` unpacks.  The columns: nodes, groups found
and cut, `free` (the share of parameters whose weight has an axis in a group that may be cut), `left` (the
share of parameters afterwards), the proof's error, and at how many more sizes it holds.
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
from typing import TYPE_CHECKING, Any

import click
import onnx
from onnx.checker import ValidationError, check_model
from onnx.shape_inference import InferenceError

if TYPE_CHECKING:
    from onnx_prune.coupling import Coupling
    from onnx_prune.settings import Budget

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
    params: int = 0
    free: float = 0.0
    left: float = 1.0
    error: float | None = None
    outputs: int = 0
    sizes: int | None = None  # None where no axis of an input is dynamic
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


def one(path: Path, ratio: float, round_to: int, mixed: bool, sizes: int, zoo: Path | None) -> Row:
    """Couple, choose, cut and prove one model."""
    from attempt import attempt
    from sizes import further

    from onnx_prune.analyse import couple
    from onnx_prune.errors import NotProved, ProofFailed
    from onnx_prune.model import files
    from onnx_prune.model.graph import Graph
    from onnx_prune.proof.prove import prove
    from onnx_prune.settings import Budget

    start = time.perf_counter()
    name = name_of(path)
    if path.name.endswith(".zoo.xz"):
        assert zoo is not None, "packed models need --zoo"
        graph = Graph(zoo_module(zoo).unpack(path))
    else:
        graph = Graph(files.load(path), path.parent)
    coupling = couple(graph)
    params = graph.params()
    row = Row(name, "proved", len(graph.nodes), len(coupling.groups), params=params)
    budget = Budget(ratio=ratio, round_to=round_to, mixed=mixed)
    row.free = free(coupling, budget) / max(params, 1)
    plan, draft, row.note = attempt(coupling, budget)
    row.cut = len(plan)
    if draft is None:
        reasons = Counter(held.why for held in coupling.held)
        reasons.update(group.mixed for group in coupling.groups if group.mixed)
        row.status, row.note = "nothing", "; ".join(f"{n}x {why}" for why, n in reasons.most_common(3))
    else:
        small = draft.whole()
        row.left = Graph(small).params() / max(params, 1)
        try:
            more, refused = further(coupling, sizes, graph.folder) if sizes else ([], [])
            feeds = [*feeds_of(name, zoo), *more]
            proof = prove(coupling, plan, small, folder=graph.folder, feeds=feeds)
            row.error, row.outputs = proof.error, len(proof.outputs)
            complaint = complaint_of(small)
            if complaint and not complaint_of(graph.model):
                row.status, row.note = "failed", f"onnx.checker: {complaint}"
            if more or refused:
                row.sizes = len(more) if proof.runs == 2 + len(feeds) else 0
            pieces = f"in pieces, {proof.pieces} seams" if proof.pieces is not None else ""
            silent = f"not compared: {', '.join(proof.silent)}" if proof.silent else ""
            row.note = "; ".join(filter(None, (row.note, *refused, pieces, silent)))
        except NotProved as error:
            row.status, row.note = "unproved", str(error)
        except ProofFailed as error:
            row.status, row.note = "failed", str(error)
    row.seconds = time.perf_counter() - start
    return row


def complaint_of(model: onnx.ModelProto) -> str:
    """What onnx's own checker has to say against a model, shapes included."""
    try:
        check_model(model, full_check=True)
    except (ValidationError, InferenceError) as error:
        return " ".join(str(error).split())
    return ""


def free(coupling: Coupling, budget: Budget) -> int:
    """Parameters of the weights that have at least one axis in a group that may be cut."""
    groups = [group for group in coupling.groups if budget.mixed or group.mixed is None]
    weights = {member.weight for group in groups for member in group.members}
    return sum(coupling.graph.elements(weight) for weight in weights - coupling.graph.frozen)


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
        f"{row.name:44s} {row.status:8s} {row.nodes:5d} {row.groups:5d} {row.cut:4d} {row.free:5.2f} "
        f"{row.left:7.4f} {error:>8s} {'-' if row.sizes is None else row.sizes:>5} {row.seconds:6.1f}  "
        f"{row.note}"
    ).rstrip()


def summary(rows: list[Row]) -> Iterator[str]:
    """Counts by the part of the name before the first underscore."""
    prefixes = sorted({row.name.split("_")[0] for row in rows})
    for prefix in prefixes:
        mine = [row for row in rows if row.name.split("_")[0] == prefix]
        counts = Counter(row.status for row in mine)
        worst = max((row.error for row in mine if row.error is not None), default=0.0)
        listed = ", ".join(f"{n} {status}" for status, n in counts.most_common())
        total = max(sum(row.params for row in mine), 1)
        open_to_cuts = sum(row.params * row.free for row in mine) / total
        text = (
            f"{listed}; {open_to_cuts:.1%} of parameters in groups that may be cut; worst error {worst:.1e}"
        )
        sizes = Counter(row.sizes for row in mine if row.sizes is not None)
        if sizes:
            text += "; proved at more sizes: " + ", ".join(f"{n} at {k}" for k, n in sorted(sizes.items()))
        yield f"{prefix:10s} {len(mine):4d} models: {text}"


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--match", default="*", help="Glob on names.")
@click.option("--ratio", default=0.5)
@click.option("--round-to", default=1)
@click.option("--mixed", is_flag=True, help="Also cut what a statistic is taken over.")
@click.option("--sizes", default=0, help="Prove at so many more sizes of the dynamic axes.")
@click.option("--zoo", type=click.Path(exists=True, path_type=Path), help="Folder of zoo.py and models/.")
@click.option("--jobs", default=2)
@click.option("--json", "as_json", is_flag=True, help="One JSON list on stdout.")
@click.option("--worker", is_flag=True, hidden=True)
def main(
    folder: Path,
    match: str,
    ratio: float,
    round_to: int,
    mixed: bool,
    sizes: int,
    zoo: Path | None,
    jobs: int,
    as_json: bool,
    worker: bool,
) -> None:
    """Run the whole folder, or one file as a worker."""
    if worker:
        print(json.dumps(asdict(one(folder, ratio, round_to, mixed, sizes, zoo))))
        return
    paths = [p for p in sorted(folder.iterdir()) if p.name.endswith(_SUFFIXES)]
    paths = [p for p in paths if fnmatch.fnmatch(name_of(p), match)]
    arguments = ["--ratio", str(ratio), "--round-to", str(round_to), "--sizes", str(sizes)]
    arguments += [*(["--mixed"] if mixed else []), *(["--zoo", str(zoo)] if zoo else [])]
    if not as_json:
        print(f"{'name':44s} {'status':8s} nodes groups cut  free    left    error sizes    sec  note")
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
