"""Go the way of somebody new: build, install into an empty environment, do what the documentation says.

    python -m tools.newcomer [PAGE...] [--folder FOLDER]

The wheel is built from the source distribution, and installed without extras; a page that needs one says
so.  Each page (all, unless some are named) is then done from the top down in a folder of its own, in full:
packages are downloaded, and of what a page shows, each line without a latency has to come out, its numbers
within a hundredth.  Exit code 1 if anything does not.  Needs a package index.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

import click
import onnx

from tools.pages import PAGES, ROOT, SHIPPED, Block, file_of, prepare, steps

_MEASURED = re.compile(r"latency|wrote .* in ")  # differs from run to run
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")
_SET_UP = ("python3 -m venv ", "pip install .")  # done here: into the empty environment
_EXTRA = re.compile(r"(?<=^pip install ').(?=\[)")  # of the checkout; here of the wheel


def build(folder: Path) -> tuple[Path, Path]:
    """The source distribution and the wheel made of it."""
    python = environment(folder / "builder", "build")
    command = [python, "-m", "build", "--outdir", folder / "dist", ROOT]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    (wheel,) = (folder / "dist").glob("*.whl")
    return sdist, wheel


def environment(folder: Path, *packages: str | Path) -> Path:
    """The Python of a new environment with these packages."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    return python


def amiss(sdist: Path, wheel: Path) -> list[str]:
    """What is wrong with the contents of the two files."""
    with tarfile.open(sdist) as file:
        within = {name.partition("/")[2] for name in file.getnames()}
    with zipfile.ZipFile(wheel) as file:
        installed = set(file.namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "onnx_prune").rglob("*.py")}
    wanted = {"README.md", "LICENSE", "pyproject.toml", "tests/test_docs.py", f"models/{SHIPPED}"}
    stray = {name for name in installed if not name.startswith(("onnx_prune/", "onnx_prune-"))}
    return [
        *(f"the source distribution lacks {name}" for name in sorted((wanted | modules) - within)),
        *(f"the wheel lacks {name}" for name in sorted((modules | {"onnx_prune/py.typed"}) - installed)),
        *(f"the wheel has {name}" for name in sorted(stray)),
    ]


def walk(page: str, folder: Path, python: Path, wheel: Path) -> list[str]:
    """What on a page does not come out as it says."""
    prepare(page, folder, onnx.load(ROOT / "models" / SHIPPED))
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"PATH": f"{python.parent}:{env['PATH']}", "COLUMNS": "80", "LC_ALL": "C.UTF-8"}
    wrong: list[str] = []
    code, said = "", ""
    for step in steps(page):
        if step.language == "toml":
            file_of(step, folder)
        elif step.language == "text":
            wrong += [f"{page}: not said: {line}" for line in missing(step, said)]
        elif not step.text.startswith(_SET_UP):
            command = ["bash", "-euc", _EXTRA.sub(str(wheel), step.text)]
            if step.language == "python":
                code += step.text
                command = [str(python), "-c", code]
            done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
            said = done.stdout
            if done.returncode:
                wrong.append(f"{page}: {step.text.strip()}: {done.stderr.strip()[-300:]}")
    return wrong


def missing(shown: Block, said: str) -> list[str]:
    """The lines that a page shows and a command did not print."""
    printed = [line.rstrip() for line in said.splitlines()]
    lines = (line.rstrip() for line in shown.text.splitlines())
    return [line for line in lines if not (_MEASURED.search(line) or any(alike(line, p) for p in printed))]


def alike(one: str, other: str) -> bool:
    """Whether two lines are the same but for hundredths of their numbers.

    >>> alike("top-1: 91.3 % after", "top-1: 91 % after"), alike("9.c1: 4", "9.c1: 5")
    (True, False)
    """
    if _NUMBER.sub("", one) != _NUMBER.sub("", other):
        return False
    pairs = zip(_NUMBER.findall(one), _NUMBER.findall(other), strict=True)
    return all(abs(float(a) - float(b)) <= 0.01 * abs(float(a)) for a, b in pairs)


@click.command(help=__doc__)
@click.argument("pages", nargs=-1)
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="Keep everything here.")
def main(pages: tuple[str, ...], folder: Path | None) -> None:
    """Build, install, do the pages, and say what is wrong."""
    unknown = set(pages) - set(PAGES)
    if unknown:
        raise click.UsageError(f"no page {', '.join(sorted(unknown))}; there are {', '.join(PAGES)}")
    place = folder or Path(tempfile.mkdtemp())
    place.mkdir(parents=True, exist_ok=True)
    try:
        sdist, wheel = build(place)
        print(*(f"{file.name} {file.stat().st_size / 1e6:.1f} MB" for file in (sdist, wheel)), sep="\n")
        wrong = amiss(sdist, wheel)
        python = environment(place / "empty", wheel)
        for number, page in enumerate(pages or PAGES):
            (place / str(number)).mkdir()
            found = walk(page, place / str(number), python, wheel)
            print(f"{page}: {'as it says' if not found else 'not as it says'}", flush=True)
            wrong += found
    finally:
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)
    print("\n".join(wrong))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
