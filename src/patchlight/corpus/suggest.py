"""Facts proposed from a corpus, each with the sentences it rests on, for a person to accept or reject.

Two sources: patterns that define or relate (is a, such as, treated with, caused by), and pairs of terms that stand in
one sentence more often than chance, by log-likelihood [Dunning 1993]. Terms of two words are collocations by the same
measure. Nothing is downloaded; words are cut by regular expressions. A text with kana in it is read as Japanese.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import combinations
from typing import NamedTuple

from nltk.collocations import BigramAssocMeasures, BigramCollocationFinder

from patchlight.corpus import japanese
from patchlight.corpus.japanese import Kind
from patchlight.records import Document

FEWEST = 3  # sentences that must hold a pair of terms, and times that a collocation must occur
MOST_COLLOCATIONS = 600
MOST_SUPPORT = 5  # sentences listed for a suggestion
COMMON_SHARE = 0.05  # a word in more of the sentences than this is no term
PATTERN_SHARE = 0.5  # of the suggestions, at least, come from patterns where there are as many

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-'][A-Za-z0-9]+)*")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z(])")
_BEFORE = re.compile(r"[A-Za-z][A-Za-z0-9'-]*(?: [A-Za-z][A-Za-z0-9'-]*){0,3}$")
_AFTER = re.compile(r"[A-Za-z][A-Za-z0-9'-]*(?: [A-Za-z][A-Za-z0-9'-]*){0,3}")
_REACH = 80  # characters before a connective in which its phrase is looked for


def _words(name: str) -> frozenset[str]:
    folder = resources.files("patchlight.corpus") / "words"
    return frozenset((folder / f"{name}.txt").read_text(encoding="utf-8").split())


_NOT_IN_TERMS = _words("function_words")
_GENERAL = _words("general_words")  # of any medical study, no term of a field


class Pattern(NamedTuple):
    """A connective between two phrases, and the relation that it speaks for; `turned`: the answer stands first."""

    relation: str
    kind: Kind
    connective: re.Pattern[str]
    turned: bool = False


PATTERNS = (
    Pattern("is_a", "definitional", re.compile(r"(?: \([^)]{1,20}\))? (?:is|are) (?:an?|the|one of the) ")),
    Pattern("is_a", "definitional", re.compile(r", an? (?=[\w -]{3,40}(?: that| which| used| characterized|,))")),
    Pattern("is_a", "definitional", re.compile(r",? (?:such as|including|e\.g\.,?) "), turned=True),
    Pattern("is_a", "definitional", re.compile(r",? (?:and|or) other ")),
    Pattern("treatment", "associative", re.compile(r" (?:is|are|was|were) treated (?:with|by) ")),
    Pattern(
        "treatment",
        "associative",
        re.compile(r" (?:is|are|was|were) (?:effective|used) (?:in|for) the (?:treatment|control) of "),
        turned=True,
    ),
    Pattern("cause", "associative", re.compile(r" (?:is|are|was|were) (?:caused|induced) by (?:an? |the )?")),
    Pattern("cause", "associative", re.compile(r" due to (?:an? |the )?")),
    Pattern(
        "association", "associative", re.compile(r" (?:is|are|was|were) (?:\w+ly )?associated with (?:an? |the )?")
    ),
)


@dataclass(frozen=True)
class Support:
    """A sentence that a suggestion rests on: its document (a PMID where there is one) and its number there, from 0."""

    document: str
    sentence: int
    text: str


@dataclass(frozen=True)
class Suggestion:
    """A fact proposed, with its log-likelihood (how far its words stand together beyond chance) and its sentences."""

    relation: str
    kind: Kind
    subject: str
    answer: str
    score: float
    support: tuple[Support, ...]


@dataclass(frozen=True)
class _Read:
    """The sentences of a corpus, and those that hold each word and each term."""

    sentences: list[Support]
    words: dict[str, set[int]]
    terms: dict[str, set[int]]

    def holding(self, phrase: str) -> set[int]:
        """The sentences that hold a term, or all words of a phrase that is none."""
        known = self.terms.get(phrase)
        if known is not None:
            return known
        holding = [self.words.get(word, set()) for word in _cut(phrase)]
        return set.intersection(*holding) if holding else set()


def suggest(documents: Iterable[Document], *, limit: int = 200) -> list[Suggestion]:
    """At most `limit` suggestions, the strongest first; patterns come before mere company of equal standing.

    Sentences said twice (copies of an abstract) count once.
    """
    sentences = list(_sentences(documents))
    words = [_cut(each.text) for each in sentences]
    read = _Read(sentences, _where(words), _terms(words))
    patterned = sorted(_patterned(read), key=lambda each: (-len(each.support), -each.score, each.subject))
    related = {frozenset((each.subject, each.answer)) for each in patterned}
    together = [each for each in _together(read) if frozenset((each.subject, each.answer)) not in related]
    room = max(limit - len(together), round(limit * PATTERN_SHARE))
    chosen = patterned[:room]
    return [*chosen, *together[: limit - len(chosen)]]


def _sentences(documents: Iterable[Document]) -> Iterator[Support]:
    seen: set[str] = set()
    for document in documents:
        cut = japanese.sentences if japanese.is_japanese(document.text) else _english_sentences
        for number, text in enumerate(cut(document.text)):
            if text not in seen:
                seen.add(text)
                yield Support(document.id, number, text)


def _english_sentences(text: str) -> list[str]:
    return _SENTENCE.split(" ".join(text.split()))


def _cut(text: str) -> list[str]:
    """The words of a text; of a Japanese one its terms."""
    return japanese.terms(text) if _written_japanese(text) else [word.lower() for word in _WORD.findall(text)]


def _written_japanese(text: str) -> bool:
    """Whether a sentence, or a phrase out of one, has letters that English does not write."""
    return not text.isascii() and re.search("[ぁ-んァ-ヴ一-龯]", text) is not None


def _where(words: Sequence[Sequence[str]]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = defaultdict(set)
    for number, line in enumerate(words):
        for word in line:
            found[word].add(number)
    return found


def _terms(words: Sequence[Sequence[str]]) -> dict[str, set[int]]:
    """Each term with the numbers of the sentences that hold it: collocations of two words, and single long words."""
    pairs = _collocations(words)
    holding: dict[str, set[int]] = defaultdict(set)
    for number, line in enumerate(words):
        at = 0
        while at < len(line):
            two = tuple(line[at : at + 2])
            if two in pairs:
                holding[" ".join(two)].add(number)
                at += 2
                continue
            if _is_term(line[at]):
                holding[line[at]].add(number)
            at += 1
    most = max(FEWEST, COMMON_SHARE * len(words))
    return {term: where for term, where in holding.items() if FEWEST <= len(where) <= most}


def _is_term(word: str) -> bool:
    return (len(word) >= 6 or _written_japanese(word)) and word not in _NOT_IN_TERMS and word not in _GENERAL


def _collocations(words: Sequence[Sequence[str]]) -> set[tuple[str, ...]]:
    finder = BigramCollocationFinder.from_documents(words)
    finder.apply_freq_filter(FEWEST)
    finder.apply_word_filter(lambda word: len(word) < 3 or word in _NOT_IN_TERMS or _written_japanese(word))
    finder.apply_ngram_filter(lambda first, last: first.endswith("ed") or last.endswith(("ly", "ed")))
    return set(finder.nbest(BigramAssocMeasures.likelihood_ratio, MOST_COLLOCATIONS))


def _patterned(read: _Read) -> Iterator[Suggestion]:
    found: dict[tuple[str, Kind, str, str], dict[int, None]] = defaultdict(dict)
    for number, sentence in enumerate(read.sentences):
        for each in japanese.related(sentence.text) if japanese.is_japanese(sentence.text) else _related(sentence.text):
            _, _, subject, answer = each
            if subject != answer and not subject.endswith((f" {answer}", f"の{answer}")):
                found[each][number] = None
    for (relation, kind, subject, answer), numbers in found.items():
        score = _likelihood(read.holding(subject), read.holding(answer), len(read.sentences))
        support = tuple(read.sentences[number] for number in list(numbers)[:MOST_SUPPORT])
        yield Suggestion(relation, kind, subject, answer, round(score, 1), support)


def _related(text: str) -> Iterator[tuple[str, Kind, str, str]]:
    """Relation, its kind, subject and answer wherever a connective stands between two phrases."""
    for pattern, found in ((each, found) for each in PATTERNS for found in each.connective.finditer(text)):
        reach = text[max(0, found.start() - _REACH) : found.start()]
        before, after = _BEFORE.search(reach), _AFTER.match(text, found.end())
        if before and after:
            first, second = _phrase(before.group(), last=True), _phrase(after.group(), last=False)
            if first and second:
                subject, answer = (second, first) if pattern.turned else (first, second)
                yield pattern.relation, pattern.kind, subject, answer


def _phrase(text: str, *, last: bool) -> str:
    """The run of words of a phrase that can be a term: the last run of a subject, the first of an answer."""
    runs: list[list[str]] = [[]]
    for word in text.split():
        if word.lower() in _NOT_IN_TERMS or word.endswith(("ly", "ed")):
            runs.append([])
        else:
            runs[-1].append(word)
    run = runs[-1] if last else next((run for run in runs if run), [])
    words = [word if any(letter.isupper() for letter in word[1:]) else word.lower() for word in run]
    named = bool(words) and len(words[-1]) > 2 and any(word not in _GENERAL for word in words)
    return " ".join(words) if named else ""


def _likelihood(one: set[int], other: set[int], sentences: int) -> float:
    """How far two terms stand together beyond chance: the log-likelihood ratio, negative where less."""
    both = len(one & other)
    ratio = float(BigramAssocMeasures.likelihood_ratio(both, (len(one), len(other)), sentences))
    return ratio if both * sentences >= len(one) * len(other) else -ratio


def _together(read: _Read) -> list[Suggestion]:
    """Pairs of terms in one sentence, the strongest first; a term may lead three of them."""
    of_sentence: dict[int, list[str]] = defaultdict(list)
    for term, numbers in read.terms.items():
        for number in numbers:
            of_sentence[number].append(term)
    counted = Counter(pair for terms in of_sentence.values() for pair in combinations(sorted(terms), 2))
    scored = [
        (_likelihood(read.terms[one], read.terms[other], len(read.sentences)), one, other)
        for (one, other), count in counted.items()
        if count >= FEWEST and not set(one.split()) & set(other.split())
    ]
    led: Counter[str] = Counter()
    chosen: list[Suggestion] = []
    for score, one, other in sorted(scored, key=lambda each: (-each[0], each[1:])):
        led.update((one, other))
        if max(led[one], led[other]) <= 3:
            support = tuple(read.sentences[n] for n in sorted(read.terms[one] & read.terms[other])[:MOST_SUPPORT])
            if not all(_side_by_side(each.text, one, other) for each in support):
                chosen.append(Suggestion("company", "associative", one, other, round(score, 1), support))
    return chosen


def _side_by_side(text: str, one: str, other: str) -> bool:
    """True for two parts of one longer name, such as `magnetic resonance` and `imaging`; no Japanese term is a part."""
    if _written_japanese(text):
        return False
    words = " ".join(_WORD.findall(text)).lower()
    return f"{one} {other}" in words or f"{other} {one}" in words
