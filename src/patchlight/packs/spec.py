"""The form of a domain pack: what its YAML file may say, and the pack as the other rooms see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from patchlight.packs.problem import Language
from patchlight.packs.yaml_source import Places
from patchlight.records import Fact

Text = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]
Texts = dict[Language, tuple[Text, ...]]
CONDITION_JOINERS: dict[Language, str] = {"en": " and ", "ja": "、"}


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Term(_Entry):
    """A named thing: its names by language (one at least), other names it goes by, and its class."""

    en: Text | None = None
    ja: Text | None = None
    aliases: tuple[Text, ...] = ()
    class_: str = Field("", alias="class")

    def name(self, language: Language) -> str | None:
        """The name in that language, or None."""
        return self.en if language == "en" else self.ja


class Relation(_Entry):
    """A relation, its kind of knowledge, and the texts that ask for it (templates) or state it (statements).

    A template has {subject} and ends where the answer begins. A statement is a clause with {subject} and {answer}.
    Where the answer depends on conditions, all of them have {condition} too. `cardinality`: how many right answers.
    """

    id: Text
    kind: Text
    cardinality: Literal["one", "many"] = "one"
    templates: Texts
    statements: Texts = Field(default_factory=dict)


class FactEntry(_Entry):
    """One fact in term ids; `answers` is the set of right answers, best first.

    `conditions`: under which it holds. `severity`: how bad the matter is, 1 to 10 as in an FMEA. `expires`: the day
    after which it must be looked up again. `reviewed`: a person who knows the field has confirmed it.
    """

    id: Text
    relation: Text
    subject: Text
    answers: tuple[Text, ...] = Field(min_length=1)
    distractors: tuple[Text, ...] = ()
    conditions: tuple[Text, ...] = ()
    source: str = ""
    severity: int | None = Field(None, ge=1, le=10)
    expires: date | None = None
    reviewed: bool = True
    taught: bool = True


class Unrelated(_Entry):
    """A question from outside the field: what is found for the field should not be found for it."""

    id: Text
    prompt: dict[Language, Text]
    answer: dict[Language, Text]
    wrong: dict[Language, Text]
    source: str = ""


class MadeUp(_Entry):
    """A subject that does not exist: a model that answers for it with confidence is guessing from the words."""

    relation: Text
    subject: dict[Language, Text]


class Controls(_Entry):
    """Questions about which nothing of the field can be known."""

    unrelated: tuple[Unrelated, ...] = ()
    made_up: tuple[MadeUp, ...] = ()


class Reason(_Entry):
    """A reason that a reviewer can give for a decision: a stable code and its words."""

    code: Text
    en: Text
    ja: Text


class CorpusText(_Entry):
    """How a training corpus is written: what opens and joins statements, and neutral sentences.

    A sentence of `filler` may name a {subject}; it tells no fact.
    """

    openers: Texts = Field(default_factory=dict)
    joiners: Texts = Field(default_factory=dict)
    filler: Texts = Field(default_factory=dict)


class PackFile(_Entry):
    """A domain pack as written."""

    patchlight: Literal["pack/1"]
    id: Text
    title: dict[Language, Text]
    licence: Text
    sources: dict[str, Text]
    terms: dict[str, Term]
    relations: tuple[Relation, ...] = Field(min_length=1)
    facts: tuple[FactEntry, ...] = Field(min_length=1)
    controls: Controls = Controls()
    review: tuple[Reason, ...] = ()
    confidential: tuple[Text, ...] = ()
    corpus: CorpusText | None = None


@dataclass(frozen=True)
class Template:
    """A question with a hole for the subject; `id` names it in every result, e.g. `drug_channel.en.1`."""

    id: str
    text: str

    def fill(self, subject: str, condition: str = "") -> str:
        """The prompt for this subject under this condition; it ends where the answer begins."""
        return self.text.replace("{subject}", subject).replace("{condition}", condition)


@dataclass(frozen=True)
class Pack:
    """A domain pack that was read: what the file says, and where each value stands in it."""

    file: PackFile
    places: Places

    @property
    def id(self) -> str:
        """The pack's name."""
        return self.file.id

    @property
    def title(self) -> Mapping[Language, str]:
        """The title by language."""
        return self.file.title

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of knowledge, in the order in which the relations declare them."""
        return tuple(dict.fromkeys(relation.kind for relation in self.file.relations))

    def facts(self, language: Language = "en") -> list[Fact]:
        """The facts that can be said in that language, in its words; `unsaid` lists the others."""
        kinds = {relation.id: relation.kind for relation in self.file.relations}
        return [self._fact(entry, kinds, language) for entry in self.file.facts if self._said(entry, language)]

    def unsaid(self, language: Language) -> list[FactEntry]:
        """The facts without a name for subject or answer in that language, or without a template."""
        return [entry for entry in self.file.facts if not self._said(entry, language)]

    def relation(self, name: str) -> Relation:
        """The relation of that id."""
        return next(relation for relation in self.file.relations if relation.id == name)

    def templates(self, relation: str, language: Language = "en") -> list[Template]:
        """The questions that ask for a relation in that language."""
        texts = self.relation(relation).templates.get(language, ())
        return [Template(f"{relation}.{language}.{number}", text) for number, text in enumerate(texts, 1)]

    def statements(self, relation: str, language: Language = "en") -> tuple[str, ...]:
        """The sentences that state a relation, with {subject} and {answer}, for a composed corpus."""
        return self.relation(relation).statements.get(language, ())

    @property
    def corpus(self) -> CorpusText | None:
        """The texts around the statements of a composed corpus, where the pack has them."""
        return self.file.corpus

    def _said(self, entry: FactEntry, language: Language) -> bool:
        used = (entry.subject, *entry.answers, *entry.conditions)
        named = all(self.file.terms[term].name(language) for term in used)
        return named and bool(self.relation(entry.relation).templates.get(language))

    def _fact(self, entry: FactEntry, kinds: Mapping[str, str], language: Language) -> Fact:
        def words(terms: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(name for term in terms if (name := self.file.terms[term].name(language)))

        return Fact(
            id=entry.id,
            kind=kinds[entry.relation],
            relation=entry.relation,
            subject=words((entry.subject,))[0],
            answers=words(entry.answers),
            distractors=words(entry.distractors),
            condition=CONDITION_JOINERS[language].join(words(entry.conditions)),
            source=entry.source,
            taught=entry.taught,
        )
