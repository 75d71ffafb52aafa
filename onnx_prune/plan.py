"""The plan file: which slices of which initializers stay.

It is a contract for other tools and for fine-tuning elsewhere: `numpy.take` along each axis in
`keep`, on the initializers of the input model, gives those of the output model exactly.  Behind a channel
shuffle whose parts keep different channels what stays is listed in the order that it gets, not ascending.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnx_prune.axes.axis import Atom, Mask
from onnx_prune.coupling import Coupling, Group
from onnx_prune.cut import copies_made
from onnx_prune.errors import InputError
from onnx_prune.kept import stays

FORMAT, VERSION = "onnx-prune-plan", 1


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan as written to and read from a file.

    Attributes:
        model_sha256: of the main file's bytes; "" for a model given as an object.
        criterion: how channels were ranked.
        ratio: the fraction of channels asked to be removed.
        initializers: by name `{"shape": [...], "keep": {"0": [...]}}`; axes without a cut are left
            out, a private copy of a shared vector says `copy_of` and `users`, and a weight that
            was computed from others and is stored now says `computed`.
        groups: `{"name", "size", "kept", "members": [[weight, dim], ...]}`.
        held: `{"axis": [weight, dim], "size", "why"}`.
    """

    model_sha256: str
    criterion: str
    ratio: float
    initializers: dict[str, dict[str, Any]]
    groups: tuple[dict[str, Any], ...]
    held: tuple[dict[str, Any], ...]

    def to_json(self) -> str:
        """The file's text; the same plan is the same bytes."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "model_sha256": self.model_sha256,
            "criterion": self.criterion,
            "ratio": self.ratio,
            "initializers": self.initializers,
            "groups": list(self.groups),
            "held": list(self.held),
        }
        return f"{{{_lines(document, 0)}\n}}\n"


def _lines(entries: Mapping[str, Any], depth: int) -> str:
    """JSON with one initializer, group or held axis a line: to be read and compared by people, and fast."""
    lines = []
    for name, value in entries.items():
        if depth == 0 and isinstance(value, dict) and value:
            text = f"{{{_lines(value, 1)}\n }}"
        elif isinstance(value, list) and depth == 0 and value:
            text = "[" + ",".join(f"\n  {json.dumps(item)}" for item in value) + "\n ]"
        else:
            text = json.dumps(value)
        lines.append(f"\n{' ' * (depth + 1)}{json.dumps(name)}: {text}")
    return ",".join(lines)


def make(
    coupling: Coupling, chosen: Mapping[Atom, Mask], *, sha256: str, criterion: str, ratio: float
) -> Plan:
    """The plan file's content for what was chosen."""
    initializers: dict[str, dict[str, Any]] = {}

    def entry(key: str, shape: tuple[int, ...]) -> dict[str, Any]:
        found = enumerate(stays(coupling, key, chosen))
        return {"shape": list(shape), "keep": {str(j): p.tolist() for j, p in found if p is not None}}

    copies = copies_made(coupling, chosen)
    for name in coupling.graph.weights:
        row = entry(copies.leading.get(name, name), coupling.graph.dims(name))
        if row["keep"]:
            computed = {"computed": True} if name in coupling.graph.frozen else {}
            initializers[name] = row | computed
    for copy in copies.made:
        users = [[coupling.graph.nodes[i].outputs[0], k] for i, k in copy.users]
        row = entry(copy.key, coupling.graph.dims(copy.source))
        initializers[copy.name] = row | {"copy_of": copy.source, "users": users}
    groups = tuple(
        {
            "name": group.name,
            "size": group.size,
            "kept": np.flatnonzero(chosen[group.atom]).tolist(),
            "members": [[m.weight, m.dim] for m in group.members],
        }
        for group in coupling.groups
        if group.atom in chosen
    )
    held = tuple({"axis": [h.weight, h.dim], "size": h.size, "why": h.why} for h in coupling.held)
    return Plan(sha256, criterion, ratio, initializers, groups, held)


