"""The command line: options, messages, exit codes, and what goes to which stream."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import onnx
import pytest
from click.testing import CliRunner, Result

from onnx_prune.cli import main
from onnx_prune.criteria import CRITERIA
from onnx_prune.errors import InputError, Misfit, NothingToPrune, ProofFailed
from onnx_prune.options import PARAMS
from onnx_prune.settings import CRITERIA_NAMES, Settings
from tests.models import small_cnn
from tests.reports import resnet50

HINT = "; try 'onnx-prune --help'"
REPORT = "; please report it with the model or its structure at the project's issue tracker"


class Fake:
    """Stands in for the pipeline: keeps what it was asked, and does what it was told."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.act: Callable[[], Any] = lambda: None

    def prune(  # noqa: D102 - the pipeline's own documentation holds
        self, source: str, output: str | None, settings: Settings, **rest: Any
    ) -> SimpleNamespace:
        self.calls.append({"source": source, "output": output, "settings": settings, **rest})
        settings.progress("coupling")
        self.act()
        return SimpleNamespace(report=resnet50())


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    fake = Fake()
    monkeypatch.setitem(sys.modules, "onnx_prune.pipeline", SimpleNamespace(prune=fake.prune))
    monkeypatch.chdir(tmp_path)
    for name in ("in.onnx", "s.npz", "p.json"):
        Path(name).write_bytes(b"x")
    return fake


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def refuse(fake: Fake, error: BaseException) -> None:
    def act() -> None:
        raise error

    fake.act = act


def test_defaults(fake: Fake) -> None:
    result = run("in.onnx", "out.onnx")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout.startswith("resnet50.onnx")
    (call,) = fake.calls
    settings = call.pop("settings")
    assert call == {"source": "in.onnx", "output": "out.onnx", "save_plan": None, "dry_run": False}
    assert settings == Settings(progress=settings.progress)


def test_every_option_arrives(fake: Fake) -> None:
    options = (
        "--ratio 0.25 --global --criterion fpgm --layer-ratio a*=0.3 --layer-ratio b=c=0 --mixed --ignore h* "
        "--ignore g --round-to 8 --min-channels 4 --max-ratio 0.8 --drift-data s.npz --threads 2 --strict "
        "--external-data always --save-plan plan.json -v"
    )
    assert run("in.onnx", "out.onnx", *options.split()).exit_code == 0
    settings, budget = fake.calls[0]["settings"], fake.calls[0]["settings"].budget
    assert (budget.ratio, budget.across, budget.mixed, budget.round_to) == (0.25, True, True, 8)
    assert budget.layer_ratios == (("a*", 0.3), ("b=c", 0.0))
    assert (budget.ignore, budget.min_channels, budget.max_ratio) == (("h*", "g"), 4, 0.8)
    assert (settings.criterion, settings.drift_data, settings.threads) == ("fpgm", Path("s.npz"), 2)
    assert (settings.strict, settings.external_data, settings.validate) == (True, "always", True)
    assert fake.calls[0]["save_plan"] == Path("plan.json")


def test_scores_plan_and_no_validation_arrive(fake: Fake) -> None:
    assert run("in.onnx", "--dry-run", "--scores", "s.npz", "--no-validate").exit_code == 0
    assert run("in.onnx", "in.onnx", "--apply-plan", "p.json").exit_code == 0
    dry, again = fake.calls
    assert (dry["output"], dry["dry_run"]) == (None, True)
    assert (dry["settings"].scores, dry["settings"].validate) == (Path("s.npz"), False)
    assert again["settings"].apply_plan == Path("p.json")


