"""What a Japanese text says of terms: its sentences, its terms, and wordings that define or relate.

A term is a run of kanji and katakana with the endings of common verbal nouns (焼付き, 割れ). No dictionary is read:
a term written in hiragana alone is not found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from typing import Literal

_LETTER = "一-龯々ァ-ヴー"
_ENDING = rf"(?:まり|がり|わり|ずれ|ぎれ|びれ|[きりみけれめげ])(?=[{_LETTER}、。はがをのにでとやも（(]|など|$)"
# A term is taken whole or not at all: a run of ten thousand letters is not tried from each of its letters.
_NATIVE = rf"[A-Za-z0-9]*(?:(?!等の)[{_LETTER}])+(?:{_ENDING}[{_LETTER}]*){{0,3}}"
_TERM = rf"(?<![{_LETTER}A-Za-z0-9])(?>{_NATIVE}|[A-Z][A-Za-z0-9-]+)"
_PHRASE = rf"{_TERM}(?:の{_TERM}){{0,2}}"
_GAP = rf"(?:[^。]{{0,60}}?[^{_LETTER}A-Za-z0-9。])?"  # what stands before the noun that ends a definition
_IS = "(?:である|です|をいう|を指す|のことである|のことです)"
_SENTENCE_END = re.compile(r"(?<=[。！？])\s*|\s*\n\s*")
_KANA = re.compile("[ぁ-んァ-ヴ]")
LONGEST = 40  # characters of a phrase

Kind = Literal["definitional", "associative"]
Wording = tuple[
    str, Kind, re.Pattern[str], bool
]  # relation, its kind, subject and answer; True: the answer stands first

WORDINGS: tuple[Wording, ...] = (
    ("is_a", "definitional", re.compile(rf"({_PHRASE})(?:とは|は)、?{_GAP}({_PHRASE})の(?:一種|一つ|ひとつ)"), False),
    ("is_a", "definitional", re.compile(rf"({_PHRASE})とは、?{_GAP}({_TERM}){_IS}"), False),
    ("is_a", "definitional", re.compile(rf"({_TERM})(?:などの|等の|といった|をはじめとする)({_TERM})"), False),
    (
        "treatment",
        "associative",
        re.compile(rf"({_PHRASE})(?:の|への)(?:対策|治療)(?:としては?|には|は)、?({_PHRASE})"),
        False,
    ),
    (
        "cause",
        "associative",
        re.compile(rf"({_PHRASE})の(?:主な|主たる|おもな)?原因は、?({_PHRASE})(?:で|と|だ|が)"),
        False,
    ),
    (
        "cause",
        "associative",
        re.compile(
            rf"({_PHRASE})は、?(?:主に|しばしば)?({_PHRASE})(?:により|によって|が原因で)、?(?:生じ|発生|起こ|起き|引き起こ)"
        ),
        False,
    ),
    ("cause", "associative", re.compile(rf"({_PHRASE})(?:による|に起因する)({_PHRASE})"), True),
    ("association", "associative", re.compile(rf"({_PHRASE})は、?({_PHRASE})(?:と関連|と関係|に伴)"), False),
)


def is_japanese(text: str) -> bool:
    """Whether a text has kana in it."""
    return _KANA.search(text) is not None


def sentences(text: str) -> list[str]:
    """The sentences of a text; a line is one, too."""
    return [found for each in _SENTENCE_END.split(text) if (found := each.strip())]


def terms(text: str) -> list[str]:
    """The terms of a text in their order, without words of any report."""
    return [term for term in re.findall(_TERM, text) if _says_something(term)]


def related(text: str) -> Iterator[tuple[str, Kind, str, str]]:
    """Relation, its kind, subject and answer wherever a wording relates two phrases."""
    for relation, kind, wording, turned in WORDINGS:
        for first, second in wording.findall(text):
            subject, answer = (second, first) if turned else (first, second)
            if _says_something(subject) and _says_something(answer):
                yield relation, kind, subject, answer


def _says_something(phrase: str) -> bool:
    return 1 < len(phrase) <= LONGEST and not phrase.isdigit() and phrase.rpartition("の")[2] not in _GENERAL


_GENERAL = frozenset(
    (resources.files("patchlight.corpus") / "words" / "general_words_ja.txt").read_text("utf-8").split()
)
