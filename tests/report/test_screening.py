"""What a page says of a screening: found, missed, and what may have been missed."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from scipy.stats import binomtest

from patchlight.report.build import render
from patchlight.report.contents import Narrowing
from tests.report.page import Page, csv_of


def test_a_screening_says_what_was_found_what_was_missed_and_what_may_have_been(english, contents):
    bound = contents.checkpoints[0].kinds[0].narrowing.screening.bound
    assert binomtest(1, 6).proportion_ci(0.9).high == pytest.approx(bound)
    said = " ".join(english.words.split())
    assert "20 places (Attention output, Output of one head, Feed-forward (MLP) output; recovery)" in said
    assert "on 9 discovery facts (18 question pairs). 6 more restore everything by construction" in said
    assert "3 question pairs took no part here" in said
    assert "the first 4 were exchanged exactly; 2 of them have an effect of 10% or more" in said
    assert "of the 16 rejected places, 6 drawn at random" in said
    assert "1 of these have an effect of 10% or more (missed), and the largest is 25.0%" in said
    assert (
        f"With 95% confidence at most {100 * bound:.1f}% of the rejected places have an effect of 10% or more." in said
    )
    assert "Associative knowledge: no question of this kind could be screened." in said


def test_the_candidates_come_by_exact_effect_and_what_was_missed_after_them(contents):
    section = re.search(r'<section id="narrowing".*?</section>', render(contents, "en"), re.DOTALL)[0]
    rows = [
        [re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in re.findall(r"<tr>.*?</tr>", section.split("</table>")[0])
    ]
    assert rows == [
        ["Place", "Exact effect", "Estimate", "Chosen by", "10% or more"],
        ["Attention output, layer 2, last word", "60.0%", "18.0%", "estimate", "yes"],
        ["Attention output, layer 0, last word", "31.0%", "20.0%", "estimate", "yes"],
        ["Attention output, layer 1, last word", "2.0%", "19.0%", "estimate", "no"],
        ["Attention output, layer 3, last word", "−1.0%", "17.0%", "estimate", "no"],
        ["Output of one head, layer 0, head 3, subject end", "−25.0%", "5.0%", "chance (missed)", "yes"],
    ]


def test_the_download_of_a_screening_holds_every_place(contents, english):
    found = contents.checkpoints[0].kinds[0].narrowing.screening
    rows = csv_of(english, "screening-configuration-i-definitional.csv")
    assert [row["site"] for row in rows] == [str(site) for site in found.sites]
    assert [row["exact"] for row in rows] == [f"{value:.6g}" if np.isfinite(value) else "" for value in found.exact]
    assert {row["status"] for row in rows} == {"candidate", "audited", "rejected"}


@pytest.mark.parametrize(
    ("candidates", "said"),
    [
        (4, "None of the 16 rejected places was exchanged"),
        (20, "No place was rejected, so nothing can have been missed"),
    ],
)
def test_a_screening_without_an_audit_bounds_nothing(contents, candidates, said):
    point = contents.checkpoints[0]
    found = point.kinds[0].narrowing.screening
    nobody = dataclasses.replace(
        found, audited=np.zeros_like(found.audited), exact=np.nan_to_num(found.exact), candidates=candidates
    )
    kinds = (dataclasses.replace(point.kinds[0], narrowing=Narrowing(nobody, 0)),)
    words = Page(
        render(dataclasses.replace(contents, checkpoints=(dataclasses.replace(point, kinds=kinds),)), "en")
    ).words
    assert said in words
    assert "confidence at most" not in words
    assert "took no part here" not in words


def test_a_study_without_a_screening_says_so_once(contents):
    points = tuple(
        dataclasses.replace(point, kinds=tuple(dataclasses.replace(result, narrowing=None) for result in point.kinds))
        for point in contents.checkpoints
    )
    words = Page(render(dataclasses.replace(contents, checkpoints=points), "en")).words
    assert words.count("No places were narrowed by estimates in this study.") == 1
    assert "known to fail" not in words
