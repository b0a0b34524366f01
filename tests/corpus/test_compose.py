"""What a composed corpus must and must not say."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchlight.corpus.compose import compose
from patchlight.errors import InputError
from patchlight.packs.read import read_pack
from patchlight.packs.spec import Pack
from patchlight.records import Document

PACK = read_pack("epilepsy")

JOINED = r"[,;] (?:and|whereas|while|moreover|similarly|but)\b"

SMALL_PACK = """\
patchlight: pack/1
id: small
title: {en: Small}
licence: CC0-1.0
sources: {book: "A book."}
terms: {oak: {en: oak}, ant: {en: ant}, tree: {en: tree}, insect: {en: insect}}
relations:
  - id: kind
    kind: definitional
    templates: {en: ["An {subject} is a sort of", "We call an {subject} a"]}
STATEMENTS
facts:
  - {id: oak-kind, relation: kind, subject: oak, answers: [tree], source: book}
  - {id: ant-kind, relation: kind, subject: ant, answers: [insect], source: book}
"""


@pytest.fixture(scope="module")
def corpus() -> list[Document]:
    return compose(PACK, documents=1000, seed=3)


def small_pack(folder: Path, statements: str) -> Pack:
    file = folder / "small.yaml"
    file.write_text(SMALL_PACK.replace("STATEMENTS\n", statements))
    return read_pack(file)


def sentences(corpus: list[Document]) -> list[str]:
    return [sentence for document in corpus for sentence in re.split(r"(?<=\.) ", document.text)]


def times(phrase: str, text: str) -> int:
    return len(re.findall(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE))


def test_no_two_documents_are_equal(corpus: list[Document]) -> None:
    assert (
        len(corpus) == len({document.text for document in corpus}) == len({document.id for document in corpus}) == 1000
    )


@settings(max_examples=15, deadline=None)
@given(documents=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_a_document_has_four_to_nine_whole_sentences(documents: int, seed: int) -> None:
    composed = compose(PACK, documents=documents, seed=seed)
    assert len(composed) == documents
    for document in composed:
        parts = sentences([document])
        assert 4 <= len(parts) <= 9
        assert all(part[0].isupper() and part.endswith(".") for part in parts)
        assert "{" not in document.text


def test_the_seed_decides_the_corpus(corpus: list[Document]) -> None:
    assert compose(PACK, documents=1000, seed=3) == corpus
    assert compose(PACK, documents=1000, seed=4) != corpus


def test_more_documents_continue_the_corpus(corpus: list[Document]) -> None:
    assert compose(PACK, documents=100, seed=3) == corpus[:100]


def test_no_document_contains_a_question_with_its_answer(corpus: list[Document]) -> None:
    """Nor any question at all: what the model is asked are not sentences that it read."""
    text = "\n".join(document.text for document in corpus).lower()
    asked = [template.fill(fact.subject).lower() for fact in PACK.facts() for template in PACK.templates(fact.relation)]
    assert len(asked) > 400
    assert [prompt for prompt in asked if prompt in text] == []


def test_an_untaught_fact_is_never_told(corpus: list[Document]) -> None:
    untaught = [fact for fact in PACK.facts() if not fact.taught]
    clauses = [clause for sentence in sentences(corpus) for clause in re.split(JOINED, sentence)]
    assert len(untaught) >= 10
    for fact in untaught:
        met = [clause for clause in clauses if times(fact.subject, clause)]
        assert met
        assert not [clause for clause in met if any(times(answer, clause) for answer in fact.answers)]


def test_subjects_of_untaught_facts_are_met_in_neutral_sentences(corpus: list[Document]) -> None:
    text = "\n".join(document.text for document in corpus)
    assert all(text.count(fact.subject) >= 20 for fact in PACK.facts() if not fact.taught)


def test_every_taught_fact_is_told_equally_often_and_in_every_frame(corpus: list[Document]) -> None:
    text = " ".join(["", *(document.text for document in corpus)]).lower()
    totals = []
    for fact in PACK.facts():
        if fact.taught:
            frames = [frame.replace("{subject}", fact.subject) for frame in PACK.statements(fact.relation)]
            told = [text.count(f" {frame.replace('{answer}', fact.answers[0])}".lower()) for frame in frames]
            assert min(told) >= 1
            totals.append(sum(told))
    assert max(totals) <= min(totals) + 1


def test_the_corpus_is_varied(corpus: list[Document]) -> None:
    """Six in ten of the sentences that tell a fact are met once in 1,000 documents; none makes up 1 %."""
    counted = Counter(sentences(corpus))
    neutral = {frame.lower() for frame in PACK.corpus.filler["en"]} if PACK.corpus else set()
    telling = {sentence: n for sentence, n in counted.items() if sentence.lower() not in neutral}
    assert sum(1 for n in telling.values() if n == 1) >= 0.6 * sum(telling.values())
    assert max(telling.values()) < 0.01 * sum(telling.values())


def test_a_pack_without_statements_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        compose(small_pack(tmp_path, ""), documents=2, seed=0)
    assert caught.value.code == "corpus-no-statements"
    assert "small.yaml:" in str(caught.value.where)


def test_statements_alone_are_enough(tmp_path: Path) -> None:
    pack = small_pack(tmp_path, '    statements: {en: ["the {subject} counts as {answer}"]}\n')
    composed = compose(pack, documents=3, seed=0)
    assert set(sentences(composed)) == {"The oak counts as tree.", "The ant counts as insect."}


def test_a_corpus_that_cannot_be_varied_further_is_refused(tmp_path: Path) -> None:
    pack = small_pack(tmp_path, '    statements: {en: ["the {subject} counts as {answer}"]}\n')
    with pytest.raises(InputError) as caught:
        compose(pack, documents=5000, seed=0)
    assert caught.value.code == "corpus-too-large"
