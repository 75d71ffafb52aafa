"""What can be cut of a model, and why the rest can't, as data for people and programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from onnx_prune.analyse import couple
from onnx_prune.axes.axis import Atom, atoms, count, size
from onnx_prune.choose import candidates
from onnx_prune.cost import standing, total_macs
from onnx_prune.coupling import Coupling, Group, Member, products
from onnx_prune.explanation.bridge import Bridge, bridges
from onnx_prune.explanation.reach import Kept, Reach, reach
from onnx_prune.explanation.why import Why, whys
from onnx_prune.model import files
from onnx_prune.model.graph import Graph
from onnx_prune.settings import Budget
from onnx_prune.shape.shapes import at_batch_one


@dataclass(frozen=True, slots=True)
class GroupShare:
    """One group of channels that can be cut, and what stands on it.

    Attributes:
        name: the group's name, its first producer's weight and dimension.
        size: number of channels.
        node: name of the first node that reads that weight.
        width: positions that one channel takes on that dimension: 64 for a head of 64.
        members: (weight, dimension) pairs.
        params: parameters that stand on its channels; those of two groups may overlap.
        macs: multiply-accumulates that go if all of its channels do.
        macs_per_channel: the same for one channel, on average.
        mixed: whose statistic a cut changes, None for an exact group.
        instead: name of the group that is cut in its place, as of heads and head size only one is;
            None where the group itself is.
        bridges: the tensors without which the group would be several.
    """

    name: str
    node: str
    size: int
    width: int
    members: tuple[tuple[str, int], ...]
    params: int
    macs: int
    macs_per_channel: float
    mixed: str | None
    instead: str | None
    bridges: tuple[Bridge, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that can be said of a model before anything is cut.

    As JSON it is these fields by these names, and those of the classes that they hold, after
    `"format": "onnx-prune-explanation"` and `"version": 1`.

    Attributes:
        source: the model's path, None for a model given as an object.
        params: parameters of the model.
        macs: multiply-accumulates of one run at `shapes`.
        shapes: the input shapes that MACs are for.
        mixed: whether axes that a statistic runs over are taken for cuttable.
        attention: which of heads and head size is cut.
        reach: how many parameters can be cut along two axes, one, or none; they add up to `params`.
        groups: what can be cut, the most parameters first.
        held: what can't, by reason, the most parameters first.
        why: the answers to what was asked about single weights.
    """

    source: str | None
    params: int
    macs: int
    shapes: dict[str, tuple[int, ...]]
    mixed: bool
    attention: str
    reach: Reach
    groups: tuple[GroupShare, ...]
    held: tuple[Kept, ...]
    why: tuple[Why, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The explanation as plain data, ready for JSON."""
        return asdict(self)


def explain(
    source: str | Path | onnx.ModelProto, budget: Budget | None = None, about: str | None = None
) -> Explanation:
    """Analyse a model, and cut nothing.

    Args:
        source: a path, or a model in memory.
        budget: says whether mixed axes are cut, and which of heads and head size.
        about: a weight, tensor or node, "NAME" or "NAME:DIM", to answer for in `why`.

    Raises:
        InputError: the model is not usable, or has nothing of that name.
    """
    budget = budget or Budget()
    if isinstance(source, onnx.ModelProto):
        graph = Graph(source)
    else:
        graph = Graph(files.load(source), Path(source).parent)
    coupling = couple(graph)
    whole = barred(coupling, budget)
    far, held = reach(coupling, whole)
    typical = at_batch_one(graph, coupling.shapes, coupling.probe)
    return Explanation(
        None if isinstance(source, onnx.ModelProto) else str(source),
        far.two + far.one + far.none,
        total_macs(graph, typical.known),
        dict(typical.inputs),
        budget.mixed,
        budget.attention,
        far,
        _shares(coupling, budget, typical.known),
        held,
        () if about is None else whys(coupling, about, whole),
    )


def barred(coupling: Coupling, budget: Budget) -> dict[Atom, str]:
    """The groups that could be cut and are not to be, and why."""
    return {
        group.atom: f"{group.mixed}; --mixed cuts it"
        for group in coupling.groups
        if group.mixed and not budget.mixed
    }


def _shares(coupling: Coupling, budget: Budget, shapes: dict[str, tuple[int, ...]]) -> tuple[GroupShare, ...]:
    groups = [group for group in coupling.groups if budget.mixed or not group.mixed]
    chosen = {group.atom: group for group in candidates(coupling, budget)}
    costs = standing(coupling, [group.atom for group in groups], shapes)
    rivals, joined = _rivals(coupling, chosen), bridges(coupling)
    shares = []
    for group in groups:
        params, macs = costs[group.atom]
        shares.append(
            GroupShare(
                group.name,
                _reader(coupling, group),
                group.size,
                _width(coupling, group),
                tuple((member.weight, member.dim) for member in group.members),
                params,
                macs,
                macs / group.size,
                group.mixed,
                None if group.atom in chosen else rivals.get(group.atom),
                joined.get(group.atom, ()),
            )
        )
    return tuple(sorted(shares, key=lambda share: (share.instead is not None, -share.params, share.name)))


def _rivals(coupling: Coupling, chosen: dict[Atom, Group]) -> dict[Atom, str]:
    """For each atom the name of a chosen group that is another factor of one of its products."""
    found: dict[Atom, str] = {}
    for product in products(coupling):
        names = [chosen[atom].name for atom in atoms(product) if atom in chosen]
        if names:
            for atom in atoms(product):
                found.setdefault(atom, names[0])
    return found


def _named(group: Group) -> Member:
    """The dimension that the group is named after."""
    return next(member for member in group.members if f"{member.weight}:{member.dim}" == group.name)


def _reader(coupling: Coupling, group: Group) -> str:
    graph = coupling.graph
    uses = graph.uses.get(_named(group).weight)
    return (graph.nodes[uses[0][0]].proto.name or graph.nodes[uses[0][0]].label) if uses else ""


def _width(coupling: Coupling, group: Group) -> int:
    """Positions that one channel takes on that dimension."""
    first = _named(group)
    axis = coupling.axes[first.key][first.dim]
    return (size(axis) - count(axis, {group.atom: 0})) // group.size
