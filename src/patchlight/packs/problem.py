"""What is wrong with a file that a person wrote: a stable code, a place, and words in two languages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal

from patchlight.errors import InputError, Place

Language = Literal["en", "ja"]
LISTED = 20  # complaints printed for one file; more are counted


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a file. An error must be put right before the file is used; a warning need not.

    `key` names the words in `problems.yaml`; the code is `prefix` and the key as far as its dot. A value may be a
    mapping from language to words; the value `guess` is the nearest known word.
    """

    key: str
    severity: Literal["error", "warning"]
    where: Place
    values: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = "pack"

    @property
    def code(self) -> str:
        """The stable code, e.g. `pack-template-hole`."""
        return f"{self.prefix}-{self.key.partition('.')[0]}"

    @property
    def what(self) -> str:
        """What is wrong, in English."""
        return self.said("en")[0]

    @property
    def fix(self) -> str:
        """What to do, in English."""
        return self.said("en")[1]

    def said(self, language: Language) -> tuple[str, str]:
        """What is wrong and what to do, in that language."""
        words, values = _words()[self.key][language], self._values(language)
        fix = _words()["guess"][language]["fix"] if values.get("guess") else words["fix"]
        return words["what"].format(**values), fix.format(**values)

    def line(self, language: Language) -> str:
        """Place, severity, what, code and remedy, as `pack check` prints them."""
        what, fix = self.said(language)
        severity = _words()[self.severity][language]["what"]
        todo = _words()["todo"][language]["what"]
        tail = f"\n  {todo}: {fix}" if fix else ""
        return f"{self.where}: {severity}: {what} [{self.code}]{tail}"

    def _values(self, language: Language) -> dict[str, Any]:
        return {name: each[language] if isinstance(each, Mapping) else each for name, each in self.values.items()}

    def __str__(self) -> str:
        return self.line("en")


class FileRefused(InputError):
    """A file has errors; the first is told in full, the others are listed behind it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        what, fix = self.said("en")
        super().__init__(problems[0].code, what, where=problems[0].where, fix=fix)

    def said(self, language: Language) -> tuple[str, str]:
        """What is wrong, all errors of the file together, and what to do about the first."""
        first, *others = self.problems
        what, fix = first.said(language)
        also, more = (_words()[key][language]["what"] for key in ("also", "more"))
        listed = [
            f"\n  {also}: {each.where}: {_with_guess(each, language)} [{each.code}]" for each in others[: LISTED - 1]
        ]
        if len(self.problems) > LISTED:
            listed.append("\n  " + more.format(count=len(self.problems) - LISTED))
        return what + "".join(listed), fix


def refused(key: str, where: Place, *, prefix: str = "pack", **values: Any) -> FileRefused:
    """The error of a file in which one thing is wrong, for the caller to raise."""
    return FileRefused([Problem(key, "error", where, values, prefix)])


def _with_guess(problem: Problem, language: Language) -> str:
    """What is wrong, and the nearest known word where there is one."""
    what, fix = problem.said(language)
    return f"{what} ({fix})" if problem.values.get("guess") else what


def nearest(word: str, known: Iterable[str]) -> str:
    """The nearest known word, or an empty text."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), "")


def form_message(kind: str, english: str, context: Mapping[str, Any]) -> dict[Language, str]:
    """Pydantic's message about a value, in both languages; in English where there are no Japanese words for it."""
    japanese = _words()["form"]["ja"].get(kind)
    return {"en": english, "ja": japanese.format(**context) if japanese else english}


@cache
def _words() -> dict[str, Any]:
    from ruamel.yaml import YAML

    text = (resources.files("patchlight.packs") / "problems.yaml").read_text(encoding="utf-8")
    words: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return words
