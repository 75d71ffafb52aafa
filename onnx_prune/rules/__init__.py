"""The rules: for each operator, one function from a node (`Op`) to its `Relation`.

A family of operators is a file; adding an operator is adding one function.  The first line of its
docstring is the rule as printed in README's operator table, its example a doctest.  Other packages add
theirs through `onnx_prune.plugins`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from onnx_prune.axes.relation import Op, Relation
from onnx_prune.plugins import import_rules

Rule = Callable[[Op], Relation]
RULES: dict[tuple[str, str], Rule] = {}


def rule(*types: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a function as the rule of the operators `types`.

    Raises:
        ValueError: one of them has a rule already.
    """

    def register(function: Rule) -> Rule:
        for name in types:
            if RULES.setdefault((domain, name), function) is not function:
                raise ValueError(f"{name} has a rule already")
        return function

    return register


def has_rule(op_type: str, domain: str = "") -> bool:
    """Whether there is a rule for the operator."""
    if (domain, op_type) not in RULES:
        import_rules()
    return (domain, op_type) in RULES


def relate(op: Op, domain: str = "") -> Relation | None:
    """What the operator says about its axes, None where there is no rule for it.

    Raises:
        Misfit: the shapes of the node do not fit the rule.
    """
    function = RULES.get(("" if domain == "ai.onnx" else domain, op.type))
    return function(op) if function else None


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
