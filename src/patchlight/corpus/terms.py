"""How often terms are met: documents and mentions, by one stated rule."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from patchlight.errors import InputError

RULE = (
    "Title and text, case ignored (NFKC, case folded). A term is met as whole words, with its regular English plural "
    "(s, es; y becomes ies). A star opens an end: epilep* is any word that begins so, *epilep* also antiepileptic."
)


@dataclass(frozen=True)
class TermCount:
    """Documents that mention a term and its mentions, in titles and texts together and in the texts alone."""

    term: str
    documents: int = 0
    mentions: int = 0
    documents_in_texts: int = 0
    mentions_in_texts: int = 0

    def plus(self, in_title: int, in_text: int) -> TermCount:
        """The count with one more document."""
        both = in_title + in_text
        return TermCount(
            self.term,
            self.documents + (both > 0),
            self.mentions + both,
            self.documents_in_texts + (in_text > 0),
            self.mentions_in_texts + in_text,
        )


class TermCounter:
    """Counts of several terms over documents that come one by one."""

    def __init__(self, terms: Iterable[str]) -> None:
        self._patterns = {term: pattern(term) for term in dict.fromkeys(terms)}
        self._counts = {term: TermCount(term) for term in self._patterns}

    def add(self, title: str, text: str) -> None:
        """Takes in a document."""
        folded = _folded(title), _folded(text)
        for term, found in self._patterns.items():
            in_title, in_text = (len(found.findall(part)) for part in folded)
            if in_title or in_text:
                self._counts[term] = self._counts[term].plus(in_title, in_text)

    def counts(self) -> Sequence[TermCount]:
        """The counts so far, in the order of the terms."""
        return tuple(self._counts.values())


def pattern(term: str) -> re.Pattern[str]:
    """What finds a term in a case-folded NFKC text, by `RULE`. Raises InputError `corpus-term`."""
    core = " ".join(_folded(term).strip("*").split())
    if not core or "*" in core:
        what = f"{term!r} is not a term: it has no letters, or a star inside"
        raise InputError("corpus-term", what, fix="write words, with a star at an end if you wish: epilep*")
    words = re.escape(core).replace(r"\ ", r"\s+")
    before = "" if term.startswith("*") else r"(?<!\w)"
    if term.endswith("*"):
        return re.compile(before + words)
    plural = rf"(?:{words}|{words[:-1]}ies)" if re.search(r"[^aeiou]y$", core) else rf"{words}(?:s|es)?"
    return re.compile(rf"{before}{plural}(?!\w)")


def _folded(text: str) -> str:
    return (text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold()
