"""`onnx-prune compare`: two models side by side, with limits that a script can trust."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnx_prune.errors import LimitCrossed
from onnx_prune.terminal import shared
from onnx_prune.terminal.command import Number, Option, command, printing
from onnx_prune.terminal.paths import require_file
from onnx_prune.terminal.working import working

ABOUT = """
Compare two models that take the same inputs: how far their answers are apart,
what they cost, and how fast they run. Nothing is written.
"""
CLOSING = """
Examples:
  onnx-prune compare in.onnx out.onnx
      on random inputs, which say little about real ones
  onnx-prune compare in.onnx out.onnx --data feeds.npz --eval labels.npz
      on yours, and what both get right
  onnx-prune compare in.onnx out.onnx --data feeds.npz --max-error 0.5
      for a script: fails if the answers are further apart
  onnx-prune compare in.onnx out.onnx --max-latency 1.1 --threads 1
      or if the second takes more than 1.1 times as long

Exit codes:
  0    done, and within all limits
  2    a file or option cannot be used, or a model can't be run
  4    a limit was crossed; stderr says which
"""
_ON, _LIMITS, _OUTPUT = "What it is measured on", "Limits", "Output"
PARAMS: list[click.Parameter] = [
    click.Argument(["first"], metavar="A.onnx", required=False),
    click.Argument(["second"], metavar="B.onnx", required=False),
    Option(["--data"], section=_ON, metavar="FILE.npz", help="Your inputs; random ones unless given."),
    Option(
        ["--eval", "evaluate"],
        section=_ON,
        metavar="FILE.npz",
        help="Count what both get right, on inputs and the array labels.",
    ),
    Option(
        ["--threads"],
        section=_ON,
        type=Number(int),
        metavar="N",
        default=0,
        help="Measure latency with N threads; 0, the default, leaves it to onnxruntime.",
    ),
    Option(
        ["--max-error"],
        section=_LIMITS,
        type=Number(float),
        metavar="E",
        help="Fail if the relative error of any output is larger.",
    ),
    Option(
        ["--min-agreement"],
        section=_LIMITS,
        type=Number(float),
        metavar="P",
        help="Fail if fewer of the samples have the same top-1, 0.99 for 99 %.",
    ),
    Option(
        ["--max-latency"],
        section=_LIMITS,
        metavar="T",
        help="Fail if the second model takes longer: 8ms, or 0.6 of the first.",
    ),
    Option(
        ["--max-drop"],
        section=_LIMITS,
        type=Number(float),
        metavar="P",
        help="Fail if top-1 falls by more, 0.01 for one point; with --eval.",
    ),
    shared.as_json(_OUTPUT),
    shared.quiet(_OUTPUT),
]


@command(usage="A.onnx B.onnx [options]", about=ABOUT, closing=CLOSING, params=PARAMS)
def compare(**given: Any) -> None:
    """Compare two models: answers, cost and speed."""
    if given["first"] is None or given["second"] is None:
        raise click.UsageError("name the two models to compare")
    if given["max_drop"] is not None and given["evaluate"] is None:
        raise click.UsageError("--max-drop is about top-1; give --eval FILE.npz with it")
    for name in ("first", "second", "data", "evaluate"):
        if given[name] is not None:
            require_file(Path(given[name]))
    with working(shown=not (given["quiet"] or given["as_json"])) as progress:
        progress("loading")
        from onnx_prune.comparison.compare import compare
        from onnx_prune.comparison.limits import Limits

        limits = Limits(given["max_error"], given["min_agreement"], given["max_latency"], given["max_drop"])
        found = compare(
            given["first"],
            given["second"],
            data=given["data"],
            labelled=given["evaluate"],
            threads=given["threads"],
            progress=progress,
        )
        crossed = limits.crossed(found)
    from onnx_prune.comparison.show import as_json, show
    from onnx_prune.terminal.page import console

    with printing():
        if given["as_json"]:
            click.echo(as_json(found, crossed))
        elif not given["quiet"]:
            show(found, console())
    if crossed:
        raise LimitCrossed("; ".join(crossed))
