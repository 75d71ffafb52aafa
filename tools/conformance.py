"""Prune every one of ONNX's test cases as a whole model, and prove every cut.

    python tools/conformance.py [--match 'attention*'] [--jobs 2] [--ratio 0.5] [--all]
    python -m tools.conformance --readme        puts the counts into README, too

The cases are those of single nodes, and the models that come with onnx: its light ones, those converted
from PyTorch (of opset 6, which are converted to opset 7), and the simple ones.  Each is taken three
times: as it is; with its float inputs turned into weights (all but the first input); and framed, where
every float input is a weight times a scalar input, every other input a constant, and every float output
weighted and summed up, so that the rules have something to cut on every axis.  Prints a line for each
case that crashed or failed (with --all for every one, with what holds it), then counts of what was
pruned, had nothing to cut, is refused by onnxruntime, or is not proved for another reason (its answers
do not depend on its inputs); exit code 1 on a crash or a failed proof.
"""

from __future__ import annotations

import fnmatch
import json
import subprocess
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnx.version_converter

_TIMEOUT = 300  # seconds for a case before its worker is given up
_BAD = ("failed", "crashed")
_OLDEST = 7
_SHIPPED = ("light", "pytorch-converted", "pytorch-operator", "simple")


@dataclass
class Row:
    """What became of one case."""

    name: str
    form: str  # "as is", "weights" or "framed"
    status: str  # pruned, nothing, refused, unproved, failed or crashed
    note: str = ""

    @property
    def kind(self) -> str:
        """Where the case is from: a folder of onnx's, or its node cases."""
        return self.name.partition("/")[0] if "/" in self.name else "node"


@dataclass(frozen=True)
class Shipped:
    """A model that comes with onnx, as its node cases are."""

    name: str
    model: onnx.ModelProto
    data_sets: list[tuple[list[Any], list[Any]]]


@cache
def cases() -> list[Any]:
    """ONNX's node cases that are models, in the order of their names, and the models that come with it."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        nodes = sorted((c for c in collect_testcases(None) if c.model is not None), key=lambda c: c.name)
    return [*nodes, *shipped()]


def shipped() -> Iterator[Shipped]:
    """The models in onnx's own folders, with their recorded inputs and results."""
    from onnx.backend import test

    root = Path(test.__file__).parent / "data"
    for kind in _SHIPPED:
        for path in sorted((root / kind).rglob("*.onnx")):
            model, folder = modern(onnx.load(path)), path.parent / "test_data_set_0"
            name = f"{kind}/{path.stem if path.parent.name == kind else path.parent.name}"
            ins, outs = (
                recorded(model.graph.input, folder, "input"),
                recorded(model.graph.output, folder, "output"),
            )
            yield Shipped(name, model, [(ins, outs)] if ins else [])


