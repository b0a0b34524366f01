"""The text of a pack, written so that a person can go on with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from patchlight.packs.problem import Language

HEADS: dict[Language, str] = {
    "en": """\
# Made by `patchlight pack import`. Before use, a person who knows the field
# - decides for each relation whether it is definitional (what the thing is) or associative (what goes with it),
# - writes two templates or more for each relation where there are fewer,
# - looks at the facts, and takes `reviewed: false` away from those that are right,
# - states the licence. Then: patchlight pack check THIS-FILE
""",
    "ja": """\
# `patchlight pack import` が作りました。使う前に、分野に詳しい人が次のことをしてください。
# - 関係ごとに、definitional (それが何か) か associative (何が伴うか) かを決める
# - 質問文が二つない関係には、書き加える
# - 事実に目を通し、正しいものから `reviewed: false` を外す
# - ライセンスを書く。そのあと: patchlight pack check このファイル
""",
}


@dataclass(frozen=True)
class WrittenRelation:
    """A relation to be written, with its templates."""

    name: str
    templates: tuple[str, ...]
    many: bool


@dataclass(frozen=True)
class Written:
    """A fact to be written, in words."""

    relation: str
    subject: str
    answers: tuple[str, ...]
    distractors: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    severity: int | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """All words of the fact that are terms of a pack."""
        return (self.subject, *self.answers, *self.distractors, *self.conditions)


def quoted(text: str) -> str:
    """The text in double quotes, as YAML reads it back."""
    escaped = json.dumps(text, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in escaped)


def pack_text(
    name: str, source: str, language: Language, relations: Sequence[WrittenRelation], facts: Sequence[Written]
) -> str:
    """A pack of these facts, with a note on what a person has to do before it is used."""
    terms = keys(dict.fromkeys(word for fact in facts for word in fact.words), "t")
    relation_keys = keys([relation.name for relation in relations], "r")
    lines = [
        "patchlight: pack/1",
        f"id: {slug(name) or 'imported'}",
        f"title: {{{language}: {quoted(name)}}}",
        "licence: unknown",
        "sources:",
        f"  import: {quoted(source)}",
        "terms:",
        *(f"  {key}: {{{language}: {quoted(word)}}}" for word, key in terms.items()),
        "relations:",
        *(line for relation in relations for line in _relation(relation, relation_keys[relation.name], language)),
        "facts:",
        *_facts(facts, terms, relation_keys),
    ]
    return HEADS[language] + "\n".join(lines) + "\n"


def _relation(relation: WrittenRelation, key: str, language: Language) -> Iterator[str]:
    yield f"  - id: {key}"
    yield "    kind: associative"
    if relation.many:
        yield "    cardinality: many"
    if relation.templates:
        yield "    templates:"
        yield f"      {language}:"
        yield from (f"        - {quoted(text)}" for text in relation.templates)
    else:
        yield "    templates: {}"


def _facts(facts: Sequence[Written], terms: dict[str, str], relations: dict[str, str]) -> Iterator[str]:
    for number, fact in enumerate(facts, 1):
        parts = [f"id: f{number}", f"relation: {relations[fact.relation]}", f"subject: {terms[fact.subject]}"]
        for field in ("answers", "distractors", "conditions"):
            words: tuple[str, ...] = getattr(fact, field)
            if words:
                parts.append(f"{field}: [{', '.join(terms[word] for word in words)}]")
        parts += [f"severity: {fact.severity}"] if fact.severity else []
        yield f"  - {{{', '.join([*parts, 'source: import', 'reviewed: false'])}}}"


def keys(words: Sequence[str] | dict[str, None], letter: str) -> dict[str, str]:
    """A key for each word that YAML reads as a word: made of its letters, or numbered behind `letter`."""
    taken: set[str] = set()
    found: dict[str, str] = {}
    for number, word in enumerate(words, 1):
        key = slug(word)
        found[word] = key if key and key not in taken else f"{letter}{number}_{key}".rstrip("_")
        taken.add(found[word])
    return found


def slug(word: str) -> str:
    """The word in plain small letters and digits, at most 40; empty where YAML reads no word in it."""
    plain = re.sub("[^a-z0-9]+", "_", word.lower()).strip("_")[:40].rstrip("_")
    reserved = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
    return plain if re.match("[a-z]", plain) and plain not in reserved else ""
