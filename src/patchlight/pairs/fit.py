"""What a tokenizer makes of a pack: questions and answers that it cuts in a way that cannot be measured well."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from patchlight.errors import Place
from patchlight.packs.problem import Language, Problem
from patchlight.packs.spec import Pack, Template
from patchlight.pairs.align import encode, read_tokens
from patchlight.pairs.build import NO_PARTNER, build_pairs
from patchlight.records import Fact

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEED = 0  # of the pairs tried; another seed refuses about the same questions


def check_tokens(pack: Pack, tokenizer: PreTrainedTokenizerBase, language: Language = "en") -> list[Problem]:
    """Warnings about the pack in that language, cut by that tokenizer, in the order of the file.

    `pack-subject-span`, `pack-token-counts` (twofold, and by more than one token), `pack-shared-first-token`,
    `pack-answer-leak`, `pack-no-pair`.
    """
    found = [*_questions(pack, tokenizer, language), *_relations(pack, tokenizer, language)]
    return sorted([*found, *_unpaired(pack, tokenizer, language)], key=lambda each: each.where.line or 0)


def _warning(key: str, where: Place, **values: Any) -> Problem:
    return Problem(key, "warning", where, values)


def _questions(pack: Pack, tokenizer: PreTrainedTokenizerBase, language: Language) -> Iterator[Problem]:
    """The first subject that cannot be told from its neighbours, for a template; the first leak, for a fact."""
    facts = pack.facts(language)
    for index, relation in enumerate(pack.file.relations):
        asked, leaking = [fact for fact in facts if fact.relation == relation.id], set[str]()
        for number, template in enumerate(pack.templates(relation.id, language)):
            where = pack.places.value("relations", index, "templates", language, number)
            yield from _span(tokenizer, template, asked, where)
            for fact in asked:
                prompt = template.fill(fact.subject, fact.condition)
                token = _leak(tokenizer, prompt, fact, language)
                if token and fact.id not in leaking:
                    leaking.add(fact.id)
                    where = _fact_place(pack, fact)
                    yield _warning("answer-leak", where, token=token, answer=fact.answers[0], prompt=prompt)


def _span(tokenizer: PreTrainedTokenizerBase, template: Template, facts: list[Fact], where: Place) -> Iterator[Problem]:
    for fact in facts:
        prompt = template.fill(fact.subject, fact.condition)
        words, spans = read_tokens(tokenizer, prompt)
        start = prompt.index(fact.subject)
        end = start + len(fact.subject)
        over = [span for span in spans if span[0] < end and span[1] > start]
        outside = [prompt[low:start] + prompt[end:high] for low, high in over if low < start or high > end]
        if not over or any(text.strip() for text in outside):
            tokens = "|".join(words)
            yield _warning("subject-span", where, subject=fact.subject, prompt=prompt, tokens=tokens)
            return


def _answer_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str, language: Language) -> tuple[int, ...]:
    space = " " if language == "en" else ""
    return encode(tokenizer, prompt + space + answer)[len(encode(tokenizer, prompt)) :]


def _leak(tokenizer: PreTrainedTokenizerBase, prompt: str, fact: Fact, language: Language) -> str:
    """The answer's first token where it stands in the prompt; a part of a character says nothing."""
    ids = _answer_ids(tokenizer, prompt, fact.answers[0], language)
    piece = str(tokenizer.decode(ids[:1]))
    return piece if ids and ids[0] in encode(tokenizer, prompt) and "\ufffd" not in piece else ""


def _relations(pack: Pack, tokenizer: PreTrainedTokenizerBase, language: Language) -> Iterator[Problem]:
    facts = pack.facts(language)
    for index, relation in enumerate(pack.file.relations):
        asked = [fact for fact in facts if fact.relation == relation.id]
        templates = pack.templates(relation.id, language)
        if not asked or not templates:
            continue
        where = pack.places.value("relations", index)
        space, prompt = " " if language == "en" else "", templates[0].fill(asked[0].subject, asked[0].condition)
        answers = {fact.answers[0]: _answer_ids(tokenizer, prompt, fact.answers[0], language) for fact in asked}
        subjects = {fact.subject: encode(tokenizer, space + fact.subject) for fact in asked}
        yield from _counts({"en": "subjects", "ja": "主語"}, subjects, relation.id, where)
        yield from _counts({"en": "answers", "ja": "答え"}, answers, relation.id, where)
        yield from _first_tokens(tokenizer, answers, relation.id, where)


def _counts(part: dict[str, str], words: dict[str, tuple[int, ...]], relation: str, where: Place) -> Iterator[Problem]:
    short, long = (limit(words, key=lambda word: len(words[word])) for limit in (min, max))
    few, many = len(words[short]), len(words[long])
    if many >= 2 * few and many > few + 1:
        values = {"short": short, "long": long, "few": few, "many": many}
        yield _warning("token-counts", where, part=part, relation=relation, **values)


def _first_tokens(
    tokenizer: PreTrainedTokenizerBase, answers: dict[str, tuple[int, ...]], relation: str, where: Place
) -> Iterator[Problem]:
    """One warning for a relation in which answers begin alike, with the first two that do."""
    by_token: dict[int, list[str]] = defaultdict(list)
    for answer, ids in answers.items():
        by_token[ids[0] if ids else -1].append(answer)
    shared = {token: alike for token, alike in by_token.items() if len(alike) > 1 and token >= 0}
    for token, (answer, other, *_) in list(shared.items())[:1]:
        count, piece = sum(map(len, shared.values())), str(tokenizer.decode([token]))
        values = {"answer": answer, "other": other, "token": piece, "relation": relation, "count": count}
        yield _warning("shared-first-token", where, **values)


def _unpaired(pack: Pack, tokenizer: PreTrainedTokenizerBase, language: Language) -> Iterator[Problem]:
    """One warning for each relation and reason for which questions get no corrupted twin."""
    relation_of = {fact.id: fact.relation for fact in pack.file.facts}
    under_condition = {fact.relation for fact in pack.file.facts if fact.conditions}
    order = [relation.id for relation in pack.file.relations]
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for refusal in build_pairs(pack, tokenizer, seed=SEED, language=language).refused:
        if refusal.template:
            found[relation_of[refusal.fact], refusal.reason].append(refusal.detail)
    for (relation, reason), details in found.items():
        where = pack.places.value("relations", order.index(relation))
        swappable = reason == NO_PARTNER and relation in under_condition
        key = "no-pair.condition" if swappable else "no-pair"
        yield _warning(key, where, count=len(details), relation=relation, reason=reason, detail=details[0])


def _fact_place(pack: Pack, fact: Fact) -> Place:
    index = next(number for number, each in enumerate(pack.file.facts) if each.id == fact.id)
    return pack.places.value("facts", index, "answers", 0)
