"""The options of the command line for single weights, and what must hold between them and the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from onnx_prune.errors import InputError
from onnx_prune.sparse.sparsity import ENDS, SPARSE_CRITERIA, Sparsity
from onnx_prune.terminal.command import Choice, Number, Option
from onnx_prune.terminal.extras import require_extra
from onnx_prune.terminal.paths import require_file, require_place
from onnx_prune.words import plain

SECTION = "Single weights instead of channels"
_OURS = ("pattern", "spare", "seed", "save_mask", "parent_mask", "sparse_initializers", "plot")
_CHANNELS = (
    *("mixed", "attention", "round_to", "min_channels", "max_ratio", "strict"),
    *("apply_plan", "save_plan", "threads", "target", "recover", "evaluate", "sensitivity"),
    *("input_mean", "input_std", "input_range", "memory", "max_memory"),
)
_CHOOSING = (
    *("ratio", "across", "criterion", "scores", "layer_ratios", "ignore"),
    *("spare", "seed", "pattern", "parent_mask", "data", "rounds"),
)
_IN_BETWEEN = (
    "is of use for single weights only with training in between; leave it out, or let 'onnx-prune schedule' "
    "write a mask for each round"
)

PARAMS: list[click.Parameter] = [
    Option(
        ["--unstructured"],
        section=SECTION,
        is_flag=True,
        help="Set weights to zero where they are, this fraction of every layer (--ratio); onnxruntime gets "
        f"no faster. --criterion is one of {', '.join(SPARSE_CRITERIA)}; magnitude unless given.",
    ),
    Option(
        ["--pattern"],
        section=SECTION,
        metavar="P",
        default="unstructured",
        help="Zero N of M weights along what is summed over (2:4), blocks (block:4x1) or whole filters, "
        "which stay in place (channel).",
    ),
    Option(
        ["--spare"],
        section=SECTION,
        type=Choice(*ENDS),
        metavar="WHICH",
        help=f"Leave the outermost layers as they are: {', '.join(ENDS)}.",
    ),
    Option(
        ["--seed"], section=SECTION, type=Number(int), metavar="N", default=0, help="Of --criterion random."
    ),
    Option(["--save-mask"], section=SECTION, metavar="FILE.npz", help="Write which weights stay."),
    Option(
        ["--apply-mask"],
        section=SECTION,
        metavar="FILE.npz",
        help="Zero what a saved mask says, in another export of the same network; needs no --unstructured.",
    ),
    Option(
        ["--parent-mask"],
        section=SECTION,
        metavar="FILE.npz",
        help="Prune further: what the mask of an earlier round removed stays removed, and counts.",
    ),
    Option(
        ["--sparse-initializers"],
        section=SECTION,
        is_flag=True,
        help="Store a weight as values and indices where that takes fewer bytes.",
    ),
    Option(
        ["--plot"],
        section=SECTION,
        metavar="FILE",
        help="Draw how the weights are spread, before and after, as FILE.svg or FILE.png; needs "
        "onnx-prune[report].",
    ),
]


def ranking(section: str, criteria: Sequence[str]) -> list[click.Parameter]:
    """The options of a verb that ranks single weights."""
    return [
        Option(
            ["--criterion"],
            section=section,
            type=Choice(*criteria),
            metavar="NAME",
            default="magnitude",
            help=f"What makes a weight matter: {', '.join(criteria)}; magnitude unless given.",
        ),
        Option(
            ["--global", "across"],
            section=section,
            is_flag=True,
            help="Rank the weights of all layers together.",
        ),
        Option(
            ["--ignore"],
            section=section,
            multiple=True,
            metavar="GLOB",
            help="Leave what GLOB matches as it is.",
        ),
        Option(
            ["--parent-mask"],
            section=section,
            metavar="FILE.npz",
            help="The mask of an earlier round: what it removed stays removed, and counts.",
        ),
        Option(
            ["--ratio"],
            section=section,
            type=Number(float),
            metavar="R",
            help="The fraction of the weights that is zero in the end; 0.5 unless given.",
        ),
    ]


def wanted(given: Mapping[str, Any]) -> bool:
    """Whether single weights are to be zeroed rather than channels removed."""
    return bool(given["unstructured"] or given["apply_mask"] is not None)


def check(names: Mapping[str, str], given: Mapping[str, Any]) -> None:
    """Require that the options go together and the files are there.

    Args:
        names: of the options that were given, by parameter.
        given: all values.

    Raises:
        UsageError: two options do not go together.
        InputError: a file cannot be read or written.
    """
    rules: list[tuple[bool, tuple[str, ...], str]] = [
        (not wanted(given), _OURS, "is for single weights; add --unstructured"),
        (wanted(given), _CHANNELS, "is for channels; leave it or --unstructured out"),
        (given["apply_mask"] is not None, _CHOOSING, "has no use with --apply-mask, which says what goes"),
        (given["unstructured"] and given["rounds"] != 1, ("rounds",), _IN_BETWEEN),
        (given["dry_run"], ("save_mask", "plot"), "has no use with --dry-run, which writes nothing"),
    ]
    for holds, others, why in rules:
        for name in others if holds else ():
            if name in names:
                raise click.UsageError(f"{names[name]} {why}")
    if given["plot"] is not None and Path(given["plot"]).suffix.lower() not in (".svg", ".png"):
        raise click.UsageError(f"--plot {plain(given['plot'])!r} is neither .svg nor .png")
    if given["plot"] is not None:
        require_extra("--plot", "report", ("matplotlib",))
    for name in ("apply_mask", "parent_mask"):
        if given[name] is not None:
            require_file(Path(given[name]))
    for name in ("save_mask", "plot"):
        if given[name] is not None:
            require_place(Path(given[name]))
            for other in ("source", "output"):
                if given[other] is not None and Path(given[other]).resolve() == Path(given[name]).resolve():
                    raise InputError(f"{names[name]} {given[name]!r} is the model itself; name another file")


def sparsity(names: Mapping[str, str], given: Mapping[str, Any]) -> Sparsity:
    """The settings.

    Raises:
        InputError: a value is out of range, or two do not go together.
    """

    def path(name: str) -> Path | None:
        return None if given.get(name) is None else Path(given[name])

    return Sparsity(
        ratio=given["ratio"] if "ratio" in names else None,
        criterion=given["criterion"] if "criterion" in names else "magnitude",
        scores=path("scores"),
        across=given["across"],
        pattern=given["pattern"],
        layer_ratios=tuple(given["layer_ratios"]),
        ignore=tuple(given["ignore"]),
        spare=given["spare"],
        seed=given["seed"],
        apply_mask=path("apply_mask"),
        parent_mask=path("parent_mask"),
        data=given["data"],
        validate=not given["no_validate"],
        drift_data=path("drift_data"),
        external_data=given["external_data"],
        sparse_initializers=given["sparse_initializers"],
    )
