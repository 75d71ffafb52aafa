"""A Sphinx directive that writes the reference of the command line from the click commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

import click
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from onnx_prune import verbs
from onnx_prune.cli import main
from onnx_prune.terminal.command import HELP_OPTIONS, PROGRAM, Command


def commands() -> Iterator[tuple[str, Command]]:
    """Every command by what is typed: pruning itself, then the verbs."""
    yield PROGRAM, main
    yield from ((f"{PROGRAM} {name}", verbs.verb(name)) for name in verbs.NAMES)


def sections(command: Command, called: str) -> dict[str, list[tuple[str, str]]]:
    """The options of a command with their help, by task, as `--help` has them."""
    found: dict[str, list[tuple[str, str]]] = {}
    ctx = click.Context(command, info_name=called, **HELP_OPTIONS)
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
        if record is not None:
            found.setdefault(getattr(param, "section", "Help"), []).append(record)
    return found


def written(called: str, command: Command) -> Iterator[str]:
    """The reference of one command, in reStructuredText."""
    yield from (f".. program:: {called}", "", ".. code-block:: text", "", f"   {called} {command.usage}", "")
    yield from (_verbatim(command.about.strip()).replace("\n", " "), "")
    for title, options in sections(command, called).items():
        yield from (f".. rubric:: {title}", "")
        for names, text in options:
            yield from (f".. option:: {names}", "", f"   {_verbatim(text)}", "")
    yield from (".. code-block:: text", "", *(f"   {line}" for line in command.closing.strip().splitlines()))
    yield ""


def _verbatim(text: str) -> str:
    """The text without what reStructuredText would take for markup."""
    return re.sub(r"([*`|_\\])", r"\\\1", text)


class Commands(SphinxDirective):
    """`commands`: a section for every command."""

    has_content = False
    option_spec: ClassVar = {}

    def run(self) -> list[nodes.Node]:
        """The sections."""
        found: list[nodes.Node] = []
        for called, command in commands():
            section = nodes.section(ids=[nodes.make_id(called)])
            section += nodes.title(text=called)
            lines = StringList(list(written(called, command)), source="onnx_prune/verbs")
            self.state.nested_parse(lines, self.content_offset, section)
            found.append(section)
        return found


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
