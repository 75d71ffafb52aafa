"""Pruning a large model with external data against copying its files: time, and peak memory of a process.

    python -m tools.big FOLDER --gigabytes 4                  zeros: --unstructured --ratio 0.9 --no-validate
    python -m tools.big FOLDER --gigabytes 4 --structured     channels: --ratio 0.5 --no-validate
    python -m tools.big FOLDER --gigabytes 1 -- --global      with more options for onnx-prune

The model is a stack of residual blocks of two matrices each, of 16 or 64 MiB, with LayerNormalization
between, made in FOLDER unless it is there already; it and what is written are removed at the end but with
`--keep`.  onnx-prune, `cp`, and `cp` followed by `sync` of what it wrote take turns.  What onnx-prune writes
is new, and is left to the operating system as `cp` leaves it; over an old file it would wait for the disk,
which `cp + sync` can be compared with.  Before each turn all that was written before is on the disk, the
original is in the page cache (with `--cold`, is not), and as much free memory as the model takes was in use
just now: a virtual machine that gives free pages back to its host takes seven times as long to copy into
fresh ones.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import onnx
from onnx import TensorProto, helper

_WIDTH = 2048
_HIDDEN = (2048, 2048, 8192)  # of one block after the other
_WRITTEN = 1 << 24  # bytes at once
_KINDS = {"zeros": ("--unstructured", "--ratio", "0.9"), "channels": ("--ratio", "0.5")}

# A child starts with the peak memory of its parent, so commands are started by a small process.
_LAUNCH = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True)
use = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([time.perf_counter() - start, use.ru_utime + use.ru_stime, use.ru_maxrss / 1024]))
"""


