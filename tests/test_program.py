"""Verbs stand beside pruning: the first word alone says which is meant."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from onnx_prune import verbs
from onnx_prune.cli import main
from onnx_prune.errors import NothingToPrune
from onnx_prune.settings import Settings
from onnx_prune.terminal.command import Option, command


@command(
    usage="NAME [options]",
    about="Say hello to one.",
    closing="Examples:\n  onnx-prune greet world",
    params=[
        click.Argument(["name"], required=False),
        Option(["--loud"], section="Output", is_flag=True, help="Shout."),
        Option(["-v", "--verbose"], section="Output", is_flag=True, help="Say more."),
    ],
)
def greet(name: str | None, loud: bool, verbose: bool) -> None:
    """Say hello."""
    if name is None:
        raise click.UsageError("name someone")
    if name == "nobody":
        raise NothingToPrune("nobody is there")
    if name == "everybody":
        raise MemoryError
    click.echo(("HELLO " if loud else "hello ") + name)


@pytest.fixture(autouse=True)
def pruned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str | None]]:
    """What is pruned, in a folder with a model in it and with one more verb."""
    calls: list[tuple[str, str | None]] = []

    def prune(source: str, output: str | None, settings: Settings, **rest: Any) -> None:
        calls.append((source, output))
        raise NothingToPrune("not today")

    monkeypatch.setattr(verbs, "NAMES", (*verbs.NAMES, "greet"))
    monkeypatch.setitem(sys.modules, "onnx_prune.verbs.greet", SimpleNamespace(greet=greet))
    monkeypatch.setitem(sys.modules, "onnx_prune.pipeline", SimpleNamespace(prune=prune))
    monkeypatch.chdir(tmp_path)
    Path("in.onnx").write_bytes(b"x")
    return calls


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def test_a_verb_has_its_own_options_and_prunes_nothing(pruned: list[Any]) -> None:
    result = run("greet", "in.onnx", "--loud")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "HELLO in.onnx\n", "")
    assert not pruned


@pytest.mark.parametrize(
    "args", [("./greet", "out.onnx"), ("--ratio", "0.5", "greet", "out.onnx"), ("--", "greet", "out.onnx")]
)
def test_a_file_called_like_a_verb_can_still_be_pruned(args: tuple[str, ...], pruned: list[Any]) -> None:
    Path("greet").write_bytes(b"x")
    assert run(*args).stderr == "onnx-prune: error: not today\n"
    assert [(Path(source), output) for source, output in pruned] == [(Path("greet"), "out.onnx")]


def test_the_first_word_is_the_verb_whatever_files_there_are_and_says_so(pruned: list[Any]) -> None:
    Path("greet").write_bytes(b"x")
    result = run("greet", "in.onnx")
    assert (result.exit_code, result.stdout) == (0, "hello in.onnx\n")
    note = "onnx-prune: note: 'greet' is the verb here; for the file of that name write ./greet\n"
    assert result.stderr == note
    assert not pruned


def test_an_option_may_have_the_value_of_a_verb(pruned: list[Any]) -> None:
    assert run("--ignore", "greet", "in.onnx", "out.onnx").stderr == "onnx-prune: error: not today\n"
    assert pruned == [("in.onnx", "out.onnx")]


def test_an_output_called_like_a_verb_is_a_file(pruned: list[Any]) -> None:
    run("in.onnx", "greet")
    assert pruned == [("in.onnx", "greet")]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ("greet", 2, "name someone; try 'onnx-prune greet --help'"),
        ("greet you --lod", 2, "no option --lod; did you mean --loud? Try 'onnx-prune greet --help'"),
        ("greet nobody", 4, "nobody is there"),
        ("greet everybody", 2, "out of memory; a machine with more is needed"),
        (
            "gret in.onnx",
            2,
            "'gret': no such file, and no verb; did you mean greet? Try 'onnx-prune --help'",
        ),
        ("gret", 2, "'gret': no such file, and no verb; did you mean greet? Try 'onnx-prune --help'"),
        ("inn o.onnx", 2, "'inn': no such file; did you mean in.onnx?"),
        ("-v greet you", 2, "greet is a verb, and comes first: onnx-prune greet; try 'onnx-prune --help'"),
        ("greet.onnx o.onnx", 2, "'greet.onnx': no such file; did you mean in.onnx?"),
        ("./gret o.onnx", 2, "'gret': no such file; check the path"),
    ],
)
def test_messages(args: str, code: int, message: str, pruned: list[Any]) -> None:
    result = run(*args.split())
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == f"onnx-prune: error: {message}\n"
    assert not pruned


def test_the_help_lists_the_verbs_and_how_to_name_a_file_like_one() -> None:
    lines = run("--help").stdout.splitlines()
    start = lines.index("Verbs:")
    listed = {line.split()[0] for line in lines[start + 1 : lines.index("", start)]}
    assert {*verbs.NAMES} <= listed
    assert f"  {'greet':22}  Say hello" in lines
    assert "  'onnx-prune VERB --help' says more. A file called like a verb is ./VERB." in lines


@pytest.mark.parametrize("name", verbs.NAMES)
def test_every_verb_has_a_line_examples_and_a_narrow_help(name: str) -> None:
    assert 0 < len(verbs.verb(name).summary) <= 54
    text = run(name, "--help").stdout
    assert text.startswith(f"Usage: onnx-prune {name} ")
    assert f"Examples:\n  onnx-prune {name} " in text
    assert max(map(len, text.splitlines())) <= 80


def complete(words: str) -> list[str]:
    """What a shell offers after these words."""
    env = os.environ | {
        "_ONNX_PRUNE_COMPLETE": "bash_complete",
        "COMP_WORDS": f"onnx-prune {words}",
        "COMP_CWORD": str(len(words.split(" "))),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    command = [sys.executable, "-m", "onnx_prune"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_a_shell_completes_verbs_and_their_options() -> None:
    assert complete("expl") == ["plain,explain", "file,expl"]
    assert complete("explain --j") == ["plain,--json"]
    assert complete("in.onnx --ra") == ["plain,--ratio"]