def modern(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model at the oldest opset that pruning reads, where it is older and onnx converts it."""
    if any(o.version < _OLDEST for o in model.opset_import if not o.domain):
        with suppress(Exception):  # some old forms have no newer one
            return onnx.version_converter.convert_version(model, _OLDEST)
    return model


def recorded(values: Any, folder: Path, what: str) -> list[Any]:
    """What is recorded for a model's inputs or outputs, None for one that is no tensor."""
    found: list[Any] = []
    for j, value in enumerate(values):
        path = folder / f"{what}_{j}.pb"
        if not path.exists():
            break
        tensor = value.type.HasField("tensor_type")
        found.append(onnx.numpy_helper.to_array(onnx.load_tensor(path)) if tensor else None)
    return found


def forms(case: Any) -> Iterator[tuple[str, onnx.ModelProto, dict[str, Any] | None]]:
    """The case as models, each with its own inputs where all of them are tensors."""
    data = case.data_sets[0][0] if case.data_sets else []
    names = [value.name for value in case.model.graph.input]
    given = dict(zip(names, data, strict=False))
    plain = {k: np.asarray(v) for k, v in given.items() if isinstance(v, np.ndarray | np.generic)}
    yield "as is", case.model, plain if plain.keys() == set(names) else None
    weights = {k for k in names[1:] if k in plain and plain[k].dtype.kind in "fV"}
    if weights:
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        del model.graph.input[:]
        model.graph.input.extend(v for v in case.model.graph.input if v.name not in weights)
        for name in sorted(weights):
            model.graph.initializer.append(onnx.numpy_helper.from_array(plain[name], name))
        rest = {k: v for k, v in plain.items() if k not in weights}
        yield "weights", model, rest if rest.keys() == set(names) - weights else None
    names = [value.name for value in case.model.graph.output]
    results = dict(zip(names, case.data_sets[0][1], strict=False)) if case.data_sets else {}
    framed = frame(case.model, plain, results)
    if framed is not None:
        yield "framed", framed, None


def frame(model: onnx.ModelProto, given: dict[str, Any], results: dict[str, Any]) -> onnx.ModelProto | None:
    """Float inputs are weights times scalars, float outputs are sums with weights; None without floats."""
    new = onnx.ModelProto()
    new.CopyFrom(model)
    graph, rng = new.graph, np.random.default_rng(0)

    def floats(values: dict[str, Any]) -> set[str]:
        return {
            k for k, v in values.items() if isinstance(v, np.ndarray | np.generic) and v.dtype.kind == "f"
        }

    def drop(values: Any, name: str) -> None:
        keep = [value for value in values if value.name != name]
        del values[:]
        values.extend(keep)

    def edge(values: Any, name: str, kind: int) -> None:
        drop(values, name)
        values.append(onnx.helper.make_tensor_value_info(f"{name}.scalar", kind, ()))

    ins, outs = floats(given), floats(results)
    ins -= {value.name for value in model.graph.output}  # an input that is an output, too
    if not ins or not outs:
        return None
    nodes = list(graph.node)
    for name in sorted(ins):
        kind = onnx.helper.np_dtype_to_tensor_dtype(given[name].dtype)
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(given[name]), f"{name}.weight"))
        nodes.insert(0, onnx.helper.make_node("Mul", [f"{name}.weight", f"{name}.scalar"], [name]))
        edge(graph.input, name, kind)
    for name in sorted(k for k, v in given.items() if k not in ins and np.asarray(v).dtype.kind in "biu"):
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(given[name]), name))
        drop(graph.input, name)
    for name in sorted(outs):
        value = np.asarray(results[name])
        weight = rng.standard_normal(value.shape).astype(value.dtype)
        graph.initializer.append(onnx.numpy_helper.from_array(weight, f"{name}.weight"))
        nodes.append(onnx.helper.make_node("Mul", [name, f"{name}.weight"], [f"{name}.weighted"]))
        total = onnx.helper.make_node("ReduceSum", [f"{name}.weighted"], [f"{name}.scalar"], keepdims=0)
        nodes.append(total)
        edge(graph.output, name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype))
    del graph.node[:]
    graph.node.extend(nodes)
    if not any(o.domain in ("", "ai.onnx") for o in new.opset_import):
        new.opset_import.append(onnx.helper.make_opsetid("", 17))
    return new


def one(model: onnx.ModelProto, feeds: dict[str, Any] | None, ratio: float) -> tuple[str, str]:
    """Couple, choose, cut and prove one model: its status and a note."""
    from attempt import attempt

    from onnx_prune.analyse import couple
    from onnx_prune.errors import NotProved, ProofFailed
    from onnx_prune.model.graph import Graph
    from onnx_prune.proof.prove import prove
    from onnx_prune.settings import Budget

    coupling = couple(Graph(model))
    plan, draft, _ = attempt(coupling, Budget(ratio=ratio, round_to=1))
    if draft is None:
        reasons = Counter(held.why for held in coupling.held)
        reasons.update(group.mixed for group in coupling.groups if group.mixed)
        return "nothing", "; ".join(why for why, _ in reasons.most_common(2)) or "no weights"
    try:
        proof = prove(coupling, plan, draft.whole(), feeds=[feeds] if feeds else [])
        return "pruned", f"{len(plan)} cut, error {proof.error:.1e}"
    except NotProved as error:
        return "refused" if "onnxruntime" in str(error) else "unproved", str(error)
    except ProofFailed as error:
        return "failed", str(error)


