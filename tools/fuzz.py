"""Looks for models and files that break onnx-prune: random graphs, and real files with random damage.

    python -m tools.fuzz --graphs 1000 --seed 0    each graph is cut, proved, and checked beside the proof
    python -m tools.fuzz --files 1000 --seed 0     each file ends in a documented exit code, within limits

A graph that fails is shrunk and kept in the folder `--keep`, and so is a file. Exit code 1 on a failure.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tools.fuzz_files import damaged_files
from tools.fuzz_graphs import random_graphs


@click.command(help=__doc__)
@click.option("--graphs", default=0, help="Random graphs to prune and prove.")
@click.option("--files", default=0, help="Damaged files to hand to the command.")
@click.option("--seed", default=0)
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), default=Path("fuzz-failures"))
def main(graphs: int, files: int, seed: int, keep: Path) -> None:
    """Run what is asked for."""
    print(f"seed {seed}")
    failures = 0
    if graphs:
        failures += random_graphs(graphs, seed, keep)
    if files:
        failures += damaged_files(files, seed, keep)
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
