"""What a model's time is made of: how long each layer takes at a few widths.

Time is no product of widths: onnxruntime computes channels in blocks, a thin layer leaves most of its
work in moving data.  So layers are timed, and what lies between two widths is interpolated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod as product

import numpy as np

from onnx_prune.allocate import Bill, Term
from onnx_prune.axes.axis import Atom, atoms
from onnx_prune.axes.relation import Dims
from onnx_prune.calibration.countdown import Countdown
from onnx_prune.cost import MACS, macs, repeats
from onnx_prune.coupling import Bound, Coupling, Group
from onnx_prune.kept import size_kept
from onnx_prune.latency.single import Layer, times
from onnx_prune.settings import Progress

Counts = Mapping[Atom, int]
Shapes = Mapping[str, tuple[int, ...]]
_SHARES, _FEW_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 0.5, 1.0)
_LARGE = 1e9  # MACs from which on a layer is timed at few widths
_HEAVY = 1 << 24  # elements of its weights, likewise
_TILT = 1e-3  # of a layer's time, shared out evenly over its widths: what costs nothing would never be cut


@dataclass(frozen=True, slots=True)
class Stair:
    """How long a layer takes at some widths.

    Attributes:
        layers: the nodes that are alike and have this table.
        reads: channels that it sums over, the rows.
        makes: channels that pass through it or come out of it, the columns; of all groups around.
        ms: milliseconds at each.
        measured: False where onnxruntime can't run it alone and its MACs had to tell.
    """

    layers: tuple[str, ...]
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]
    measured: bool

    def at(self, reads: int, makes: int) -> float:
        """Milliseconds at any widths, interpolated in both directions.

        Example:
            >>> stair = Stair(("conv1",), (8, 16), (8, 16), ((1.0, 2.0), (3.0, 6.0)), True)
            >>> stair.at(8, 16), stair.at(12, 12)
            (2.0, 3.0)
        """
        rows = [float(np.interp(makes, self.makes, row)) for row in self.ms]
        return float(np.interp(reads, self.reads, rows))


@dataclass(frozen=True)
class _Grid:
    """A layer and the widths that it is timed at, from the least up."""

    layer: Layer
    inner: tuple[Atom, ...]
    outer: tuple[Atom, ...]
    rows: tuple[Counts, ...]
    columns: tuple[Counts, ...]

    @property
    def points(self) -> list[Counts]:
        return [{**row, **column} for row in self.rows for column in self.columns]

    def stair(self, names: Sequence[str], ms: Sequence[float], *, measured: bool) -> Stair:
        """The table, which rises with every width whatever noise says."""
        table = np.asarray(ms).reshape(len(self.rows), len(self.columns))
        table = np.maximum.accumulate(np.maximum.accumulate(table, 0), 1)
        reads, makes = ([sum(counts.values()) for counts in side] for side in (self.rows, self.columns))
        slope = np.add.outer(np.asarray(reads) / max(reads[-1], 1), np.asarray(makes) / max(makes[-1], 1))
        table = table + _TILT * table.max() * slope / 2
        rounded = tuple(tuple(float(f"{value:.6g}") for value in row) for row in table.tolist())
        return Stair(tuple(names), tuple(reads), tuple(makes), rounded, measured)


@dataclass(frozen=True)
class Staircase:
    """All tables of a model, and its time as a sum of them.

    Attributes:
        stairs: a table for each layer, one for those that are alike.
        bill: the time in milliseconds by the channels that groups keep.
    """

    stairs: tuple[Stair, ...]
    bill: Bill


def staircase(
    coupling: Coupling,
    groups: Sequence[Group],
    allowed: Mapping[Atom, Sequence[int]],
    shapes: Shapes,
    *,
    whole: float,
    threads: int,
    progress: Progress = lambda stage: None,
) -> Staircase:
    """Time the layers of a model, and add up.

    What the layers' times leave of the whole model's is shared out among the other nodes by the elements that
    they write.

    Args:
        coupling: the analysed model.
        groups: the groups that may be cut.
        allowed: for each the counts that it may keep, from all down.
        shapes: of all tensors before the cut.
        whole: milliseconds that the whole model takes.
        threads: intra-op threads.
        progress: told how far it is.
    """
    mine = {group.atom for group in groups}
    alike: dict[tuple[object, ...], list[_Grid]] = {}
    for bound in coupling.bound:
        if bound.node.op in MACS and all(n in shapes for n in _names(bound)):
            grid = _grid(Layer(coupling, bound, shapes), mine, allowed)
            if grid.inner or grid.outer:
                alike.setdefault(grid.layer.signature(grid.points), []).append(grid)
    found: list[list[float] | None] = []
    ticks = Countdown(progress, "timing layers at several widths", len(alike))
    for grids in alike.values():
        found.append(times(grids[0].layer, grids[0].points, threads))
        ticks.step()
    rate = _rate([(grids[0], ms) for grids, ms in zip(alike.values(), found, strict=True)], whole)
    often, stairs, terms = repeats(coupling.graph, shapes), [], []
    for grids, ms in zip(alike.values(), found, strict=True):
        first = grids[0]
        derived = [rate * macs(first.layer.bound.node, first.layer.kept(point)) for point in first.points]
        names = [grid.layer.bound.node.label for grid in grids]
        stairs.append(first.stair(names, derived if ms is None else ms, measured=ms is not None))
        terms += [
            (_time(stairs[-1], grid, often[grid.layer.bound.node.place.path]), {*grid.inner, *grid.outer})
            for grid in grids
        ]
    rest = max(0.0, whole - sum(term({}) for term, _ in terms))
    fixed, others = _others(coupling, mine, shapes, rest)
    terms += others
    touching: dict[Atom, tuple[int, ...]] = dict.fromkeys(mine, ())
    for j, (_, around) in enumerate(terms):
        for atom in around:
            touching[atom] += (j,)
    return Staircase(tuple(stairs), Bill(fixed, tuple(term for term, _ in terms), touching))


def _names(bound: Bound) -> list[str]:
    return [name for name in (*bound.node.inputs, *bound.node.outputs) if name]


def _grid(layer: Layer, mine: set[Atom], allowed: Mapping[Atom, Sequence[int]]) -> _Grid:
    """The widths of a layer: of what it sums over, and of what it makes."""
    node, coupling = layer.bound.node, layer.coupling
    results = _free(coupling, node.outputs, mine)
    keys = [coupling.key(node, k) for k, name in enumerate(node.inputs) if name]
    inner = tuple(atom for atom in _free(coupling, keys, mine) if atom not in results)
    stored = sum(product(layer.shapes[name]) for name in node.inputs if name in coupling.graph.weights)
    large = macs(node, layer.shapes) > _LARGE or stored > _HEAVY
    shares = _FEW_SHARES if large else _SHARES
    return _Grid(layer, inner, results, _levels(inner, allowed, shares), _levels(results, allowed, shares))


def _free(coupling: Coupling, names: Iterable[str], mine: set[Atom]) -> tuple[Atom, ...]:
    """The atoms that may be cut on the axes of some tensors."""
    axes = (axis for name in names for axis in coupling.axes.get(name, ()))
    return tuple(dict.fromkeys(atom for axis in axes for atom in atoms(axis) if atom in mine))


def _levels(
    around: Sequence[Atom], allowed: Mapping[Atom, Sequence[int]], shares: Sequence[float]
) -> tuple[Counts, ...]:
    """The counts nearest to some shares of all groups at once, each once, from the least up."""
    found = {}
    for share in shares:
        counts = {a: min(allowed[a], key=lambda n: (abs(n - share * a.size), -n)) for a in around}
        found[tuple(counts.values())] = counts
    return tuple(found.values())


def _time(stair: Stair, grid: _Grid, often: int) -> Term:
    def term(counts: Counts) -> float:
        reads, makes = (
            sum(counts.get(atom, atom.size) for atom in side) for side in (grid.inner, grid.outer)
        )
        return often * stair.at(reads, makes)

    return term


def _rate(timed: Sequence[tuple[_Grid, list[float] | None]], whole: float) -> float:
    """Milliseconds a MAC, where that has to do."""
    done = [(ms[-1], macs(grid.layer.bound.node, grid.layer.shapes)) for grid, ms in timed if ms]
    if not done:
        total = sum(macs(grid.layer.bound.node, grid.layer.shapes) for grid, _ in timed)
        return whole / max(total, 1)
    return sum(ms for ms, _ in done) / max(sum(n for _, n in done), 1)


def _others(
    coupling: Coupling, mine: set[Atom], shapes: Shapes, rest: float
) -> tuple[float, list[tuple[Term, set[Atom]]]]:
    """What all other nodes take: what does not depend on widths, and a term for each form of result."""
    graph, whole = coupling.graph, {group.atom for group in coupling.groups}
    written: dict[tuple[Dims, tuple[int, ...]], int] = {}
    for node in graph.nodes:
        name = next(filter(None, node.outputs), "")
        if node.op not in MACS and name in shapes and name not in graph.weights:
            form = (coupling.axes.get(name, ()), shapes[name])
            written[form] = written.get(form, 0) + 1
    total = sum(times * product(shape) for (_, shape), times in written.items())
    each = rest / total if total else 0.0

    def moved(dims: Dims, shape: tuple[int, ...], times: int) -> Term:
        def term(counts: Counts) -> float:
            sizes = (size_kept(axis, n, counts, whole) for axis, n in zip(dims, shape, strict=True))
            return each * times * product(sizes)

        return term

    fixed, terms = rest if not total else 0.0, []
    for (dims, shape), often in written.items():
        around = {atom for axis in dims for atom in atoms(axis)} & mine
        if around:
            terms.append((moved(dims, shape, often), around))
        else:
            fixed += each * often * product(shape)
    return fixed, terms
