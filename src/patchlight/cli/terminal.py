"""What every command shares: its three options, what it says, its one JSON object, its exit code.

A command is a function of a `Terminal` and its own arguments that returns what `--json` prints:

    @command
    def status(terminal: Terminal, workspace: Path) -> dict[str, object]:
        '''The help text.'''
        terminal.workspace = workspace
        terminal.say("for people, on stdout")
        return {"units": 12}
"""

from __future__ import annotations

import inspect
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from patchlight.cli.errors_view import explain
from patchlight.cli.phrases import Language, locale_language

if TYPE_CHECKING:
    from patchlight.run.progress import Progress

OUTPUT_VERSION = 1


@dataclass
class Terminal:
    """The person, or the program, that called a command.

    `workspace` is set by a command as soon as it knows it: the log of an internal error goes there.
    """

    language: Language = field(default_factory=locale_language)
    json: bool = False
    debug: bool = False
    workspace: Path | None = None
    stdout: TextIO = field(default_factory=lambda: sys.stdout)

    def say(self, text: str) -> None:
        """The text is on stdout, unless a program reads it."""
        if not self.json:
            typer.echo(text, file=self.stdout)

    def progress(self) -> Progress:
        """A progress display on stderr in the terminal's language."""
        from patchlight.run.progress import open_progress

        return open_progress(self.language)

    def answer(self, content: Mapping[str, Any], *, ok: bool = True) -> None:
        """The one JSON object is on stdout, where it was asked for."""
        if self.json:
            whole = _plain({"patchlight": OUTPUT_VERSION, "ok": ok, **content})
            typer.echo(json.dumps(whole, ensure_ascii=False, allow_nan=False), file=self.stdout)


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
LangOption = Annotated[Language | None, typer.Option("--lang", help="Language of messages.", show_default="locale")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the details of an internal error.")]
SHARED: dict[str, tuple[Any, Any]] = {
    "json_output": (JsonOption, False),
    "lang": (LangOption, None),
    "debug": (DebugOption, False),
}


def command(work: Callable[..., Mapping[str, Any]]) -> Callable[..., None]:
    """A Typer command made of `work(terminal, ...)`, with `--json`, `--lang` and `--debug` added.

    Whatever `work` raises is explained on stderr (in JSON on stdout) and becomes an exit code.
    """

    def wrapper(*, json_output: bool, lang: Language | None, debug: bool, **arguments: Any) -> None:
        terminal = Terminal(lang or locale_language(), json_output, debug)
        code = perform(terminal, lambda: work(terminal, **arguments))
        if code:
            raise typer.Exit(code)

    own = list(inspect.signature(work, eval_str=True).parameters.values())[1:]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in SHARED.items()
    ]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + shared
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    wrapper.__name__, wrapper.__doc__ = work.__name__, work.__doc__
    return wrapper


def perform(terminal: Terminal, work: Callable[[], Mapping[str, Any]]) -> int:
    """The exit code of some work, whose answer, or whose error, was told to the terminal."""
    try:
        # Libraries print; under --json nothing but the one object may reach stdout.
        with redirect_stdout(sys.stderr if terminal.json else terminal.stdout):
            content = work()
        terminal.answer(content)
        terminal.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has left. Python would complain once more when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), terminal.stdout.fileno())
    except BaseException as error:  # noqa: BLE001  (the last stop of every error: it is explained, never dropped)
        return explain_to(terminal, error)
    return 0


def explain_to(terminal: Terminal, error: BaseException) -> int:
    """The exit code of an error that was told to the terminal, for people or as JSON."""
    explanation = explain(error, terminal.language, terminal.workspace, debug=terminal.debug)
    typer.echo(explanation.text(terminal.language), err=True)
    terminal.answer({"error": explanation.as_json()}, ok=False)
    return explanation.exit_code


def _plain(value: Any) -> Any:
    """The value as JSON has it: paths as text, null for a number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
