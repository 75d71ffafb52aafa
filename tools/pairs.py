"""Compare what is cut of one network as different exporters and simplifiers wrote it, pair by pair.

    python -m tools.pairs FOLDER [--match 'a_*'] [--ratio 0.5] [--mixed]

FOLDER holds *.onnx files named NETWORK-EXPORTER.onnx, and k_NETWORK-EXPORTER--SIMPLIFIER.onnx made from them.
Each is compared with the TorchScript export of its network, or with what it was simplified from: the number
of groups, and the parameters before and after.  Where these are not the same, the last column says what is:

    constants   the same is removed; one file stores more that no cut touches, such as a mask
    vectors     the same is removed of all matrices; one file keeps BatchNormalization, whose vectors count,
                or stores vectors that are equal only once
    copies      the same channels go; one file stores more matrices that have them, such as a tied one twice
    explained   something else is cut, and `REASONS` says what the exporter did
    DIFFERENT   nobody has explained it: exit code 1
"""

from __future__ import annotations

import fnmatch
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import onnx

from onnx_prune.analyse import couple
from onnx_prune.model import files
from onnx_prune.model.graph import Graph
from onnx_prune.settings import Budget
from tools.attempt import attempt

_EXPORTERS = "ts|dynamo|script|tf2onnx|keras_export|jax2onnx|paddle2onnx|skl2onnx|opset"
_NAME = re.compile(rf"(?:k_)?(?P<net>\w.*?)(?:_bnkept|_initinputs)?-(?:{_EXPORTERS})\d*(?:-\w+)*(?:--\w+)?")
REASONS = {
    "a_convnext_slim": "dynamo reads the pooled features by their flat positions in memory (as_strided), "
    "which holds their width",
    "a_swin_v2_t_slim": "dynamo stores the table of positions times the first layer that reads it; the axis "
    "of two coordinates between them is not in its file",
    "c_deberta_v2": "dynamo makes one table of positions for all layers, which ties the layers' heads",
    "c_opt": "TorchScript stores the tied embedding twice, so its inner width is two groups; dynamo once",
    "d_siamese_shared": "dynamo writes the cosine with ReduceL2, which is a statistic, TorchScript with sums "
    "of products; with --mixed the same is cut",
    "d_transformer_encoder_layer": "TorchScript merges equal matrices, here those of two cloned layers; one "
    "weight used twice ties the layers",
}


@dataclass(frozen=True, slots=True)
class Cut:
    """What is cut of one model.

    Attributes:
        name: the model's name.
        groups: how many groups it has.
        widths: of each group that is cut, its channels before and after, and how many such groups.
        before: parameters.
        after: parameters left.
        matrices: how many of these were in tensors of at least two dims, before and after.
        norms: BatchNormalization nodes.
    """

    name: str
    groups: int
    widths: Counter[tuple[int, int]]
    before: int
    after: int
    matrices: tuple[int, int]
    norms: int

    @property
    def removed(self) -> int:
        """Parameters removed."""
        return self.before - self.after


def cut_of(name: str, model: onnx.ModelProto, budget: Budget, folder: Path | None = None) -> Cut:
    """Couple, choose and cut one model."""
    graph = Graph(model, folder)
    coupling = couple(graph)
    plan, draft, _ = attempt(coupling, budget)
    small = Graph(draft.whole()) if draft else graph
    return Cut(
        name,
        len(coupling.groups),
        Counter((atom.size, int(mask.sum())) for atom, mask in plan.items()),
        graph.params(),
        small.params(),
        (_matrices(graph), _matrices(small)),
        sum(node.op == "BatchNormalization" for node in graph.nodes),
    )


def _matrices(graph: Graph) -> int:
    names = set(graph.weights) - graph.frozen
    return sum(graph.elements(name) for name in names if sum(n > 1 for n in graph.dims(name)) > 1)


def network(name: str) -> str:
    """The network that a file is of.

    >>> network("k_a_resnet18-ts17-raw--onnxsim"), network("a_densenet121_bnkept-ts17")
    ('a_resnet18', 'a_densenet121')
    >>> network("i_yolov8n-ghost-ts17"), network("f_mlp_static-jax2onnx23")
    ('i_yolov8n-ghost', 'f_mlp_static')
    """
    found = _NAME.fullmatch(name)
    return found["net"] if found else name


