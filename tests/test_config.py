"""Options in a file: read, written, and refused."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from onnx_prune.cli import main
from onnx_prune.terminal import config

MODEL = str(Path(__file__).parent.parent / "models" / "fmnist_resnet20.onnx")


def run(*args: str) -> dict[str, object]:
    done = CliRunner().invoke(main, [MODEL, "--json", *args])
    assert done.exit_code == 0, done.stderr
    return dict(json.loads(done.stdout))


def failing(folder: Path, text: str) -> str:
    path = folder / "prune.toml"
    path.write_text(text)
    done = CliRunner().invoke(main, [MODEL, "--dry-run", "--config", str(path)])
    assert done.exit_code == 2
    return done.stderr.replace(str(path), "prune.toml").strip()


def test_a_configuration_says_what_the_command_line_would(tmp_path: Path) -> None:
    path = tmp_path / "prune.toml"
    path.write_text(
        "ratio = 0.25\nround-to = 1\nglobal = true\nignore = ['0.weight']\nlayer-ratio = ['9.*=0.5']\n"
    )
    same = ("--ratio", "0.25", "--round-to", "1", "--global", "--ignore", "0.weight")
    by_hand = run("--dry-run", *same, "--layer-ratio", "9.*=0.5")
    from_file = run("--dry-run", "--config", str(path))
    assert from_file["groups"] == by_hand["groups"]
    assert from_file["groups"] != run("--dry-run")["groups"]


def test_the_command_line_wins(tmp_path: Path) -> None:
    path = tmp_path / "prune.toml"
    path.write_text("ratio = 0.25\n")
    assert run("--dry-run", "--config", str(path), "--ratio", "0.5")["groups"] == run("--dry-run")["groups"]


def test_what_is_saved_repeats_the_run_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    np.savez(tmp_path / "feeds.npz", image=np.ones((4, 1, 28, 28), np.float32))
    monkeypatch.chdir(tmp_path)
    saved = ("--save-config", "elsewhere/prune.toml", "--drift-data", "feeds.npz")
    options = ("--ratio", "0.3", "--layer-ratio", "9.*=0.6", "--ignore", "0.weight", "--round-to", "8")
    run("one.onnx", *saved, *options)
    assert "../feeds.npz" in Path("elsewhere/prune.toml").read_text()
    monkeypatch.chdir("elsewhere")
    run("../two.onnx", "--config", "prune.toml")
    assert Path("../two.onnx").read_bytes() == Path("../one.onnx").read_bytes()


def test_a_word_for_ratios_is_saved_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "prune.toml"
    run(str(tmp_path / "out.onnx"), "--layer-ratio", "auto", "--no-validate", "--save-config", str(path))
    assert 'layer-ratio = ["auto"]' in path.read_text().splitlines()


def test_it_saves_what_was_read(tmp_path: Path) -> None:
    path, again = tmp_path / "prune.toml", tmp_path / "again.toml"
    path.write_text(
        "data = 'synthetic'\ninput-range = [0, inf]\ninput-mean = 0.5\nmemory = '1GB'\nrecover = 'none'\n"
        "criterion = 'l1'\nthreads = 1\nmixed = false\n"
    )
    run(str(tmp_path / "out.onnx"), "--config", str(path), "--save-config", str(again))
    kept = "\n".join(sorted(again.read_text().splitlines()))
    for line in ('data = "synthetic"', "input-range = [0.0, inf]", "input-mean = [0.5]", "threads = 1"):
        assert line in kept
    run(str(tmp_path / "two.onnx"), "--config", str(again))
    assert (tmp_path / "two.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()


def test_every_option_that_names_a_file_is_known_as_one() -> None:
    options = config.keys(main)
    named = {name for name, option in options.items() if config.is_file(option)}
    talked_of = {name for name, option in options.items() if "file" in (option.metavar or "").lower()}
    assert talked_of <= named
    assert {"data", "scores", "apply-plan", "save-plan", "eval", "drift-data", "save-mask"} <= named


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ration = 0.3", "no option 'ration'; did you mean ratio?"),
        ("ratio = 'half'", "ratio: 'half' is not a number"),
        ("ratio = [0.3]", "ratio has to be one value"),
        ("mixed = 1", "mixed has to be true or false"),
        ("ignore = '*head*'", "ignore has to be a list"),
        ("ratio = {a = 1}", "ratio has to be one value"),
        ("ratio = ", "is not TOML: "),
        ("criterion = 'fpmg'", "did you mean fpgm?"),
        ("config = 'other.toml'", "no option 'config'"),
        ("ratio = 0.3\ntarget = 'macs=0.5'", "--target says how much is left, so --ratio has no use"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path: Path, text: str, said: str) -> None:
    line = failing(tmp_path, text)
    assert said in line
    assert "\n" not in line


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [MODEL, "--dry-run", "--config", str(tmp_path / "none.toml")])
    assert done.exit_code == 2
    assert "cannot read the configuration" in done.stderr


def test_the_model_is_not_overwritten_by_its_configuration(tmp_path: Path) -> None:
    out = str(tmp_path / "out.onnx")
    done = CliRunner().invoke(main, [MODEL, out, "--save-config", out])
    assert done.exit_code == 2
    assert "is the model itself" in done.stderr


def test_all_options_but_a_few_may_stand_in_it() -> None:
    options = [param for param in main.params if isinstance(param, click.Option)]
    assert {config.key(option) for option in options} - set(config.keys(main)) == {
        "version",
        "config",
        "save-config",
    }
