"""How a command behaves: help by task, errors on one line, exit codes.

Knows nothing about pruning; `onnx_prune.cli` has the options.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from onnx_prune.errors import PruneError
from onnx_prune.settings import unknown
from onnx_prune.signals import terminable
from onnx_prune.words import guess, plain

PROGRAM = "onnx-prune"
HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}
TERM = 22  # columns of the widest option in the help
_CALLED = "onnx_prune.called"
_CLOSED, _USAGE, _BUG, _SIGINT = 1, 2, 3, 130


def called(ctx: click.Context) -> str:
    """The command line, to be typed again."""
    return str(ctx.meta[_CALLED])


class Unprinted(OSError):
    """Stdout is full or closed."""


@contextmanager
def printing() -> Iterator[None]:
    """Print inside of this, so that a full disk or a closed pipe is not taken for a bug."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        raise Unprinted(*error.args) from None


class Option(click.Option):
    """An option that belongs to a section of the help."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        self.section = section
        super().__init__(*args, **kwargs)


class Choice(click.ParamType):  # type: ignore[type-arg] # from click 8.4 on it takes one
    """One of some words; another gets a suggestion.

    Args:
        known: the words.
        more: gives further ones, and is asked where a word is none of the known.
    """

    name = "choice"

    def __init__(self, *known: str, more: Callable[[], tuple[str, ...]] = tuple) -> None:
        self.known = known
        self.more = more

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The value, if it is known."""
        if value not in self.known and value not in (more := self.more()):
            self.fail(unknown("value", str(value), self.known + more), param, ctx)
        return str(value)


class Number(click.ParamType):  # type: ignore[type-arg] # from click 8.4 on it takes one
    """A number, whole or not."""

    name = "number"

    def __init__(self, kind: type[int] | type[float], *, word: str = "") -> None:
        self.kind = kind
        self.word = word

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or the one word that may stand in its place."""
        if self.word and value == self.word:
            return value
        try:
            return self.kind(value)
        except ValueError:
            what = "a whole number" if self.kind is int else "a number"
            self.fail(
                f"{plain(value)!r} is not {what}{f' or {self.word!r}' if self.word else ''}", param, ctx
            )


class Command(click.Command):
    """A command whose every failure is one line on stderr and an exit code."""

    def __init__(self, *args: Any, usage: str, about: str, closing: str, **kwargs: Any) -> None:
        self.usage, self.about, self.closing = usage, about, closing
        super().__init__(*args, **kwargs)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Run, and leave the process with an exit code."""
        try:
            with terminable():  # click ends a line on stderr where Ctrl-C reaches it
                super().main(args, PROGRAM, complete_var, False, **extra)
                sys.stdout.flush()
        except click.exceptions.Exit as leave:
            sys.exit(leave.exit_code)
        except click.ClickException as error:
            text = _sentence(error)
            called = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else PROGRAM
            _fail(f"error: {text}{' T' if text.endswith('?') else '; t'}ry '{called} --help'", _USAGE)
        except PruneError as error:  # of a file that options are read from
            _fail(f"error: {error}", error.exit_code)
        except (click.Abort, KeyboardInterrupt):  # the second where signals are not minded yet, or no more
            sys.exit(_SIGINT)
        except OSError as error:
            _cannot_print(error)
        sys.exit(0)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """The command's context, which remembers how it was called."""
        called = shlex.join([*(info_name or PROGRAM).split(), *args])
        ctx = super().make_context(info_name, args, parent, **extra)
        ctx.meta[_CALLED] = called
        return ctx

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command's body."""
        try:
            with terminable():  # or what a signal became in a library would be told first
                return super().invoke(ctx)
        except PruneError as error:
            if error.exit_code != _BUG:
                _fail(f"error: {error}", error.exit_code)
            _bug(error, ctx)
        except (click.ClickException, click.exceptions.Exit, Unprinted):
            raise
        except MemoryError:
            less = any(param.name == "no_validate" for param in self.params)
            way = ", or --no-validate, which needs less" if less else ""
            _fail(f"error: out of memory; a machine with more is needed{way}", _USAGE)
        except Exception as error:
            _bug(error, ctx)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The whole help: what it does, options by task, examples and exit codes."""
        formatter.write(f"Usage: {ctx.command_path} {self.usage}\n")
        self.format_about(formatter)
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                term = record[0].ljust(TERM)
                sections.setdefault(getattr(param, "section", "Help"), []).append((term, record[1]))
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records, col_max=TERM + 2)
        formatter.write(f"\n{self.closing.strip()}\n")

    def format_about(self, formatter: click.HelpFormatter) -> None:
        """What the command does."""
        formatter.write(f"\n{self.about.strip()}\n")

    @property
    def summary(self) -> str:
        """The command in a line: the first of its docstring."""
        return (self.help or "").splitlines()[0].rstrip(".")


def command(**settings: Any) -> Callable[[Callable[..., None]], Command]:
    """Make a function a command: click's decorator, with our help and our exit codes.

    Args:
        settings: usage (what follows the command's name), about and closing (the help's first and last
            words), and params (its options, and what stands between them).
    """
    return click.command(cls=Command, context_settings=HELP_OPTIONS, **settings)


def _sentence(error: click.ClickException) -> str:
    """What is wrong with the command line, in our words."""
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        known = [name for param in error.ctx.command.get_params(error.ctx) for name in param.opts]
        return f"no option {plain(error.option_name)}{guess(error.option_name, known)}"
    if isinstance(error, click.BadParameter) and error.param is not None:
        return f"{error.param.opts[0]}: {error.message}"
    text = error.format_message().rstrip(".")
    return plain(text[:1].lower() + text[1:])


def _bug(error: Exception, ctx: click.Context) -> NoReturn:
    if ctx.params.get("verbose"):
        traceback.print_exc()
    said = f"{type(error).__name__}: {error}".removesuffix(": ")
    ask = "please report it with the model or its structure at the project's issue tracker"
    _fail(f"internal error: {said}; {ask}", _BUG)


def _fail(text: str, code: int) -> NoReturn:
    click.echo(f"{PROGRAM}: {plain(text)}", err=True)
    sys.exit(code)


def _cannot_print(error: OSError) -> NoReturn:
    """Stdout is full or closed; whatever was to be written to files has been."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - Python flushes stdout once more at exit
    if error.errno == errno.EPIPE:  # as click and rich do
        sys.exit(_CLOSED)
    _fail(f"error: cannot print the report: {error.strerror}", _USAGE)


class Numbers(click.ParamType):  # type: ignore[type-arg] # from click 8.4 on it takes one
    """Numbers with commas between them."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """The numbers; a tuple is left as it is."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{plain(value)!r} is not a number, or several as in 0.5,0.4,0.4", param, ctx)


class Bytes(click.ParamType):  # type: ignore[type-arg] # from click 8.4 on it takes one
    """A size with its unit."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The bytes."""
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?\s*", str(value))
        if found is None:
            self.fail(f"{plain(value)!r} is not a size, as in 4GB", param, ctx)
        return int(float(found[1]) * (1024 if found[3] else 1000) ** " kMGT".index(found[2] or " "))
