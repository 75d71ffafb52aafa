"""From a result to the file of its page; what draws it is an extra that may not be there."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from onnx_prune.curves.sensitivity import Sensitivity
from onnx_prune.html import curves, structured, unstructured
from onnx_prune.html.common import Origin, sha256
from onnx_prune.html.page import Page
from onnx_prune.html.render import render
from onnx_prune.html.spread import spreads
from onnx_prune.model import files, tensors
from onnx_prune.model.graph import Graph
from onnx_prune.report import Report
from onnx_prune.sparse.report import SparseReport
from onnx_prune.stages import load


def write_channels(
    path: str | Path, report: Report, *, command: str = "", also: Mapping[str, str | Path] | None = None
) -> None:
    """Write the page of a run that removed channels, from a file to a file.

    Args:
        path: where the page is written.
        report: what happened.
        command: the command line.
        also: other files that were read or written, by what they are.

    Raises:
        Unwritable: the operating system refused; an old file is as it was.
    """
    before, after = _models(report.source, report.output)
    layers = {layer.key: layer.weights for layer in report.layers}
    found = {} if before is None else spreads(layers, before, after)
    origin = _origin(command, report.source, report.output, before, after, also)
    _write(path, structured.page(report, found, origin))


def write_weights(
    path: str | Path,
    report: SparseReport,
    *,
    command: str = "",
    also: Mapping[str, str | Path] | None = None,
) -> None:
    """Write the page of a run that zeroed single weights; see `write_channels`."""
    before, after = _models(report.source, report.output)
    found = {} if before is None else spreads({row.name: [row.name] for row in report.layers}, before, after)
    origin = _origin(command, report.source, report.output, before, after, also)
    _write(path, unstructured.page(report, found, origin))


def write_curves(
    path: str | Path,
    found: Sensitivity,
    *,
    command: str = "",
    also: Mapping[str, str | Path] | None = None,
) -> None:
    """Write the page of measured curves; see `write_channels`."""
    before, _ = _models(found.source, None)
    origin = _origin(command, found.source, None, before, None, also)
    versions = {name: version(name) for name in ("onnx-prune", "onnx", "onnxruntime", "numpy")}
    _write(path, curves.page(found, versions, origin))


def _models(source: str | None, output: str | None) -> tuple[Graph | None, Graph | None]:
    before, after = (None if path is None else load(path)[0] for path in (source, output))
    return before, after


def _origin(
    command: str,
    source: str | None,
    output: str | None,
    before: Graph | None,
    after: Graph | None,
    also: Mapping[str, str | Path] | None,
) -> Origin:
    """The command with the sha256 of every file, those with external data among them."""
    hashes: list[tuple[str, str]] = []
    for path, graph in ((source, before), (output, after)):
        if path is not None and graph is not None:
            beside = [str(Path(path).parent / place) for place in _external(graph)]
            hashes += [(file, sha256(file)) for file in (path, *beside)]
    hashes += [(f"{other} ({what})", sha256(other)) for what, other in (also or {}).items()]
    return Origin(command, tuple(hashes))


def _external(graph: Graph) -> list[str]:
    """The files that hold a model's external data."""
    entries = (
        entry
        for tensor in filter(tensors.is_external, tensors.tensors(graph.model.graph))
        for entry in tensor.external_data
    )
    return list(dict.fromkeys(entry.value for entry in entries if entry.key == "location"))


def _write(path: str | Path, page: Page) -> None:
    files.write_text(path, render(page))
