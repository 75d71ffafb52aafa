"""The options of the command line, by task, and what must hold between them."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from onnx_prune import plugins
from onnx_prune.errors import InputError
from onnx_prune.settings import ATTENTION, CALIBRATED_NAMES, CRITERIA_NAMES, RECOVERIES
from onnx_prune.sparse import options as options_sparse
from onnx_prune.sparse.sparsity import SPARSE_CRITERIA
from onnx_prune.terminal import config, shared
from onnx_prune.terminal.command import PROGRAM, Bytes, Choice, Number, Numbers, Option
from onnx_prune.terminal.extras import require_extra
from onnx_prune.terminal.paths import require_file, require_place
from onnx_prune.words import plain

USAGE = "IN.onnx OUT.onnx [options]"
ABOUT = """
Make an ONNX model smaller and faster by removing channels for real.

Channels that must go together are found from the graph alone, so a model from
any exporter will do. The smaller model has to compute what the original does
with those channels set to zero; otherwise nothing is written.
"""
CLOSING = """
Examples:
  onnx-prune in.onnx out.onnx
      remove half of the channels
  onnx-prune in.onnx --dry-run -v
      see all that could be cut, and why the rest could not
  onnx-prune in.onnx out.onnx --ratio 0.3 --layer-ratio 'layer4.*=0.6'
      remove more from the last stage
  onnx-prune in.onnx out.onnx --ignore '*head*'
      leave some layers whole
  onnx-prune in.onnx out.onnx --data feeds.npz
      choose by unlabelled inputs, and fit what is left to the original
  onnx-prune in.onnx out.onnx --save-plan plan.json
  onnx-prune other.onnx out2.onnx --apply-plan plan.json
      keep what was decided, and do it again on another export
  onnx-prune in.onnx out.onnx --report report.html
      see in a browser what was cut, what was not, and where the cost sits
  onnx-prune in.onnx out.onnx --json | jq .after
      read the report from a script

Exit codes:
  0    done
  2    a file or option cannot be used, or there is no proof; stderr says why
  3    a bug in onnx-prune: the proof failed, or worse; no file was written
  4    nothing can be cut, or --strict or a latency was missed
  130  stopped by Ctrl-C (143 by SIGTERM); files are as they were before
