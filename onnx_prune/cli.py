"""The command line: options in, a table or JSON out.

What is heavy (onnx, onnxruntime, rich) is imported once there is work for it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnx_prune.options import ABOUT, CLOSING, PARAMS, USAGE, check, files_of, given_names
from onnx_prune.settings import Budget, Settings, target
from onnx_prune.sparse import options as options_sparse
from onnx_prune.terminal import config
from onnx_prune.terminal.command import HELP_OPTIONS, called, printing
from onnx_prune.terminal.program import Program, Source
from onnx_prune.terminal.working import working

if TYPE_CHECKING:
    from onnx_prune.report import Report

_BUDGET = ("ratio", "across", "ignore", "round_to", "min_channels", "max_ratio", "mixed", "attention")


@click.command(
    cls=Program,
    params=[
        Source(["source"], metavar="IN.onnx", required=False),
        click.Argument(["output"], metavar="OUT.onnx", required=False),
        *PARAMS,
    ],
    usage=USAGE,
    about=ABOUT,
    closing=CLOSING,
    context_settings=HELP_OPTIONS,
)
@click.pass_context
def main(ctx: click.Context, /, **given: Any) -> None:
    """Prune one model."""
    if options_sparse.wanted(given):
        _sparsify(ctx, given)
        return
    settings = Settings(
        budget=Budget(
            **{name: given[name] for name in _BUDGET},
            layer_ratios=() if given["layer_ratios"] == "auto" else tuple(given["layer_ratios"]),
            target=None if given["target"] is None else target(given["target"]),
        ),
        criterion=given["criterion"],
        scores=_path(given["scores"]),
        sensitivity="auto" if given["layer_ratios"] == "auto" else _path(given["sensitivity"]),
        apply_plan=_path(given["apply_plan"]),
        validate=not given["no_validate"],
        data=given["data"],
        recover=given["recover"],
        input_mean=given["input_mean"],
        input_std=given["input_std"],
        input_range=given["input_range"],
        memory=given["memory"],
        drift_data=_path(given["drift_data"]),
        evaluate=_path(given["evaluate"]),
        threads=given["threads"],
        max_memory=given["max_memory"],
        strict=given["strict"],
        external_data=given["external_data"],
    )
    check(ctx, given)
    with working(shown=not (given["quiet"] or given["as_json"])) as progress:
        report = _prune(given, replace(settings, progress=progress))
        if given["report"] is not None:
            progress("writing the report")
            from onnx_prune.html.write import write_channels

            write_channels(given["report"], report, command=called(ctx), also=files_of(given))
    _save_config(ctx, given)
    _print(report, given)


def _sparsify(ctx: click.Context, given: dict[str, Any]) -> None:
    """Zero single weights of one model."""
    check(ctx, given)
    asked = options_sparse.sparsity(given_names(ctx), given)
    with working(shown=not (given["quiet"] or given["as_json"])) as progress:
        from onnx_prune.model import apart
        from onnx_prune.sparse.sparsify import sparsify

        apart.allow()
        report = sparsify(
            given["source"],
            given["output"],
            replace(asked, progress=progress),
            save_mask=given["save_mask"],
            plot=given["plot"],
            dry_run=given["dry_run"],
            keep_mask=False,
        ).report
        if given["report"] is not None:
            progress("writing the report")
            from onnx_prune.html.write import write_weights

            write_weights(given["report"], report, command=called(ctx), also=files_of(given))
    _save_config(ctx, given)
    if given["quiet"] and not given["as_json"]:
        return
    from onnx_prune.sparse.show import as_json, show
    from onnx_prune.terminal.page import console

    with printing():
        if given["as_json"]:
            click.echo(as_json(report))
        else:
            show(report, console(), verbose=given["verbose"])


def _prune(given: dict[str, Any], settings: Settings) -> Report:
    if given["rounds"] != 1:
        from onnx_prune.rounds import prune_in_rounds

        return prune_in_rounds(
            given["source"], given["output"], settings, given["rounds"], dry_run=given["dry_run"]
        ).report
    if given["dead"]:
        from onnx_prune.dead.remove import remove_dead as run
    else:
        from onnx_prune.pipeline import prune as run

    result = run(
        given["source"],
        given["output"],
        settings,
        save_plan=_path(given["save_plan"]),
        dry_run=given["dry_run"],
    )
    return result.report


def _save_config(ctx: click.Context, given: dict[str, Any]) -> None:
    """Write the options of a run that went well."""
    if given["save_config"] is not None:
        from onnx_prune.model.files import write_text

        path = Path(given["save_config"])
        write_text(path, config.text(ctx, path))


def _print(report: Report, given: dict[str, Any]) -> None:
    if given["quiet"] and not given["as_json"]:
        return
    from onnx_prune.show import as_json, show
    from onnx_prune.terminal.page import console

    with printing():
        if given["as_json"]:
            click.echo(as_json(report))
        else:
            show(report, console(), verbose=given["verbose"])


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)