def read(path: Path) -> Plan:
    """Read a plan file.

    Raises:
        InputError: it can't be read, or is not a plan of a version known here.
    """
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"cannot read the plan {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"the plan {path} is not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f'{path} is not a plan: its "format" is not "{FORMAT}"; make one with --save-plan')
    if document.get("version") != VERSION:
        raise InputError(
            f"{path} is a plan of version {document.get('version')}; this program reads {VERSION}"
        )
    try:
        return Plan(
            str(document["model_sha256"]),
            str(document["criterion"]),
            float(document["ratio"]),
            {name: _initializer(name, row) for name, row in document["initializers"].items()},
            tuple(map(_group, document["groups"])),
            tuple(document["held"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the plan {path} lacks or garbles {error}; make it anew with --save-plan") from None


def _initializer(name: str, row: dict[str, Any]) -> dict[str, Any]:
    shape = _integers(row["shape"], f"the shape of {name}")
    keep = {str(j): _integers(stays, f"what {name} keeps") for j, stays in row["keep"].items()}
    return dict(row) | {"shape": shape, "keep": keep}


def _group(row: dict[str, Any]) -> dict[str, Any]:
    what = f"group {row['name']}"
    [size] = _integers([row["size"]], f"the size of {what}")
    kept = _integers(row["kept"], f"what {what} keeps")
    members = [[str(weight), *_integers([dim], f"the members of {what}")] for weight, dim in row["members"]]
    if not members:
        raise ValueError(f"the members of {what}")
    return dict(row) | {"size": size, "kept": kept, "members": members}


def _integers(values: Any, what: str) -> list[int]:
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise ValueError(what)
    return values


def fit(coupling: Coupling, plan: Plan) -> dict[Atom, Mask]:
    """The plan's cuts as masks over the atoms of another analysis of the same initializers.

    Raises:
        InputError: names the first initializer or group that does not fit.
    """
    chosen: dict[Atom, Mask] = {}
    by_member: dict[tuple[str, int], list[Group]] = {}
    for group in coupling.groups:
        for member in group.members:
            by_member.setdefault((member.weight, member.dim), []).append(group)
    for row in plan.groups:
        members = [(weight, dim) for weight, dim in row["members"]]
        kept, n = np.asarray(row["kept"], np.intp), row["size"]
        if kept.size and (kept.min() < 0 or kept.max() >= n):
            raise InputError(f"plan: group {row['name']} keeps channels outside 0..{n - 1}")
        mask = np.zeros(n, np.bool_)
        mask[kept] = True
        for weight, _ in members:
            if weight not in coupling.graph.weights:
                raise InputError(f"plan: the model has no initializer {weight} (group {row['name']})")
        fitting = [g for g in by_member.get(members[0], []) if g.size == n and set(members) == _places(g)]
        fitting = [g for g in fitting if g.atom not in chosen] or fitting
        if not fitting:
            weight, dim = members[0]
            raise InputError(
                f"plan: group {row['name']} ({n} channels, {weight} axis {dim} and {len(members) - 1} more) "
                "is coupled otherwise in this model"
            )
        chosen[fitting[0].atom] = mask
        if not kept.size and not any(fitting[0].atom in web.atoms for web in coupling.webs):
            raise InputError(f"plan: group {row['name']} keeps no channel")
    counts = {atom: int(mask.sum()) for atom, mask in chosen.items()}
    for web in coupling.webs:
        if not web.fits(counts):
            names = ", ".join(group.name for group in coupling.groups if group.atom in web.atoms)
            raise InputError(f"plan: the shuffles around {names} can't deal out so many channels")
    for name, row in plan.initializers.items():
        if "copy_of" in row:
            continue
        if name not in coupling.graph.weights:
            raise InputError(f"plan: the model has no initializer {name}")
        if list(coupling.graph.dims(name)) != list(row["shape"]):
            raise InputError(
                f"plan: {name} has shape {list(coupling.graph.dims(name))}, the plan says {row['shape']}"
            )
    made = make(coupling, chosen, sha256="", criterion=plan.criterion, ratio=plan.ratio)
    for name, row in plan.initializers.items():
        if "copy_of" not in row and made.initializers.get(name, {}).get("keep") != row["keep"]:
            raise InputError(f"plan: the cuts of {name} do not follow from its groups")
    return chosen


def _places(group: Group) -> set[tuple[str, int]]:
    return {(m.weight, m.dim) for m in group.members}
