"""What is wrong with a domain pack, found without a tokenizer: each with a code, a place and a fix."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from patchlight.errors import Place
from patchlight.packs.spec import FactEntry, Language, Pack, Relation
from patchlight.packs.wording import mentions, odd_width
from patchlight.packs.yaml_source import suggestion

FEWEST_TEMPLATES = 2  # a fact counts as known on two paraphrases
FEWEST_FACTS = 5  # of a kind, below which no verdict is given


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a pack. An error must be put right before the pack is used; a warning need not."""

    code: str
    severity: Literal["error", "warning"]
    what: str
    where: Place
    fix: str = ""

    def __str__(self) -> str:
        tail = f"\n  what to do: {self.fix}" if self.fix else ""
        return f"{self.where}: {self.severity}: {self.what} [{self.code}]{tail}"


def check_pack(pack: Pack) -> list[Problem]:
    """Everything wrong with the pack, in the order of the file."""
    found: list[Problem] = []
    for check in (_ids, _sources, _terms, _texts, _templates, _width, _facts, _leaks, _counts, _names):
        found.extend(check(pack))
    return sorted(found, key=lambda problem: (problem.where.line or 0, problem.where.column or 0, problem.code))


def _error(code: str, what: str, where: Place, fix: str) -> Problem:
    return Problem(f"pack-{code}", "error", what, where, fix)


def _warning(code: str, what: str, where: Place, fix: str) -> Problem:
    return Problem(f"pack-{code}", "warning", what, where, fix)


def _ids(pack: Pack) -> Iterator[Problem]:
    entries = [("relations", index, each.id) for index, each in enumerate(pack.file.relations)]
    entries += [("facts", index, each.id) for index, each in enumerate(pack.file.facts)]
    seen: dict[tuple[str, str], Place] = {}
    for section, index, name in entries:
        where = pack.places.value(section, index, "id")
        first = seen.setdefault((section, name), where)
        if first is not where:
            what = f"the id {name!r} is used before, in line {first.line}"
            yield _error("duplicate-id", what, where, "give each entry an id of its own")


def _sources(pack: Pack) -> Iterator[Problem]:
    known = pack.file.sources
    for index, fact in enumerate(pack.file.facts):
        where = pack.places.value("facts", index, "source")
        if not fact.source.strip():
            what = f"the fact {fact.id!r} names no source"
            yield _error("no-source", what, where, "add 'source: ...' with a key of 'sources'")
        elif fact.source not in known:
            yield _error("unknown-source", f"unknown source {fact.source!r}", where, _nearest(fact.source, list(known)))


def _nearest(word: str, known: list[str]) -> str:
    return suggestion(word, known) or "declare it first"


def _terms(pack: Pack) -> Iterator[Problem]:
    terms, relations = list(pack.file.terms), [relation.id for relation in pack.file.relations]
    for index, fact in enumerate(pack.file.facts):
        if fact.relation not in relations:
            where = pack.places.value("facts", index, "relation")
            fix = _nearest(fact.relation, relations)
            yield _error("unknown-relation", f"unknown relation {fact.relation!r}", where, fix)
        for path, term in _used(fact):
            if term not in pack.file.terms:
                where = pack.places.value("facts", index, *path)
                yield _error("unknown-term", f"unknown term {term!r}", where, _nearest(term, terms))


def _used(fact: FactEntry) -> Iterator[tuple[tuple[str | int, ...], str]]:
    yield ("subject",), fact.subject
    yield from ((("answers", number), term) for number, term in enumerate(fact.answers))
    yield from ((("distractors", number), term) for number, term in enumerate(fact.distractors))


def _relation_texts(pack: Pack, field: Literal["templates", "statements"]) -> Iterator[tuple[Relation, str, Place]]:
    for index, relation in enumerate(pack.file.relations):
        for language, texts in getattr(relation, field).items():
            for number, text in enumerate(texts):
                yield relation, text, pack.places.value("relations", index, field, language, number)


def _texts(pack: Pack) -> Iterator[Problem]:
    """Holes and spaces of templates, statements and filler."""
    for _, text, where in _relation_texts(pack, "templates"):
        yield from _holes(text, {"{subject}"}, {"{subject}"}, "template", where)
        if text != text.strip():
            what = f"the template begins or ends with a space: {text!r}"
            yield _error("template-space", what, where, "end it with the last letter; the answer brings its own space")
    for _, text, where in _relation_texts(pack, "statements"):
        both = {"{subject}", "{answer}"}
        yield from _holes(text, both, both, "statement", where)
    for language, texts in (pack.corpus.filler if pack.corpus else {}).items():
        for number, text in enumerate(texts):
            where = pack.places.value("corpus", "filler", language, number)
            yield from _holes(text, set(), {"{subject}"}, "filler", where)


def _holes(text: str, needed: set[str], allowed: set[str], name: str, where: Place) -> Iterator[Problem]:
    found = Counter(re.findall(r"\{[^{}]*\}|[{}]", text))
    for hole in sorted(needed - set(found)):
        yield _error(f"{name}-hole", f"the {name} has no {hole}: {text!r}", where, f"write {hole} where it belongs")
    for hole in sorted(set(found) - allowed):
        fix = suggestion(hole, allowed) or f"allowed: {', '.join(sorted(allowed))}"
        yield _error(f"{name}-hole", f"the {name} has {hole!r}: {text!r}", where, fix)
    for hole in sorted(allowed):
        if found[hole] > 1:
            yield _error(f"{name}-hole", f"{hole} stands {found[hole]} times in {text!r}", where, "write it once")


