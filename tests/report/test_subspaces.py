"""What the page says of directions within a place, and of looking beside acting."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from patchlight.judge.statistics import IntervalMap
from patchlight.records import Site
from patchlight.report.build import coded, render
from patchlight.report.texts import LANGUAGES, read_texts
from patchlight.report.within import Observed, SubspaceResult, SubspaceRow

SITE = Site("mlp_out", 3, None, "last")


def intervals(estimate):
    estimate = np.array(estimate)
    return IntervalMap(estimate, estimate - 0.05, estimate + 0.05, np.full(estimate.shape, 9))


def directions(dormant=False, readable=3):
    rows = [SubspaceRow("whole", 0, "whole"), SubspaceRow("das", 1), SubspaceRow("das", 2, dormant=dormant)]
    rows += [SubspaceRow("das", 2, "row"), SubspaceRow("random", 2, "random")]
    return SubspaceResult(SITE, 12, readable, tuple(rows), intervals([0.95, 0.5, 0.85, 0.2, 0.07]), 9, 14)


def shown(contents, language, **parts):
    point = contents.checkpoints[0]
    kinds = (dataclasses.replace(point.kinds[0], **parts), *point.kinds[1:])
    return render(dataclasses.replace(contents, checkpoints=(dataclasses.replace(point, kinds=kinds),)), language)


def test_the_smallest_number_of_directions_is_said_with_its_interval_and_controls(contents):
    page = shown(contents, "en", subspaces=(directions(),))
    assert "2 of these directions are the fewest tried that bring back four fifths: 85" in page
    assert "Control, random directions: the highest brings back 7.0% (2.0% to 12.0%), n\u00a09." in page
    assert "No warning of a dormant path." in page


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_dormant_path_is_a_warning_with_both_readings(language, contents):
    page, texts = shown(contents, language, subspaces=(directions(dormant=True),)), read_texts(language)
    listed = texts("subspaces.sized", method=texts("subspaces.method.das"), size=2)
    assert texts("subspaces.dormant", listed=listed, read=3, width=12) in page
    assert "Makelov" in page
    assert "Wu" in page


@pytest.mark.parametrize("language", LANGUAGES)
def test_where_looking_and_acting_disagree_is_named(language, contents):
    shares = np.zeros((2, 4, 2))
    shares[1, 2], shares[0, 1] = (0.7, 0.2), (0.0, 0.4)
    observed = Observed(("attn_out", "mlp_out"), intervals(shares), intervals([0.0, 0.1, 0.6, 0.9, 1.0]), 1e-7, 9, 14)
    page, texts = shown(contents, language, observed=observed), read_texts(language)
    assert texts("observation.lens", depth=2, layers=4, share="60.0%").rstrip(".。") in page
    parts = page[page.index('id="observation"') :]
    assert parts.index("70") < parts.index("40")


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_was_not_asked_for_is_said(language, contents):
    page, texts = shown(contents, language), read_texts(language)
    assert all(coded(texts(f"{name}.none")) in page for name in ("subspaces", "observation"))


def test_a_disagreement_is_named_only_where_the_intervals_part(contents):
    estimate = np.zeros((1, 2, 2))
    estimate[0, 0], estimate[0, 1] = (0.5, 0.3), (0.1, 0.9)
    half = np.where(estimate == 0.3, 0.3, 0.05)
    shares = IntervalMap(estimate, estimate - half, estimate + half, np.full(estimate.shape, 9))
    page = shown(contents, "en", observed=Observed(("attn_out",), shares, intervals([0.0, 0.5, 1.0]), 1e-7, 9, 14))
    told = page[page.index('id="observation"') : page.index('id="robustness"')]
    sentences = told[: told.index("<details>")]
    assert "Attention output, layer 1, last word: looking" in sentences
    assert "looking shows 10.0% (5.0% to 15.0%), n\u00a09" in sentences
    assert "Attention output, layer 0" not in sentences
