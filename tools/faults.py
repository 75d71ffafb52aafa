"""Plant faults in cut models on purpose, and count how many the proof catches.

    python -m tools.faults FOLDER [--match 'a_*'] [--ratio 0.5] [--each 3] [--seed 0] [--every 1]

Each model is pruned and has to be proved as it is.  Then, one at a time: the kept channels of a cut
weight are rolled by one; a cut vector takes the first channels instead of the kept ones; two parts of a
Concat are swapped; one node reads a scale or zero point that is off.  A fault that moves no output by
more than a rounding (a dead channel, equal values) is told apart from one that the proof missed; exit
code 1 if there is one of those.
"""

from __future__ import annotations

import fnmatch
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_prune.analyse import couple
from onnx_prune.coupling import Coupling
from onnx_prune.errors import NotProved, ProofFailed
from onnx_prune.kept import Plan, masks
from onnx_prune.model import files, tensors
from onnx_prune.model.graph import Graph
from onnx_prune.proof.compare import difference
from onnx_prune.proof.order import HALVES
from onnx_prune.proof.prove import prove
from onnx_prune.runtime import RunError, Session, random_feeds
from onnx_prune.settings import Budget
from tools.attempt import attempt

Array = NDArray[Any]


@dataclass(frozen=True)
class Cut:
    """A cut model with what it was made from."""

    coupling: Coupling
    plan: Plan
    small: onnx.ModelProto

    @property
    def weights(self) -> Iterator[tuple[onnx.TensorProto, dict[int, NDArray[np.bool_]]]]:
        """Every cut initializer under its old name, with which positions stay along each cut dim."""
        for tensor in self.small.graph.initializer:
            found = masks(self.coupling, tensor.name, self.plan)
            cut = {dim: mask for dim, mask in enumerate(found) if mask is not None}
            if cut and tensor.name in self.coupling.graph.weights:
                yield tensor, cut

    def changed(self, name: str, value: Array) -> onnx.ModelProto:
        """The model with other values in one initializer."""
        model = onnx.ModelProto()
        model.CopyFrom(self.small)
        [tensor] = [t for t in model.graph.initializer if t.name == name]
        tensors.fill(tensor, np.asarray(value))
        return model

    def reading(self, result: str, k: int, value: Array) -> onnx.ModelProto:
        """The model with another constant for one operand of the node that makes `result`."""
        model = onnx.ModelProto()
        model.CopyFrom(self.small)
        [node] = [n for n in model.graph.node if n.output[0] == result]
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), "planted"))
        node.input[k] = "planted"
        return model

    def crossed(self, index: int) -> onnx.ModelProto:
        """The model with the first two operands of one node in each other's place."""
        model = onnx.ModelProto()
        model.CopyFrom(self.small)
        operands = model.graph.node[index].input
        operands[0], operands[1] = operands[1], operands[0]
        return model


Faults = Iterator[tuple[str, Callable[[], onnx.ModelProto]]]


def rolled(cut: Cut) -> Faults:
    """The kept channels of one cut weight, each in the next one's place."""
    for tensor, dims in cut.weights:
        array = tensors.read(tensor)
        for dim in dims:
            value = np.roll(array, 1, axis=dim)
            if not np.array_equal(value, array):
                yield f"{tensor.name}:{dim}", partial(cut.changed, tensor.name, value)


def first(cut: Cut) -> Faults:
    """A cut vector of the first channels instead of the kept ones."""
    for tensor, dims in cut.weights:
        if len(tensor.dims) == 1:
            value = cut.coupling.graph.array(tensor.name)[: dims[0].sum()]
            if not np.array_equal(value, tensors.read(tensor)):
                yield tensor.name, partial(cut.changed, tensor.name, value)


def swapped(cut: Cut) -> Faults:
    """The first two parts of a Concat in each other's place."""
    types = cut.coupling.shapes.types
    for index, node in enumerate(cut.small.graph.node):
        if node.op_type != "Concat" or len(set(node.input[:2])) < 2:
            continue
        if types.get(node.output[0]) in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
            yield node.output[0], partial(cut.crossed, index)


