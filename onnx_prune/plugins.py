"""Criteria and operator rules of other packages, found by their entry points.

`onnx_prune.criteria` names functions from a coupling and a group to a score a channel, as those of
`onnx_prune.criteria` are; `onnx_prune.rules` names modules that register rules with
`onnx_prune.rules.rule` when they are imported.  A plugin adds to what is here and replaces nothing, and is
looked for only where a name or an operator is not known.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from onnx_prune.errors import InputError
from onnx_prune.words import plain

CRITERIA, RULES = "onnx_prune.criteria", "onnx_prune.rules"


@cache
def found(group: str) -> dict[str, EntryPoint]:
    """What installed packages offer, by name.

    Raises:
        InputError: two packages offer the same name.

    Example:
        >>> found("onnx_prune.nothing")
        {}
    """
    points: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, point.value)):
        other = points.setdefault(point.name, point)
        if other.value != point.value:
            raise InputError(
                f"two packages offer {plain(point.name)!r} as {group}: {_origin(other)} and "
                f"{_origin(point)}; uninstall one of them"
            )
    return points


def criteria() -> tuple[str, ...]:
    """Names of the criteria that other packages offer."""
    return tuple(found(CRITERIA))


def criterion(name: str) -> Any:
    """The criterion of that name.

    Raises:
        InputError: it can't be imported.
    """
    return _load(found(CRITERIA)[name])


@cache
def import_rules() -> None:
    """Import the modules that register rules; the first call does it.

    Raises:
        InputError: one can't be imported.
    """
    for point in found(RULES).values():
        _load(point)


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:  # whatever another's module does
        said = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise InputError(
            f"the plugin {plain(point.name)!r} of {_origin(point)} can't be imported: {plain(said)}; "
            "repair or uninstall it"
        ) from None


def _origin(point: EntryPoint) -> str:
    return plain(f"{point.dist.name} {point.dist.version}" if point.dist else point.value)
