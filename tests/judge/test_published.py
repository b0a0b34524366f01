from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from patchlight.judge.published import REASONS, ModuleEvidence, pooled_recovery, weigh

FACTS = tuple(f"fact-{number}" for number in range(12))


def evidence(**changed) -> ModuleEvidence:
    """A module that brings back about 60 % of gaps of about 4 logits, and that nothing else explains."""
    rng = np.random.default_rng(0)
    gaps = rng.uniform(3, 5, len(FACTS))
    base = ModuleEvidence(
        full_cut=False,
        facts=FACTS,
        gaps=gaps,
        changes=gaps * rng.uniform(0.5, 0.7, len(FACTS)),
        tokens_alone=gaps * 0.05,
        random=np.linspace(0.0, 0.2, 19),
        answers_in_prompt=0,
        other_phrases=0,
    )
    return replace(base, **changed)


def word(**changed) -> str:
    return weigh(evidence(**changed), floor=0.5, seed=0).word


def codes(**changed) -> list[str]:
    found = weigh(evidence(**changed), floor=0.5, seed=0).reasons
    assert all(set(reason.numbers) == set(REASONS[reason.code]) for reason in found)
    return [reason.code for reason in found]


def test_what_nothing_else_explains_is_supported():
    assert word() == "supported"
    assert codes() == ["beats-rivals"]


def test_a_full_cut_is_an_identity_whatever_was_measured():
    assert word(full_cut=True, gaps=np.full(12, 1e-4), answers_in_prompt=12) == "identity"


@pytest.mark.parametrize("gaps", [np.full(12, 0.003), np.full(12, -4.0)])
def test_a_gap_under_the_floor_or_the_wrong_way_round_is_no_denominator(gaps):
    assert word(gaps=gaps) == "no valid denominator"
    assert codes(gaps=gaps)[0] == "gap-under-floor"


def test_gaps_whose_interval_includes_zero_are_no_denominator():
    gaps = np.where(np.arange(12) % 2, -20.0, 22.0)
    assert codes(gaps=gaps)[0] == "gap-touches-zero"


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"answers_in_prompt": 1}, "answer-in-prompt"),
        ({"other_phrases": 3}, "phrase-not-answer"),
        ({"random": np.linspace(0, 0.9, 19)}, "random-weights"),
        ({"tokens_alone": np.full(12, 2.0)}, "tokens-alone"),
    ],
)
def test_each_rival_explanation_is_named(changed, code):
    assert word(**changed) == "rival explanation"
    assert codes(**changed) == [code]


def test_one_question_cannot_tell_knowledge_from_its_wording():
    one = {name: getattr(evidence(), name)[:1] for name in ("facts", "gaps", "changes", "tokens_alone")}
    assert word(**one) == "rival explanation"
    assert codes(**one) == ["few-questions"]


def test_reasons_of_a_weaker_word_are_told_beside_a_stronger_one():
    assert codes(gaps=np.full(12, 0.003), answers_in_prompt=12) == ["gap-under-floor", "answer-in-prompt"]


def test_without_a_floor_the_share_is_that_of_the_publication():
    one = {"facts": ("f",), "gaps": np.array([-0.0028]), "changes": np.array([-0.006]), "tokens_alone": np.zeros(1)}
    assert weigh(evidence(**one), floor=0.5, seed=0).recovery.estimate == pytest.approx(0.006 / 0.0028)


def test_pooled_recovery_weighs_gaps_by_their_size_whatever_their_sign():
    gaps = np.array([2.0, -1.0, 1e-9])
    assert pooled_recovery(0.25 * gaps, gaps) == pytest.approx(0.25)
    assert pooled_recovery(np.array([1.0, 0.0, 5e-9]), gaps) == pytest.approx(1 / 3)
    assert pooled_recovery(np.ones(2), np.zeros(2)) == 0


def test_gaps_that_add_up_to_nothing_give_no_share_and_no_denominator():
    gaps = np.tile([1.0, -1.0], 6)
    found = weigh(evidence(gaps=gaps), floor=0.5, seed=0)
    assert np.isnan(found.recovery.estimate)
    assert found.word == "no valid denominator"
