"""Zero weights of every model of a folder: exact counts, does it run, is everything else as it was.

    python -m tools.zeros FOLDER [--match 'a_*'] [--ratio 0.9] [--pattern 2:4] [--jobs 2]

Each written file is read again with onnx alone and compared with the original, tensor by tensor.  Exit
code 1 if a count is off, another tensor's bytes have changed, or a model no longer loads.
"""

from __future__ import annotations

import fnmatch
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np
import onnx

_TIMEOUT = 600


def arrays(graph: onnx.GraphProto, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor that a graph stores, by name; in nodes and their bodies by the way to them."""
    for tensor in graph.initializer:
        yield prefix + tensor.name, onnx.numpy_helper.to_array(tensor)
    for node in graph.node:
        label = node.name or next(filter(None, node.output), "")
        for attribute in node.attribute:
            if attribute.HasField("t"):
                place = prefix + node.output[0] if node.op_type == "Constant" else f"{prefix}{label}/t"
                yield place, onnx.numpy_helper.to_array(attribute.t)
            bodies = [attribute.g] if attribute.HasField("g") else []
            for body in bodies + list(attribute.graphs):
                yield from arrays(body, f"{prefix}{label}/{attribute.name}/")


def wrong(before: onnx.ModelProto, after: onnx.ModelProto, zeros: dict[str, int]) -> str:
    """What is not as it should be: tensors that take part have zeros and old values, the others old bytes."""
    for (name, old), (same, new) in zip(arrays(before.graph), arrays(after.graph), strict=True):
        if name != same or old.dtype != new.dtype or old.shape != new.shape:
            return f"{name} is another tensor"
        if old.tobytes() == new.tobytes():
            continue
        differs = np.asarray(old != new)
        if name not in zeros:
            return f"{name} has changed"
        if old.dtype.kind not in "iu" and (np.asarray(new)[differs] != 0).any():
            return f"{name} has new values"
        if old.dtype.kind not in "iu" and int((new == 0).sum()) != zeros[name]:
            return f"{name} has {int((new == 0).sum())} zeros, the report says {zeros[name]}"
    return ""


def one(path: Path, ratio: float, pattern: str) -> dict[str, object]:
    """What became of one model."""
    from onnx_prune.errors import NothingToPrune
    from onnx_prune.sparse.select import portion
    from onnx_prune.sparse.sparsify import sparsify
    from onnx_prune.sparse.sparsity import Sparsity

    asked = Sparsity(ratio=ratio) if pattern == "unstructured" else Sparsity(pattern=pattern)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.onnx"
        try:
            report = sparsify(path, output, asked).report
        except NothingToPrune as reason:
            return {"name": path.stem, "status": "nothing", "note": str(reason)}
        fault = wrong(
            onnx.load(path), onnx.load(output), {layer.name: layer.zeros for layer in report.layers}
        )
    for layer in report.layers:
        if layer.zeros != max(layer.asked, layer.zeros_before):
            fault = fault or f"{layer.name}: {layer.zeros} zeros, {layer.asked} asked"
        if pattern == "unstructured" and layer.asked != portion(ratio, layer.size):
            fault = fault or f"{layer.name}: {layer.asked} asked of {layer.size}"
    return {
        "name": path.stem,
        "status": "wrong" if fault else "exact" if report.runs else "not run",
        "size": report.size,
        "zeros": report.zeros,
        "params": report.params,
        "note": "; ".join(filter(None, (fault, report.not_run, *report.notes))),
    }


def isolated(path: Path, arguments: list[str]) -> dict[str, object]:
    """One model in a process of its own: a crash or a hang is a row, too."""
    command = [sys.executable, "-m", "tools.zeros", str(path), "--worker", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        return {"name": path.stem, "status": "crashed", "note": "timeout"}
    if done.returncode == 0:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return {"name": path.stem, "status": "crashed", "note": f"exit {done.returncode}: {last}"}


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--match", default="*", help="Glob on names.")
@click.option("--ratio", default=0.9)
@click.option("--pattern", default="unstructured")
@click.option("--jobs", default=2)
@click.option("--worker", is_flag=True, hidden=True)
def main(folder: Path, match: str, ratio: float, pattern: str, jobs: int, worker: bool) -> None:
    """Run the whole folder, or one file as a worker."""
    if worker:
        print(json.dumps(one(folder, ratio, pattern)))
        return
    paths = sorted(path for path in folder.glob("*.onnx") if fnmatch.fnmatch(path.stem, match))
    arguments = ["--ratio", str(ratio), "--pattern", pattern]
    counts: Counter[str] = Counter()
    with ThreadPoolExecutor(jobs) as pool:
        for row in pool.map(lambda path: isolated(path, arguments), paths):
            counts[str(row["status"])] += 1
            figures = (
                f"{row.get('zeros', 0):>11} of {row.get('size', 0):>11}, {row.get('params', 0):>11} params"
            )
            print(f"{row['name']:48s} {row['status']:8s} {figures}  {row['note']}".rstrip(), flush=True)
    print(", ".join(f"{n} {status}" for status, n in counts.most_common()))
    sys.exit(bool(counts["wrong"] or counts["crashed"]))


if __name__ == "__main__":
    main()
