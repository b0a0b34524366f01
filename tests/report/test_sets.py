"""The section on several places together: what it says, in both languages, and when it has nothing to say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from patchlight.judge.concentration import IndexRow
from patchlight.judge.sets import try_sets
from patchlight.judge.thresholds import THRESHOLDS
from patchlight.records import Interval, Site
from patchlight.report.build import render
from patchlight.report.contents import ReportContents
from patchlight.trace.sufficient import SetEvidence, find_sets

PAIRS, LAYERS = 24, 6
SITES = tuple(Site(name, layer, None, "last") for name in ("attn_out", "mlp_out") for layer in range(LAYERS))


class AndBench:
    """Two places bring everything back together, and nothing alone."""

    def __init__(self, direction: str, pairs: int) -> None:
        self.direction, self.gaps = direction, np.linspace(2, 4, pairs)

    def effects(self, sets):
        two = {SITES[1], SITES[8]}
        whole = [two <= set(each) if self.direction == "denoise" else bool(two & set(each)) for each in sets]
        return np.outer(self.gaps * np.linspace(0.9, 1.0, len(self.gaps)), whole)

    def structural(self, sets):
        return np.zeros(len(sets), dtype=bool)


def and_like() -> SetEvidence:
    rows = np.arange(PAIRS) < PAIRS // 2
    discovery, every = (
        {name: AndBench(name, count) for name in ("denoise", "noise")} for count in (int(rows.sum()), PAIRS)
    )
    nulls = {"another-fact": lambda sets: (np.zeros((PAIRS, len(sets))), np.ones(PAIRS))}
    return find_sets(
        discovery, every, rows, SITES, shares=(0.8,), largest=4, nulls=nulls,
        wiring=(Site("mlp_out", 0, None, "subject_last"),),
    )  # fmt: skip


@pytest.fixture(scope="module")
def with_sets(contents: ReportContents) -> ReportContents:
    rows = np.arange(PAIRS) >= PAIRS // 2
    facts = [f"fact-{pair:02d}" for pair in range(PAIRS)]
    sets = try_sets(and_like(), facts, rows, thresholds=THRESHOLDS, seed=0)
    index = IndexRow("gini", "positive", Interval(0.9, 0.8, 0.95, PAIRS), None, Interval(0.3, 0.2, 0.4, PAIRS))
    first, *others = contents.checkpoints
    result = replace(first.kinds[0], verdict=replace(first.kinds[0].verdict, sets=sets), concentration=(index,))
    point = replace(first, kinds=(result, *first.kinds[1:]), split="ab" * 32)
    return replace(contents, checkpoints=(point, *others))


def test_the_set_is_told_in_words_with_both_directions_and_its_nulls(with_sets: ReportContents) -> None:
    page = render(with_sets, "en")
    assert "Grown by what it brings back: 2 place(s), reaches 80% on the discovery facts." in page
    assert "enough and needed" in page
    assert "Like AND: together it brings back more than its places one by one" in page
    assert "another fact: 0.0%" in page
    assert "record abababababab" in page
    assert "half of its gap or more): Feed-forward (MLP) output, layer 0, subject end" in page
    assert "Gini coefficient (0 even, 1 in one place), what brings the answer back" in page


@pytest.mark.parametrize("language", ["en", "ja"])
def test_every_number_can_be_read_and_downloaded_and_none_is_nan(with_sets: ReportContents, language: str) -> None:
    page = render(with_sets, language)
    section = page[page.index('id="sets-title"') : page.index('id="narrowing-title"')]
    assert section.count("<svg") == 2
    assert section.count('class="download"') == 2
    assert "nan" not in section.lower().replace("nanpatsu", "")
    assert "interaction" in section  # in the download


def test_without_sets_the_section_says_so(contents: ReportContents) -> None:
    assert "what several places do together was not measured" in render(contents, "en")
