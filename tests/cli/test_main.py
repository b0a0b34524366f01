"""The command line: exit codes, one JSON object, errors in two languages, and a light start."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from patchlight import errors
from patchlight.cli.main import app, execute
from patchlight.cli.terminal import Terminal, command, perform

PLACE = errors.Place(Path("pack.yaml"), 3, 5)
RAISED: dict[str, tuple[BaseException, int]] = {
    "input": (errors.InputError("pack-unknown-key", "unknown key 'fcts'", where=PLACE, fix="did you mean 'facts'?"), 3),
    "environment": (errors.EnvironmentProblem("store-disk-full", "the disk is full"), 4),
    "budget": (errors.BudgetExceeded("plan-memory", "needs 12 GB"), 5),
    "gate": (errors.GateFailed("gate-self-patch", "self-patch moved the logits"), 6),
    "units": (errors.UnitsFailed("study-units-failed", "2 units failed"), 7),
    "interrupt": (KeyboardInterrupt(), 130),
    "bug": (ZeroDivisionError("division by zero"), 1),
}


def raising(error: BaseException) -> Any:
    def work() -> Mapping[str, Any]:
        print("a library that prints")
        raise error

    return work


@pytest.mark.parametrize("name", RAISED)
def test_every_error_has_its_exit_code_and_its_json(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    error, code = RAISED[name]
    assert perform(Terminal("en", json=True, workspace=tmp_path), raising(error)) == code
    told = json.loads(capsys.readouterr().out)
    assert (told["patchlight"], told["ok"], told["error"]["exit_code"]) == (1, False, code)


def test_an_error_names_its_place_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    perform(Terminal("en"), raising(RAISED["input"][0]))
    assert capsys.readouterr().err.splitlines() == [
        "error[pack-unknown-key] pack.yaml:3:5",
        "  unknown key 'fcts'",
        "  what to do: did you mean 'facts'?",
    ]
    perform(Terminal("ja"), raising(RAISED["input"][0]))
    assert capsys.readouterr().err.splitlines()[::2] == [
        "エラー[pack-unknown-key] pack.yaml:3:5",
        "  対処: did you mean 'facts'?",
    ]


def test_the_place_is_in_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    perform(Terminal(json=True), raising(RAISED["input"][0]))
    told = json.loads(capsys.readouterr().out)["error"]
    assert told["where"] == {"file": "pack.yaml", "line": 3, "column": 5}
    assert (told["code"], told["fix"]) == ("pack-unknown-key", "did you mean 'facts'?")


def test_a_bug_is_one_line_and_its_traceback_a_log_in_the_workspace(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    perform(Terminal("en", workspace=tmp_path), raising(RAISED["bug"][0]))
    told = capsys.readouterr().err
    [log] = tmp_path.iterdir()
    assert "Traceback" not in told
    assert str(log) in told
    assert "ZeroDivisionError: division by zero" in log.read_text()


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    perform(Terminal("en", debug=True, workspace=tmp_path), raising(RAISED["bug"][0]))
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_anywhere_is_a_problem_of_the_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def work() -> Mapping[str, Any]:
        with Path("/dev/full").open("w") as stream:
            stream.write("report")
        return {}

    assert perform(Terminal("en", json=True, workspace=tmp_path), work) == 4
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "store-disk-full"


def greeting(
    terminal: Terminal, name: str, times: Annotated[int, typer.Option(help="How often.")] = 1
) -> dict[str, Any]:
    """Say hello."""
    print("a library that prints")
    terminal.say(f"hello {name}")
    return {"name": name, "times": times, "path": Path("report.html"), "gap": float("nan")}


@pytest.fixture
def greet() -> Any:
    app.command("greet")(command(greeting))
    yield
    app.registered_commands.pop()


@pytest.mark.usefixtures("greet")
def test_json_is_the_only_thing_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["greet", "you", "--times", "3", "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out) == {
        "patchlight": 1,
        "ok": True,
        "name": "you",
        "times": 3,
        "path": "report.html",
        "gap": None,
    }
    assert execute(["greet", "you"]) == 0
    assert "hello you" in capsys.readouterr().out


@pytest.mark.usefixtures("greet")
@pytest.mark.parametrize(
    "arguments",
    [
        ["greet"],
        ["greet", "you", "--tmes", "3"],
        ["greet", "you", "--times", "many"],
        ["gret"],
        ["greet", "x", "--lang", "fr"],
    ],
)
def test_wrong_usage_is_exit_2_with_json_too(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([*arguments, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"


@pytest.mark.usefixtures("greet")
def test_a_mistyped_command_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["gret", "--lang", "ja"]) == 2
    told = capsys.readouterr().err
    assert "'greet'" in told
    assert told.startswith("エラー[usage]")


@pytest.mark.usefixtures("greet")
@pytest.mark.parametrize(("locale", "head"), [("ja_JP.UTF-8", "エラー"), ("en_GB.UTF-8", "error"), ("C", "error")])
def test_the_locale_chooses_the_language(
    locale: str, head: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    assert execute(["greet"]) == 2
    assert capsys.readouterr().err.startswith(head)


def test_version_and_bare_call_say_what_this_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["--version"]) == 0
    assert capsys.readouterr().out.startswith("patchlight ")
    assert execute([]) == 0
    assert "Usage: patchlight" in capsys.readouterr().out


def run_python(program: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def test_help_starts_without_the_heavy_libraries() -> None:
    program = (
        "import sys; from patchlight.cli.main import execute; code = execute(['--help'])\n"
        "heavy = {'torch', 'transformers', 'pandas', 'sqlalchemy', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy or code else 0)"
    )
    process = run_python(program)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "Usage: patchlight" in out


def test_help_takes_less_than_half_a_second() -> None:
    def seconds() -> float:
        """Processor time, which other work on the machine does not stretch as it does the wall clock."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "patchlight.cli.main", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 0.5


SLEEPER = """
import sys, time
from patchlight.cli import main
from patchlight.cli.terminal import Terminal, command

@command
def sleep(terminal: Terminal, lines: int = 0) -> dict:
    for number in range(lines):
        terminal.say(f"line {number}")
    print("ready", file=sys.stderr, flush=True)
    while not lines:
        time.sleep(0.01)
    return {}

main.app.command()(sleep)
main.main()
"""


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_says_how_to_go_on(sign: signal.Signals) -> None:
    process = run_python(SLEEPER, "sleep", env={**os.environ, "LC_ALL": "C"})
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    process.send_signal(sign)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "run it again: patchlight sleep" in err


def test_a_reader_that_leaves_early_is_no_error() -> None:
    process = run_python(SLEEPER, "sleep", "--lines", "100000")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=30) == 0
