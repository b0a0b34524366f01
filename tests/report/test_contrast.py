"""What a report says of two kinds compared: a sentence for every outcome, and every number that was measured."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from patchlight.judge.contrast import Balance, Contrast, Outcome
from patchlight.records import Interval
from patchlight.report.build import render
from patchlight.report.contents import KindsCompared, ReportContents
from patchlight.report.contrast import comparisons
from patchlight.report.texts import LANGUAGES, read_texts

KINDS = ("definitional", "associative")


def compared(outcome: Outcome) -> KindsCompared:
    balance = (Balance("answer_tokens", 0.8, 0.1), Balance("clean_metric", -0.6, -0.05))
    if outcome in {"too-few-matched", "not-balanced", "no-common-place"}:
        return KindsCompared("mlp_out", ("subject_last", "last"), Contrast(KINDS, (40, 30), 5, balance, outcome))
    contrast = Contrast(
        KINDS, (40, 30), 24, balance, outcome,
        cell=(3, 1), p=0.003, difference=Interval(0.31, 0.2, 0.42, 24), dz=Interval(0.9, 0.4, 1.3, 24), delta=None,
        elsewhere={} if outcome == "no-reference" else {"random-init": Interval(0.3, 0.1, 0.5, 24)}, exploratory=4,
        layers=(0.001, 0.2), layer_by_kind=0.02,
    )  # fmt: skip
    return KindsCompared("mlp_out", ("subject_last", "last"), contrast)


def with_outcome(contents: ReportContents, outcome: Outcome) -> ReportContents:
    first, *others = contents.checkpoints
    return replace(contents, checkpoints=(replace(first, compared=(compared(outcome),)), *others))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("outcome", get_args(Outcome))
def test_every_outcome_has_a_sentence_with_its_numbers(
    contents: ReportContents, outcome: Outcome, language: str
) -> None:
    (found,) = comparisons(with_outcome(contents, outcome), read_texts(language))
    said = " ".join(found.sentences)
    assert "{" not in said
    if outcome in {"not-told-apart", "no-reference", "shown-elsewhere", "differ"}:
        assert "31.0%" in said
        assert "0.003" in said
    if outcome in {"shown-elsewhere", "differ"}:
        assert read_texts(language)("contrast.reference.random-init") in said


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_shows_what_was_measured_and_names_what_was_not(contents: ReportContents, language: str) -> None:
    page, texts = render(with_outcome(contents, "differ"), language), read_texts(language)
    assert texts("section.contrast") in page
    assert "0.90 (0.40, 1.30)" in page
    assert texts("contrast.not_computed") in page  # of Cliff's delta
    assert 'download="kinds-' in page
    assert texts("contrast.none") in render(contents, language)
