from __future__ import annotations

import re
import string

import pytest

from patchlight.judge.reasons import Reason
from patchlight.judge.remedies import WANTING
from patchlight.judge.verdict import REASONS
from patchlight.pairs.answers import METRICS
from patchlight.report.reasons import advice_words
from patchlight.report.texts import LANGUAGES, read_texts

# method.md, section 15: never printed, in either language.
FORBIDDEN = re.compile(
    r"\b(is|are) stored in\b|\bprov(e|es|ed|en)\b|\bknows?\b|保存されて|格納されて|証明|知っている|覚えている",
    re.IGNORECASE,
)


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_languages_have_the_same_keys_in_the_same_order():
    english, japanese = (read_texts(language).entries for language in LANGUAGES)
    assert list(english) == list(japanese)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_says_what_a_report_may_not_say(language):
    found = {key: text for key, text in read_texts(language).entries.items() if FORBIDDEN.search(text)}
    assert found == {}


def test_both_languages_fill_in_the_same_numbers():
    english, japanese = (read_texts(language).entries for language in LANGUAGES)
    assert {key: fields(text) for key, text in english.items()} == {key: fields(text) for key, text in japanese.items()}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_reason_of_a_verdict_has_a_sentence_that_its_numbers_fill(language):
    texts = read_texts(language)
    assert set(texts.listed("reason")) == set(REASONS)
    for code, numbers in REASONS.items():
        sentence = texts(f"reason.{code}", **{name: 0.25 if name != "site" else "x" for name in numbers})
        assert "{" not in sentence


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_reason_that_wants_something_says_what_to_add_with_its_numbers(language):
    texts = read_texts(language)
    assert texts.listed("add") == list(WANTING)
    for code in WANTING:
        numbers = dict.fromkeys(REASONS[code], 3) | {name: "facts" for name in ("source",) if name in REASONS[code]}
        sentence = advice_words(Reason(code, numbers), texts)
        assert len(sentence) > 20
        assert "{" not in sentence


def test_what_to_add_is_counted_as_needed_minus_present():
    texts = read_texts("en")
    few = Reason("too-few-facts", {"discovery": 5, "confirmation": 4, "needed": 8})
    assert "at least 3 facts to the discovery half and 4 to the confirmation half: about 8 more" in advice_words(
        few, texts
    )
    known = Reason("knows-too-few", {"known": 2, "asked": 20, "needed": 5})
    assert "at least 3 more facts" in advice_words(known, texts)
    assert advice_words(Reason("set-is-small", {"size": 1, "eligible": 9, "limit": 2}), texts) == ""


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_metric_and_its_unit_have_words(language):
    texts = read_texts(language)
    assert texts.listed("metric") == list(METRICS)
    assert set(texts.listed("unit")) == {metric.unit for metric in METRICS.values()}


def test_japanese_reads_without_spaces_left_by_folded_lines():
    folded = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff。、] [\u3040-\u30ff\u4e00-\u9fff。、]")
    assert [key for key, text in read_texts("ja").entries.items() if folded.search(text)] == []


def test_a_name_from_an_open_set_stands_for_itself():
    texts = read_texts("en")
    assert texts.word("kind", "definitional") == "Definitional knowledge"
    assert texts.word("kind", "procedural") == "procedural"


def test_words_are_picked_in_the_language_or_in_one_that_there_is():
    assert read_texts("ja").pick({"en": "drug", "ja": "薬"}) == "薬"
    assert read_texts("ja").pick({"en": "drug"}) == "drug"