def test_calibration_options_arrive(fake: Fake) -> None:
    options = "--data s.npz --recover bias --criterion wanda --memory 2.5GB --target size=3MB --eval s.npz"
    assert run("in.onnx", "out.onnx", *options.split()).exit_code == 0
    made_up = "--data synthetic --input-mean 0.4,0.5,0.6 --input-std 0.2 --input-range 0,1 --memory 1GiB"
    assert run("in.onnx", "out.onnx", *made_up.split()).exit_code == 0
    first, second = (call["settings"] for call in fake.calls)
    assert first.evaluate == Path("s.npz")
    assert first.budget.target is not None
    assert (first.budget.target.kind, first.budget.target.amount) == ("size", 3e6)
    assert (first.data, first.recovery, first.ranking, first.memory) == ("s.npz", "bias", "wanda", 2.5e9)
    assert (second.data, second.recovery, second.ranking) == ("synthetic", "lstsq", "obs")
    assert second.input_range == (0, 1)
    assert (second.input_mean, second.input_std, second.memory) == ((0.4, 0.5, 0.6), (0.2,), 2**30)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("", "name the model to prune, and the file to write" + HINT),
        ("in.onnx", "name the file to write after the model, or give --dry-run" + HINT),
        ("in.onnx o.onnx more", "got unexpected extra argument (more)" + HINT),
        ("in.onnx o.onnx --rato 1", "no option --rato; did you mean --ratio? Try 'onnx-prune --help'"),
        ("in.onnx o.onnx --qqqqqq", "no option --qqqqqq" + HINT),
        ("in.onnx o.onnx --ratio", "option '--ratio' requires an argument" + HINT),
        ("in.onnx o.onnx --json=1", "option '--json' does not take a value" + HINT),
        ("in.onnx o.onnx --ratio half", "--ratio: 'half' is not a number" + HINT),
        (
            "in.onnx o.onnx --ratio 1",
            "ratio 1 is not in [0, 1): it is the fraction removed, 0.5 for half",
        ),
        (
            "in.onnx o.onnx --ratio -0.1",
            "ratio -0.1 is not in [0, 1): it is the fraction removed, 0.5 for half",
        ),
        (
            "in.onnx o.onnx --ratio nan",
            "ratio nan is not in [0, 1): it is the fraction removed, 0.5 for half",
        ),
        (
            "in.onnx o.onnx --layer-ratio c*=50",
            "layer ratio for 'c*': 50 is not in [0, 1): it is the fraction removed, 0.5 for half",
        ),
        ("in.onnx o.onnx --layer-ratio c*", "--layer-ratio: 'c*' is not GLOB=R, as in 'layer4.*=0.3'" + HINT),
        ("in.onnx o.onnx --layer-ratio =1", "--layer-ratio: '=1' is not GLOB=R, as in 'layer4.*=0.3'" + HINT),
        (
            "in.onnx o.onnx --criterion fgpm",
            "--criterion: unknown value 'fgpm'; did you mean fpgm? "
            "Known: l1, l2, group-l1, group-l2, fpgm, bn-scale, random, obs, activation, wanda, flap, "
            "magnitude, lamp, erk, ria, sparsegpt" + HINT,
        ),
        (
            "in.onnx o.onnx --target macs",
            "target 'macs' is not macs, params, size, latency with what is to be left, as in macs=0.5, "
            "params=1.5M, size=10MB or latency=8ms",
        ),
        (
            "in.onnx o.onnx --target latency=0.5 --no-validate",
            "target latency=0.5 is measured by running both models, which no-validate forbids",
        ),
        (
            "in.onnx o.onnx --target macs=0.5 --rounds 2",
            "--rounds ranks channels anew each time, so --target has no use; leave one of them out" + HINT,
        ),
        (
            "in.onnx o.onnx --target macs=0.5 --ratio 0.2",
            "--target says how much is left, so --ratio has no use; leave one of them out" + HINT,
        ),
        (
            "in.onnx o.onnx --criterion obs",
            "criterion obs looks at what layers read: give --data FILE, or --data synthetic",
        ),
        (
            "in.onnx o.onnx --recover bias",
            "recover bias looks at what layers read: give --data FILE, or --data synthetic",
        ),
        (
            "in.onnx o.onnx --recover all",
            "--recover: unknown value 'all'. Known: lstsq, bias, bn, none" + HINT,
        ),
        (
            "in.onnx o.onnx --data s.npz --input-mean 1",
            "--input-mean describes synthetic inputs; give --data synthetic with it" + HINT,
        ),
        (
            "in.onnx o.onnx --data synthetic --input-std 1,x",
            "--input-std: '1,x' is not a number, or several as in 0.5,0.4,0.4" + HINT,
        ),
        (
            "in.onnx o.onnx --data synthetic --input-std 0",
            "input-std has to be above 0: it is the spread of the inputs' values",
        ),
        (
            "in.onnx o.onnx --data synthetic --input-range 1,0",
            "input-range has to be two numbers, the smaller one first, as in 0,1",
        ),
        ("in.onnx o.onnx --data s.npz --memory lots", "--memory: 'lots' is not a size, as in 4GB" + HINT),
        ("in.onnx o.onnx --data s.npz --memory 0", "memory 0 is below 1: give bytes, as in 4GB"),
        ("in.onnx o.onnx --data t.npz", "'t.npz': no such file; did you mean s.npz?"),
        (
            "in.onnx --dry-run --data s.npz --recover bn",
            "--dry-run changes and writes nothing, so --recover has no use; leave one of them out" + HINT,
        ),
        (
            "in.onnx o.onnx --external-data yes",
            "--external-data: unknown value 'yes'. Known: auto, always, never" + HINT,
        ),
        ("in.onnx o.onnx --round-to x", "--round-to: 'x' is not a whole number or 'auto'" + HINT),
        ("in.onnx o.onnx --round-to 0", "round-to 0 is below 1: 1 leaves widths as the ratio gives them"),
        ("in.onnx o.onnx --min-channels 2.5", "--min-channels: '2.5' is not a whole number" + HINT),
        ("in.onnx o.onnx --min-channels 0", "min-channels 0 is below 1: no group can lose all its channels"),
        (
            "in.onnx o.onnx --max-ratio 0",
            "max-ratio 0 is not in (0, 1]: it is the most that one group may lose, 0.8 for four fifths",
        ),
        (
            "in.onnx o.onnx --threads -1",
            "threads -1 is negative: give 1 or more, 0 for onnxruntime's choice",
        ),
        (
            "in.onnx o.onnx --apply-plan p.json --ratio 0.5",
            "--apply-plan says what is cut, so --ratio has no use; leave one of them out" + HINT,
        ),
        (
            "in.onnx o.onnx --scores s.npz --criterion l1",
            "--scores replaces the criterion, so --criterion has no use; leave one of them out" + HINT,
        ),
        (
            "in.onnx o.onnx --no-validate --threads 1",
            "--no-validate runs nothing, so --threads has no use; leave one of them out" + HINT,
        ),
        (
            "in.onnx --dry-run --save-plan a.json",
            "--dry-run changes and writes nothing, so --save-plan has no use; leave one of them out" + HINT,
        ),
        (
            "in.onnx o.onnx -q -v",
            "--quiet prints nothing, so --verbose has no use; leave one of them out" + HINT,
        ),
        ("im.onnx o.onnx", "'im.onnx': no such file; did you mean in.onnx?"),
        ("no/in.onnx o.onnx", "'no/in.onnx': no such file; check the path"),
        ("in.onnx o.onnx --scores zzzz", "'zzzz': no such file; check the path"),
        ("in.onnx o.onnx --drift-data zzzz", "'zzzz': no such file; check the path"),
        ("in.onnx o.onnx --apply-plan zzzz", "'zzzz': no such file; check the path"),
        ("in.onnx .", "'.': is a directory; name a file in it"),
        ("in.onnx no/o.onnx", "'no/o.onnx': there is no folder 'no'; make it first"),
        (
            "in.onnx o.onnx --save-plan in.onnx",
            "--save-plan 'in.onnx' is the model itself; name another file",
        ),
        (
            "in.onnx o.onnx --save-plan ./o.onnx",
            "--save-plan './o.onnx' is the model itself; name another file",
        ),
    ],
)
def test_messages(args: str, message: str, fake: Fake) -> None:
    result = run(*args.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"onnx-prune: error: {message}\n"
    assert not fake.calls


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("conv1: no"), 2, "error: conv1: no"),
        (NothingToPrune("nothing to prune: y is an output"), 4, "error: nothing to prune: y is an output"),
        (ProofFailed("they differ"), 3, "internal error: ProofFailed: they differ" + REPORT),
        (Misfit("odd"), 3, "internal error: Misfit: odd" + REPORT),
        (KeyError("a\nb\x1b"), 3, r"internal error: KeyError: 'a\nb\x1b'" + REPORT),
        (AssertionError(), 3, "internal error: AssertionError" + REPORT),
        (
            MemoryError(),
            2,
            "error: out of memory; a machine with more is needed, or --no-validate, which needs less",
        ),
    ],
)
@pytest.mark.parametrize("options", [[], ["--json"], ["-q"]])
def test_failures(error: Exception, code: int, line: str, options: list[str], fake: Fake) -> None:
    refuse(fake, error)
    result = run("in.onnx", "out.onnx", *options)
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"onnx-prune: {line}\n")


