"""Options from a file, and to a file: `--config prune.toml` and `--save-config`.

The keys are the options' own names without the dashes, so whoever knows the command line knows the file.
What the command line says itself wins.  Files that a configuration names are looked for from its folder.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from onnx_prune.errors import InputError
from onnx_prune.terminal.command import Numbers, Option
from onnx_prune.words import guess, plain

SECTION = "Configuration"
WORDS = ("synthetic",)  # where a file may be named, and are none
_LEFT_OUT = ("help", "version", "config", "save-config")


def key(param: click.Parameter) -> str:
    """The key of an option: its long name."""
    return max(param.opts, key=len).lstrip("-")


def keys(command: click.Command) -> dict[str, click.Option]:
    """The options that may stand in a configuration, by key."""
    options = [param for param in command.params if isinstance(param, click.Option)]
    return {key(option): option for option in options if key(option) not in _LEFT_OUT}


def params() -> list[click.Parameter]:
    """The two options."""
    return [
        Option(
            ["--config"],
            section=SECTION,
            metavar="FILE",
            is_eager=True,  # the others take their values from it
            callback=_read,
            help="Read options from a file: ratio = 0.3, ignore = ['*head*'] and so on, with the names "
            "that they have here. What the command line says wins.",
        ),
        Option(
            ["--save-config"],
            section=SECTION,
            metavar="FILE",
            help="Write the options of this run to such a file.",
        ),
    ]


def text(ctx: click.Context, path: Path) -> str:
    """The options that were given, as a configuration.

    Args:
        ctx: of the command, its options parsed.
        path: where it will stand; files are named from there.
    """
    lines = ["# onnx-prune IN.onnx OUT.onnx --config FILE.toml"]
    for name, option in keys(ctx.command).items():
        given = ctx.get_parameter_source(option.name or "")
        if given in (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP):
            lines.append(f"{name} = {_written(option, ctx.params[option.name or ''], path)}")
    return "\n".join(lines) + "\n"


def _written(option: click.Option, value: Any, path: Path) -> str:
    if is_file(option) and value not in WORDS:
        value = Path(os.path.relpath(value, path.parent)).as_posix()
    elif option.multiple:
        parts = [value] if isinstance(value, str) else value
        value = [part if isinstance(part, str) else f"{part[0]}={part[1]!r}" for part in parts]
    elif not isinstance(value, (bool, int, float, str, list, tuple)):
        value = str(value)
    # What JSON writes is TOML, too, but for infinity.
    return json.dumps(list(value) if isinstance(value, tuple) else value).replace("Infinity", "inf")


def is_file(option: click.Option) -> bool:
    """Whether the option names a file."""
    return (option.metavar or "").startswith(("FILE", "WHERE"))


def _read(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        path = Path(value)
        ctx.default_map = dict(_values(ctx, path, _load(path)))
    return value


def _load(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise InputError(f"cannot read the configuration {str(path)!r}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"the configuration {str(path)!r} is not TOML: {error}") from None


def _values(ctx: click.Context, path: Path, found: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The values by parameter, each one that its option takes."""
    known = keys(ctx.command)
    for name, value in found.items():
        option = known.get(name)
        if option is None:
            hint = guess(name, known) or "; see 'onnx-prune --help'"
            raise InputError(f"the configuration {str(path)!r}: no option {plain(name)!r}{hint}")
        wanted, kinds = _kinds(option)
        if not isinstance(value, kinds):
            raise InputError(f"the configuration {str(path)!r}: {name} has to be {wanted}")
        if value is False:
            continue  # as if it were not there
        if is_file(option) and value not in WORDS:
            value = str(path.parent / str(value))
        elif isinstance(option.type, Numbers) and isinstance(value, list):
            value = ",".join(map(str, value))
        try:
            option.process_value(ctx, value)
        except click.BadParameter as error:
            raise InputError(f"the configuration {str(path)!r}: {name}: {error.message}") from None
        yield option.name or "", value


def _kinds(option: click.Option) -> tuple[str, tuple[type, ...]]:
    """What an option takes, in words and as Python's types."""
    if option.is_flag:
        return "true or false", (bool,)
    if option.multiple:
        return "a list", (list,)
    if isinstance(option.type, Numbers):
        return "a number or a list of them", (int, float, list)
    return "one value", (str, int, float)
