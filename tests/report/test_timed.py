"""What the page says of the tokens of an answer, of windows, of self-repair, and of who reads a place."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from patchlight.judge.statistics import IntervalMap
from patchlight.records import Interval, Site
from patchlight.report.behind import part_words
from patchlight.report.build import render
from patchlight.report.contents import DirectEffects
from patchlight.report.reached import Reached, RepairResult, RoutesResult
from patchlight.report.texts import LANGUAGES, read_texts, site_words
from patchlight.report.timed import StepsResult, Timed, WindowsResult
from tests.report.page import Page

PLACE, LATER = Site("mlp_out", 1, None, "subject_last"), Site("attn_out", 3, None, "last")
HEAD = Site("v", 3, 2)


def intervals(estimate, half=0.05):
    estimate = np.array(estimate, dtype=float)
    return IntervalMap(estimate, estimate - half, estimate + half, np.full(estimate.shape, 9))


def shown(contents, language, **parts):
    point = contents.checkpoints[0]
    kinds = (dataclasses.replace(point.kinds[0], **parts), *point.kinds[1:])
    return render(dataclasses.replace(contents, checkpoints=(dataclasses.replace(point, kinds=kinds),)), language)


def steps() -> StepsResult:
    effect, structural = np.zeros((4, 2, 2)), np.zeros((4, 2, 2), dtype=bool)
    effect[2, 0], effect[:, 1, 0], effect[3, 0, 0] = (0.5, 0.1), np.nan, 0.8
    structural[3, 0, 0] = True  # the largest, and no finding
    places = ("last", "answer_1")
    return StepsResult("mlp_out", "denoise", places, intervals(effect), intervals([0.8, 0.2]), structural, 9, 14, 2, 5)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_token_is_named_with_its_gap_and_the_place_that_moves_most_of_it(language, contents):
    page, texts = shown(contents, language, timed=Timed(steps=(steps(),))), read_texts(language)
    value = texts("page.interval", estimate="50.0%", low="45.0%", high="55.0%", n=9)
    place = texts.word("role", "last")
    assert texts("steps.sentence_denoise", number=1, gap="80%", layer=2, place=place, value=value) in page
    assert texts("steps.given", number="1") in page


@pytest.mark.parametrize(("together", "singles", "code"), [(0.6, 0.3, "more"), (0.3, 0.6, "less"), (0.5, 0.48, "same")])
def test_a_window_is_told_from_the_sum_of_its_places_by_intervals_only(together, singles, code, contents):
    shares, structural = np.zeros((3, 2, 2)), np.zeros((3, 2), dtype=bool)
    shares[1, 0], shares[0, 0], structural[0, 0] = (together, singles), (1.0, 0.9), True
    found = WindowsResult("mlp_out", "denoise", 2, 3, ("subject_last", "last"), intervals(shares), structural, 9, 14)
    for language in LANGUAGES:
        page, texts = shown(contents, language, timed=Timed(windows=(found,))), read_texts(language)
        said = {
            name: texts(
                "page.interval",
                estimate=f"{100 * share:.1f}%",
                low=f"{100 * share - 5:.1f}%",
                high=f"{100 * share + 5:.1f}%",
                n=9,
            )
            for name, share in (("together", together), ("singles", singles))
        }
        where, place = texts("windows.layers", first=1, last=2), texts.word("role", "subject_last")
        assert texts(f"windows.{code}", where=where, place=place, positions=3, **said) in page


@pytest.mark.parametrize("language", LANGUAGES)
def test_loss_and_who_makes_up_for_it_are_said(language, contents):
    cost, nothing = Interval(0.2, 0.1, 0.3, 9), Interval(0.2, -0.1, 0.5, 9)
    losses = intervals([[0.5, 0.2, 0.3], [0.2, 0.6, -0.4]])
    reacting = (((LATER, 0.25),), ())
    repair = RepairResult((PLACE, LATER), losses, reacting, ((PLACE, LATER, cost), (LATER, PLACE, nothing)), 9, 14)
    page, texts = shown(contents, language, reached=Reached(repair=repair)), read_texts(language)
    first, second = site_words(PLACE, texts), site_words(LATER, texts)
    assert texts("repair.more", site=first, predicted="50%", measured="20%") in page
    assert texts("repair.less", site=second, predicted="20%", measured="60%") in page
    value = texts("page.interval", estimate="20.0%", low="10.0%", high="30.0%", n=9)
    assert texts("repair.backup", site=first, other=second, value=value) in page


@pytest.mark.parametrize("language", LANGUAGES)
def test_readers_are_named_in_words_and_one_that_is_not_told_from_nothing_is_not(language, contents):
    readers = ((HEAD, Site("logits")), (Site("mlp_out", 2), Site("logits")))
    routes = RoutesResult((PLACE, LATER), readers, intervals([[0.4, 0.01], [0.02, np.nan]]), 9, 14)
    page, texts = shown(contents, language, reached=Reached(routes=routes)), read_texts(language)
    listed = texts("routes.reader", part=part_words(HEAD, texts), value="40%")
    assert texts("routes.read", site=site_words(PLACE, texts), listed=listed) in page
    assert texts("routes.unread", site=site_words(LATER, texts)) in page


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_was_not_asked_for_is_said_to_be_so(language, contents):
    words, texts = Page(render(contents, language)).words, read_texts(language)
    assert all(texts(f"{name}.none").replace("`", "") in words for name in ("steps", "windows", "repair", "routes"))


@pytest.mark.parametrize(
    ("total", "direct", "told"), [(0.6, 0.5, "itself"), (0.6, 0.1, "way"), (0.6, 0.3, "both"), (0.04, 0.04, None)]
)
def test_a_place_is_said_to_speak_itself_or_to_be_on_the_way(total, direct, told, contents):
    parts = intervals([[total, direct, total - direct, 0.0]])
    page = shown(contents, "en", direct=DirectEffects((PLACE,), parts, 9, 14, 1e-7))
    texts = read_texts("en")
    assert [name for name in ("itself", "way", "both") if texts(f"paths.{name}") in page] == ([told] if told else [])