def make(path: Path, size: int) -> None:
    """Write a model whose external data take about so many bytes, in large blocks, as exporters do.

    How a file was written decides how long Linux takes to read it from the page cache, `cp` included.
    """
    data = path.with_name(f"{path.name}.data")
    rng = np.random.default_rng(0)
    nodes, tensors, at = [], [], "x"
    with data.open("wb", buffering=0) as file:

        def weight(name: str, *dims: int) -> str:
            entries = {
                "location": data.name,
                "offset": str(file.tell()),
                "length": str(4 * int(np.prod(dims))),
            }
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=value)
            tensors.append(tensor)
            rows = _WRITTEN // (4 * dims[1])
            for _ in range(dims[0] // rows):
                file.write(rng.standard_normal((rows, dims[1]), np.float32) * np.float32(0.02))
            return name

        for j, hidden in enumerate(_blocks(size)):
            up, down = weight(f"up.{j}", _WIDTH, hidden), weight(f"down.{j}", _WIDTH, hidden)
            scale, bias = f"scale.{j}", f"bias.{j}"
            tensors.append(
                helper.make_tensor(scale, TensorProto.FLOAT, [_WIDTH], np.ones(_WIDTH, np.float32))
            )
            tensors.append(
                helper.make_tensor(bias, TensorProto.FLOAT, [hidden], np.zeros(hidden, np.float32))
            )
            nodes += [
                helper.make_node("LayerNormalization", [at, scale], [f"n.{j}"]),
                helper.make_node("MatMul", [f"n.{j}", up], [f"u.{j}"]),
                helper.make_node("Add", [f"u.{j}", bias], [f"b.{j}"]),
                helper.make_node("Relu", [f"b.{j}"], [f"r.{j}"]),
                helper.make_node("Gemm", [f"r.{j}", down], [f"d.{j}"], transB=1),
                helper.make_node("Add", [at, f"d.{j}"], [f"y.{j}"]),
            ]
            at = f"y.{j}"
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", _WIDTH]) for n in ("x", at)]
    graph = helper.make_graph(nodes, "big", values[:1], values[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def _blocks(size: int) -> Iterator[int]:
    """Widths of hidden layers whose two matrices together take about `size` bytes."""
    turn = 0
    while (hidden := _HIDDEN[turn % len(_HIDDEN)]) * _WIDTH * 8 <= size:
        size -= hidden * _WIDTH * 8
        turn += 1
        yield hidden
    for _ in range(size // (min(_HIDDEN) * _WIDTH * 8)):
        yield min(_HIDDEN)


def measure(*command: str) -> list[float]:
    """Wall seconds, CPU seconds and peak megabytes of memory of a command, which must succeed."""
    done = subprocess.run([sys.executable, "-c", _LAUNCH, *command], stdout=subprocess.PIPE)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)} failed")
    found: list[float] = json.loads(done.stdout)
    return found


def settle(files: tuple[Path, ...], cold: bool) -> None:
    """Bring about the same state of disk and memory before each turn."""
    os.sync()
    size = sum(file.stat().st_size for file in files)
    subprocess.run([sys.executable, "-c", f"import numpy; numpy.full({size}, 1, numpy.uint8)"], check=True)
    for file in files if cold else ():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def table(times: dict[str, list[list[float]]]) -> Iterator[str]:
    """Medians, and times as multiples of those of copying."""
    medians = {
        name: [statistics.median(row) for row in zip(*rows, strict=True)] for name, rows in times.items()
    }
    yield f"{'':12s} {'wall s':>8s} {'CPU s':>8s} {'peak MiB':>8s}   wall of each run"
    for name, (wall, cpu, peak) in medians.items():
        each = " ".join(f"{row[0]:.2f}" for row in times[name])
        yield f"{name:12s} {wall:8.2f} {cpu:8.2f} {peak:8.0f}   {each}"
    ours = medians["onnx-prune"]
    for name in ("cp", "cp + sync"):
        wall, cpu = (mine / theirs for mine, theirs in zip(ours[:2], medians[name], strict=False))
        yield f"onnx-prune takes {wall:.2f} x the wall time and {cpu:.2f} x the CPU time of {name}"


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.option("--gigabytes", default=1.0, help="Size of the model.")
@click.option("--structured", "kind", flag_value="channels", help="Cut channels.")
@click.option("--unstructured", "kind", flag_value="zeros", default=True, help="Zero weights: the default.")
@click.option("--rounds", default=3, help="Rounds that the medians are taken over.")
@click.option("--cold", is_flag=True, help="Read the original from the disk each time.")
@click.option("--keep", is_flag=True, help="Leave the model there for the next time.")
def main(
    folder: Path, options: tuple[str, ...], gigabytes: float, kind: str, rounds: int, cold: bool, keep: bool
) -> None:
    """Make the model, let the commands take turns, and print what they took."""
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / f"big-{gigabytes:g}.onnx"
    data = model.with_name(f"{model.name}.data")
    if not model.exists():
        make(model, int(gigabytes * 1e9))
    made, copy = folder / "pruned.onnx", folder / "copy"
    written = (made, made.with_name(f"{made.name}.data"), copy / model.name, copy / data.name)
    copy.mkdir(exist_ok=True)
    prune = (
        sys.executable,
        "-m",
        "onnx_prune",
        str(model),
        str(made),
        *_KINDS[kind],
        "--no-validate",
        "--quiet",
    )
    cp = f"cp {model} {data} {copy}"
    commands = {
        "onnx-prune": (*prune, *options),
        "cp": ("sh", "-c", cp),
        "cp + sync": ("sh", "-c", f"{cp} && sync {' '.join(map(str, written[2:]))}"),
    }
    times: dict[str, list[list[float]]] = {name: [] for name in commands}
    try:
        for _ in range(rounds):
            for name, command in commands.items():
                settle((model, data), cold)
                times[name].append(measure(*command))
                if name == "onnx-prune":
                    size = sum(file.stat().st_size for file in written[:2])
                for file in written:
                    file.unlink(missing_ok=True)
    finally:
        for file in (*written, *(() if keep else (model, data))):
            file.unlink(missing_ok=True)
        copy.rmdir()
    click.echo(
        f"{model.name}: {gigabytes:g} GB, {size / 1e9:.2f} GB written; {' '.join(commands['onnx-prune'][5:])}"
    )
    click.echo("\n".join(table(times)))


if __name__ == "__main__":
    main()
