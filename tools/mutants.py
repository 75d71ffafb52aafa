"""Mutation testing of what everything rests on: the algebra, the solver, the rules and the cut.

    python -m tools.mutants FOLDER [--part axis]... [--sample N] [--seed S] [--jobs 2] [--minutes M]

Changes one thing at a time in a copy under FOLDER (a comparison, a number, an argument, a word) and asks
whether a test notices; needs mutmut.  Only code in functions is mutated, not the tables at the top of
modules.  The tests are those of these parts and the examples in their docstrings, not the whole suite.
Survivors are printed, and those in `tools/mutants.toml` with the reason why no test can tell them from the
original, as are those that only drop a `strict=True` of `zip`; the score is given with them and without.
FOLDER remembers which test killed which mutant, and the next run tries that one first.
"""

from __future__ import annotations

import json
import random
import re
import time
import tomllib
from collections import Counter
from itertools import zip_longest
from math import inf, sqrt
from pathlib import Path

import click

from tools.mutants_runs import ROOT, Mutant, Outcome, Runs, mutated

PARTS = {
    "axis": ("axes/axis.py", "axes/deals.py", "axes/pattern.py", "axes/relation.py", "axes/restate.py"),
    "unify": ("axes/unify.py",),
    "rules": ("rules/*.py",),
    "cut": ("cut.py", "draft.py", "follow.py", "kept.py"),
}
TESTS = [
    *("axis", "unify", "relation", "rules_attention", "rules_compute", "rules_fused", "rules_matrix"),
    *(
        "rules_quantized",
        "rules_recurrent",
        "rules_said",
        "rules_shape",
        "rules_vendor",
        "cut",
        "coupling",
        "shuffle",
    ),
    *("loops", "branches", "nested", "transformers", "attention_models", "divided", "sizes", "lazy"),
    *("kept", "draft", "follow", "prove", "deals", "restated"),
]
_LENGTHS = "zip only makes sure that lengths are equal, and they are"
KNOWN = ROOT / "tools" / "mutants.toml"


def interval(hits: int, of: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share.

    >>> [round(end, 3) for end in interval(90, 100)]
    [0.826, 0.945]
    """
    if not of:
        return 0.0, 1.0
    z, share = 1.96, hits / of
    middle = share + z * z / (2 * of)
    spread = z * sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return (middle - spread) / (1 + z * z / of), (middle + spread) / (1 + z * z / of)


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--part", "parts", type=click.Choice(list(PARTS)), multiple=True, help="Only this one.")
@click.option("--sample", type=int, help="So many mutants of each part, drawn at random; all without it.")
@click.option("--seed", default=0, help="Of the draw.")
@click.option("--jobs", default=2, help="Mutants at a time.")
@click.option("--minutes", type=float, help="Start none after that: those that were run are drawn at random.")
def main(
    folder: Path, parts: tuple[str, ...], sample: int | None, seed: int, jobs: int, minutes: float | None
) -> None:
    """Run what is asked for."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        part: [path.relative_to(ROOT) for name in names for path in sorted((ROOT / "onnx_prune").glob(name))]
        for part, names in PARTS.items()
    }
    print(f"seed {seed}")
    found = mutated(folder, [path for part in parts or PARTS for path in files[part]])
    drawn: dict[str, list[Mutant]] = {}
    totals: dict[str, int] = {}
    for part in parts or PARTS:
        mutants = [mutant for path in files[part] for mutant in found[path]]
        totals[part] = len(mutants)
        rng = random.Random(f"{seed}.{part}")
        drawn[part] = rng.sample(mutants, min(sample or len(mutants), len(mutants)))
    memory = folder / "killers.json"
    killers = json.loads(memory.read_text()) if memory.exists() else {}
    turns = zip_longest(*drawn.values())
    chosen = [mutant for mutants in turns for mutant in mutants if mutant is not None]
    known = {mutant: killers[_key(mutant)] for mutant in chosen if _key(mutant) in killers}
    began = time.monotonic()
    runs = Runs(chosen, known, jobs, began + 60 * minutes if minutes else inf)
    tests = [f"tests/test_{name}.py" for name in TESTS]
    examples = [str(path) for paths in files.values() for path in paths]
    try:
        runs.run([*examples, *tests])
    finally:
        killers |= {_key(mutant): done.by for mutant, done in runs.outcomes.items() if done.by}
        memory.write_text(json.dumps(killers, indent=1))
    run = {part: [m for m in mutants if m in runs.outcomes] for part, mutants in drawn.items()}
    _report(run, totals, runs.outcomes)
    print(f"{len(runs.outcomes)} mutants in {(time.monotonic() - began) / 60:.1f} minutes")


def _key(mutant: Mutant) -> str:
    return f"{mutant.function}\n{mutant.change}"


def _asserts(mutant: Mutant) -> bool:
    """Whether the mutant only leaves out that `zip` should make sure of equal lengths."""
    went, *came = re.sub(r", (strict=\w+)?\)", ")", mutant.change).split("\n+ ")
    return came == [went.removeprefix("- ")]


def _report(drawn: dict[str, list[Mutant]], totals: dict[str, int], outcomes: dict[Mutant, Outcome]) -> None:
    entries = tomllib.loads(KNOWN.read_text())["mutant"] if KNOWN.exists() else []
    explained = {f"{entry['function']}\n{entry['change'].strip()}": entry["why"] for entry in entries}

    def why(mutant: Mutant) -> str | None:
        return _LENGTHS if _asserts(mutant) else explained.get(_key(mutant))

    missed = [
        m for mutants in drawn.values() for m in mutants if outcomes[m].status not in ("killed", "timeout")
    ]
    for mutant in missed:
        reason = f": {why(mutant)}" if why(mutant) else ""
        print(f"\n{mutant.function} ({outcomes[mutant].status}{reason})\n{mutant.change}")
    print("\npart   mutants   run  killed  timeout  survived  explained   score (95 %)      with explained")
    for part, mutants in drawn.items():
        tally = Counter(outcomes[mutant].status for mutant in mutants)
        hits = tally["killed"] + tally["timeout"]
        known = sum(why(mutant) is not None for mutant in mutants if mutant in missed)
        low, high = interval(hits, len(mutants))
        without = hits / max(len(mutants) - known, 1)
        print(
            f"{part:6} {totals[part]:7} {len(mutants):5} {tally['killed']:7} {tally['timeout']:8} "
            f"{tally['survived'] + tally['untested']:9} {known:10}   "
            f"{hits / max(len(mutants), 1):.1%} ({low:.1%} - {high:.1%})  {without:.1%}"
        )


if __name__ == "__main__":
    main()