"""

_REMOVE = "What to remove"
_STAYS = "What stays"
_DATA = "Calibration and recovery"
_CHECK = "How it is checked"
_OUTPUT = "Output"
_HELP = "Help"

_FILES = {  # of a run beside its models
    "apply_plan": "plan applied",
    "save_plan": "plan",
    "apply_mask": "mask applied",
    "parent_mask": "mask before",
    "save_mask": "mask",
    "scores": "scores",
    "data": "calibration data",
    "drift_data": "drift data",
    "evaluate": "labelled data",
    "plot": "plot",
    "config": "configuration",
}

_ALONE = {
    "target": (("ratio", "across", "layer_ratios", "strict"), "says how much is left"),
    "sensitivity": (("across", "layer_ratios"), "says how much of each group goes"),
    "apply_plan": (
        (
            *(
                "sensitivity",
                "ratio",
                "target",
                "across",
                "criterion",
                "scores",
                "layer_ratios",
                "mixed",
                "attention",
            ),
            *("ignore", "round_to", "min_channels", "max_ratio", "strict"),
        ),
        "says what is cut",
    ),
    "scores": (("criterion",), "replaces the criterion"),
    "rounds": (
        ("apply_plan", "save_plan", "scores", "sensitivity", "target"),
        "ranks channels anew each time",
    ),
    "dead": (
        (
            *("ratio", "across", "criterion", "scores", "layer_ratios", "mixed", "attention", "apply_plan"),
            *("ignore", "round_to", "min_channels", "max_ratio", "strict", "unstructured", "apply_mask"),
            *("rounds", "target", "data", "recover", "sensitivity", "max_memory"),
        ),
        "removes what says nothing, and nothing else",
    ),
    "no_validate": (("drift_data", "evaluate", "threads", "max_memory"), "runs nothing"),
    "dry_run": (
        ("save_plan", "save_config", "recover", "drift_data", "evaluate", "threads"),
        "changes and writes nothing",
    ),
    "quiet": (("verbose",), "prints nothing"),
}


def _layer_ratio(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> list[tuple[str, float]] | str:
    pairs = []
    if values == ("auto",):
        return "auto"
    for value in values:
        glob, _, ratio = value.rpartition("=")
        try:
            pairs.append((glob, float(ratio)))
        except ValueError:
            glob = ""
        if not glob:
            alone = "; auto stands alone" if value == "auto" else ""
            raise click.BadParameter(
                f"{plain(value)!r} is not GLOB=R, as in 'layer4.*=0.3'{alone}", ctx, param
            )
    return pairs


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        parts = [f"{name} {_version(name)}" for name in ("onnx", "onnxruntime")]
        click.echo(f"{PROGRAM} {_version(PROGRAM)} ({', '.join(parts)}, Python {platform.python_version()})")
        ctx.exit()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


PARAMS: list[click.Parameter] = [
    Option(
        ["--ratio"],
        section=_REMOVE,
        type=Number(float),
        metavar="R",
        default=0.5,
        help="Remove this fraction of the channels of every group; 0.5 unless given.",
    ),
    Option(
        ["--target"],
        section=_REMOVE,
        metavar="WHAT=LEFT",
        help="Leave this much of the whole model instead, a fraction or a number: macs=0.5, params=1.5M, "
        "size=10MB or latency=8ms (measured). Groups lose more or less, as hurts least.",
    ),
    Option(
        ["--global", "across"],
        section=_REMOVE,
        is_flag=True,
        help="Rank the channels of all groups together, so that some groups lose more than others.",
    ),
    Option(
        ["--criterion"],
        section=_REMOVE,
        type=Choice(
            *dict.fromkeys((*CRITERIA_NAMES, *CALIBRATED_NAMES, *SPARSE_CRITERIA)), more=plugins.criteria
        ),
        metavar="NAME",
        help=f"What makes a channel matter: {', '.join(CRITERIA_NAMES)}; with --data also "
        f"{', '.join(CALIBRATED_NAMES)}. obs with --data, otherwise l1.",
    ),
    Option(
        ["--scores"],
        section=_REMOVE,
        metavar="FILE.npz",
        help="Rank channels by your own scores: an array for each weight, named like it, a number a channel.",
    ),
    Option(
        ["--layer-ratio", "layer_ratios"],
        section=_REMOVE,
        multiple=True,
        metavar="GLOB=R|auto",
        callback=_layer_ratio,
        help="Use another ratio where GLOB matches a weight or node; may be repeated, the last match counts. "
        "auto measures what each group can spare, and leaves as many parameters as --ratio alone.",
    ),
    Option(
        ["--sensitivity"],
        section=_REMOVE,
        metavar="FILE.json",
        help="The same by curves that onnx-prune sensitivity has measured; --target works with it, too.",
    ),
    Option(
        ["--attention"],
        section=_REMOVE,
        type=Choice(*ATTENTION),
        metavar="WHAT",
        default="auto",
        help="Where an axis is heads times head size, remove heads (whole), dims (of every head) or both; "
        "auto, the default, takes heads if these come within 10 % of the ratio, else what comes nearest.",
    ),
    Option(
        ["--mixed"],
        section=_REMOVE,
        is_flag=True,
        help="Also cut channels that a mean or norm is taken over, such as a transformer's width.",
    ),
    Option(
        ["--apply-plan"],
        section=_REMOVE,
        metavar="FILE",
        help="Cut exactly what a saved plan says, instead of choosing.",
    ),
    Option(
        ["--rounds"],
        section=_REMOVE,
        type=Number(int),
        metavar="N",
        default=1,
        help="Reach the ratio in N rounds, each ranking what the one before left; 1 unless given.",
    ),
    Option(
        ["--dead"],
        section=_REMOVE,
        is_flag=True,
        help="Remove only channels that are zero or constant already; answers stay as they are.",
    ),
    Option(
        ["--ignore"],
        section=_STAYS,
        multiple=True,
        metavar="GLOB",
        help="Leave whole what touches a weight or node that GLOB matches; may be repeated.",
    ),
    Option(
        ["--round-to"],
        section=_STAYS,
        type=Number(int, word="auto"),
        metavar="auto|N",
        default="auto",
        help="Keep widths at a multiple of N; auto takes widths that run fast in onnxruntime, 1 any width.",
    ),
    Option(
        ["--min-channels"],
        section=_STAYS,
        type=Number(int),
        metavar="N",
        default=1,
        help="Leave at least N channels in every group.",
    ),
    Option(
        ["--max-ratio"],
        section=_STAYS,
        type=Number(float),
        metavar="R",
        default=1.0,
        help="Remove at most this fraction of any one group.",
    ),
    *options_sparse.PARAMS,
    Option(
        ["--data"],
        section=_DATA,
        metavar="WHERE",
        help="Unlabelled inputs to choose channels by and to recover accuracy with: a .npz file (an array "
        "for each input, stacked on the batch axis), a folder of .npz or .npy files, or synthetic.",
    ),
    Option(
        ["--recover"],
        section=_DATA,
        type=Choice(*RECOVERIES),
        metavar="HOW",
        help="Give accuracy back after the cut: lstsq fits every layer behind it to the original, bias its "
        "bias alone, bn the statistics of BatchNormalization, none. lstsq with --data.",
    ),
    Option(
        ["--input-mean"],
        section=_DATA,
        type=Numbers(),
        metavar="M,...",
        default=(0.0,),
        help="Mean of synthetic inputs, one number or one for each channel; 0 unless given.",
    ),
    Option(
        ["--input-std"],
        section=_DATA,
        type=Numbers(),
        metavar="S,...",
        default=(1.0,),
        help="Standard deviation of synthetic inputs, likewise; 1 unless given.",
    ),
    Option(
        ["--input-range"],
        section=_DATA,
        type=Numbers(),
        metavar="LOW,HIGH",
        default=(float("-inf"), float("inf")),
        help="Least and largest value of synthetic inputs: what black and white are to the model.",
    ),
    Option(
        ["--memory"],
        section=_DATA,
        type=Bytes(),
        metavar="SIZE",
        default="4GB",
        help="Keep statistics and intermediate values of calibration within this; 4GB unless given.",
    ),
    Option(
        ["--no-validate"],
        section=_CHECK,
        is_flag=True,
        help='Skip the proof and the runs; the report then says "not proved".',
    ),
    Option(
        ["--drift-data"],
        section=_CHECK,
        metavar="FILE.npz",
        help="Prove on your inputs, too, and measure drift on them rather than on noise; an array an input.",
    ),
    Option(
        ["--eval", "evaluate"],
        section=_CHECK,
        metavar="FILE.npz",
        help="Count what a classifier gets right before and after, on your inputs and the array labels.",
    ),
    Option(
        ["--max-memory"],
        section=_CHECK,
        type=Bytes(),
        metavar="SIZE",
        help="Prove what does not fit into this a block of nodes at a time; unless given, all memory.",
    ),
    Option(
        ["--threads"],
        section=_CHECK,
        type=Number(int),
        metavar="N",
        default=0,
        help="Measure latency with N threads, also for --target; 0, the default, leaves the choice to "
        "onnxruntime.",
    ),
    Option(
        ["--strict"],
        section=_CHECK,
        is_flag=True,
        help="Fail if what is removed differs from what was asked by more than 10 %.",
    ),
    Option(
        ["--dry-run"],
        section=_OUTPUT,
        is_flag=True,
        help="Analyse and report, and write nothing; OUT.onnx can be left out.",
    ),
    Option(["--save-plan"], section=_OUTPUT, metavar="FILE", help="Write which channels stay, as JSON."),
    Option(
        ["--external-data"],
        section=_OUTPUT,
        type=Choice("auto", "always", "never"),
        metavar="WHEN",
        default="auto",
        help="Put weights in a file beside OUT.onnx: auto (as in IN.onnx, and above 2 GB), always or never.",
    ),
    Option(
        ["--report"],
        section=_OUTPUT,
        metavar="FILE.html",
        help="Write the report as a page for a browser, in one file; needs onnx-prune[report].",
    ),
    Option(
        ["--json", "as_json"], section=_OUTPUT, is_flag=True, help="Print the report as one JSON document."
    ),
    Option(
        ["-v", "--verbose"],
        section=_OUTPUT,
        is_flag=True,
        help="Show every group, and every reason why something stays.",
    ),
    shared.quiet(_OUTPUT),
    *config.params(),
    Option(
        ["--version"],
        section=_HELP,
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_version,
        help="Show the versions.",
    ),
]


def check(ctx: click.Context, given: dict[str, Any]) -> None:
    """Require that the options go together and the files are there, before anything heavy is loaded."""
    if given["source"] is None:
        raise click.UsageError("name the model to prune, and the file to write")
    if given["output"] is None and not given["dry_run"]:
        raise click.UsageError("name the file to write after the model, or give --dry-run")
    names = given_names(ctx)
    if given["layer_ratios"] == "auto":
        beside = [names[o] for o in ("across", "rounds", "unstructured", "apply_mask") if o in names]
        if beside:
            raise click.UsageError(
                f"--layer-ratio auto shares channels out, so {beside[0]} has no use; leave one of them out"
            )
    options_sparse.check(names, given)
    for one, (others, why) in _ALONE.items():
        for other in others:
            if one in names and other in names:
                raise click.UsageError(
                    f"{names[one]} {why}, so {names[other]} has no use; leave one of them out"
                )
    for name in ("input_mean", "input_std", "input_range"):
        if name in names and given["data"] != "synthetic":
            raise click.UsageError(f"{names[name]} describes synthetic inputs; give --data synthetic with it")
    for name in ("source", "scores", "sensitivity", "data", "drift_data", "evaluate", "apply_plan"):
        if given[name] not in (None, "synthetic"):
            require_file(Path(given[name]))
    for name in ("output", "save_plan", "save_config", "report"):
        if given[name] is not None:
            require_place(Path(given[name]))
    if given["report"] is not None:
        _check_report(given)
    for ours in ("save_plan", "save_config"):
        for name in ("source", "output") if given[ours] is not None else ():
            if given[name] is not None and Path(given[name]).resolve() == Path(given[ours]).resolve():
                raise InputError(f"{names[ours]} {given[ours]!r} is the model itself; name another file")


def _check_report(given: dict[str, Any]) -> None:
    """Require that the page can be drawn, has a file of its own, and two models to compare."""
    require_extra("--report", "report", ("matplotlib", "jinja2"))
    place = Path(given["report"]).resolve()
    for name in ("source", "output", "save_config", *_FILES):
        if given[name] not in (None, "synthetic") and Path(given[name]).resolve() == place:
            raise InputError(f"--report {given['report']!r} is another file of this run; name a new one")
    same = given["output"] is not None and Path(given["output"]).resolve() == Path(given["source"]).resolve()
    if same and not given["dry_run"]:
        raise InputError("--report compares two files, and OUT.onnx is IN.onnx; name another to write")


def files_of(given: dict[str, Any]) -> dict[str, str]:
    """The files that a run reads and writes beside its models, by what they are."""
    return {
        what: given[name]
        for name, what in _FILES.items()
        if given[name] is not None and Path(given[name]).is_file()
    }


def given_names(ctx: click.Context) -> dict[str, str]:
    """The options that were given, as they are written, by parameter."""
    params = (param for param in ctx.command.params if _was_given(ctx, param))
    return {param.name or "": max(param.opts, key=len) for param in params}


def _was_given(ctx: click.Context, param: click.Parameter) -> bool:
    source = ctx.get_parameter_source(param.name or "")
    return source in (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
