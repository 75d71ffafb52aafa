"""`onnx-prune schedule`: the masks or models of all rounds of a schedule."""

from __future__ import annotations

from pathlib import Path

import click

from onnx_prune import words
from onnx_prune.sparse.options import ranking
from onnx_prune.sparse.schedule import KINDS, of_what_remains
from onnx_prune.sparse.sparsity import SPARSE_CRITERIA, Sparsity
from onnx_prune.terminal import shared
from onnx_prune.terminal.command import Choice, Number, Option, command, printing
from onnx_prune.terminal.paths import require_file
from onnx_prune.words import plain

ABOUT = """
Write the masks of N rounds of unstructured pruning, each within the one
before, for training in between. What was trained goes on with --parent-mask.
"""
CLOSING = """
Examples:
  onnx-prune schedule in.onnx masks/ --ratio 0.9 --rounds 5
      round-1.npz to round-5.npz, most weights in the first rounds
  onnx-prune schedule in.onnx masks/ --share 0.2 --rounds 10
      a fifth of what remains in every round
  onnx-prune schedule in.onnx masks/ --ratio 0.9 --rounds 3 --models
      the models beside them
"""
_WHAT, _OUTPUT = "What to remove", "Output"
PARAMS: list[click.Parameter] = [
    click.Argument(["source"], metavar="IN.onnx", required=False),
    click.Argument(["folder"], metavar="FOLDER", required=False),
    Option(
        ["--rounds"],
        section=_WHAT,
        type=Number(int),
        metavar="N",
        default=3,
        help="How many; 3 unless given.",
    ),
    *ranking(_WHAT, SPARSE_CRITERIA),
    Option(
        ["--share"],
        section=_WHAT,
        type=Number(float),
        metavar="P",
        help="Remove this share of what remains in every round, instead of --ratio.",
    ),
    Option(
        ["--kind"],
        section=_WHAT,
        type=Choice(*KINDS),
        metavar="NAME",
        default="cubic",
        help=f"How the rounds go: {', '.join(KINDS)}; cubic unless given.",
    ),
    Option(["--data"], section=_WHAT, metavar="FILE.npz", help="Inputs for wanda, ria and sparsegpt."),
    Option(["--models"], section=_OUTPUT, is_flag=True, help="Write round-1.onnx and so on, too."),
    shared.quiet(_OUTPUT),
]


@command(usage="IN.onnx FOLDER [options]", about=ABOUT, closing=CLOSING, params=PARAMS)
def schedule(
    source: str | None,
    folder: str | None,
    rounds: int,
    ratio: float | None,
    share: float | None,
    kind: str,
    criterion: str,
    across: bool,
    data: str | None,
    ignore: tuple[str, ...],
    parent_mask: str | None,
    models: bool,
    quiet: bool,
) -> None:
    """Write the masks or models of all rounds of a schedule."""
    from onnx_prune.terminal.working import working

    if source is None or folder is None:
        raise click.UsageError("name the model, and the folder to write to")
    if ratio is not None and share is not None:
        raise click.UsageError("--share says how much goes, so --ratio has no use; leave one of them out")
    for name in filter(None, (source, data, parent_mask)):
        require_file(Path(name))
    if share is not None:
        ratio, kind = of_what_remains(share, rounds), "exponential"
    asked = Sparsity(
        ratio=0.5 if ratio is None else ratio,
        criterion=criterion,
        across=across,
        data=None if data is None else Path(data),
        ignore=tuple(ignore),
        parent_mask=None if parent_mask is None else Path(parent_mask),
        validate=False,
    )
    with working(shown=not quiet):
        from onnx_prune.rounds import masks_of_rounds

        found = masks_of_rounds(source, folder, asked, kind, rounds, models=models)
    with printing():
        for row in () if quiet else found:
            report = row.report
            click.echo(
                f"round {row.number}: {report.zeros:,} of {report.size:,} weights are zero "
                f"({words.share(report.zeros, report.size)}); {plain(row.mask)}"
            )
        for note in () if quiet else dict.fromkeys(note for row in found for note in row.report.notes):
            click.echo(note)
