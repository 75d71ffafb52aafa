"""The layers of DESIGN section 6: imports point downward, and a heavy library has one door."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

import onnx_prune
from tests.models import small_cnn

ROOT = Path(onnx_prune.__file__).parent
# From the bottom up; modules of one layer may import each other, as long as no circle results.
LAYERS = [
    {"errors", "axes.axis", "words", "calibration.gram", "comparison.distance"},
    {"html.chart", "html.page", "terminal.extras"},
    {
        "calibration.refit",
        "calibration.obs",
        "calibration.balance",
        "calibration.countdown",
        "sparse.orientation",
    },
    {"plugins", "signals", "model.threads", "model.room", "model.turns"},
    {
        "axes.relation",
        "model.wire",
        "model.lazy",
        "settings",
        "model.wellformed",
        "model.atomic",
        "terminal.paths",
        "model.nodes",
        "model.memory",
        "model.pieces",
        "model.apart",
    },
    {
        "axes.unify",
        "axes.deals",
        "axes.pattern",
        "model.tensors",
        "sparse.bits",
        "axes.restate",
        "terminal.command",
        "terminal.working",
        "terminal.page",
        "model.sign",
    },
    {
        "sparse.sparsity",
        "sparse.schedule",
        "sparse.granularity",
        "sparse.saliency",
        "sparse.edges",
        "sparse.select",
        "sparse.histogram",
        "sparse.spool",
    },
    {"terminal.config", "terminal.shared"},
    {"rules", "model.flatten", "runtime", "options", "sparse.options", "model.files", "model.dense"},
    {"model.graph", "sparse.maskfile"},
    {
        "shape.assignments",
        "model.blame",
        "shape.shapes",
        "shape.layout",
        "shape.fold",
        "shape.computed",
        "codes",
        "zeros",
        "calibration.linear",
        "calibration.taps",
    },
    {"calibration.frontier", "calibration.residual", "calibration.biases"},
    {"coupling"},
    {"kept", "roles", "loosen", "widths"},
    {"analyse"},
    {"draft", "choose", "criteria", "real", "cost", "proof.compare"},
    {
        "layers",
        "stages",
        "follow",
        "proof.order",
        "proof.footprint",
        "proof.taken",
        "samples",
        "proof.randomness",
    },
    {
        "cut",
        "proof.seams",
        "explanation.reach",
        "explanation.chain",
        "explanation.bridge",
        "calibration.data",
    },
    {
        "mask",
        "plan",
        "sparse.storage",
        "sparse.weights",
        "sparse.parts",
        "sparse.packing",
        "calibration.measure",
        "calibration.gain",
    },
    {"sparse.stored", "proof.reference", "calibration.criteria", "calibration.strands", "allocate"},
    {"dead.idle", "calibration.rotate"},
    {"dead.clean"},
    {"latency.single", "latency.staircase"},
    {"sparse.ranking", "sparse.zeroing", "sparse.sparsegpt"},
    {"sparse.calibrated"},
    {"proof.prove", "validate", "explanation.why", "calibration.recover", "calibration.evaluate"},
    {"latency.race", "latency.aim", "latency.timekeeper"},
    {
        "proof.blocks",
        "report",
        "calibration.regained",
        "calibration.calibrator",
        "sparse.report",
        "sparse.drift",
        "sparse.seen",
    },
    {"sparse.sparsify", "sparse.show", "html.spread", "html.render"},
    {"curves.sensitivity", "curves.work", "curves.workers", "curves.measure", "curves.losses"},
    {"curves.show", "curves.plot"},
    {"html.common"},
    {"html.staircase"},
    {"html.structured", "html.unstructured", "html.curves"},
    {"html.write"},
    {"pipeline", "show", "explanation.explain", "explanation.show"},
    {"dead.remove", "rounds", "sparse.ticket"},
    {"comparison.compare", "comparison.limits", "comparison.show"},
    {"training.moves", "training.norms", "training.sizes", "training.attention"},
    {"training.pieces", "training.stored", "training.torch_layers", "training.keras_layers"},
    {"training.folded", "training.fused"},
    {"training.matching"},
    {"training.carry"},
    {"torch", "keras"},
    {"verbs"},
    {"terminal.program"},
    {"cli", "__init__"},
    {"__main__"},
]
ALIKE = {"rules", "verbs"}  # packages whose modules do not know each other
LEVEL = {module: level for level, modules in enumerate(LAYERS) for module in modules}
DOORS = {
    "onnx_graphsurgeon": {"model.graph"},
    "onnxruntime": {"runtime"},
    "click": {
        "cli",
        "terminal.command",
        "terminal.config",
        "options",
        "sparse.options",
        "terminal.program",
        "verbs",
    },
    "rich": {
        "terminal.page",
        "show",
        "explanation.show",
        "sparse.show",
        "terminal.working",
        "comparison.show",
        "curves.show",
    },
    "matplotlib": {"html.chart", "curves.plot"},
    "torch": {"training.attention"},
    "keras": set(),
    "jinja2": {"html.render"},
}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module by its name below the package; the rules are one, and so are the verbs."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] in ALIKE:
            yield parts[0], path
        elif parts[-1] != "__init__" or len(parts) == 1:
            yield ".".join(parts), path


def imports(path: Path) -> Iterator[str]:
    """Full names of all that a file imports while it runs, those in functions too."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if not _for_types(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names = [alias.name for alias in node.names]
            yield from (f"{node.module}.{name}" for name in names)


def _for_types(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def inside(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports."""
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "onnx_prune":
            if len(parts) > 1 and parts[1] in ALIKE:
                yield parts[1]
            elif len(parts) > 2 and (ROOT / parts[1] / f"{parts[2]}.py").exists():
                yield f"{parts[1]}.{parts[2]}"
            else:
                yield parts[1] if len(parts) > 1 and (ROOT / f"{parts[1]}.py").exists() else "__init__"


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
    assert (ROOT / f"{module.replace('.', '/')}.py").exists() or (
        module in ALIKE and (ROOT / module).is_dir()
    )


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, onnx_prune; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"onnx", "onnxruntime", "numpy", "onnx_graphsurgeon", "rich", "click"} & set(loaded.split())


def test_public_functions_are_not_hidden_by_modules_of_their_name() -> None:
    """Found: a module that is imported becomes an attribute of the package, and the function was gone."""
    named = {name for name in onnx_prune.__all__ if callable(getattr(onnx_prune, name, None))}
    assert {"prune", "couple", "explain", "sparsify"} <= named
    assert named.isdisjoint(path.stem for path in ROOT.iterdir())


def test_a_cut_that_needs_no_run_loads_no_runtime(tmp_path: Path) -> None:
    onnx.save(small_cnn(), tmp_path / "in.onnx")
    code = (
        "import sys, onnx_prune\n"
        "onnx_prune.prune(sys.argv[1], sys.argv[1] + '.out', validate=False)\n"
        "print(*sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "in.onnx")]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert not {"onnxruntime", "onnx_graphsurgeon", "rich", "scipy"} & set(loaded.split())
