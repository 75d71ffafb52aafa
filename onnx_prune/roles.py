"""What each dimension of each weight does: make channels, read them, or follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnx_prune.axes.axis import Atom, atoms
from onnx_prune.axes.relation import Relation
from onnx_prune.coupling import Bound, Role
from onnx_prune.model.nodes import Node


def roles_of(
    constant: set[str], key: Callable[[Node, int], str], relations: Sequence[Bound]
) -> dict[tuple[str, int], Role]:
    """What each dimension of each weight does, read backwards so that a Transpose is looked through."""
    roles: dict[tuple[str, int], Role] = {}
    for bound in reversed(relations):
        node, relation = bound.node, bound.relation
        contracted = {a for a in relation.contracted() if a.size > 1 and operands_with(relation, a) > 1}
        derived = all(name in constant for name in node.outputs)
        passed: dict[Atom, Role] = {}
        if derived:
            for name, dims in zip(node.outputs, relation.results, strict=True):
                for j, axis in enumerate(dims or ()):
                    passed.update((a, roles[name, j]) for a in atoms(axis) if (name, j) in roles)
        scales = {k for code in relation.reads for k in (code.scale, code.zero)}
        for k, dims in enumerate(relation.operands):
            if dims is None or node.inputs[k] not in constant or k in scales:
                continue
            mine = {a for axis in dims for a in atoms(axis)}
            for j, axis in enumerate(dims):
                role: Role | None = None
                if derived:
                    role = next((passed[a] for a in atoms(axis) if a in passed), None)
                elif any(a in contracted for a in atoms(axis)):
                    role = "consumer"
                elif mine & contracted:
                    role = "producer"
                if role is not None:
                    roles.setdefault((key(node, k), j), role)
    return roles


def operands_with(relation: Relation, atom: Atom) -> int:
    """How many operands carry `atom`: a kernel's extent stands on one, what is summed over on two."""
    return sum(any(a is atom for axis in dims or () for a in atoms(axis)) for dims in relation.operands)
