"""Errors as a person, or a program, reads them: code, place, what happened, what to do, exit code."""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer import TyperException

from patchlight.cli.phrases import PHRASES, Language
from patchlight.errors import PatchlightError, Place
from patchlight.packs.problem import FileRefused
from patchlight.store.faults import storage_problem

INTERNAL = 1
INTERRUPTED = 130


@dataclass(frozen=True)
class Explanation:
    """What is told of an error: a stable code, what happened, what to do, where, and the exit code."""

    exit_code: int
    code: str
    what: str
    fix: str
    where: Place | str | None = None

    def text(self, language: Language) -> str:
        """The lines that a person reads."""
        say = PHRASES[language]
        head = f"{say['error']}[{self.code}]" + (f" {self.where}" if self.where is not None else "")
        lines = [head, *(f"  {line}" for line in self.what.splitlines())]
        return "\n".join([*lines, f"  {say['fix']}: {self.fix}"] if self.fix else lines)

    def as_json(self) -> dict[str, Any]:
        """The object that a program reads; `where` is None or has `file`, `line` and `column`."""
        where = self.where if isinstance(self.where, Place) or self.where is None else Place(Path(self.where))
        place = where and {"file": str(where.file), "line": where.line, "column": where.column}
        told = {"exit_code": self.exit_code, "code": self.code, "what": self.what, "fix": self.fix}
        return {**told, "where": place}


def explain(error: BaseException, language: Language, workspace: Path | None, *, debug: bool) -> Explanation:
    """What is told of an error.

    An error that is not Patchlight's own is told in one line; its traceback is written to a log in
    `workspace` (to the system's temporary folder where none is known), or to stderr with `debug`.
    """
    say = PHRASES[language]
    error = storage_problem(error, workspace or Path.cwd()) or error
    if isinstance(error, FileRefused):
        return Explanation(error.exit_code, error.code, *error.said(language), error.where)
    if isinstance(error, PatchlightError):
        return Explanation(error.exit_code, error.code, error.what, error.fix, error.where)
    if isinstance(error, TyperException):
        context = getattr(error, "ctx", None)
        fix = say["usage-fix"].format(command=context.command_path if context else "patchlight")
        return Explanation(error.exit_code, "usage", error.format_message(), fix)
    if isinstance(error, KeyboardInterrupt):
        fix = say["interrupted-fix"].format(command=shlex.join(["patchlight", *sys.argv[1:]]))
        return Explanation(INTERRUPTED, "interrupted", say["interrupted"], fix)
    what = say["internal"].format(what=f"{type(error).__name__}: {error}")
    if debug:
        traceback.print_exception(error)
        return Explanation(INTERNAL, "internal", what, say["internal-debug"])
    return Explanation(INTERNAL, "internal", what, say["internal-fix"].format(log=_log(error, workspace)))


def _log(error: BaseException, workspace: Path | None) -> Path:
    folder = workspace if workspace is not None and workspace.is_dir() else Path(tempfile.gettempdir())
    prefix = time.strftime("patchlight-error-%Y%m%d-%H%M%S-")
    with tempfile.NamedTemporaryFile(
        "w", dir=folder, prefix=prefix, suffix=".log", delete=False, encoding="utf-8"
    ) as log:
        log.write(shlex.join(sys.argv) + "\n\n")
        log.writelines(traceback.format_exception(error))
    return Path(log.name)
