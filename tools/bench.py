"""What pruning costs and what it gains, measured side by side with the least that could be done instead.

    python -m tools.bench MODEL...                time and memory, as ratios to onnx.load + onnx.save
    python -m tools.bench --coupling MODEL...     coupling's time against the number of nodes
    python -m tools.bench --speed MODEL...        latency against MACs, dense and pruned

MODEL is an .onnx file or a folder of them; with `--zoo DIR` also the name of a model packed in DIR/models
(without one, the models that the project's promises name). `--json` prints one JSON list instead of a table.
"""

from __future__ import annotations

import gc
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from tools.zoo import name_of, zoo_module

_COST = ("a_resnet18-ts17", "a_resnet50-ts17", "a_densenet121-ts17", "a_swin3d_slim-ts17")
_SPEED = (
    *("a_resnet50-ts17", "a_vgg16_bn_fc512-ts17", "a_densenet121-ts17"),
    *("a_mobilenet_v2-ts17", "a_regnet_y_400mf-ts17"),
)
_ONNX, _BOTH = "import sys, onnx", "import sys, onnx, onnxruntime"
_SAVE = "onnx.save(onnx.load(sys.argv[1]), sys.argv[2])"

# A child starts with the peak memory of its parent, so commands are started by a small process.
_LAUNCH = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True)
use = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([use.ru_utime + use.ru_stime, time.perf_counter() - start, use.ru_maxrss]))
"""

Row = dict[str, Any]


def cost(path: Path, rounds: int, scratch: Path) -> Row:
    """Time and memory of pruning one file without the runs in onnxruntime; medians over `rounds`.

    The ratios `cpu` and `wall` are to onnx.load + onnx.save in this process, which is warm; `command_*`
    are to a process that imports onnx, loads and saves, `command_cpu_ort` to one that imports onnxruntime,
    too. `memory` is the command's peak as a multiple of the file, `memory_net` without what importing onnx
    alone takes.
    """
    import onnx

    from onnx_prune.pipeline import prune
    from onnx_prune.settings import Settings

    out = scratch / "out.onnx"
    inside = interleaved(
        rounds,
        lambda: prune(path, out, Settings(validate=False)),
        lambda: onnx.save(onnx.load(path), out),
    )
    model = onnx.load(path)
    nodes = len(model.graph.node)
    del model
    prune_it = ("-m", "onnx_prune", str(path), str(out), "--no-validate", "--quiet")
    copiers = [("-c", f"{imports}; {_SAVE}", str(path), str(out)) for imports in (_ONNX, _BOTH)]
    process(*prune_it)  # compiles what was never imported
    processes = [[process(*command) for command in (prune_it, *copiers)] for _ in range(rounds)]
    ours, copies, heavier = (
        [statistics.median(values) for values in zip(*runs, strict=True)]
        for runs in zip(*processes, strict=True)
    )
    bare = process("-c", _ONNX)[2]
    size = path.stat().st_size
    return {
        "name": name_of(path),
        "nodes": nodes,
        "megabytes": size / 1e6,
        "cpu": inside[0][0] / inside[1][0],
        "wall": inside[0][1] / inside[1][1],
        "cpu_s": inside[0][0],
        "command_cpu": ours[0] / copies[0],
        "command_cpu_ort": ours[0] / heavier[0],
        "command_wall": ours[1] / copies[1],
        "command_cpu_s": ours[0],
        "memory": ours[2] / size,
        "memory_net": (ours[2] - bare) / size,
        "copy_memory_net": (copies[2] - bare) / size,
    }


def interleaved(rounds: int, *actions: Callable[[], object]) -> list[tuple[float, float]]:
    """Median CPU and wall seconds of each action, run in turns after a first time that does not count."""
    times: list[list[tuple[float, float]]] = [[] for _ in actions]
    for turn in range(rounds + 1):
        for seen, action in zip(times, actions, strict=True):
            gc.collect()
            cpu, wall = time.process_time(), time.perf_counter()
            action()
            if turn:
                seen.append((time.process_time() - cpu, time.perf_counter() - wall))
    return [(statistics.median(c for c, _ in seen), statistics.median(w for _, w in seen)) for seen in times]


def process(*command: str) -> tuple[float, float, float]:
    """CPU seconds, wall seconds and peak bytes of memory of a Python process, which must succeed."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    launch = [sys.executable, "-c", _LAUNCH, sys.executable, *command]
    done = subprocess.run(launch, stdout=subprocess.PIPE, env=environment)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)} failed")
    cpu, wall, peak = json.loads(done.stdout)
    # ru_maxrss counts kilobytes, on macOS bytes
    return cpu, wall, peak if sys.platform == "darwin" else 1024 * peak


