from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from patchlight.errors import InputError
from patchlight.pairs.align import PART, AlignmentRefused, align, encode, refuse_leak
from patchlight.records import Pair

FRANCE = Pair("The capital of France is", "The capital of Italy is", " Paris", " Rome", "France", "Italy")


def refusal(tokenizer: PreTrainedTokenizerFast, pair: Pair) -> AlignmentRefused:
    with pytest.raises(AlignmentRefused) as caught:
        refuse_leak(tokenizer, pair, align(tokenizer, pair))
    return caught.value


def test_positions_answer_to_each_other(byte_level: PreTrainedTokenizerFast) -> None:
    alignment = align(byte_level, FRANCE)
    assert list(alignment.clean_ids) == byte_level(FRANCE.clean)["input_ids"]
    assert list(alignment.corrupted_ids) == byte_level(FRANCE.corrupted)["input_ids"]
    assert alignment.differing == (3,)
    assert alignment.roles == ("before", "before", "before", "subject_last", "last")
    assert alignment.words == ("The", "capital", "of", "France", "is")
    assert alignment.corrupted_words == ("The", "capital", "of", "Italy", "is")
    assert byte_level.decode([alignment.correct_id]) == " Paris"
    assert byte_level.decode([alignment.wrong_id]) == " Rome"


def test_special_tokens_stand_in_front_and_never_behind(metaspace: PreTrainedTokenizerFast) -> None:
    alignment = align(metaspace, FRANCE)
    assert alignment.clean_ids[0] == metaspace.bos_token_id
    assert metaspace.eos_token_id not in alignment.clean_ids
    assert alignment.roles == ("bos", "before", "before", "before", "subject_last", "last")
    assert alignment.words == ("<s>", "The", "capital", "of", "France", "is")
    assert metaspace.convert_ids_to_tokens(alignment.correct_id) == "▁Paris"


def test_a_subject_of_several_tokens_has_first_middle_and_last(byte_level: PreTrainedTokenizerFast) -> None:
    pair = Pair("In Fqvxj people eat", "In Zqvxj people eat", " bread", " Rome", "Fqvxj", "Zqvxj")
    alignment = align(byte_level, pair)
    subject = [role for role in alignment.roles if role.startswith("subject")]
    assert subject == ["subject_first", *["subject_mid"] * (len(subject) - 2), "subject_last"]
    assert len(subject) > 2
    assert alignment.words[alignment.roles.index("subject_first")] == "␣"  # the space before a word is part of it
    assert alignment.words[alignment.roles.index("subject_first") + 1] == "F"
    assert alignment.words[alignment.roles.index("subject_last")] == "j"
    assert alignment.roles[-2:] == ("relation", "last")


def test_a_subject_that_ends_the_prompt_gives_its_last_position_to_last(byte_level: PreTrainedTokenizerFast) -> None:
    pair = Pair("people in France", "people in Italy", " eat", " Rome", "France", "Italy")
    assert align(byte_level, pair).roles[-1] == "last"


def test_the_mention_that_differs_is_the_subject(byte_level: PreTrainedTokenizerFast) -> None:
    pair = Pair("France, Italy and France eat", "France, Italy and Spain eat", " bread", " Rome", "France", "Spain")
    alignment = align(byte_level, pair)
    assert alignment.roles[alignment.differing[0]] == "subject_last"
    assert alignment.roles.count("subject_last") == 1


def test_without_a_subject_the_differing_tokens_are_it(byte_level: PreTrainedTokenizerFast) -> None:
    bare = Pair(FRANCE.clean, FRANCE.corrupted, FRANCE.correct, FRANCE.wrong)
    assert align(byte_level, bare) == align(byte_level, FRANCE)


def test_a_character_cut_into_parts_is_shown_once(byte_level: PreTrainedTokenizerFast) -> None:
    alignment = align(byte_level, Pair("薬の水は", "薬の火は", "東", "西", "水", "火"))
    assert "".join(word for word in alignment.words if word != PART) == "薬の水は"
    assert "".join(word for word in alignment.corrupted_words if word != PART) == "薬の火は"
    assert alignment.words.count(PART) == len(alignment.words) - 4
    assert not any("\ufffd" in word for word in alignment.words)
    subject = [i for i, role in enumerate(alignment.roles) if role.startswith("subject")]
    assert set(alignment.differing) <= set(subject)
    assert alignment.words[subject[0]] == "水"


def test_byte_fallback_shows_a_character_once(metaspace: PreTrainedTokenizerFast) -> None:
    words = align(metaspace, Pair("The 鯨 in France is", "The 鯨 in Italy is", " Paris", " Rome")).words
    assert words[:6] == ("<s>", "The", "␣", "鯨", PART, PART)


