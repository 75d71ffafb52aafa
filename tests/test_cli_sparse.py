"""Single weights on the command line: options arrive, messages, and what is printed."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from onnx_prune.cli import main
from onnx_prune.sparse import storage
from tests.models import small_cnn

HINT = "; try 'onnx-prune --help'"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    onnx.save(small_cnn(), "in.onnx")


def run(text: str) -> Result:
    return CliRunner().invoke(main, text.split())


def test_a_page() -> None:
    result = run("in.onnx out.onnx --unstructured --ratio 0.7")
    assert (result.exit_code, result.stderr) == (0, "")
    words = " ".join(result.stdout.split())
    assert "Zero: 1,069 of 1,528 weights (70 %), 1,069 asked, unstructured, by magnitude" in words
    assert "conv2.weight 16×8×3×3 1.15 k 806 30 %" in words
    assert "checked: every weight is its mask times what it was; 3 other tensors as before" in words
    assert "onnxruntime gains no speed from zeros" in words
    assert "which are smaller below a density of 33.3 %" in words
    assert Path("out.onnx").exists()


def test_a_document_and_files() -> None:
    result = run("in.onnx out.onnx --unstructured --pattern 2:4 --json --save-mask m.npz --plot h.svg")
    report = json.loads(result.stdout)
    assert (report["format"], report["version"]) == ("onnx-prune-sparse-report", 1)
    assert (report["pattern"], report["asked_ratio"], report["zeros"]) == ("2:4", 0.5, 728)
    assert ElementTree.parse("h.svg").getroot().tag.endswith("}svg")
    manifest = json.loads(str(np.load("m.npz")["manifest"]))
    assert (manifest["format"], manifest["pattern"]) == ("onnx-prune-mask", "2:4")
    again = run("in.onnx again.onnx --apply-mask m.npz -q")
    assert (again.exit_code, again.stdout) == (0, "")
    assert Path("again.onnx").read_bytes() == Path("out.onnx").read_bytes()


def test_all_options_at_once() -> None:
    np.savez("s.npz", **{"conv2.weight": np.ones((16, 8, 3, 3)), "fc.weight": np.ones((10, 16))})
    options = (
        "--global --layer-ratio fc*=0.1 --spare first --scores s.npz --sparse-initializers --no-validate"
    )
    report = json.loads(run(f"in.onnx o.onnx --unstructured --ratio 0.9 {options} --json").stdout)
    zeros = {layer["name"]: layer["zeros"] for layer in report["layers"]}
    assert zeros == {"conv2.weight": 1036, "fc.weight": 16}
    assert (report["criterion"], report["not_run"], report["stored_sparsely"]) == (
        "scores",
        "--no-validate",
        1,
    )


def test_a_dry_run_writes_nothing() -> None:
    result = run("in.onnx --unstructured --dry-run -v")
    assert result.exit_code == 0
    assert "dry run: nothing was run or written" in result.stdout
    assert [path.name for path in Path().iterdir()] == ["in.onnx"]


def test_dead_channels_are_removed() -> None:
    run("in.onnx half.onnx --unstructured --pattern channel")
    model = onnx.load("half.onnx")
    for name in ("conv1.bias", "conv2.bias"):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tensor.dims, np.float32), name))
    onnx.save(model, "half.onnx")
    report = json.loads(run("half.onnx small.onnx --dead --json").stdout)
    assert [(group["size"], group["kept"]) for group in report["groups"]] == [(8, 4), (16, 8)]
    assert report["drift"]["relative_error"] < 1e-6


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--pattern 2:4", "--pattern is for single weights; add --unstructured" + HINT),
        ("--save-mask m.npz", "--save-mask is for single weights; add --unstructured" + HINT),
        ("--unstructured --mixed", "--mixed is for channels; leave it or --unstructured out" + HINT),
        (
            "--unstructured --save-plan p",
            "--save-plan is for channels; leave it or --unstructured out" + HINT,
        ),
        (
            "--apply-mask in.onnx --ratio 0.5",
            "--ratio has no use with --apply-mask, which says what goes" + HINT,
        ),
        (
            "--unstructured --ratio 0.9 --rounds 3",
            "--rounds is of use for single weights only with training in between; leave it out, or let "
            "'onnx-prune schedule' write a mask for each round" + HINT,
        ),
        (
            "--apply-mask in.onnx --rounds 3",
            "--rounds has no use with --apply-mask, which says what goes" + HINT,
        ),
        (
            "--unstructured --dry-run --save-mask m.npz",
            "--save-mask has no use with --dry-run, which writes nothing" + HINT,
        ),
        ("--apply-mask m.npz", "'m.npz': no such file; check the path"),
        (
            "--unstructured --save-mask in.onnx",
            "--save-mask 'in.onnx' is the model itself; name another file",
        ),
        ("--unstructured --plot h.pdf", "--plot 'h.pdf' is neither .svg nor .png" + HINT),
        ("--unstructured --plot no/h.svg", "'no/h.svg': there is no folder 'no'; make it first"),
        (
            "--unstructured --criterion l1",
            "unknown criterion 'l1'. Known: magnitude, lamp, erk, random, wanda, ria, sparsegpt",
        ),
        (
            "--criterion lamp",
            "unknown criterion 'lamp'; did you mean flap? Known: l1, l2, group-l1, group-l2, fpgm, bn-scale, "
            "random, obs, activation, wanda, flap",
        ),
        (
            "--dead --ratio 0.5",
            "--dead removes what says nothing, and nothing else, so --ratio has no use; leave one of them out"
            + HINT,
        ),
    ],
)
def test_messages(args: str, message: str) -> None:
    result = run(f"in.onnx o.onnx {args}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"onnx-prune: error: {message}\n"
    assert not Path("o.onnx").exists()


@pytest.mark.parametrize("known", ["compression.zstd", "backports.zstd", ""])
def test_sizes_by_zstd_where_there_is_a_package(known: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> SimpleNamespace:
        if name != known:
            raise ImportError(name)
        return SimpleNamespace(compress=lambda data: b"z" * 7)

    monkeypatch.setattr(storage, "import_module", load)
    plain, data = (
        run(f"in.onnx o.onnx --unstructured --report r.html{more}").stdout for more in ("", " --json")
    )
    found = json.loads(data)["storage"]
    assert (found["zstd"], found["zstd_before"]) == ((21, 21) if known else (None, None))
    assert 0 < found["gz"] < found["gz_before"]
    assert ("21 B by zstd (21 B before)" in " ".join(plain.split())) == bool(known)
    assert ("These weights, by zstd" in Path("r.html").read_text()) == bool(known)


def test_sizes_by_zstd() -> None:
    if sys.version_info < (3, 14):
        pytest.importorskip("backports.zstd", reason="onnx-prune[zstd] is not installed")
    found = json.loads(run("in.onnx o.onnx --unstructured --ratio 0.9 --json").stdout)["storage"]
    assert 0 < found["zstd"] < found["zstd_before"] <= found["dense"]
