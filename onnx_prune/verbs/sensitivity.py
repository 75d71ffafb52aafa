"""`onnx-prune sensitivity`: how a model takes to losing channels of one group alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnx_prune.errors import InputError
from onnx_prune.settings import CALIBRATED_NAMES, CRITERIA_NAMES, Budget, Settings
from onnx_prune.terminal import shared
from onnx_prune.terminal.command import Choice, Number, Numbers, Option, called, command, printing
from onnx_prune.terminal.extras import require_extra
from onnx_prune.terminal.paths import require_file, require_place
from onnx_prune.terminal.working import working

ABOUT = """
Cut each group of channels alone, at several ratios, and measure in onnxruntime
how far the model's answers move. Pruning can share out channels by it.
"""
CLOSING = """
Examples:
  onnx-prune sensitivity in.onnx --data feeds.npz
      what hurts, on your inputs
  onnx-prune sensitivity in.onnx --criterion l1 --cache sens.json
  onnx-prune in.onnx out.onnx --ratio 0.5 --sensitivity sens.json
      keep it, and share out by it; a run that was stopped goes on
  onnx-prune sensitivity in.onnx --ratios 0.5 --jobs 1 --plot sens.svg
      a drawing, of one point each
  onnx-prune sensitivity in.onnx --report sens.html
      the same as a page for a browser
"""
_ON, _CUT, _HOW, _OUTPUT = "What it is measured on", "What is cut", "How it is measured", "Output"
PARAMS: list[click.Parameter] = [
    click.Argument(["source"], metavar="IN.onnx", required=False),
    Option(
        ["--data"],
        section=_ON,
        metavar="WHERE",
        help="Inputs: a .npz file, a folder, or synthetic; random ones unless given.",
    ),
    Option(
        ["--ratios"],
        section=_CUT,
        type=Numbers(),
        metavar="R,...",
        default=(0.25, 0.5, 0.75),
        help="Fractions of a group's channels to remove; 0.25,0.5,0.75 unless given.",
    ),
    Option(
        ["--criterion"],
        section=_CUT,
        type=Choice(*CRITERIA_NAMES, *CALIBRATED_NAMES),
        metavar="NAME",
        help="What makes a channel matter, as for pruning: obs with --data, else l1.",
    ),
    Option(["--mixed"], section=_CUT, is_flag=True, help="Also channels that a mean or norm is taken over."),
    shared.attention(_CUT),
    Option(
        ["--ignore"],
        section=_CUT,
        multiple=True,
        metavar="GLOB",
        help="Leave out what touches a weight or node that GLOB matches.",
    ),
    Option(
        ["--jobs"],
        section=_HOW,
        type=Number(int),
        metavar="N",
        help="Run N processes, of one thread each; as many as cores unless given.",
    ),
    Option(
        ["--cache"],
        section=_OUTPUT,
        metavar="FILE.json",
        help="Keep what is measured, after each group; what is there is used again.",
    ),
    Option(["--plot"], section=_OUTPUT, metavar="FILE", help="Draw the curves, as .svg or .png."),
    Option(
        ["--report"],
        section=_OUTPUT,
        metavar="FILE.html",
        help="Write the curves as a page for a browser; needs onnx-prune[report].",
    ),
    shared.as_json(_OUTPUT),
    shared.quiet(_OUTPUT),
]


@command(usage="IN.onnx [options]", about=ABOUT, closing=CLOSING, params=PARAMS)
def sensitivity(**given: Any) -> None:
    """Measure what each group of channels can spare."""
    _check(given)
    with working(shown=not (given["quiet"] or given["as_json"])) as progress:
        progress("loading")
        from onnx_prune.curves.measure import measure
        from onnx_prune.curves.plot import plot, require

        if given["plot"] is not None:
            require()
        settings = Settings(
            budget=Budget(ignore=given["ignore"], mixed=given["mixed"], attention=given["attention"]),
            criterion=given["criterion"],
            data=given["data"],
            recover="none",
            progress=progress,
        )
        found = measure(
            given["source"], settings, ratios=given["ratios"], cache=given["cache"], jobs=given["jobs"]
        )
        if given["plot"] is not None:
            plot(found, Path(given["plot"]))
        if given["report"] is not None:
            progress("writing the report")
            from onnx_prune.html.write import write_curves

            data = {} if given["data"] in (None, "synthetic") else {"data": given["data"]}
            write_curves(given["report"], found, command=called(click.get_current_context()), also=data)
    from onnx_prune.curves.sensitivity import to_json
    from onnx_prune.curves.show import show
    from onnx_prune.terminal.page import console

    with printing():
        if given["as_json"]:
            click.echo(to_json(found))
        elif not given["quiet"]:
            show(found, given["ratios"], console())


def _check(given: dict[str, Any]) -> None:
    """Require that files and options make sense, before anything heavy is loaded."""
    if given["source"] is None:
        raise click.UsageError("name the model to measure")
    for name in ("source", "data"):
        if given[name] not in (None, "synthetic"):
            require_file(Path(given[name]))
    for name in ("cache", "plot", "report"):
        if given[name] is not None:
            require_place(Path(given[name]))
            if Path(given[name]).resolve() == Path(given["source"]).resolve():
                raise InputError(f"--{name} {given[name]!r} is the model itself; name another file")
    if given["plot"] is not None and Path(given["plot"]).suffix.lower() not in (".svg", ".png"):
        raise click.UsageError(f"--plot {given['plot']!r} is neither .svg nor .png")
    if given["report"] is not None:
        require_extra("--report", "report", ("matplotlib", "jinja2"))
