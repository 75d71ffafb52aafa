"""Targets in time: a race by a clock of its own, tables of layers, the way to a target by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, pairwise
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_prune import prune
from onnx_prune.allocate import Bill, curve, widths_allowed
from onnx_prune.axes.axis import Atom
from onnx_prune.choose import Choice
from onnx_prune.coupling import Coupling
from onnx_prune.errors import InputError, NothingToPrune, TargetMissed
from onnx_prune.latency import aim as aiming
from onnx_prune.latency import staircase as tables
from onnx_prune.latency import timekeeper
from onnx_prune.latency.aim import within
from onnx_prune.latency.race import FEWEST, MOST, PRECISION, Race
from onnx_prune.latency.single import Layer, times
from onnx_prune.model.graph import Graph
from onnx_prune.runtime import RunError
from onnx_prune.settings import Budget, Target, target
from onnx_prune.validate import Latency
from tests import zoo
from tests.graphs import analyse, build, noise
from tests.models import small_cnn

X = {"x": np.ones((1, 4), np.float32)}
HALF = target("latency=0.5")


def layer(width: int = 4) -> onnx.ModelProto:
    return build(["y = MatMul(x, w)"], {"w": noise(4, width)}, {"x": (1, 4)}, {"y": (1, width)})


class Clock:
    """A clock by which the runs of two models, five in a turn and A B B A, take what they are given."""

    def __init__(self, first: Sequence[float], second: Sequence[float]) -> None:
        self.now, self.times = 0.0, self._times(cycle(first), cycle(second))
        self.running = False

    def _times(self, first: Iterator[float], second: Iterator[float]) -> Iterator[float]:
        while True:
            for model in (first, second, second, first):
                yield from (next(model) for _ in range(5))

    def __call__(self) -> float:
        """The next reading: one before each run, one after it."""
        if self.running:
            self.now += next(self.times)
        self.running = not self.running
        return self.now


def test_a_race_by_hand() -> None:
    latency = Race(layer(), X, threads=1, clock=Clock([4, 2, 3, 3, 3], [1, 2, 3, 2, 2])).against(layer(2))
    assert (latency.before_ms, latency.after_ms) == (3000, 2000)
    assert (latency.before_min_ms, latency.after_min_ms) == (2000, 1000)
    assert (latency.ratio, latency.spread) == (pytest.approx(2 / 3), 0)
    assert (latency.runs, latency.threads, latency.cpu) == (5 * FEWEST, 1, False)


def test_a_race_goes_on_until_it_knows() -> None:
    """The machine slows down and recovers: ratios stay, and where they do not, more turns are taken."""
    slow = Race(layer(), X, clock=Clock([4] * 5 + [8] * 5, [2] * 5 + [4] * 5)).against(layer(2))
    assert (slow.ratio, slow.spread, slow.runs) == (0.5, 0, 5 * FEWEST)
    noisy = [1.9 + 0.2 * (j * 7 % 25) / 24 for j in range(25) for _ in range(5)]
    unsure = Race(layer(), X, clock=Clock([4], noisy)).against(layer(2))
    assert 5 * FEWEST < unsure.runs < 5 * MOST
    assert unsure.ratio == pytest.approx(0.5, rel=0.01)
    assert 0 < (unsure.spread or 0) <= PRECISION


def test_cpu_time_is_counted_for_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_prune.latency.race.MOST", 2)
    assert Race(layer(), X, threads=1).against(layer()).cpu
    assert not Race(layer(), X, threads=2).against(layer()).cpu


# Layers on their own.


def bound(coupling: Coupling, op: str) -> Layer:
    found = next(b for b in coupling.bound if b.node.op == op)
    return Layer(coupling, found, coupling.shapes.known)


def grouped() -> onnx.ModelProto:
    """A convolution that makes channels, and a depthwise one that takes each of them on."""
    return build(
        ["a = Conv(x, w1)", onnx.helper.make_node("Conv", ["a", "w2"], ["b"], group=8), "y = Conv(b, w3)"],
        {"w1": noise(8, 3, 1, 1), "w2": noise(8, 1, 3, 3), "w3": noise(2, 8, 1, 1)},
        {"x": (1, 3, 6, 6)},
        {"y": (1, 2, 4, 4)},
    )


def test_a_layer_on_its_own_follows_the_cut() -> None:
    coupling = analyse(grouped())
    [group] = coupling.groups
    depthwise = next(b for b in coupling.bound if b.node.attrs.get("group") == 8)
    alone = Layer(coupling, depthwise, coupling.shapes.known)
    assert alone.kept({group.atom: 4}) == {"a": (1, 4, 6, 6), "w2": (4, 1, 3, 3), "b": (1, 4, 4, 4)}
    node = alone.at({group.atom: 4})
    assert {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} == {"group": 4}
    took = times(alone, [{group.atom: 4}, {group.atom: 8}], 1)
    assert took is not None
    assert len(took) == 2
    assert min(took) > 0


def test_a_layer_that_can_not_run_alone_is_told_by_its_macs() -> None:
    """The whole takes 10 ms, of which 6 are the layers' by their MACs if each takes what it should."""
    coupling = analyse(small_cnn((16, 32)))
    groups, known = coupling.groups, coupling.shapes.known
    allowed = widths_allowed(coupling, groups, Budget(round_to=4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "times", lambda layer, grid, threads: None)
        found = tables.staircase(coupling, groups, allowed, known, whole=10.0, threads=1)
    assert not any(stair.measured for stair in found.stairs)
    assert found.bill.total({}) == pytest.approx(10, rel=0.01)
    first, second = (next(g.atom for g in groups if g.name.startswith(name)) for name in ("conv1", "conv2"))
    halved = found.bill.total({first: 8, second: 16})
    assert 2.5 < halved < 4  # the second convolution falls to a quarter, the first to a half


def test_tables_of_layers_that_are_alike_are_shared() -> None:
    nodes = ["a = MatMul(x, w1)", "b = Relu(a)", "c = MatMul(b, w2)", "d = Relu(c)", "y = MatMul(d, w3)"]
    weights = {"w1": noise(16, 16), "w2": noise(16, 16), "w3": noise(16, 16)}
    coupling = analyse(build(nodes, weights, {"x": (4, 16)}, {"y": (4, 16)}))
    allowed = widths_allowed(coupling, coupling.groups, Budget(round_to=4))
    found = tables.staircase(coupling, coupling.groups, allowed, coupling.shapes.known, whole=1.0, threads=1)
    assert [(s.reads, s.makes) for s in found.stairs] == [
        ((0,), (4, 8, 12, 16)),  # the input is held
        ((4, 8, 12, 16), (4, 8, 12, 16)),
        ((4, 8, 12, 16), (0,)),
    ]
    assert all(stair.measured for stair in found.stairs)
    for stair in found.stairs:  # whatever noise says, wider is slower
        table = np.array(stair.ms)
        assert (np.diff(table, axis=0) > 0).all()
        assert (np.diff(table, axis=1) > 0).all()


def test_grouped_queries_and_embeddings_have_tables_too() -> None:
    coupling = analyse(zoo.load("c_llama_gqa-ts17"))
    allowed = widths_allowed(coupling, coupling.groups, Budget())
    found = tables.staircase(coupling, coupling.groups, allowed, coupling.shapes.known, whole=1.0, threads=1)
    assert all(stair.measured for stair in found.stairs)
    whole = found.bill.total({})
    least = found.bill.total({atom: steps[-1] for atom, steps in allowed.items()})
    assert 0 < least < whole


# The way to a target.

A = Atom(100, "a")


def pursuit(times: Mapping[int, float], wanted: Target, steps: Sequence[int]) -> aiming._Pursuit:
    """One group that costs a millisecond a channel by its table, and by the clock what is given."""

    def measure(counts: Mapping[Atom, int], least: int) -> tuple[Choice, Latency]:
        took = times[counts[A]]
        return Choice({}, dict(counts), ()), Latency(100, took, 99, took, 10, 1, ratio=took / 100, spread=0)

    bill = Bill(0.0, (lambda counts: float(counts.get(A, 100)),), {A: (0,)})
    fraction = wanted.amount / 100 if wanted.absolute else wanted.amount
    curves = {A: curve(np.ones(100), cumulative=False)}
    return aiming._Pursuit(wanted, fraction, bill, curves, {A: steps}, measure, lambda stage: None)


EVERY = list(range(100, 9, -1))


@pytest.mark.parametrize("text", ["latency=0.5", "latency=50ms", "latency=50000us", "latency=0.05s"])
@pytest.mark.parametrize("error", [-0.3, -0.1, 0.0, 0.1, 0.4])
def test_what_is_measured_corrects_the_table(text: str, error: float) -> None:
    """Every layer takes longer, or less, than its table says."""
    path = pursuit({n: n * (1 + error) for n in EVERY}, target(text), EVERY)
    choice, latency = path.run()
    assert within(path.target, latency)
    assert latency.after_ms == pytest.approx(choice.asked[A] * (1 + error))
    assert len(path.seen) <= 3


def test_time_that_no_width_changes_is_found_out() -> None:
    path = pursuit({n: 40 + 0.6 * n for n in EVERY}, HALF, EVERY)
    choice, latency = path.run()
    assert within(HALF, latency)
    assert choice.asked[A] in (13, 14, 15, 16)


def test_an_edge_is_kept_when_nothing_is_nearer_the_middle() -> None:
    path = pursuit({100: 100, 60: 60, 51: 47.6, 30: 30}, HALF, [100, 60, 51, 30])
    assert path.run()[1].after_ms == 47.6


def test_what_does_not_last_is_not_taken() -> None:
    """49 channels take 49 ms at first, and 52 ms in a longer measurement; fewer are taken."""
    path = pursuit({n: n for n in EVERY}, HALF, EVERY)
    measure, lasting = path.measure, {49: 52}

    def fickle(counts: Mapping[Atom, int], least: int) -> tuple[Choice, Latency]:
        choice, latency = measure(counts, least)
        took = lasting.get(counts[A], latency.after_ms) if least > FEWEST else latency.after_ms
        return choice, replace(latency, after_ms=took, ratio=took / 100)

    path.measure = fickle
    choice, latency = path.run()
    assert latency.after_ms == choice.asked[A] == 48


def test_steps_that_are_too_coarse() -> None:
    path = pursuit({100: 100, 60: 60, 30: 30}, HALF, [100, 60, 30])
    message = (
        "--target latency=0.5 was missed: nearest are 0.300 of the original's and 0.600 of the original's, "
        "for time comes in steps; try another target, or another --round-to"
    )
    with pytest.raises(TargetMissed, match=message) as caught:
        path.run()
    assert caught.value.exit_code == 4
    assert len(path.seen) <= 3


def test_a_time_out_of_reach() -> None:
    message = (
        "--target latency=50ms can't be met: 60.0 ms of 100 ms are left where every group is at its least; "
        "see what is held with --ratio 0.5 --dry-run -v, or try --round-to 1"
    )
    path = pursuit({100: 100, 80: 80, 60: 60}, target("latency=50ms"), [100, 80, 60])
    with pytest.raises(InputError, match=message) as caught:
        path.run()
    assert caught.value.exit_code == 2


# A whole run, by a clock that counts parameters.


class Fake(Race):
    """Takes a nanosecond a parameter, and what is added to that."""

    spread = 0.001
    late: tuple[float, ...] = ()

    def __init__(self, original: onnx.ModelProto, *args: Any, **options: Any) -> None:
        self.before, self.turns = Graph(original).params() / 1e6, list(self.late)

    def alone(self) -> float:
        """The original's milliseconds."""
        return self.before

    def against(self, model: onnx.ModelProto, *, least: int = FEWEST, **options: float) -> Latency:
        """Both at once."""
        after = Graph(model).params() / 1e6
        if least > FEWEST and self.turns:  # what is to be written
            after *= self.turns.pop(0)
        return Latency(
            self.before, after, self.before, after, 30, 1, ratio=after / self.before, spread=self.spread
        )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    class Own(Fake):
        pass

    monkeypatch.setattr(timekeeper, "Race", Own)
    monkeypatch.setattr(tables, "times", lambda layer, grid, threads: None)
    return Own


@pytest.mark.parametrize("what", ["latency=0.6", "latency=46us"])
def test_a_run_meets_its_target(what: str, fake: type[Fake]) -> None:
    """76,938 parameters are 76.9 us."""
    report = prune(small_cnn((64, 128)), target=what, round_to=4, threads=1).report
    limit = 0.6 * report.before.params if what == "latency=0.6" else 46_000
    assert 0.95 * limit <= report.after.params <= limit
    assert report.target == what
    assert report.aim is not None
    assert report.latency is not None
    assert report.latency.ratio == pytest.approx(report.after.params / report.before.params)
    assert (report.aim.target, report.aim.corrections) == (what, len(report.aim.tried) - 1)
    assert any(0.95 <= tried <= 1 for tried in report.aim.tried)
    assert [stair.layers for stair in report.aim.staircase] == [
        ("Conv conv1",),
        ("Conv conv2",),
        ("Gemm fc",),
    ]
    assert report.to_dict()["aim"]["staircase"][1]["reads"] == (8, 16, 32, 48, 64)


def test_a_slow_second_measurement_is_repeated_and_then_refused(fake: type[Fake]) -> None:
    fake.late = (1.0, 1.2, 1.0)
    assert prune(small_cnn((64, 128)), target="latency=0.6", round_to=4).report.latency is not None
    fake.late = (1.0, 1.2, 1.2)
    with pytest.raises(
        TargetMissed, match=r"--target latency=0.6 was missed: measured once more it came out"
    ):
        prune(small_cnn((64, 128)), target="latency=0.6", round_to=4)


def test_what_is_too_noisy_is_refused(fake: type[Fake]) -> None:
    fake.spread = 0.04
    message = (
        "--target latency=0.6: the median of 30 runs is known to within 4 % only, which is too noisy to tell "
        "5 %; measure on a quieter machine, or with --threads 1, which counts CPU time"
    )
    with pytest.raises(NothingToPrune, match=message):
        prune(small_cnn((64, 128)), target="latency=0.6")


def test_a_target_that_the_original_meets(fake: type[Fake]) -> None:
    with pytest.raises(InputError, match=r"latency=1s is nothing to aim at: the original takes 76.9 us"):
        prune(small_cnn((64, 128)), target="latency=1s")


def test_out_of_reach_of_a_whole_run(fake: type[Fake]) -> None:
    with pytest.raises(InputError, match=r"--target latency=0.01 can't be met: 2.94 us of 76.9 us are left"):
        prune(small_cnn((64, 128)), target="latency=0.01")


def test_what_can_not_be_measured() -> None:
    message = "target latency=0.5 is measured by running both models, which "
    with pytest.raises(InputError, match=message + "no-validate forbids"):
        prune(small_cnn(), target="latency=0.5", validate=False)
    with pytest.raises(InputError, match=message + "a dry run does not"):
        prune(small_cnn(), target="latency=0.5", dry_run=True)


def test_a_model_that_fails_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Race, *args: Any, **options: Any) -> None:
        raise RunError("onnxruntime refuses the model: no")

    monkeypatch.setattr(Race, "__init__", refuse)
    with pytest.raises(InputError, match=r"--target latency=0.5 can't be measured: onnxruntime refuses"):
        prune(small_cnn(), target="latency=0.5")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latency=8", "has no unit: say latency=8ms, or latency=0.5 for half of the original's"),
        ("latency=8MB", "is not macs, params, size, latency with what is to be left"),
        ("latency=1", "is nothing to aim at"),
        ("latency=0ms", "is nothing to aim at"),
        ("macs=8ms", "is not macs, params, size, latency with what is to be left"),
    ],
)
def test_targets_that_can_not_be_read(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        target(text)


def test_units_of_time() -> None:
    amounts = [target(f"latency={text}").amount for text in ("8ms", "0.5 ms", "250us", "1.5s", "0.5")]
    assert amounts == [8.0, 0.5, 0.25, 1500.0, 0.5]


def test_a_measured_run_end_to_end() -> None:
    """Nothing is faked here."""
    widths = [3, 64, 64, 64, 64, 64, 8]
    layers = [f"h{j + 1} = Conv(h{j}, w{j})" for j in range(6)]
    weights = {f"w{j}": noise(m, n, 3, 3) for j, (n, m) in enumerate(pairwise(widths))}
    model = build(layers, weights, {"h0": (1, 3, 24, 24)}, {"h6": (1, 8, 12, 12)})
    report = prune(model, target="latency=0.6", threads=1).report
    assert report.latency is not None
    assert 0.95 * 0.6 <= (report.latency.ratio or 0) <= 0.6
    assert report.latency.cpu
    assert report.aim is not None
    assert all(stair.measured for stair in report.aim.staircase)