def coupling(path: Path) -> Row:
    """Seconds to couple one model: finding the shapes (`shapes_s`), and the rest (`solve_s`)."""
    from onnx_prune.analyse import couple
    from onnx_prune.model import files
    from onnx_prune.model.graph import Graph
    from onnx_prune.shape.shapes import infer

    graph = Graph(files.load(path), path.parent)
    shapes, whole = interleaved(1, lambda: infer(graph), lambda: couple(Graph(graph.model, path.parent)))
    return {
        "name": name_of(path),
        "nodes": len(graph.nodes),
        "coupling_s": whole[0],
        "shapes_s": shapes[0],
        "solve_s": max(whole[0] - shapes[0], 1e-4),
    }


def exponent(rows: list[Row], field: str) -> float:
    """Slope of a line through log(seconds) over log(nodes): 1 is linear, 2 quadratic."""
    points = [(math.log(row["nodes"]), math.log(row[field])) for row in rows if row["nodes"]]
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def speed(path: Path, scratch: Path, ratio: float, seconds: float) -> Row:
    """How much faster a pruned model runs, with the default rounding: CPU time, one thread, in turns."""
    import onnx

    from onnx_prune.pipeline import prune
    from onnx_prune.runtime import random_feeds
    from onnx_prune.settings import Budget, Settings
    from onnx_prune.validate import measure_latency

    out = scratch / "out.onnx"
    report = prune(path, out, Settings(budget=Budget(ratio=ratio), validate=False)).report
    before, after = onnx.load(path), onnx.load(out)
    weights = {tensor.name for tensor in before.graph.initializer}
    feeds = random_feeds([v for v in before.graph.input if v.name not in weights], report.shapes)
    took = measure_latency(
        before, after, feeds, threads=1, budget_seconds=seconds, clock=time.process_time, folder=path.parent
    )
    macs = report.before.macs / report.after.macs
    return {
        "name": name_of(path),
        "left": report.after.params / report.before.params,
        "macs": macs,
        "before_ms": took.before_ms,
        "after_ms": took.after_ms,
        "speedup": took.speedup,
        "speedup/macs": took.speedup / macs,
        "runs": took.runs,
    }


@contextmanager
def files_of(models: tuple[str, ...], zoo: Path | None) -> Iterator[list[Path]]:
    """The files that the arguments stand for; what is packed is unpacked for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder:
        found: list[Path] = []
        for model in models:
            path = Path(model)
            if path.is_dir():
                found += sorted(path.glob("*.onnx"))
            elif path.exists() or zoo is None:
                found.append(path)
            else:
                found.append(Path(folder) / f"{model}.onnx")
                zoo_module(zoo).unpack(zoo / "models" / f"{model}.zoo.xz", found[-1])
        yield found


def table(rows: list[Row]) -> Iterator[str]:
    """The rows under their names, numbers to the right."""
    for line in (list(rows[0]), *(list(row.values()) for row in rows)):
        cells = [f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in line]
        widths = [max(len(name), 9) for name in rows[0]]
        yield f"{cells[0]:32s} " + " ".join(
            cell.rjust(n) for cell, n in zip(cells[1:], widths[1:], strict=True)
        )


@click.command(help=__doc__)
@click.argument("models", nargs=-1)
@click.option("--zoo", type=click.Path(exists=True, path_type=Path), help="Folder of zoo.py and models/.")
@click.option("--coupling", "what", flag_value="coupling", help="Time of coupling against nodes.")
@click.option("--speed", "what", flag_value="speed", help="Latency of pruned models.")
@click.option("--rounds", default=5, help="Rounds that the medians of time and memory are taken over.")
@click.option("--ratio", default=0.5, help="Ratio that --speed prunes at.")
@click.option("--seconds", default=20.0, help="CPU seconds that --speed spends on a model at most.")
@click.option("--json", "as_json", is_flag=True, help="One JSON list on stdout.")
def main(
    models: tuple[str, ...],
    zoo: Path | None,
    what: str | None,
    rounds: int,
    ratio: float,
    seconds: float,
    as_json: bool,
) -> None:
    """Measure what was asked for, and print it."""
    if not models and zoo is None:
        raise click.UsageError("name a model, a folder, or --zoo")
    named = models or (_SPEED if what == "speed" else _COST)
    with files_of(named, zoo) as paths, tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if what == "speed":
            rows = [speed(path, scratch, ratio, seconds) for path in paths]
        elif what == "coupling":
            rows = [coupling(path) for path in paths]
        else:
            rows = [cost(path, rounds, scratch) for path in paths]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print("\n".join(table(rows)))
    if what == "coupling" and len({row["nodes"] for row in rows}) > 1:
        for field in ("coupling_s", "shapes_s", "solve_s"):
            print(f"{field} grows like nodes ** {exponent(rows, field):.2f}")


if __name__ == "__main__":
    main()
