"""Schedules, tickets, and channels removed in rounds."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from onnx_prune.cli import main
from onnx_prune.errors import InputError
from onnx_prune.rounds import masks_of_rounds, prune_in_rounds
from onnx_prune.runtime import Session
from onnx_prune.settings import Budget, Settings
from onnx_prune.sparse import maskfile
from onnx_prune.sparse.schedule import KINDS, of_what_remains, sparsities
from onnx_prune.sparse.sparsify import sparsify
from onnx_prune.sparse.sparsity import Sparsity
from onnx_prune.sparse.ticket import ticket
from tests.graphs import initializers
from tests.models import small_cnn

HINT = "; try 'onnx-prune {} --help'"


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


# Half of what is left in each of three rounds; the cube of what is left of the time; thirds.
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("exponential", [0.5, 0.75, 0.875]),
        ("cubic", [0.875 * (1 - 8 / 27), 0.875 * (1 - 1 / 27), 0.875]),
        ("linear", [0.875 / 3, 0.875 * 2 / 3, 0.875]),
    ],
)
def test_schedules_by_hand(kind: str, expected: list[float]) -> None:
    np.testing.assert_allclose(sparsities(kind, 0.875, 3), expected)
    assert sparsities(kind, 0.3, 1) == [0.3]


def test_a_fifth_of_what_remains() -> None:
    np.testing.assert_allclose(of_what_remains(0.2, 2), 0.36)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sparsities("steep", 0.5, 2), f"unknown schedule 'steep'. Known: {', '.join(KINDS)}"),
        (lambda: sparsities("cubic", 0.5, 0), "rounds 0 is below 1: one round is one-shot pruning"),
        (
            lambda: sparsities("cubic", 1, 2),
            "ratio 1 is not in [0, 1): it is the fraction removed, 0.5 for half",
        ),
        (
            lambda: of_what_remains(-1, 2),
            "share -1 is not in [0, 1): it is the fraction removed, 0.5 for half",
        ),
    ],
)
def test_schedules_that_make_no_sense(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value) == message


@pytest.mark.parametrize("criterion", ["magnitude", "random", "erk", "lamp"])
def test_masks_of_rounds_lie_within_each_other(criterion: str, tmp_path: Path) -> None:
    asked = Sparsity(ratio=0.9, criterion=criterion, validate=False)
    onnx.save(small_cnn(), tmp_path / "in.onnx")
    found = masks_of_rounds(tmp_path / "in.onnx", tmp_path, asked, "cubic", 3, models=True)
    masks = [maskfile.read(row.mask) for row in found]
    for before, after in pairwise(masks):
        assert all(after.bits[name].within(bits) for name, bits in before.bits.items())
        assert after.manifest.parent_sha256 == before.sha256
    assert [mask.manifest.round for mask in masks] == [1, 2, 3]
    assert {mask.manifest.schedule for mask in masks} == {"cubic, 3 rounds"}
    once = sparsify(small_cnn(), asked=asked).mask  # nothing was trained in between
    assert {n: b.packed.tolist() for n, b in masks[-1].bits.items()} == {
        n: b.packed.tolist() for n, b in once.bits.items()
    }
    last = initializers(onnx.load(tmp_path / "round-3.onnx"))
    assert sum(int((last[name] == 0).sum()) for name in masks[0].bits) == found[-1].report.zeros


def test_one_round_is_one_shot(tmp_path: Path) -> None:
    [only] = masks_of_rounds(_saved(tmp_path), tmp_path, Sparsity(ratio=0.8), "cubic", 1)
    once = sparsify(small_cnn(), asked=Sparsity(ratio=0.8))
    mask = maskfile.read(only.mask)
    assert {n: b.packed.tolist() for n, b in mask.bits.items()} == {
        n: b.packed.tolist() for n, b in once.mask.bits.items()
    }
    assert mask.manifest.schedule == "one-shot"


def _saved(folder: Path, seed: int = 0) -> Path:
    path = folder / f"model-{seed}.onnx"
    onnx.save(small_cnn(seed=seed), path)
    return path


def test_rounds_go_on_from_an_earlier_one(tmp_path: Path) -> None:
    masks_of_rounds(_saved(tmp_path), tmp_path, Sparsity(ratio=0.5), "linear", 2)
    more = Sparsity(ratio=0.8, parent_mask=tmp_path / "round-2.npz")
    [third] = masks_of_rounds(_saved(tmp_path, 1), tmp_path, more, "linear", 1)
    assert (third.number, third.mask.name) == (3, "round-3.npz")


def test_channels_in_rounds() -> None:
    settings = Settings(budget=Budget(ratio=0.75, round_to=1))
    result = prune_in_rounds(small_cnn((16, 32)), None, settings, 2)
    assert result.model is not None
    shapes = {name: array.shape for name, array in initializers(result.model).items()}
    assert (shapes["conv1.weight"][0], shapes["conv2.weight"][:2]) == (4, (8, 4))
    assert result.report.before.params == small_params()
    assert result.report.proof is not None
    assert result.report.notes[-1] == "2 rounds; each is proved against the one before it"


def small_params() -> int:
    return sum(array.size for array in initializers(small_cnn((16, 32))).values())


# Tickets.


def test_a_ticket_is_the_trained_mask_on_the_initial_weights() -> None:
    initial, trained = small_cnn(seed=0), small_cnn(seed=1)
    made = ticket(trained, initial, asked=Sparsity(ratio=0.8))
    before, best, after = initializers(initial), initializers(trained), initializers(made.model)
    assert (made.kept, made.size) == (306 + 1, 1528)  # floors of 0.8 of 216, 1152 and 160 go
    for name, bits in made.mask.bits.items():
        keep = bits.keep()
        assert np.array_equal(after[name], np.where(keep, before[name], 0))
        assert np.abs(best[name][~keep]).max() <= np.abs(best[name][keep]).min()
    for name in ("conv1.bias", "fc.bias"):
        assert np.array_equal(after[name], before[name])
    Session(made.model)


def test_controls_keep_the_counts() -> None:
    initial, trained, asked = small_cnn(seed=0), small_cnn(seed=1), Sparsity(ratio=0.8)
    won = ticket(trained, initial, asked=asked)
    other = ticket(trained, initial, asked=asked, random_mask=3)
    again = ticket(trained, initial, asked=asked, reinit=3)
    before = initializers(initial)
    for name, bits in won.mask.bits.items():
        assert other.mask.bits[name].kept == bits.kept
        assert not np.array_equal(other.mask.bits[name].packed, bits.packed)
        values = initializers(again.model)[name]
        assert np.array_equal(values != 0, bits.keep())
        assert np.isin(values[values != 0], before[name]).all()
        assert not np.array_equal(values[bits.keep()], before[name][bits.keep()])
    assert other.mask.manifest.criterion == "random, seed 3"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda graph: setattr(graph.node[1], "op_type", "Sigmoid"),
            "node 1, Relu 'relu1' and Sigmoid 'relu1'",
        ),
        (lambda graph: graph.node.pop(), "7 nodes and 6"),
        (lambda graph: setattr(graph.input[0], "name", "x"), "inputs ['input'] and ['x']"),
        (
            lambda graph: setattr(graph.initializer[0], "name", "w"),
            "initializer 'conv1.weight', which the initial model lacks",
        ),
        (lambda graph: graph.initializer[5].dims.__setitem__(0, 1), "initializer 'fc.bias', [10] and [1]"),
        (
            lambda graph: graph.initializer.add(name="more", data_type=1),
            "initializer 'more', which the trained model lacks",
        ),
    ],
)
def test_graphs_that_differ(change: Callable[[onnx.GraphProto], object], message: str) -> None:
    initial = small_cnn()
    change(initial.graph)
    with pytest.raises(InputError) as error:
        ticket(small_cnn(seed=1), initial)
    expected = f"the trained and the initial model differ: {message}; export both in the same way"
    assert str(error.value) == expected


# The command line.


def test_the_verbs_write_files(tmp_path: Path) -> None:
    trained, initial = str(_saved(tmp_path, 1)), str(_saved(tmp_path, 0))
    done = run("schedule", trained, str(tmp_path), "--share", "0.2", "--rounds", "2")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"round 1: 305 of 1,528 weights are zero (20 %); {tmp_path}/round-1.npz",
        f"round 2: 548 of 1,528 weights are zero (35.9 %); {tmp_path}/round-2.npz",
    ]
    output = str(tmp_path / "ticket.onnx")
    made = run(
        "ticket", "--trained", trained, "--initial", initial, output, "--mask", f"{tmp_path}/round-2.npz"
    )
    assert made.stdout == f"{output}: 980 of 1,528 weights stay (64.1 %), at initial values\n"
    assert Path(output).exists()


def test_rounds_of_the_command(tmp_path: Path) -> None:
    source, output = str(_saved(tmp_path)), str(tmp_path / "small.onnx")
    done = run(source, output, "--rounds", "2", "--round-to", "1", "--no-validate")
    assert done.exit_code == 0
    assert "2 rounds; each is proved against the one before it" in " ".join(done.stdout.split())
    assert initializers(onnx.load(output))["conv1.weight"].shape[0] == 4


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("schedule", "name the model, and the folder to write to" + HINT.format("schedule")),
        (
            "schedule in.onnx . --ratio 0.5 --share 0.2",
            "--share says how much goes, so --ratio has no use; leave one of them out"
            + HINT.format("schedule"),
        ),
        ("schedule in.onnx no", "'no': no such folder; make it first"),
        ("schedule zzzzzz .", "'zzzzzz': no such file; check the path"),
        (
            "ticket out.onnx",
            "name the models with --trained and --initial, and the file to write" + HINT.format("ticket"),
        ),
        (
            "ticket --trained in.onnx --initial in.onnx out.onnx --reinit -1",
            "--reinit -1 is negative: give a seed of 0 or more" + HINT.format("ticket"),
        ),
        (
            "ticket --trained in.onnx --initial in.onnx out.onnx --mask in.onnx --ratio 0.5",
            "--mask says what goes, so --ratio has no use; leave one of them out" + HINT.format("ticket"),
        ),
        (
            "in.onnx out.onnx --rounds 2 --save-plan p.json",
            "--rounds ranks channels anew each time, so --save-plan has no use; leave one of them out"
            "; try 'onnx-prune --help'",
        ),
        ("in.onnx out.onnx --rounds 0", "rounds 0 is below 1: one round is one-shot pruning"),
    ],
)
def test_messages(args: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(small_cnn(), "in.onnx")
    result = run(*args.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"onnx-prune: error: {message}\n"