def test_a_traceback_only_when_verbose(fake: Fake) -> None:
    refuse(fake, ValueError("odd"))
    result = run("in.onnx", "out.onnx", "-v")
    assert result.exit_code == 3
    assert result.stderr.startswith("Traceback")
    assert result.stderr.splitlines()[-1] == "onnx-prune: internal error: ValueError: odd" + REPORT


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
@pytest.mark.parametrize("turned", [False, True])
def test_signals(signum: signal.Signals, code: int, turned: bool, fake: Fake) -> None:
    def act() -> None:
        try:
            signal.raise_signal(signum)
        except SystemExit as stopped:
            if turned:
                raise ImportError("initialization failed") from stopped
            raise

    fake.act = act
    handler = signal.default_int_handler  # not what the tests run under, where the signal may be ignored
    before = signal.signal(signum, handler)
    try:
        result = run("in.onnx", "out.onnx")
        assert (result.exit_code, result.output) == (code, "")
        assert signal.getsignal(signum) is handler
    finally:
        signal.signal(signum, before)


@pytest.mark.parametrize("place", ["cli.check", "terminal.program.Program.make_context"])
def test_ctrl_c_before_the_work_begins(place: str, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"onnx_prune.{place}", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = run("in.onnx", "out.onnx", "-q")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (result.exit_code, result.output) == (130, "")


PROGRAM = """
    import atexit, signal, sys
    moment = sys.argv[1]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored where the tests run

    class Stop:
        def find_spec(self, name, *rest):
            if name == moment:
                signal.raise_signal(signal.SIGINT)

    sys.meta_path.insert(0, Stop())
    if moment == "exit":
        atexit.register(signal.raise_signal, signal.SIGINT)
    sys.argv = ["onnx-prune", "--version"]
    from onnx_prune.__main__ import main
    main()
"""


@pytest.mark.parametrize(
    ("moment", "code"),
    [("onnx_prune.cli", 130), ("click", 130), ("onnx_prune.options", 130), ("exit", -signal.SIGINT)],
)
def test_ctrl_c_while_the_program_starts_and_ends(moment: str, code: int) -> None:
    """A shell says 130 of the last one, too, which the signal itself ends."""
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), moment]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "")