@pytest.mark.parametrize(
    ("pair", "reason", "says"),
    [
        (
            Pair("The capital of France is", "The capital of Italy too is", " Paris", " Rome"),
            "different token counts",
            "(5 and 6",
        ),
        (Pair("The capital is", "The capital is", " Paris", " Rome"), "prompts are the same", "same"),
        (Pair("of France is", "of Italy is", " Paris", " Paris"), "answers are the same", "Paris"),
        (Pair("of France is", "of Italy is", "", " Rome"), "empty answer", "no token"),
        (
            Pair("capital of France is ", "capital of Italy is ", "Paris", "Rome"),
            "answer merges with the prompt",
            "merges",
        ),
        (
            Pair("of France is", "of Italy is", " Paris", " Rome", "Spain", "Italy"),
            "subject not found in the prompt",
            "'Spain'",
        ),
        (
            Pair("of France is in", "in Italy is of", " Paris", " Rome", "of", "of"),
            "different token roles",
            "tokens 1 to 1",
        ),
        (Pair("in Paris, France is", "in Paris, Italy is", " paris", " Rome"), "answer in the prompt", "'paris'"),
        (Pair("not Rome: France is", "not Rome: Italy is", " Paris", " Rome"), "answer in the prompt", "'Rome'"),
        (
            Pair("of France, in Paris of Italy", "of Spain, in Paris of Italy", " Paris of Spain", " Rome"),
            "answer's first token in the prompt",
            "' Paris'",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_with_a_reason(
    byte_level: PreTrainedTokenizerFast, pair: Pair, reason: str, says: str
) -> None:
    refused = refusal(byte_level, pair)
    assert refused.reason == reason
    assert says in str(refused)
    assert refused.code.startswith("pair-")
    assert refused.fix


def test_different_token_counts_show_both_cuts(byte_level: PreTrainedTokenizerFast) -> None:
    refused = refusal(byte_level, Pair("The capital of France is", "The capital of Zq is", " Paris", " Rome"))
    assert "The|capital|of|France|is against The|capital|of|" in refused.what


def test_a_part_of_a_character_is_no_leak(byte_level: PreTrainedTokenizerFast) -> None:
    pair = Pair("薬の水は", "薬の火は", "東", "雨", "水", "火")
    alignment = align(byte_level, pair)
    assert alignment.correct_id in alignment.clean_ids or alignment.wrong_id in alignment.clean_ids
    refuse_leak(byte_level, pair, alignment)


def test_a_measured_pair_may_name_its_answer(byte_level: PreTrainedTokenizerFast) -> None:
    pair = Pair("Paris or Rome: France has", "Paris or Rome: Italy has", " Paris", " Rome", "France", "Italy")
    assert align(byte_level, pair).differing
    assert refusal(byte_level, pair).reason == "answer in the prompt"


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(InputError, match="pair-slow-tokenizer"):
        encode(Slow(), "The capital")  # type: ignore[arg-type]


LETTERS = st.text(st.sampled_from("aeFrRxq 薬水東ñ🙂,.\n"), max_size=12)


@settings(max_examples=200, deadline=None)
@given(LETTERS, LETTERS, LETTERS, LETTERS, st.sampled_from([" Paris", "東", " xq"]))
def test_every_pair_aligns_or_says_why_not(
    byte_level: PreTrainedTokenizerFast, before: str, first: str, second: str, after: str, wrong: str
) -> None:
    pair = Pair(before + first + after, before + second + after, " Rome", wrong, first, second)
    try:
        alignment = align(byte_level, pair)
    except AlignmentRefused as refused:
        assert refused.reason
        return
    size = len(alignment.clean_ids)
    assert size == len(alignment.corrupted_ids) == len(alignment.roles) == len(alignment.words)
    assert alignment.roles[-1] == "last"
    assert alignment.differing == tuple(i for i in range(size) if alignment.clean_ids[i] != alignment.corrupted_ids[i])
    assert byte_level.decode(alignment.clean_ids) == pair.clean
    shown = "".join(word for word in alignment.words if word != PART)
    assert _letters(shown) == _letters(pair.clean)


def _letters(text: str) -> str:
    return "".join(character for character in text if character not in " \n␣⏎")


TOKENIZER = Path(__file__).parents[2].parent / "shared" / "data" / "tokenizer"


@pytest.mark.shared
@pytest.mark.skipif(not TOKENIZER.is_dir(), reason="../shared/data/tokenizer is absent")
def test_japanese_in_the_tokenizer_of_gpt2() -> None:
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    pair = Pair("薬のカルバマゼピンは", "薬のカルバゼマピンは", "水", "火", "カルバマゼピン", "カルバゼマピン")
    alignment = align(tokenizer, pair)
    assert "".join(word for word in alignment.words if word != PART) == pair.clean
    assert alignment.words[:3] == ("薬", PART, PART)
    assert alignment.roles[0] == "before"
    assert alignment.words[alignment.roles.index("subject_first")] == "カ"
    assert alignment.roles[-1] == "last"