def work(names: list[str], ratio: float) -> Iterator[Row]:
    """The rows of these cases, one by one."""
    by_name = {case.name: case for case in cases()}
    for name in names:
        for form, model, feeds in forms(by_name[name]):
            try:
                status, note = one(model, feeds, ratio)
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{Path(where.filename).name}:{where.lineno}"
                status, note = "crashed", f"{type(error).__name__}: {str(error)[:300]} ({place})"
            yield Row(name, form, status, note)


def supervised(names: list[str], ratio: float) -> list[Row]:
    """`work` in processes of their own; where one dies or hangs, the case it was at has crashed."""
    rows: list[Row] = []
    todo = names
    while todo:
        command = [sys.executable, __file__, "--worker", "--ratio", str(ratio)]
        limit = _TIMEOUT + 10 * len(todo)
        try:
            done = subprocess.run(
                command, input="\n".join(todo), capture_output=True, text=True, timeout=limit
            )
            out, why = done.stdout, f"exit {done.returncode}: {done.stderr.strip()[-200:]}"
        except subprocess.TimeoutExpired as slow:
            out, why = (slow.stdout or b"").decode(), "timeout"
        got = [Row(**json.loads(line)) for line in out.splitlines() if line.startswith("{")]
        rows += got
        finished = {line[5:] for line in out.splitlines() if line.startswith("done ")}
        todo = [name for name in todo if name not in finished]
        if todo:
            rows.append(Row(todo.pop(0), "?", "crashed", why))
    return rows


@click.command(help=__doc__)
@click.option("--match", default="*", help="Glob on names of cases.")
@click.option("--ratio", default=0.5)
@click.option("--jobs", default=2)
@click.option("--all", "show_all", is_flag=True, help="A line for every case.")
@click.option("--readme", is_flag=True, help="Write the counts into README, too; of all cases.")
@click.option("--worker", is_flag=True, hidden=True)
def main(match: str, ratio: float, jobs: int, show_all: bool, readme: bool, worker: bool) -> None:
    """Run all cases, or as a worker those named on stdin."""
    if worker:
        for name in sys.stdin.read().split():
            for row in work([name], ratio):
                print(json.dumps(asdict(row)), flush=True)
            print(f"done {name}", flush=True)
        return
    names = [case.name for case in cases() if fnmatch.fnmatch(case.name.removeprefix("test_"), match)]
    rows: list[Row] = []
    with ThreadPoolExecutor(jobs) as pool:
        for found in pool.map(lambda j: supervised(names[j::jobs], ratio), range(jobs)):
            rows += found
    for row in sorted(rows, key=lambda r: (r.name, r.form)):
        if show_all or row.status in _BAD:
            print(f"{row.status:8s} {row.name} ({row.form}): {row.note}")
    for kind, form in sorted({(row.kind, row.form) for row in rows}):
        counts = Counter(row.status for row in rows if (row.kind, row.form) == (kind, form))
        print(
            f"{kind}, {form}: {sum(counts.values())} models: "
            + ", ".join(f"{n} {s}" for s, n in counts.most_common())
        )
    if readme:
        from tools import coverage

        models = {case.name: case.model for case in cases() if case.name.startswith("test_")}
        coverage.write(rows, models, onnx.defs.onnx_opset_version())
    sys.exit(any(row.status in _BAD for row in rows))


if __name__ == "__main__":
    main()
