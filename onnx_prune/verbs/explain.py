"""`onnx-prune explain`: what can be cut, and why the rest stays whole."""

from __future__ import annotations

import json
from pathlib import Path

import click

from onnx_prune.command import Option, command, printing
from onnx_prune.paths import require_file
from onnx_prune.words import plain, some

ABOUT = """
Say what can be cut of a model, and why the rest stays whole. Nothing is cut or
written.
"""
CLOSING = """
Examples:
  onnx-prune explain in.onnx
      all groups, and everything that is held
  onnx-prune explain in.onnx --json | jq .held
      the same for a script
"""
PARAMS: list[click.Parameter] = [
    click.Argument(["source"], metavar="IN.onnx", required=False),
    Option(["--json", "as_json"], section="Output", is_flag=True, help="Print one JSON document."),
]


@command(usage="IN.onnx [options]", about=ABOUT, closing=CLOSING, params=PARAMS)
def explain(source: str | None, as_json: bool) -> None:
    """Say what can be cut, and why the rest stays whole."""
    from onnx_prune.working import working

    if source is None:
        raise click.UsageError("name the model to explain")
    require_file(Path(source))
    with working(shown=not as_json) as progress:
        progress("coupling")
        from onnx_prune.explanation import explain

        found = explain(source)
    with printing():
        if as_json:
            click.echo(json.dumps(found.to_dict(), indent=2))
            return
        for name, size in found.groups:
            click.echo(f"{plain(name)}: {some(size, 'channel')}")
        for weight, dim, why in found.held:
            click.echo(f"{plain(weight)} dim {dim} is held: {plain(why)}")
