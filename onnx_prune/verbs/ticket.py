"""`onnx-prune ticket`: the mask of a trained model on the weights that it was trained from."""

from __future__ import annotations

from pathlib import Path

import click

from onnx_prune.sparse.options import ranking
from onnx_prune.sparse.sparsity import STORED_CRITERIA, Sparsity
from onnx_prune.terminal import shared
from onnx_prune.terminal.command import Number, Option, command, printing
from onnx_prune.terminal.paths import require_file, require_place
from onnx_prune.words import share

ABOUT = """
Make a lottery ticket: rank the weights of a trained model, and keep the best in
the model that it was trained from, where all others become zero.
"""
CLOSING = """
Examples:
  onnx-prune ticket --trained t.onnx --initial i.onnx out.onnx --ratio 0.8
  onnx-prune ticket --trained t.onnx --initial i.onnx out.onnx --mask m.npz
      by a mask that was saved before
  onnx-prune ticket --trained t.onnx --initial i.onnx out.onnx --random-mask 1
      a control: as many weights of every layer, others
  onnx-prune ticket --trained t.onnx --initial i.onnx out.onnx --reinit 1
      a control: the same mask on shuffled initial weights
"""
_MODELS, _WHAT, _OUTPUT = "The models", "What to remove", "Output"
PARAMS: list[click.Parameter] = [
    click.Argument(["output"], metavar="OUT.onnx", required=False),
    Option(["--trained"], section=_MODELS, metavar="FILE.onnx", help="The network after training."),
    Option(
        ["--initial"], section=_MODELS, metavar="FILE.onnx", help="The same network before it, or early on."
    ),
    *ranking(_WHAT, STORED_CRITERIA),
    Option(["--mask"], section=_WHAT, metavar="FILE.npz", help="Take this mask instead of ranking."),
    Option(
        ["--random-mask"],
        section=_WHAT,
        type=Number(int),
        metavar="SEED",
        help="A control: keep as many weights of every tensor, at random.",
    ),
    Option(
        ["--reinit"],
        section=_WHAT,
        type=Number(int),
        metavar="SEED",
        help="A control: shuffle the initial values of every tensor first.",
    ),
    Option(["--save-mask"], section=_OUTPUT, metavar="FILE.npz", help="Write which weights stay."),
    shared.quiet(_OUTPUT),
]


@command(
    usage="--trained T.onnx --initial I.onnx OUT.onnx [options]", about=ABOUT, closing=CLOSING, params=PARAMS
)
def ticket(
    output: str | None,
    trained: str | None,
    initial: str | None,
    ratio: float | None,
    criterion: str,
    across: bool,
    ignore: tuple[str, ...],
    mask: str | None,
    parent_mask: str | None,
    random_mask: int | None,
    reinit: int | None,
    save_mask: str | None,
    quiet: bool,
) -> None:
    """Put the mask of a trained model on its initial weights."""
    from onnx_prune.terminal.working import working

    if trained is None or initial is None or output is None:
        raise click.UsageError("name the models with --trained and --initial, and the file to write")
    for seed, option in ((random_mask, "--random-mask"), (reinit, "--reinit")):
        if seed is not None and seed < 0:
            raise click.UsageError(f"{option} {seed} is negative: give a seed of 0 or more")
    if mask is not None and ratio is not None:
        raise click.UsageError("--mask says what goes, so --ratio has no use; leave one of them out")
    for name in filter(None, (trained, initial, mask, parent_mask)):
        require_file(Path(name))
    for name in filter(None, (output, save_mask)):
        require_place(Path(name))
    asked = Sparsity(
        ratio=ratio,
        criterion=criterion,
        across=across,
        ignore=tuple(ignore),
        apply_mask=None if mask is None else Path(mask),
        parent_mask=None if parent_mask is None else Path(parent_mask),
    )
    with working(shown=not quiet):
        from onnx_prune.sparse.ticket import ticket as make

        found = make(
            trained, initial, output, asked, random_mask=random_mask, reinit=reinit, save_mask=save_mask
        )
    with printing():
        if not quiet:
            kept = share(found.kept, found.size)
            click.echo(f"{output}: {found.kept:,} of {found.size:,} weights stay ({kept}), at initial values")
            for note in found.notes:
                click.echo(note)
