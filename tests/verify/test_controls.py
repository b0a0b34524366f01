"""Donors for null maps: from another fact, as long in tokens, unable to bring the answer."""

from __future__ import annotations

from collections import Counter

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from patchlight.records import Pair
from patchlight.verify.controls import donor_from_another_fact, donor_from_permuted_pairs

CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Peru": "Lima", "South Korea": "Seoul"}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = ["[UNK]", *{word for pair in PAIRS for word in (pair.clean + " " + pair.corrupted).split()}]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")


def capital(subject: str, other: str, template: str = "The capital of {} is") -> Pair:
    return Pair(
        clean=template.format(subject),
        corrupted=template.format(other),
        correct=f" {CAPITALS[subject]}",
        wrong=f" {CAPITALS[other]}",
        fact=f"capital-{subject}",
        relation="capital",
        template=template,
    )


PAIRS = [
    capital("France", "Italy"),
    capital("Italy", "France"),
    capital("Spain", "Peru"),
    capital("Peru", "Spain"),
    capital("South Korea", "South Korea"),
    Pair(
        "The colour of sky is", "The colour of grass is", " blue", " green", fact="sky", relation="colour", template="c"
    ),
]


def test_donors_are_other_facts_of_the_same_question_that_cannot_bring_the_answer(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    donors = donor_from_another_fact(PAIRS, tokenizer, seed=0)
    of = {pair.clean: pair for pair in PAIRS}
    for pair, prompt in zip(PAIRS[:4], donors.prompts, strict=False):
        assert prompt is not None
        donor = of[prompt]
        assert donor.fact != pair.fact
        assert (donor.relation, donor.template) == (pair.relation, pair.template)
        assert donor.correct not in (pair.correct, pair.wrong)
        assert len(tokenizer(prompt)["input_ids"]) == len(tokenizer(pair.clean)["input_ids"])


def test_a_pair_without_such_a_fact_has_no_donor_and_is_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    donors = donor_from_another_fact(PAIRS, tokenizer, seed=0)
    assert donors.prompts[4:] == (None, None)  # one more token than the others; alone in its relation
    assert donors.missing == 2


def test_the_choice_is_the_seeds(tokenizer: PreTrainedTokenizerFast) -> None:
    assert donor_from_another_fact(PAIRS, tokenizer, seed=3) == donor_from_another_fact(PAIRS, tokenizer, seed=3)
    assert len({donor_from_another_fact(PAIRS, tokenizer, seed).prompts for seed in range(8)}) > 1


def test_donors_are_used_about_equally_often(tokenizer: PreTrainedTokenizerFast) -> None:
    pairs = [capital(a, b) for a in ("France", "Italy") for b in ("France", "Italy") if a != b] * 6
    pairs += [capital("Spain", "Peru"), capital("Peru", "Spain")]
    used = Counter(donor_from_another_fact(pairs, tokenizer, seed=0).prompts[:12])
    assert sorted(used.values()) == [6, 6]


def test_unrelated_donors_come_from_another_relation(tokenizer: PreTrainedTokenizerFast) -> None:
    donors = donor_from_permuted_pairs(PAIRS, tokenizer, seed=0)
    assert donors.prompts[0] == "The colour of sky is"
    assert donors.prompts[5] in {pair.clean for pair in PAIRS[:4]}
    assert donors.prompts[4] is None
