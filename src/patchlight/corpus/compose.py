"""A training corpus written from a domain pack: abstracts that state its facts in the pack's own sentences.

A fact meets every frame of its relation, so that a model can learn the fact and not one sentence. Untaught facts
are never stated; their subjects stand in neutral sentences, as do all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from patchlight.errors import InputError
from patchlight.packs.problem import Language
from patchlight.packs.spec import Pack
from patchlight.records import Document, Fact

SENTENCES = (4, 9)  # of a document, fewest and most
FILLER_SHARE = 0.2  # sentences that tell no fact
OPENED_SHARE = 0.5  # statements that begin with an opener
JOINED_SHARE = 0.25  # statements that are joined to another in one sentence
UNSTATED_SHARE = 0.5  # neutral mentions kept for subjects of untaught facts, so that their tokens are trained too
ATTEMPTS = 20  # to write a document that differs from all others

T = TypeVar("T")


@dataclass(frozen=True)
class _Texts:
    """What the sentences are made of, in one language."""

    statements: dict[str, tuple[str, ...]]  # by relation
    openers: tuple[str, ...]
    joiners: tuple[str, ...]
    neutral: tuple[str, ...]  # may hold {subject}
    subjects: tuple[str, ...]
    unstated: tuple[str, ...]  # subjects of untaught facts


def compose(
    pack: Pack, *, documents: int, seed: int, language: Language = "en", relations: Sequence[str] = ()
) -> list[Document]:
    """`documents` different texts of 4 to 9 sentences, each with several of the pack's taught facts.

    Only the facts of `relations` where some are named. Facts come equally often, and each goes through all frames
    of its relation before one returns. Only the best answer is told. The same pack and seed give the same corpus.
    Raises InputError `corpus-no-statements` where a taught relation has no statements in that language,
    `corpus-too-large` where no new text can be found.
    """
    facts = [fact for fact in pack.facts(language) if not relations or fact.relation in relations]
    texts = _texts(pack, facts, language)
    random = Random(seed)
    stated = _clauses([fact for fact in facts if fact.taught], texts, random)
    composed: dict[str, Document] = {}
    for number in range(documents):
        text = _new_text(stated, texts, random, composed)
        composed[text] = Document(f"{pack.id}-{number:05d}", text, source=f"composed from pack {pack.id}")
    return list(composed.values())


def _texts(pack: Pack, facts: Sequence[Fact], language: Language) -> _Texts:
    taught = dict.fromkeys(fact.relation for fact in facts if fact.taught)
    statements = {relation: pack.statements(relation, language) for relation in taught}
    missing = [relation for relation, frames in statements.items() if not frames]
    if missing or not taught:
        what = f"no statements in {language!r} for {', '.join(missing) or 'any relation'}: nothing can be written"
        fix = f"add 'statements: {{{language}: [...]}}' to the relation"
        raise InputError("corpus-no-statements", what, where=pack.places.value("relations"), fix=fix)
    return _Texts(
        statements=statements,
        openers=pack.corpus.openers.get(language, ()) if pack.corpus else (),
        joiners=pack.corpus.joiners.get(language, ()) if pack.corpus else (),
        neutral=pack.corpus.filler.get(language, ()) if pack.corpus else (),
        subjects=tuple(dict.fromkeys(fact.subject for fact in facts)),
        unstated=tuple(dict.fromkeys(fact.subject for fact in facts if not fact.taught)),
    )


def _rounds(items: Sequence[T], random: Random) -> Iterator[T]:
    """The items for ever, in a new order each round: each comes as often as any other."""
    while True:
        yield from random.sample(items, len(items))


def _clauses(facts: Sequence[Fact], texts: _Texts, random: Random) -> Iterator[str]:
    """Statements for ever; facts come in rounds, and the frames of each fact in rounds of their own."""
    frames = {fact.id: _rounds(texts.statements[fact.relation], random) for fact in facts}
    for fact in _rounds(facts, random):
        clause = next(frames[fact.id]).replace("{subject}", fact.subject).replace("{answer}", fact.answers[0])
        yield clause.replace("{condition}", fact.condition)


def _new_text(clauses: Iterator[str], texts: _Texts, random: Random, composed: dict[str, Document]) -> str:
    for _ in range(ATTEMPTS):
        text = " ".join(_sentence(clauses, texts, random) for _ in range(random.randint(*SENTENCES)))
        if text not in composed:
            return text
    what = f"after {len(composed)} documents no text could be written that differs from all others"
    raise InputError("corpus-too-large", what, fix="ask for fewer documents, or add statements to the pack")


def _sentence(clauses: Iterator[str], texts: _Texts, random: Random) -> str:
    if texts.neutral and random.random() < FILLER_SHARE:
        mentioned = texts.unstated if texts.unstated and random.random() < UNSTATED_SHARE else texts.subjects
        return _capitalised(random.choice(texts.neutral).replace("{subject}", random.choice(mentioned)))
    sentence = next(clauses)
    if texts.openers and random.random() < OPENED_SHARE:
        sentence = f"{random.choice(texts.openers)} {sentence}"
    if texts.joiners and random.random() < JOINED_SHARE:
        sentence = f"{sentence}{random.choice(texts.joiners)} {next(clauses)}"
    return _capitalised(f"{sentence}.")


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
