"""The error tree: what happened, where, what to do.

PatchlightError
├── InputError        a file, study, pack, prompt or argument that cannot be used   (exit 3)
├── EnvironmentProblem  this machine lacks something: space, a package, a device    (exit 4)
├── BudgetExceeded    the work does not fit the stated time or memory               (exit 5)
├── GateFailed        an identity or a requested check does not hold                (exit 6)
└── UnitsFailed       the run ended, but some of its units failed                   (exit 7)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class Place:
    """A place in a file that a person wrote, printed as `file:line:column` (both counted from 1)."""

    file: Path
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)


class PatchlightError(Exception):
    """Anything that Patchlight refuses to do, with a stable code, the place, and what to do next.

    `code` is a stable kebab-case word that begins with its room, e.g. `pack-unknown-key`.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, what: str, *, where: Place | str | None = None, fix: str = "") -> None:
        super().__init__(what)
        self.code, self.what, self.where, self.fix = code, what, where, fix

    def __str__(self) -> str:
        head = f"{self.where}: " if self.where is not None else ""
        tail = f"\n  what to do: {self.fix}" if self.fix else ""
        return f"{head}{self.what} [{self.code}]{tail}"


class InputError(PatchlightError):
    """A file, study, pack, prompt or argument cannot be used."""

    exit_code = 3


class EnvironmentProblem(PatchlightError):
    """The machine lacks something that the work needs: disk space, a package, a device."""

    exit_code = 4


class BudgetExceeded(PatchlightError):
    """The work does not fit the stated time or memory."""

    exit_code = 5


class GateFailed(PatchlightError):
    """An identity that must hold, or a check that was asked for, does not hold."""

    exit_code = 6


class UnitsFailed(PatchlightError):
    """The run came to its end, but some of its units failed; the others are kept."""

    exit_code = 7