def test_ctrl_c_outside_of_click(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("click.Command.main", interrupt)
    with pytest.raises(SystemExit) as stopped:
        main.main(["in.onnx", "out.onnx"])
    assert stopped.value.code == 130


@pytest.mark.parametrize("options", [[], ["-q"], ["-v"]])
def test_json_is_one_document(options: list[str], fake: Fake) -> None:
    result = run("in.onnx", "out.onnx", "--json", *options)
    assert json.loads(result.stdout)["format"] == "onnx-prune-report"
    assert result.stderr == ""


def test_quiet_prints_nothing(fake: Fake) -> None:
    assert run("in.onnx", "out.onnx", "-q").output == ""


def test_help_names_every_option_and_exit_code(fake: Fake) -> None:
    for flag in ("-h", "--help"):
        result = run(flag)
        assert result.exit_code == 0
        for param in PARAMS:
            if isinstance(param, click.Option):
                assert all(name in result.output for name in param.opts if name.startswith("-"))
        for word in (*CRITERIA_NAMES, "Examples:", "\n  2 ", "\n  3 ", "\n  4 ", "130", "143"):
            assert word in result.output
        assert max(map(len, result.output.splitlines())) <= 80


def test_version() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.output.startswith("onnx-prune ")
    assert f"onnx {onnx.__version__}" in result.output


def test_criteria_names_are_the_criteria() -> None:
    assert tuple(CRITERIA) == CRITERIA_NAMES


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["no.onnx", "o.onnx"], ["--rato"]])
def test_what_is_heavy_is_not_imported_without_work(args: list[str]) -> None:
    code = (
        "import sys, atexit, onnx_prune.cli as c\n"
        "atexit.register(lambda: print('LOADED', *(m for m in "
        "('onnx', 'onnxruntime', 'rich', 'numpy', 'scipy') if m in sys.modules)))\n"
        f"c.main({args!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "LOADED", done.stderr


def pruned(tmp_path: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    onnx.save(small_cnn(), tmp_path / "in.onnx")
    command = [sys.executable, "-m", "onnx_prune", "in.onnx", "out.onnx", "--round-to", "1", *options]
    path = str(Path(__file__).parents[1])
    return subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path} | env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_real_model(tmp_path: Path) -> None:
    done = pruned(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "surgery proved" in done.stdout
    weights = {t.name: list(t.dims) for t in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert weights["conv2.weight"] == [8, 4, 3, 3]


def test_a_real_model_in_json_and_not_proved(tmp_path: Path) -> None:
    done = pruned(tmp_path, "--json", "--no-validate")
    document = json.loads(done.stdout)
    assert (document["proof"], document["not_proved"]) == (None, "--no-validate")
    assert document["after"]["params"] < document["before"]["params"] / 2


def test_a_real_model_in_a_plain_locale(tmp_path: Path) -> None:
    done = pruned(tmp_path, LC_ALL="C", COLUMNS="60")
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert max(map(len, done.stdout.splitlines())) <= 60


PRINTING = """
import sys, types
from tests.reports import resnet50
def prune(source, output, settings, **rest):
    settings.progress("proving [b]\\x1b")
    return types.SimpleNamespace(report=resnet50())
sys.modules["onnx_prune.pipeline"] = types.SimpleNamespace(prune=prune)
from onnx_prune.cli import main
main(["pyproject.toml", "out.onnx", *sys.argv[1:]])
"""


def print_to(stdout: int, *options: str) -> tuple[int, str]:
    """Exit code and stderr of a run of the fake pipeline."""
    command = [sys.executable, "-c", PRINTING, *options]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    os.close(stdout)
    return done.returncode, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("option", ["-v", "--json", "--version", "--help"])
def test_a_full_stdout_is_one_line(option: str) -> None:
    message = "onnx-prune: error: cannot print the report: No space left on device\n"
    assert print_to(os.open("/dev/full", os.O_WRONLY), option) == (2, message)


@pytest.mark.parametrize("option", ["-v", "--json", "--help"])
def test_a_closed_pipe_is_silent(option: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert print_to(writer, option) == (1, "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(
    ("term", "option", "shown"),
    [("xterm", "-v", True), ("dumb", "-v", False), ("xterm", "-q", False), ("xterm", "--json", False)],
)
def test_progress_only_on_a_terminal(term: str, option: str, shown: bool) -> None:
    terminal, stderr = os.openpty()
    done = subprocess.run(
        [sys.executable, "-c", PRINTING, option],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"TERM": term},
        stdout=subprocess.PIPE,
        stderr=stderr,
        check=True,
    )
    os.write(stderr, b"END")
    said = os.read(terminal, 1 << 16).decode()
    os.close(stderr)
    os.close(terminal)
    assert (r"proving [b]\x1b" in said) is shown
    assert shown or said == "END"
    assert b"proving [b]" not in done.stdout


def test_help_names_what_zeroes_and_what_is_dead() -> None:
    text = run("--help").stdout
    for option in ("--unstructured", "--pattern", "--save-mask", "--apply-mask", "--dead"):
        assert option in text