def pairs(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each name with the one that it is compared with.

    >>> list(pairs(["b_x-dynamo20", "b_x-ts17", "b_x-ts17-db", "k_b_x-ts17-db--onnxsim", "b_y-ts17"]))
    [('b_x-ts17', 'b_x-dynamo20'), ('b_x-ts17', 'b_x-ts17-db'), ('b_x-ts17-db', 'k_b_x-ts17-db--onnxsim')]
    """
    families: dict[str, list[str]] = {}
    for name in sorted(names):
        if "--" in name and not name.startswith("k_"):
            continue  # quantized or fused: another model
        families.setdefault(network(name), []).append(name)
    for net, family in sorted(families.items()):
        first = min(family, key=lambda n: (n != f"{net}-ts17", not n.startswith(f"{net}-ts"), n))
        for name in family:
            source = name.removeprefix("k_").split("--")[0]
            base = source if source != name and source in family else first
            if name != base:
                yield base, name


def verdict(a: Cut, b: Cut) -> tuple[str, str]:
    """What is the same of two exports of a network, and why not all is: "DIFFERENT" where nobody knows."""
    same = a.groups == b.groups and a.widths == b.widths
    more, less = (a, b) if a.before > b.before else (b, a)
    stores = f"{more.name} stores {more.before - less.before:,} more"
    if same and (a.before, a.after) == (b.before, b.after):
        return "same", ""
    if same and a.removed == b.removed:
        return "constants", f"{stores} that no cut touches"
    if same and a.matrices == b.matrices:
        return "vectors", f"{stores}; it has {more.norms} BatchNormalization nodes, {less.name} {less.norms}"
    extra = [x - y for x, y in zip(more.matrices, less.matrices, strict=True)]
    if same and 0 < extra[1] < extra[0]:
        return "copies", f"{stores}, of which {extra[1]:,} in matrices are left"
    only = [_listed(x.widths - y.widths) for x, y in ((a, b), (b, a))]
    listed = "; ".join(f"only in {x.name}: {text}" for x, text in zip((a, b), only, strict=True) if text)
    listed = listed or "the same widths, in other weights"
    reason = REASONS.get(network(a.name))
    return ("explained", f"{reason} ({listed})") if reason else ("DIFFERENT", listed)


def _listed(widths: Counter[tuple[int, int]]) -> str:
    return ", ".join(f"{n}x {size}->{kept}" for (size, kept), n in sorted(widths.items()))


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--match", default="*", help="Glob on names of networks.")
@click.option("--ratio", default=0.5)
@click.option("--mixed", is_flag=True, help="Also cut what a statistic is taken over.")
def main(folder: Path, match: str, ratio: float, mixed: bool) -> None:
    """Compare all pairs of a folder."""
    budget = Budget(ratio=ratio, round_to=1, mixed=mixed)
    names = [path.stem for path in folder.glob("*.onnx") if fnmatch.fnmatch(network(path.stem), match)]
    cuts: dict[str, Cut] = {}
    counts: Counter[str] = Counter()
    print(f"{'model':36s} {'compared with':36s}    groups     left at {ratio}  difference  verdict")
    for pair in pairs(names):
        for name in pair:
            if name not in cuts:
                cuts[name] = cut_of(name, files.load(folder / f"{name}.onnx"), budget, folder)
        a, b = (cuts[name] for name in pair)
        word, why = verdict(a, b)
        counts[word] += 1
        before, after = (cut.after / cut.before for cut in (a, b))
        print(
            f"{b.name:36s} {a.name:36s} {b.groups:4d} {a.groups:4d}  {after:7.4f} {before:7.4f} "
            f"{after - before:+10.4f}  {word}{why and f': {why}'}",
            flush=True,
        )
    print(f"{counts.total()} pairs: " + ", ".join(f"{n} {word}" for word, n in counts.most_common()))
    sys.exit(bool(counts["DIFFERENT"]))


if __name__ == "__main__":
    main()