def misread(cut: Cut) -> Faults:
    """One node reads or writes integers by a scale a quarter too large, or a zero point one too high."""
    stored = {tensor.name: tensor for tensor in cut.small.graph.initializer}
    made = {node.output[0]: node for node in cut.small.graph.node}
    for bound in cut.coupling.bound:
        node = made.get(bound.node.outputs[0])
        for code in (*bound.relation.reads, *bound.relation.writes) if node else ():
            for k in (code.scale, code.zero):
                name = node.input[k] if node and k is not None and 0 <= k < len(node.input) else ""
                if node and name in stored:
                    array = tensors.read(stored[name])
                    value = array * 1.25 if array.dtype.kind in "fV" else array + 1
                    yield (
                        f"{node.output[0]}:{k}",
                        partial(cut.reading, node.output[0], k or 0, value.astype(array.dtype)),
                    )


PLANTERS: dict[str, Callable[[Cut], Faults]] = {
    "rolled": rolled,
    "first": first,
    "swapped": swapped,
    "misread": misread,
}


def effect(cut: Cut, faulty: onnx.ModelProto) -> float:
    """The largest change that a fault makes to an output on random inputs; infinite where it does not run."""
    worst = 0.0
    graph = cut.coupling.graph
    try:
        right, wrong = (Session(model, graph.folder) for model in (cut.small, faulty))
        for seed in range(3):
            feeds = random_feeds(graph.inputs, cut.coupling.shapes.inputs, seed)
            for want, got in zip(right.run(feeds), wrong.run(feeds), strict=True):
                worst = max(worst, difference(got, want))
    except RunError:
        return float("inf")
    return worst


def rounding(cut: Cut) -> float:
    """What the same sum in another order may move an output by."""
    return 1e-6 if HALVES.isdisjoint(cut.coupling.shapes.types.values()) else 1e-3


def caught(cut: Cut, faulty: onnx.ModelProto) -> bool:
    """Whether the proof fails."""
    try:
        prove(cut.coupling, cut.plan, faulty, folder=cut.coupling.graph.folder)
    except ProofFailed:
        return True
    return False


def pruned(graph: Graph, ratio: float = 0.5) -> Cut | None:
    """The model cut by the tools' common way; None where nothing can be."""
    coupling = couple(graph)
    plan, draft, _ = attempt(coupling, Budget(ratio=ratio, round_to=1))
    return Cut(coupling, plan, draft.whole()) if draft else None


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--match", default="*", help="Glob on names.")
@click.option("--ratio", default=0.5)
@click.option("--each", default=3, help="Faults of each kind in a model.")
@click.option("--seed", default=0, help="Which of them.")
@click.option("--every", default=1, help="Take every n-th model only.")
def main(folder: Path, match: str, ratio: float, each: int, seed: int, every: int) -> None:
    """Run the sweep: a line for each model, and each missed fault on its own."""
    total: Counter[str] = Counter()
    paths = sorted(p for p in folder.glob("*.onnx") if fnmatch.fnmatch(p.stem, match))
    for path in paths[::every]:
        cut = pruned(Graph(files.load(path), path.parent), ratio)
        if cut is None:
            print(f"{path.stem}: nothing to prune")
            continue
        try:
            error = prove(cut.coupling, cut.plan, cut.small, folder=cut.coupling.graph.folder).error
        except NotProved as reason:
            print(f"{path.stem}: not proved: {reason}")
            continue
        rng = np.random.default_rng(seed)
        counts: Counter[str] = Counter()
        for kind, plant in PLANTERS.items():
            places = list(plant(cut))
            for j in rng.permutation(len(places))[:each]:
                where, make = places[j]
                faulty = make()
                verdict = "caught"
                if not caught(cut, faulty):
                    moved = effect(cut, faulty)
                    verdict = "missed" if moved > rounding(cut) else "without effect"
                    print(f"{path.stem}: {kind} {where}: {verdict}, outputs move by {moved:.1e}")
                counts[f"{kind} {verdict}"] += 1
        total += counts
        listed = ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))
        print(f"{path.stem}: error {error:.1e}; {listed}", flush=True)
    print("in all: " + ", ".join(f"{n} {what}" for what, n in sorted(total.items())))
    sys.exit(any(what.endswith("missed") for what in total))


if __name__ == "__main__":
    main()
