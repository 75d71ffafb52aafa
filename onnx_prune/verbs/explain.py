"""`onnx-prune explain`: what can be cut, and why the rest stays whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnx_prune.settings import Budget
from onnx_prune.terminal import shared
from onnx_prune.terminal.command import Option, command, printing
from onnx_prune.terminal.paths import require_file
from onnx_prune.terminal.working import working

ABOUT = """
Say what can be cut of a model, and why the rest stays whole: all groups of
channels that must go together with what stands on them, and everything that is
held, by reason. Nothing is cut or written.
"""
CLOSING = """
Examples:
  onnx-prune explain in.onnx
      what can be cut, and what could be won elsewhere
  onnx-prune explain in.onnx --why fc.weight
      why this layer is not cut, or what it goes with
  onnx-prune explain in.onnx --mixed
      the same where channels that a norm is taken over are cut, too
  onnx-prune explain in.onnx --json | jq '.held[].why'
      for a script
"""
_ASKED, _CUT, _OUTPUT = "What is asked", "What would be cut", "Output"
PARAMS: list[click.Parameter] = [
    click.Argument(["source"], metavar="IN.onnx", required=False),
    Option(
        ["--why", "about"],
        section=_ASKED,
        metavar="NAME[:DIM]",
        help="Show the nodes by which a weight, a tensor or a node's weights are held or coupled.",
    ),
    Option(
        ["--mixed"],
        section=_CUT,
        is_flag=True,
        help="Also channels that a mean or norm is taken over, such as a transformer's width.",
    ),
    shared.attention(_CUT),
    shared.as_json(_OUTPUT),
    Option(["-v", "--verbose"], section=_OUTPUT, is_flag=True, help="Show every group, reason and step."),
]


@command(usage="IN.onnx [options]", about=ABOUT, closing=CLOSING, params=PARAMS)
def explain(**given: Any) -> None:
    """Say what can be cut, and why the rest stays whole."""
    if given["source"] is None:
        raise click.UsageError("name the model to explain")
    require_file(Path(given["source"]))
    with working(shown=not given["as_json"]) as progress:
        progress("coupling")
        from onnx_prune.explanation.explain import explain

        found = explain(
            given["source"], Budget(mixed=given["mixed"], attention=given["attention"]), given["about"]
        )
    from onnx_prune.explanation.show import as_json, show
    from onnx_prune.terminal.page import console

    with printing():
        if given["as_json"]:
            click.echo(as_json(found))
        else:
            show(found, console(), given["verbose"])
