"""The command line's own promises: quick help, one-sentence errors, exit statuses."""

import ast
import dataclasses
import inspect
import itertools
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import fsm
from fsm.cli import main
from fsm.cli.main import COMMANDS
from fsm.errors import InputError


@dataclasses.dataclass(frozen=True)
class _Failing:
    """Fail in a chosen way."""

    how: str = "input"
    """What to raise."""

    def run(self) -> int:
        if self.how == "input":
            raise InputError("clip.json: field fps is -1;\nchoose a positive rate.")
        if self.how == "interrupt":
            raise KeyboardInterrupt
        if self.how == "os":
            Path("/proc/nothing/here").write_text("")
        if self.how == "bug":
            raise ZeroDivisionError("a bug")
        return 1


@pytest.fixture
def _failing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "failing", _Failing)


def _run(*arguments: str) -> subprocess.CompletedProcess:
    code = (
        "import sys; from fsm.cli import main; status = main(); print('torch' in sys.modules); "
        "sys.exit(status)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


def test_help_names_every_command_and_does_not_wait_for_torch() -> None:
    code = (
        "import sys, fsm.cli\ntry: fsm.cli.main(['--help'])\nfinally: print('torch' in sys.modules)"
    )
    text = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert text.splitlines()[-1] == "False"
    for name in COMMANDS:
        assert f"• {name}" in text


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_every_command_explains_every_flag(
    name: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "{None}" not in text
    assert "(default: None)" not in text
    shown = " ".join(text.replace("│", " ").split())
    for field, words in _field_helps(COMMANDS[name]).items():
        assert words, f"{field} has no help"
        assert words in shown, field


def _field_helps(command: type) -> dict[str, str]:
    """The string under each field of a command's class, as its source has it."""
    body = ast.parse(textwrap.dedent(inspect.getsource(command))).body[0]
    assert isinstance(body, ast.ClassDef)
    helps = {}
    for node, after in itertools.pairwise(body.body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = (
                after.value.value
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                else ""
            )
            helps[node.target.id] = " ".join(str(text).split())
    assert len(helps) == len(dataclasses.fields(command))
    return helps


def test_version(capsys: pytest.CaptureFixture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fsm {fsm.__version__}\n"


@pytest.mark.usefixtures("_failing")
def test_bad_input_is_one_line_on_stderr_and_status_2(capsys: pytest.CaptureFixture) -> None:
    assert main(["failing"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: clip.json: field fps is -1; choose a positive rate.\n"
    assert captured.out == ""


@pytest.mark.usefixtures("_failing")
@pytest.mark.parametrize("arguments", [["--debug", "failing"], ["failing", "--debug"]])
def test_debug_lets_the_traceback_through(arguments: list[str]) -> None:
    with pytest.raises(InputError, match="field fps"):
        main(arguments)


@pytest.mark.usefixtures("_failing")
def test_statuses(capsys: pytest.CaptureFixture) -> None:
    assert main(["failing", "--how", "verdict"]) == 1
    assert main(["failing", "--how", "interrupt"]) == 130
    assert main(["failing", "--how", "os"]) == 2
    assert "/proc/nothing/here: No such file or directory" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        main(["failing", "--how", "bug"])  # our fault, not the user's: the traceback is wanted
    with pytest.raises(SystemExit) as caught:
        main(["failing", "--hwo", "input"])
    assert caught.value.code == 2


def test_errors_are_red_only_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(COMMANDS, "failing", _Failing)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    main(["failing"])
    assert capsys.readouterr().err.startswith("\033[31merror: ")
    monkeypatch.setenv("NO_COLOR", "1")
    main(["failing"])
    assert capsys.readouterr().err.startswith("error: ")


def test_no_command_shows_help() -> None:
    done = _run()
    assert done.returncode == 0
    assert "render" in done.stdout


def test_a_warning_is_one_line() -> None:
    code = (
        "import sys, types, warnings, fsm.cli\n"
        "m = sys.modules['fsm.cli.main']\n"
        "run = lambda: warnings.warn('two\\nlines')\n"
        "m._parse = lambda arguments: types.SimpleNamespace(run=run)\n"
        "raise SystemExit(m.main(['render']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "warning: two lines\n")


@pytest.mark.parametrize(
    "command",
    [["render", "scene"], ["view", "scene"], ["refine", "new", "demo"], ["eval", "demo"], ["demo"]],
)
def test_a_backend_that_cannot_work_is_refused_by_every_command_that_draws(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--device", "cpu", "--backend", "gsplat"]) == 2
    message = "error: backend is gsplat but the Gaussians are on cpu; choose device cuda or backend"
    assert capsys.readouterr().err.startswith(message)
    assert list(tmp_path.iterdir()) == []
