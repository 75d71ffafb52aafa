"""Which command the first word of the command line means: a verb, or pruning, which needs none.

Only a first word that is a verb, letter for letter, is taken for one, whatever files there are: a
script does the same in every folder.  A file of such a name is written `./explain`; after an option its
plain name will do.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from onnx_prune import verbs
from onnx_prune.terminal.command import PROGRAM, TERM, Command
from onnx_prune.terminal.paths import beside
from onnx_prune.words import closest, plain

_GARBAGE = 50_000  # objects made before Python looks for cycles: imports make many, and no cycles


class Program(Command):
    """The command that prunes, with the verbs beside it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run as a process of its own, which need not tidy up object by object before it ends."""
        gc.set_threshold(_GARBAGE, *gc.get_threshold()[1:])
        try:
            return super().__call__(*args, **kwargs)
        finally:
            gc.freeze()

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """The context of the command that is meant, its options parsed."""
        if args and args[0] in verbs.NAMES:
            name, *rest = args
            if Path(name).is_file() and not extra.get("resilient_parsing"):
                text = f"note: {name!r} is the verb here; for the file of that name write ./{name}"
                click.echo(f"{PROGRAM}: {text}", err=True)
            return verbs.verb(name).make_context(f"{info_name} {name}", rest, parent, **extra)
        if extra.get("resilient_parsing"):
            return super().make_context(info_name, args, parent, **extra)
        _require_no_slip(args[0] if args else "")
        ctx = super().make_context(info_name, args, parent, **extra)
        source = ctx.params.get("source")
        if source in verbs.NAMES and not Path(source).exists():
            raise click.UsageError(f"{source} is a verb, and comes first: {PROGRAM} {source}")
        return ctx

    def invoke(self, ctx: click.Context) -> Any:
        """Run the body of the command that is meant."""
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)

    def format_about(self, formatter: click.HelpFormatter) -> None:
        """What the program does, and its verbs."""
        super().format_about(formatter)
        with formatter.section("Verbs"):
            lines = [(name.ljust(TERM), verbs.verb(name).summary) for name in verbs.NAMES]
            formatter.write_dl(lines, col_max=TERM + 2)
        formatter.write(f"  '{PROGRAM} VERB --help' says more. A file called like a verb is ./VERB.\n")


class Source(click.Argument):
    """The model to prune: where it stands, a verb could."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The verbs and the files that may be meant."""
        fitting = [CompletionItem(name) for name in verbs.NAMES if name.startswith(incomplete)]
        return [*fitting, CompletionItem(incomplete, type="file")]


def _require_no_slip(word: str) -> None:
    """Raise UsageError where a first word that is no file looks like a verb misspelt."""
    path = Path(word)
    if path.name != word or path.suffix or path.exists() or word.startswith("-"):
        return
    close = closest(word, [*verbs.NAMES, *beside(path)])
    if close in verbs.NAMES:
        raise click.UsageError(f"{plain(word)!r}: no such file, and no verb; did you mean {close}?")
