"""Suggestions as a file that a person decides on, and the way of the accepted ones into a pack."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from patchlight.corpus.japanese import Kind, is_japanese
from patchlight.corpus.suggest import Suggestion
from patchlight.errors import Place
from patchlight.packs.check import check_pack
from patchlight.packs.problem import FileRefused, Language, refused
from patchlight.packs.read import read_pack
from patchlight.packs.spec import Pack, PackFile, Text
from patchlight.packs.writing import quoted, slug
from patchlight.packs.yaml_source import load_yaml, parse_source
from patchlight.store.faults import told_clearly

HEADS: dict[Language, str] = {
    "en": """\
# Facts proposed by `patchlight pack suggest`. Read the sentences; set each `status` to accepted or rejected, and put
# right the subject and the answer where they need it. Only what is accepted enters a pack, with
#     patchlight pack adopt THIS-FILE --into PACK.yaml
# The sentences remain under their publishers' rights: keep this file to yourself.
""",
    "ja": """\
# `patchlight pack suggest` が提案した事実です。文を読み、それぞれの `status` を
# accepted (採用) か rejected (不採用) にし、必要なら主語と答えを直してください。
# 採用したものだけが、次のコマンドでパックに入ります。
#     patchlight pack adopt このファイル --into PACK.yaml
# 文の権利は出版社にあります。このファイルは外に出さないでください。
""",
}
TEMPLATES: dict[Language, dict[str, tuple[str, str]]] = {
    "en": {
        "is_a": ("By definition, {subject} is a kind of", "Textbooks describe {subject} as a form of"),
        "treatment": ("A common treatment of {subject} is", "Patients with {subject} are often given"),
        "cause": ("The usual cause of {subject} is", "In most cases, {subject} is due to"),
        "association": ("A finding associated with {subject} is", "Authors often mention {subject} together with"),
        "company": ("A term often mentioned with {subject} is", "Reports on {subject} also speak of"),
    },
    "ja": {
        "is_a": ("定義によれば、{subject}が属する種類は", "教科書で{subject}が分類されるのは"),
        "treatment": ("{subject}への対処としてよく用いられるのは", "{subject}に対してまず行われるのは"),
        "cause": ("{subject}の主な原因は", "{subject}が起きたときにまず疑う原因は"),
        "association": ("{subject}とともによく見られるのは", "{subject}と関連して挙げられるのは"),
        "company": ("{subject}とともによく語られるのは", "{subject}についての報告でよく取り上げられるのは"),
    },
}


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SupportForm(_Form):
    """A sentence: its document, its number there, its words."""

    document: Text
    sentence: int = Field(ge=0)
    text: str


class SuggestionForm(_Form):
    """A suggestion as a person has decided on it."""

    id: Text
    status: Literal["proposed", "accepted", "rejected"]
    relation: Text
    kind: Kind
    subject: Text
    answer: Text
    score: float
    support: tuple[SupportForm, ...] = Field(min_length=1)


class SuggestionsFile(_Form):
    """The file of `patchlight pack suggest`."""

    patchlight: Literal["suggestions/1"]
    suggestions: tuple[SuggestionForm, ...]


def suggestions_text(suggestions: Sequence[Suggestion], language: Language) -> str:
    """The file of suggestions, each with status `proposed`."""
    lines = ["patchlight: suggestions/1", "suggestions:" if suggestions else "suggestions: []"]
    for number, each in enumerate(suggestions, 1):
        lines += [
            f"  - id: s{number}",
            "    status: proposed",
            f"    relation: {each.relation}",
            f"    kind: {each.kind}",
            f"    subject: {quoted(each.subject)}",
            f"    answer: {quoted(each.answer)}",
            f"    score: {each.score}",
            "    support:",
        ]
        lines += [
            f"      - {{document: {quoted(one.document)}, sentence: {one.sentence}, text: {quoted(one.text)}}}"
            for one in each.support
        ]
    return HEADS[language] + "\n".join(lines) + "\n"


def adopt(suggestions: Path, into: Path) -> list[str]:
    """The ids of the accepted suggestions, whose facts now stand in the pack `into`; its comments are kept.

    A relation that the pack lacks is added with its templates; an answer for a subject that it has joins the others.
    Raises FileRefused where nothing is accepted, a file cannot be used, or the pack would have an error with them.
    Then the pack is as it was.
    """
    read_pack(into)
    accepted = [
        each for each in load_yaml(suggestions, SuggestionsFile, "suggestions").suggestions if each.status == "accepted"
    ]
    if not accepted:
        raise refused("none-accepted", Place(suggestions), prefix="suggestions")
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 10_000, True
    written = yaml.load(into.read_text(encoding="utf-8-sig"))
    for each in accepted:
        _enter(written, each)
    buffer = io.StringIO()
    yaml.dump(written, buffer)
    _refuse_errors(buffer.getvalue(), into)
    with told_clearly(into.parent):
        beside = into.with_name(f".{into.name}.new")
        beside.write_text(buffer.getvalue(), encoding="utf-8")
        beside.replace(into)
    return [each.id for each in accepted]


def _refuse_errors(text: str, into: Path) -> None:
    source = parse_source(text, into, PackFile, "pack")
    problems = check_pack(Pack(source.value, source.places))
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        raise FileRefused(errors)


def _enter(pack: Any, suggestion: SuggestionForm) -> None:
    """One suggestion into the pack as it was loaded."""
    language: Language = "ja" if is_japanese(suggestion.support[0].text) else "en"
    relation = next((each for each in pack["relations"] if each["id"] == suggestion.relation), None)
    if relation is None:
        relation = CommentedMap(id=suggestion.relation, kind=suggestion.kind, templates=CommentedMap())
        pack["relations"].append(relation)
    asked_so = TEMPLATES[language].get(suggestion.relation, TEMPLATES[language]["company"])
    relation["templates"].setdefault(language, list(asked_so))
    subject, answer = (_term(pack, name, language) for name in (suggestion.subject, suggestion.answer))
    source = f"corpus_{slug(suggestion.support[0].document) or suggestion.support[0].document}"
    pack["sources"].setdefault(source, _source(suggestion.support[0]))
    asked = relation["id"], subject
    same = next((each for each in pack["facts"] if (each["relation"], each["subject"]) == asked), None)
    if same is None:
        names = [each["id"] for each in pack["facts"]]
        fact = {"id": _free(f"{subject}-{relation['id']}", names), "relation": relation["id"], "subject": subject}
        pack["facts"].append(_flow({**fact, "answers": _list([answer]), "source": source}))
    elif answer not in same["answers"]:
        same["answers"].append(answer)
        relation["cardinality"] = "many"


def _term(pack: Any, name: str, language: Language) -> str:
    """The key of the term with that name in the language, which is added where there is none."""
    for key, term in pack["terms"].items():
        if str(term.get(language, "")).lower() == name.lower():
            return str(key)
    key = _free(slug(name) or "term", pack["terms"])
    pack["terms"][key] = _flow({language: name})
    return key


def _source(support: SupportForm) -> str:
    named = f"PMID {support.document}" if support.document.isdigit() else f"Document {support.document} of the corpus"
    return f"{named}, sentence {support.sentence}."


def _free(name: str, taken: Any) -> str:
    return next(each for each in _numbered(name) if each not in taken)


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1


def _flow(values: dict[str, Any]) -> CommentedMap:
    made = CommentedMap(values)
    made.fa.set_flow_style()
    return made


def _list(values: list[str]) -> CommentedSeq:
    made = CommentedSeq(values)
    made.fa.set_flow_style()
    return made
