"""The verbs that stand beside pruning on the command line, a file each.

A verb is a module of this package with a command of the module's own name in it; the first line of the
command's docstring is its line in `onnx-prune --help`.  Adding a verb is adding a file:

    @command(usage="IN.onnx [options]", about=ABOUT, closing=CLOSING, params=PARAMS)
    def explain(**given: Any) -> None:
        '''Say what can be cut, and why the rest can't.'''

Whatever is heavy is imported in the body: `onnx-prune --help` reads these files.
"""

from __future__ import annotations

import importlib
import pkgutil

from onnx_prune.terminal.command import Command

NAMES = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def verb(name: str) -> Command:
    """The command of the verb `name`, one of `NAMES`."""
    found = getattr(importlib.import_module(f"{__name__}.{name}"), name)
    assert isinstance(found, Command), f"{name} is no command"
    return found
