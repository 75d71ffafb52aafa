"""Channel shuffles whose parts keep as many channels, but not the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnx_prune import prune
from onnx_prune.analyse import couple
from onnx_prune.axes import axis as axes
from onnx_prune.axes.axis import Atom, Cat, Weave, cat, keep, order, weave
from onnx_prune.axes.deals import Deal, Web, webs
from onnx_prune.axes.unify import UNLIKE, Solver
from onnx_prune.choose import candidates
from onnx_prune.coupling import Coupling
from onnx_prune.errors import InputError, ProofFailed
from onnx_prune.loosen import loosened
from onnx_prune.model.graph import Graph
from onnx_prune.plan import fit, read
from onnx_prune.proof.prove import prove
from onnx_prune.settings import Budget
from tests import soundness
from tests.graphs import analyse, build, node, noise
from tools.attempt import attempt


def shuffled(
    width: int, *, parts: int = 2, units: int = 3, last: bool = False, batch: int | str = 1, between: str = ""
) -> onnx.ModelProto:
    """Units as ShuffleNet V2 has them: dealt out, cut in parts, the first of which is handed on.

    Args:
        width: of every part.
        parts: how many.
        units: how many shuffles.
        last: whether the channels are the last dimension.
        batch: size of the first.
        between: a node "b = Op(a)" that reads what a shuffle makes on its way.
    """
    weights: dict[str, np.ndarray] = {}
    nodes: list[onnx.NodeProto | str] = []
    c, total = (3, width * parts) if last else (1, width * parts)

    def dims(*sizes: int) -> tuple[int, ...]:
        return (4, 4, *sizes) if last else (*sizes, 4, 4)

    def layer(name: str, source: str, into: int, out: int) -> str:
        shape = (into, out) if last else (out, into, 1, 1)
        weights[f"w_{name}"] = noise(*shape, seed=len(weights))
        nodes.append(f"{name} = {'MatMul' if last else 'Conv'}({source}, w_{name})")
        return name

    now = [layer(f"first{j}", "x", 3, width) for j in range(parts)]
    perm = [0, 1, 2, 4, 3] if last else [0, 2, 1, 3, 4]
    weights["open"] = np.array((0 if isinstance(batch, str) else batch, *dims(parts, width)))
    weights["close"] = np.array((0 if isinstance(batch, str) else batch, *dims(total)))
    weights["lengths"] = np.array([width] * parts)
    for u in range(units):
        nodes.append(node(f"joined{u} = Concat({', '.join(now)})", axis=c))
        nodes.append(f"apart{u} = Reshape(joined{u}, open)")
        nodes.append(node(f"turned{u} = Transpose(apart{u})", perm=perm))
        if between and not u:
            nodes.append(between.replace("(a", "(turned0"))
        source = "b" if between and not u else f"turned{u}"
        nodes.append(f"dealt{u} = Reshape({source}, close)")
        halves = [f"half{u}{j}" for j in range(parts)]
        nodes.append(node(f"{', '.join(halves)} = Split(dealt{u}, lengths)", axis=c))
        rest = (layer(f"unit{u}{j}", half, width, width) for j, half in enumerate(halves[1:]))
        now = [halves[0], *(f"{name}r" for name in rest)]
        nodes += [f"{name} = Relu({name[:-1]})" for name in now[1:]]
    nodes.append(node(f"all = Concat({', '.join(now)})", axis=c))
    layer("y", "all", total, 5)
    return build(nodes, weights, {"x": (batch, *dims(3))}, {"y": (batch, *dims(5))})


# The algebra.


def test_a_row_is_dealt_out_anew() -> None:
    a, b = Atom(4), Atom(4)
    plan = {a: np.array([True, True, False, False]), b: np.array([False, True, False, True])}
    assert order(weave([a, b]), plan).tolist() == [0, 3, 2, 7]
    assert np.flatnonzero(keep(weave([a, b]), plan)).tolist() == [0, 2, 3, 7]


def test_a_run_of_a_row_knows_whose_turn_it_is() -> None:
    solver, first, rest = Solver(), Atom(3), Atom(5)
    a, b = Atom(4, "a"), Atom(4, "b")
    assert solver.unify(weave([a, b]), cat(first, rest)) is None
    [ahead] = solver.dealt
    assert [axes.size(part) for part in ahead] == [2, 1]
    tail = solver.resolve(rest)
    assert isinstance(tail, Weave)
    assert [axes.size(part) for part in tail.parts] == [2, 3]
    a0, b0, (a1, b1) = *map(solver.resolve, ahead), tail.parts
    assert isinstance(a0, Atom)
    assert isinstance(b0, Atom)
    # whole, b comes first; with one of a and one of b before it, a does
    assert order(tail, {}).tolist() == [0, 1, 2, 3, 4]
    assert order(tail, {a0: np.array([True, False])}).tolist() == [1, 0, 3, 2, 4]
    assert axes.owner(tail, a1)[0].tolist() == [1, 3]  # type: ignore[arg-type]
    assert axes.owner(tail, b1)[0].tolist() == [0, 2, 4]  # type: ignore[arg-type]


def test_shuffles_that_do_not_line_up_are_held() -> None:
    solver, a, b, c = Solver(), Atom(6), Atom(6), Atom(4)
    assert solver.unify(weave([a, b]), weave([c, Atom(4), Atom(4)])) == UNLIKE
    assert solver.held(a) == UNLIKE


def test_what_is_dealt_before_a_held_run_is_held() -> None:
    solver, a, b = Solver(), Atom(4), Atom(4)
    solver.unify(weave([a, b]), cat(Atom(4), Atom(4, held="it is shown")))
    assert {solver.held(atom) for atom in axes.bearing(solver.resolve(cat(a, b)))} == {"it is shown"}


# The counts.


@pytest.mark.parametrize(
    ("kept", "fits", "fits_whole"),
    [((2, 2, 2), True, True), ((2, 2, 1), True, False), ((2, 1, 2), False, False), ((3, 2, 1), False, False)],
)
def test_what_is_dealt_out_so_far(kept: tuple[int, ...], fits: bool, fits_whole: bool) -> None:
    parts = (Atom(3), Atom(3), Atom(3))
    counts = dict(zip(parts, kept, strict=True))
    assert Deal(parts).fits(counts) == fits
    assert Deal(parts, whole=True).fits(counts) == fits_whole


def test_counts_of_two_shuffles_by_hand() -> None:
    """Of 8 + 8 half stay: 4 of each; of the 4 handed on 2 come from either, and the next 4 pair with them."""
    a, a1, b, b1, c = (Atom(4, name) for name in ("a", "a1", "b", "b1", "c"))
    c1 = Atom(4, "c1")
    first = Deal((cat(a, a1), cat(b, b1)), whole=True)
    second = Deal((weave([a, b]), cat(c, c1)), whole=True)
    [web] = webs((first, Deal((a, b)), second), (a, a1, b, b1, c, c1))
    found = web.counts(lambda n: n // 2)
    assert found is not None
    assert {atom.name: n for atom, n in found.items()} == dict.fromkeys(["a", "a1", "b", "b1", "c", "c1"], 2)


def test_counts_that_can_not_be_met_leave_all_whole() -> None:
    a = Atom(4, "a")
    web = Web((a,), (Deal((a, Atom(4, held="?")), whole=True),))
    assert web.near(0.5, lambda n: 1, lambda n: 1) == {a: 4}
    assert not web.pliant


def test_rounding_that_leaves_all_whole_gives_way() -> None:
    """To multiples of 8 of 3 channels nothing goes; then any number is right, 1 of 3 too."""
    a, b = Atom(3, "a"), Atom(3, "b")
    web = Web((a, b), (Deal((a, b), whole=True),))
    assert web.near(0.4, lambda n: 1, lambda n: 8) == {a: 1, b: 1}


def test_all_atoms_of_an_axis_are_of_the_web() -> None:
    a, b, c = Atom(3, "a"), Atom(3, "b"), Atom(3, "c")
    [web] = webs((Deal((a, b)),), {a, b, c}, [(cat(a, b), a), (cat(a, c), c)])
    assert web.axes == (cat(a, b), a)


def test_no_axis_loses_all_its_channels() -> None:
    a, b = Atom(1, "a"), Atom(3, "b")
    deals = (Deal((Cat((a, b)), Atom(4, "c")), whole=True),)
    free = {a, b, *axes.atoms(deals[0].parts[1])}
    assert not webs(deals, free, [(a,)])[0].fits({a: 0, b: 2} | dict.fromkeys(free - {a, b}, 2))
    assert webs(deals, free)[0].fits({a: 0, b: 2} | dict.fromkeys(free - {a, b}, 2))


# Whole models.


def test_the_parts_of_a_shuffle_are_told_apart() -> None:
    coupling = couple(Graph(shuffled(6, units=1)), loose=False)
    assert [str(relation) for relation in loosened(coupling).values()] == [
        "1 (b0 + b1) c d, _ -> 1 *a (b0 | b1) c d",
        "a *b (c0 | c1) d e -> a (c0 | c1) *b d e",
        "1 (a0 | a1) *b c d, _ -> 1 (a0 , a1) c d",
    ]


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.8])
@pytest.mark.parametrize(
    "model",
    [
        shuffled(16),
        shuffled(26, units=5),
        shuffled(30, parts=3),
        shuffled(20, last=True),
        shuffled(16, batch="n"),
    ],
    ids=["even", "odd", "three", "last", "dynamic"],
)
def test_cutting_commutes_with_running(model: onnx.ModelProto, ratio: float) -> None:
    assert analyse(model).webs
    verdict = soundness.check(model, Budget(ratio=ratio, round_to=1))
    assert verdict.status == "proved"
    assert verdict.engines >= 2


@pytest.mark.parametrize(
    "between", ["b = Softmax(a)", "b = Sigmoid(a)", "b = Add(a, bias)"], ids=["softmax", "sigmoid", "add"]
)
def test_what_is_read_on_the_way_is_not_told_apart(between: str) -> None:
    model = shuffled(16, units=1, between=between)
    if "bias" in between:
        model.graph.initializer.append(numpy_helper.from_array(noise(16, 1, 1, 1), "bias"))
    assert not analyse(model).webs
    soundness.check(model, Budget(round_to=1))


def test_what_is_shown_on_the_way_is_not_told_apart() -> None:
    model = shuffled(16, units=1)
    model.graph.output.append(onnx.helper.make_tensor_value_info("turned0", 1, (1, 16, 2, 4, 4)))
    assert not analyse(model).webs


def halves(coupling: Coupling, plan: dict[Atom, np.ndarray]) -> list[list[int]]:
    return [np.flatnonzero(keep(coupling.axes[f"w_first{j}"][0], plan)).tolist() for j in range(2)]


def test_parts_keep_as_many_but_their_own_best() -> None:
    coupling = analyse(shuffled(16))
    plan, draft, _ = attempt(coupling, Budget(ratio=0.5, round_to=1))
    one, two = halves(coupling, dict(plan))
    assert len(one) == len(two) == 8
    assert one != two
    small = Graph(draft.whole()) if draft else None
    assert small is not None
    assert {tuple(small.dims(f"w_unit{u}0")[:2]) for u in range(3)} == {(8, 8)}


def test_a_row_left_in_its_old_order_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    coupling = analyse(shuffled(16))
    monkeypatch.setattr("onnx_prune.kept.order", lambda axis, plan: np.flatnonzero(keep(axis, plan)))
    plan, draft, _ = attempt(coupling, Budget(ratio=0.5, round_to=1))
    assert draft is not None
    with pytest.raises(ProofFailed):
        prove(coupling, plan, draft.whole())


def test_one_that_stays_keeps_all_around_it_whole() -> None:
    coupling = analyse(shuffled(16))
    assert len(candidates(coupling, Budget())) == len(coupling.groups)
    [web] = coupling.webs
    left = {group.atom for group in candidates(coupling, Budget(ignore=("w_unit00",)))}
    assert left.isdisjoint(web.atoms)


def test_a_ratio_of_one_layer_holds_for_all_that_its_shuffles_tie_to_it() -> None:
    result = prune(shuffled(16), ratio=0.5, round_to=1, layer_ratios={"w_unit00": 0.25}, dry_run=True)
    assert len(result.plan.initializers["w_first0"]["keep"]["0"]) == 12


def test_a_target_is_met() -> None:
    model = shuffled(16)
    result = prune(model, target="params=0.6")
    assert result.model is not None
    assert Graph(result.model).params() <= 0.6 * Graph(model).params()
    assert result.report.proof is not None


def test_the_plan_says_the_order(tmp_path: Path) -> None:
    """`numpy.take` gives what is written, and the plan is replayed."""
    model, path = shuffled(26), tmp_path / "plan.json"
    result = prune(model, ratio=0.5, round_to=1, save_plan=path)
    assert result.model is not None
    small = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    rows = result.plan.initializers
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if tensor.name in rows:
            for dim, kept in rows[tensor.name]["keep"].items():
                array = np.take(array, kept, axis=int(dim))
            assert np.array_equal(array, small[tensor.name])
    assert any(kept != sorted(kept) for row in rows.values() for kept in row["keep"].values())
    again = prune(model, apply_plan=path)
    assert again.model is not None
    assert [t.raw_data for t in again.model.graph.initializer] == [
        t.raw_data for t in result.model.graph.initializer
    ]


def test_a_plan_that_can_not_be_dealt_out(tmp_path: Path) -> None:
    model, path = shuffled(16, units=1), tmp_path / "plan.json"
    prune(model, ratio=0.5, round_to=1, save_plan=path)
    document = json.loads(path.read_text())
    row = next(row for row in document["groups"] if row["name"] == "w_first0:0" and len(row["kept"]) > 1)
    row["kept"] = row["kept"][1:]
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"plan: the shuffles around w_first0:0, .* can't deal out so many"):
        fit(analyse(model), read(path))