def _templates(pack: Pack) -> Iterator[Problem]:
    for index, relation in enumerate(pack.file.relations):
        where = pack.places.value("relations", index, "templates")
        if not relation.templates:
            yield _error("few-templates", f"the relation {relation.id!r} has no template", where, "write two or more")
        for language, texts in relation.templates.items():
            if len(set(texts)) < FEWEST_TEMPLATES:
                what = f"the relation {relation.id!r} has fewer than two different templates in {language!r}"
                place = pack.places.value("relations", index, "templates", language)
                yield _error("few-templates", what, place, "a fact counts as known on two paraphrases: write another")
    for relation, text, where in _relation_texts(pack, "statements"):
        question = text.split("{answer}")[0].strip()
        if any(question in texts for texts in relation.templates.values()):
            what = f"the statement {text!r} begins with a question template"
            yield _warning("statement-is-template", what, where, "let the corpus say it in other words")


def _width(pack: Pack) -> Iterator[Problem]:
    texts = [(text, where) for _, text, where in _relation_texts(pack, "templates")]
    for key, term in pack.file.terms.items():
        names = [("en", term.en), ("ja", term.ja or "")]
        texts += [(name, pack.places.value("terms", key, language)) for language, name in names]
    for text, where in texts:
        if odd := odd_width(text):
            what = f"half-width kana or full-width digits or letters: {odd!r}"
            yield _error("width", what, where, "write full-width kana and half-width digits and letters")


def _facts(pack: Pack) -> Iterator[Problem]:
    """Facts that contradict themselves or say the same as another."""
    seen: dict[tuple[str, str], Place] = {}
    for index, fact in enumerate(pack.file.facts):
        where = pack.places.value("facts", index)
        first = seen.setdefault((fact.relation, fact.subject), where)
        if first is not where:
            what = f"relation {fact.relation!r} of {fact.subject!r} is given before, in line {first.line}"
            yield _error("same-fact", what, where, "keep one fact, with all right answers in its 'answers'")
        right = {name for term in fact.answers for name in _all_names(pack, term)}
        for number, term in enumerate(fact.distractors):
            if term in fact.answers or right & _all_names(pack, term):
                place = pack.places.value("facts", index, "distractors", number)
                what = f"the right answer {term!r} is among the distractors of {fact.id!r}"
                yield _error("answer-among-distractors", what, place, "take it out of one of the two lists")


def _all_names(pack: Pack, term: str) -> set[str]:
    entry = pack.file.terms.get(term)
    return {name.lower() for name in (entry.en, entry.ja or "", *entry.aliases) if name} if entry else set()


def _leaks(pack: Pack) -> Iterator[Problem]:
    """Right answers, under any of their names, that a filled template already says."""
    relations = {relation.id: relation for relation in pack.file.relations}
    for index, fact in enumerate(pack.file.facts):
        for language, template in _all_templates(relations.get(fact.relation)):
            for number, term in enumerate(fact.answers):
                subject = pack.file.terms.get(fact.subject)
                prompt = template.replace("{subject}", (subject and subject.name(language)) or "")
                leaked = sorted(name for name in _all_names(pack, term) if mentions(prompt, name))
                if leaked:
                    where = pack.places.value("facts", index, "answers", number)
                    what = f"the answer {leaked[0]!r} stands in the prompt {prompt!r}"
                    yield _error("answer-in-prompt", what, where, "change the template, or leave the fact out")


def _all_templates(relation: Relation | None) -> Iterator[tuple[Language, str]]:
    for language, texts in (relation.templates if relation else {}).items():
        yield from ((language, text) for text in texts)


def _counts(pack: Pack) -> Iterator[Problem]:
    """Kinds with too few facts, and relations in which no wrong answer can be found."""
    kinds = {relation.id: relation.kind for relation in pack.file.relations}
    taught = Counter(kinds.get(fact.relation) for fact in pack.file.facts if fact.taught)
    for kind in pack.kinds:
        if taught[kind] < FEWEST_FACTS:
            what = f"the kind {kind!r} has {taught[kind]} facts, a verdict needs {FEWEST_FACTS}"
            yield _warning("few-facts", what, pack.places.key("facts"), "add facts of this kind")
    for index, relation in enumerate(pack.file.relations):
        answers = {fact.answers[0] for fact in pack.file.facts if fact.relation == relation.id}
        if len(answers) < 2:
            what = f"all facts of the relation {relation.id!r} have one answer: nothing to compare"
            where = pack.places.value("relations", index)
            yield _warning("one-answer", what, where, "add facts with another answer, or take the relation out")


def _names(pack: Pack) -> Iterator[Problem]:
    """Terms without a name in a language in which their relation asks."""
    for term, language in dict.fromkeys(_nameless(pack)):
        what = f"the term {term!r} has no name in {language!r}: its facts are left out in that language"
        yield _warning("no-name", what, pack.places.value("terms", term), f"add '{language}: ...'")


def _nameless(pack: Pack) -> Iterator[tuple[str, Language]]:
    relations = {relation.id: relation for relation in pack.file.relations}
    for fact in pack.file.facts:
        texts = _all_templates(relations.get(fact.relation))
        for language in dict.fromkeys(language for language, _ in texts):
            for _, term in _used(fact):
                entry = pack.file.terms.get(term)
                if entry and not entry.name(language):
                    yield term, language
