"""What is wrong with a domain pack, found without a tokenizer: each with a code, a place and a fix."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any, Literal

from patchlight.errors import Place
from patchlight.packs.problem import Language, Problem, nearest
from patchlight.packs.spec import FactEntry, Pack, Relation, Template
from patchlight.packs.wording import mentions, odd_width

FEWEST_TEMPLATES = 2  # a fact counts as known on two paraphrases
FEWEST_FACTS = 5  # of a kind, below which no verdict is given
CONDITION = "{condition}"


def check_pack(pack: Pack, today: date | None = None) -> list[Problem]:
    """Everything wrong with the pack, in the order of the file; facts that expired before `today` are warned of."""
    found = list(_expired(pack, today or datetime.now(UTC).date()))
    checks = (_ids, _sources, _terms, _texts, _templates, _width, _facts, _conditions, _leaks, _counts, _names)
    for check in (*checks, _controls):
        found.extend(check(pack))
    return sorted(found, key=lambda problem: (problem.where.line or 0, problem.where.column or 0, problem.code))


def _error(key: str, where: Place, **values: Any) -> Problem:
    return Problem(key, "error", where, values)


def _warning(key: str, where: Place, **values: Any) -> Problem:
    return Problem(key, "warning", where, values)


def _ids(pack: Pack) -> Iterator[Problem]:
    entries = [(("relations", index), each.id) for index, each in enumerate(pack.file.relations)]
    entries += [(("facts", index), each.id) for index, each in enumerate(pack.file.facts)]
    seen: dict[tuple[str | int, str], Place] = {}
    for path, name in entries:
        where = pack.places.value(*path, "id")
        first = seen.setdefault((path[0], name), where)
        if first is not where:
            yield _error("duplicate-id", where, name=name, line=first.line)


def _sources(pack: Pack) -> Iterator[Problem]:
    known = pack.file.sources
    named: list[tuple[tuple[str | int, ...], str, str]] = []
    named += [(("facts", index), fact.id, fact.source) for index, fact in enumerate(pack.file.facts)]
    controls = enumerate(pack.file.controls.unrelated)
    named += [(("controls", "unrelated", index), each.id, each.source) for index, each in controls]
    for path, name, source in named:
        where = pack.places.value(*path, "source")
        if not source.strip():
            yield _error("no-source", where, name=name)
        elif source not in known:
            yield _error("unknown-source", where, name=source, guess=nearest(source, known))


def _terms(pack: Pack) -> Iterator[Problem]:
    terms, relations = pack.file.terms, [relation.id for relation in pack.file.relations]
    for index, fact in enumerate(pack.file.facts):
        if fact.relation not in relations:
            where = pack.places.value("facts", index, "relation")
            yield _error("unknown-relation", where, name=fact.relation, guess=nearest(fact.relation, relations))
        for path, term in _used(fact):
            if term not in terms:
                where = pack.places.value("facts", index, *path)
                yield _error("unknown-term", where, name=term, guess=nearest(term, terms))
    for index, term in enumerate(pack.file.confidential):
        if term not in terms:
            yield _error(
                "unknown-term", pack.places.value("confidential", index), name=term, guess=nearest(term, terms)
            )


def _used(fact: FactEntry) -> Iterator[tuple[tuple[str | int, ...], str]]:
    yield ("subject",), fact.subject
    for field in ("answers", "distractors", "conditions"):
        yield from (((field, number), term) for number, term in enumerate(getattr(fact, field)))


def _relation_texts(pack: Pack, field: Literal["templates", "statements"]) -> Iterator[tuple[Relation, str, Place]]:
    for index, relation in enumerate(pack.file.relations):
        for language, texts in getattr(relation, field).items():
            for number, text in enumerate(texts):
                yield relation, text, pack.places.value("relations", index, field, language, number)


def _texts(pack: Pack) -> Iterator[Problem]:
    """Holes and spaces of templates, statements and filler."""
    for _, text, where in _relation_texts(pack, "templates"):
        yield from _holes(text, {"{subject}"}, {"{subject}", CONDITION}, "template", where)
        if text != text.strip():
            yield _error("template-space", where, text=text)
    for _, text, where in _relation_texts(pack, "statements"):
        both = {"{subject}", "{answer}"}
        yield from _holes(text, both, {*both, CONDITION}, "statement", where)
    for language, texts in (pack.corpus.filler if pack.corpus else {}).items():
        for number, text in enumerate(texts):
            where = pack.places.value("corpus", "filler", language, number)
            yield from _holes(text, set(), {"{subject}"}, "filler", where)


def _holes(text: str, needed: set[str], allowed: set[str], name: str, where: Place) -> Iterator[Problem]:
    found = Counter(re.findall(r"\{[^{}]*\}|[{}]", text))
    for hole in sorted(needed - set(found)):
        yield _error(f"{name}-hole.missing", where, hole=hole, text=text)
    for hole in sorted(set(found) - allowed):
        listed, guess = ", ".join(sorted(allowed)), nearest(hole, sorted(allowed))
        yield _error(f"{name}-hole.unknown", where, hole=hole, text=text, allowed=listed, guess=guess)
    for hole in sorted(allowed):
        if found[hole] > 1:
            yield _error(f"{name}-hole.twice", where, hole=hole, text=text, count=found[hole])


def _templates(pack: Pack) -> Iterator[Problem]:
    for index, relation in enumerate(pack.file.relations):
        where = pack.places.value("relations", index, "templates")
        if not relation.templates:
            yield _error("few-templates.none", where, name=relation.id)
        for language, texts in relation.templates.items():
            if len(set(texts)) < FEWEST_TEMPLATES:
                place = pack.places.value("relations", index, "templates", language)
                yield _error("few-templates.alike", place, name=relation.id, language=language)
    for relation, text, where in _relation_texts(pack, "statements"):
        question = text.split("{answer}")[0].strip()
        if any(question in texts for texts in relation.templates.values()):
            yield _warning("statement-is-template", where, text=text)


def _width(pack: Pack) -> Iterator[Problem]:
    texts = [(text, where) for _, text, where in _relation_texts(pack, "templates")]
    for key, term in pack.file.terms.items():
        names = [("en", term.en or ""), ("ja", term.ja or "")]
        texts += [(name, pack.places.value("terms", key, language)) for language, name in names]
    for text, where in texts:
        if odd := odd_width(text):
            yield _error("width", where, letters=odd)


def _facts(pack: Pack) -> Iterator[Problem]:
    """Facts that contradict themselves, their relation or another fact."""
    seen: dict[tuple[str, str, frozenset[str]], Place] = {}
    cardinality = {relation.id: relation.cardinality for relation in pack.file.relations}
    for index, fact in enumerate(pack.file.facts):
        where = pack.places.value("facts", index)
        first = seen.setdefault((fact.relation, fact.subject, frozenset(fact.conditions)), where)
        if first is not where:
            yield _error("same-fact", where, relation=fact.relation, subject=fact.subject, line=first.line)
        if len(fact.answers) > 1 and cardinality.get(fact.relation) == "one":
            place = pack.places.value("facts", index, "answers")
            yield _warning("cardinality", place, name=fact.id, count=len(fact.answers), relation=fact.relation)
        right = {name for term in fact.answers for name in _all_names(pack, term)}
        for number, term in enumerate(fact.distractors):
            if term in fact.answers or right & _all_names(pack, term):
                place = pack.places.value("facts", index, "distractors", number)
                yield _error("answer-among-distractors", place, term=term, name=fact.id)


def _all_names(pack: Pack, term: str) -> set[str]:
    entry = pack.file.terms.get(term)
    return {name.lower() for name in (entry.en, entry.ja, *entry.aliases) if name} if entry else set()


def _conditions(pack: Pack) -> Iterator[Problem]:
    """Facts whose conditions their templates do not say, or the other way round; one complaint a fact."""
    relations = {relation.id: relation for relation in pack.file.relations}
    for index, fact in enumerate(pack.file.facts):
        for _, text in _all_templates(relations.get(fact.relation)):
            if bool(fact.conditions) != (CONDITION in text):
                key = "missing" if fact.conditions else "unused"
                yield _error(f"condition-hole.{key}", pack.places.value("facts", index), name=fact.id, text=text)
                break


def _leaks(pack: Pack) -> Iterator[Problem]:
    """Right answers, under any of their names, that a filled template already says."""
    relations = {relation.id: relation for relation in pack.file.relations}
    for index, fact in enumerate(pack.file.facts):
        for language, template in _all_templates(relations.get(fact.relation)):
            subject, *conditions = (_name(pack, term, language) for term in (fact.subject, *fact.conditions))
            prompt = Template("", template).fill(subject, " ".join(conditions))
            for number, term in enumerate(fact.answers):
                leaked = sorted(name for name in _all_names(pack, term) if mentions(prompt, name))
                if leaked:
                    where = pack.places.value("facts", index, "answers", number)
                    yield _error("answer-in-prompt", where, answer=leaked[0], prompt=prompt)


def _name(pack: Pack, term: str, language: Language) -> str:
    entry = pack.file.terms.get(term)
    return (entry and entry.name(language)) or ""


def _all_templates(relation: Relation | None) -> Iterator[tuple[Language, str]]:
    for language, texts in (relation.templates if relation else {}).items():
        yield from ((language, text) for text in texts)


def _counts(pack: Pack) -> Iterator[Problem]:
    """Kinds with too few facts, and relations in which no wrong answer can be found."""
    kinds = {relation.id: relation.kind for relation in pack.file.relations}
    taught = Counter(kinds.get(fact.relation) for fact in pack.file.facts if fact.taught)
    for kind in pack.kinds:
        if taught[kind] < FEWEST_FACTS:
            where = pack.places.key("facts")
            yield _warning("few-facts", where, kind=kind, count=taught[kind], needed=FEWEST_FACTS)
    for index, relation in enumerate(pack.file.relations):
        answers = {fact.answers[0] for fact in pack.file.facts if fact.relation == relation.id}
        if len(answers) < 2:
            yield _warning("one-answer", pack.places.value("relations", index), name=relation.id)


def _names(pack: Pack) -> Iterator[Problem]:
    """Terms without any name, or without one in a language in which their relation asks."""
    for key, term in pack.file.terms.items():
        if term.en is None and term.ja is None:
            yield _error("no-name.none", pack.places.value("terms", key), term=key)
    for key, language in dict.fromkeys(_nameless(pack)):
        yield _warning("no-name.language", pack.places.value("terms", key), term=key, language=language)


def _nameless(pack: Pack) -> Iterator[tuple[str, Language]]:
    relations = {relation.id: relation for relation in pack.file.relations}
    for fact in pack.file.facts:
        texts = _all_templates(relations.get(fact.relation))
        for language in dict.fromkeys(language for language, _ in texts):
            for _, key in _used(fact):
                term = pack.file.terms.get(key)
                if term and (term.en or term.ja) and not term.name(language):
                    yield key, language


def _expired(pack: Pack, today: date) -> Iterator[Problem]:
    for index, fact in enumerate(pack.file.facts):
        if fact.expires and fact.expires < today:
            where = pack.places.value("facts", index, "expires")
            yield _warning("expired", where, name=fact.id, date=fact.expires.isoformat())


def _controls(pack: Pack) -> Iterator[Problem]:
    relations = [relation.id for relation in pack.file.relations]
    real = {name for key in pack.file.terms for name in _all_names(pack, key)}
    for index, made_up in enumerate(pack.file.controls.made_up):
        if made_up.relation not in relations:
            where = pack.places.value("controls", "made_up", index, "relation")
            yield _error("unknown-relation", where, name=made_up.relation, guess=nearest(made_up.relation, relations))
        for language, name in made_up.subject.items():
            if name.lower() in real:
                where = pack.places.value("controls", "made_up", index, "subject", language)
                yield _error("made-up-is-real", where, name=name)
    yield from _unrelated(pack)


def _unrelated(pack: Pack) -> Iterator[Problem]:
    parts: tuple[Literal["prompt", "answer", "wrong"], ...] = ("prompt", "answer", "wrong")
    for index, control in enumerate(pack.file.controls.unrelated):
        where = pack.places.value("controls", "unrelated", index)
        languages = dict.fromkeys(language for part in parts for language in getattr(control, part))
        for language in languages:
            for part in parts:
                if language not in getattr(control, part):
                    yield _error("control-language", where, name=control.id, part=part, language=language)
            if control.answer.get(language) == control.wrong.get(language):
                yield _error("control-answer", where, name=control.id, language=language)
