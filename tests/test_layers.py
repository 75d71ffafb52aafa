"""The layers of DESIGN section 6: imports point downward, and a heavy library has one door."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import onnx_prune

ROOT = Path(onnx_prune.__file__).parent
# From the bottom up; modules of one layer may import each other, as long as no circle results.
LAYERS = [
    {"errors", "axis", "words", "gram"},
    {"refit", "obs", "countdown", "bits", "orientation"},
    {"relation", "wire", "settings", "wellformed", "atomic", "paths", "nodes", "memory"},
    {"unify", "pattern", "tensors", "restate", "command", "working", "page", "sign"},
    {"sparsity", "schedule", "granularity", "saliency", "select", "histogram", "spool"},
    {"rules", "flatten", "runtime", "options", "options_sparse", "files"},
    {"graph", "maskfile"},
    {"assignments", "blame", "shapes", "layout", "fold", "computed", "codes", "zeros", "linear", "taps"},
    {"frontier", "residual", "biases"},
    {"coupling"},
    {"kept", "roles"},
    {"analyse"},
    {"draft", "choose", "criteria", "real", "cost", "compare"},
    {"stages", "follow", "order", "taken", "samples", "randomness"},
    {"cut", "seams", "reach", "chain", "bridge", "calibration"},
    {"mask", "plan", "storage", "weights", "parts", "measure"},
    {"stored", "reference", "calibrated", "allocate"},
    {"idle"},
    {"clean"},
    {"ranking", "zeroing", "sparsegpt"},
    {"sparse_calibrated"},
    {"prove", "validate", "why", "recover", "evaluate"},
    {"report", "regained", "calibrate", "sparse_report", "sparse_drift"},
    {"sparsify", "show_sparse"},
    {"pipeline", "show", "explanation", "show_explanation"},
    {"dead", "rounds", "ticket"},
    {"verbs"},
    {"program"},
    {"cli", "__init__"},
    {"__main__"},
]
LEVEL = {module: level for level, modules in enumerate(LAYERS) for module in modules}
DOORS = {
    "onnx_graphsurgeon": {"graph"},
    "onnxruntime": {"runtime"},
    "click": {"cli", "command", "options", "options_sparse", "program", "verbs"},
    "rich": {"page", "show", "show_explanation", "show_sparse", "working"},
    "torch": set(),
}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module by its first name below the package: the rules are one."""
    for path in sorted(ROOT.rglob("*.py")):
        inside = path.relative_to(ROOT)
        yield (inside.parts[0] if len(inside.parts) > 1 else inside.stem), path


def imports(path: Path) -> Iterator[str]:
    """Full names of all that a file imports while it runs, those in functions too."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []  # ast.walk has not come to it yet
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names = [alias.name for alias in node.names]
            yield from (f"{node.module}.{name}" for name in names)


def inside(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports."""
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "onnx_prune":
            own = len(parts) > 1 and ((ROOT / parts[1]).is_dir() or (ROOT / f"{parts[1]}.py").exists())
            yield parts[1] if own else "__init__"


PATHS = [pytest.param(module, path, id=str(path.relative_to(ROOT))) for module, path in modules()]


@pytest.mark.parametrize(("module", "path"), PATHS)
def test_imports_point_downward(module: str, path: Path) -> None:
    assert module in LEVEL, f"{module} has no layer yet"
    upward = [name for name in inside(path) if name != module and LEVEL[name] > LEVEL[module]]
    assert not upward


def test_no_circles() -> None:
    graph = {module: set[str]() for module in LEVEL}
    for module, path in modules():
        graph[module] |= {name for name in inside(path) if name != module}
    while graph:
        leaves = {module for module, needs in graph.items() if not needs & graph.keys()}
        assert leaves, f"a circle among {sorted(graph)}"
        graph = {module: needs for module, needs in graph.items() if module not in leaves}


@pytest.mark.parametrize(("module", "path"), PATHS)
def test_libraries_have_one_door(module: str, path: Path) -> None:
    outside = {name.split(".")[0] for name in imports(path)}
    assert not {library for library in outside & DOORS.keys() if module not in DOORS[library]}


@pytest.mark.parametrize(("module", "path"), PATHS)
def test_nothing_asks_for_operators_one_by_one(module: str, path: Path) -> None:
    """An operator's peculiarities are its rule, or an entry in a table: no if-elif chain over types."""
    chains = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.If)
        and _asks(node)
        and len(node.orelse) == 1
        and isinstance(node.orelse[0], ast.If)
        and _asks(node.orelse[0])
    ]
    assert not chains


def _asks(node: ast.If) -> bool:
    tested = {ast.unparse(n.left) for n in ast.walk(node.test) if isinstance(n, ast.Compare)}
    return any(name.endswith((".op_type", ".op", "op.type")) for name in tested)


@pytest.mark.parametrize("module", sorted(set().union(*LAYERS)))
def test_the_table_names_no_ghosts(module: str) -> None:
    assert (ROOT / f"{module}.py").exists() or (ROOT / module / "__init__.py").exists()


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, onnx_prune; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"onnx", "onnxruntime", "numpy", "onnx_graphsurgeon", "rich", "click"} & set(loaded.split())
