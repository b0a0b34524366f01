"""What counts as replicated, and the mean over models against statsmodels' formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from patchlight.judge.replication import Outcome, Region, grade_of, overlap, pooled, region_of, replicated
from patchlight.records import Interval, Site

EARLY, LATE = Region("mlp_out", "last", 1), Region("mlp_out", "last", 4)


def outcome(origin: str, word: str = "localised", regions: tuple[Region, ...] = (EARLY,), grade: str = "C") -> Outcome:
    grade = "D" if word in ("undetermined", "no knowledge to localise") else grade
    effects = {region: Interval(0.5, 0.4, 0.6, 20) for region in (EARLY, LATE)}
    return Outcome(origin, "model", origin, "base", origin, "pack", 1, "kind", word, grade, 20,
                   regions=frozenset(regions), effects=effects)  # fmt: skip


def held(*outcomes: Outcome) -> str:
    return replicated("kind", outcomes).held


def test_two_independent_models_at_one_place_replicate_and_raise_c_to_b() -> None:
    both = (outcome("a"), outcome("b", regions=(EARLY, LATE)), outcome("c", "undetermined"))
    answer = replicated("kind", both)
    assert (answer.held, answer.word, answer.models, answer.able) == ("replicated", "localised", ("a", "b"), 3)
    assert answer.regions == (EARLY,)
    assert [grade_of(each, answer) for each in both] == ["B", "B", "D"]
    assert grade_of(outcome("a", grade="A"), answer) == "A"


def test_what_does_not_count_as_a_second_model() -> None:
    assert held(outcome("a"), outcome("a")) == "nothing to compare"  # the same weights
    assert held(outcome("a"), outcome("b", regions=(LATE,))) == "not replicated"  # elsewhere
    assert held(outcome("a"), outcome("b", "undetermined")) == "not replicated"
    assert held(outcome("a"), outcome("b", "no knowledge to localise")) == "nothing to compare"
    assert held(outcome("a"), outcome("b"), outcome("c", "distributed")) == "contradicted"
    assert held(outcome("a", "distributed", ()), outcome("b", "distributed", ())) == "replicated"


def test_regions_are_quarters_of_the_depth() -> None:
    sites = [Site("mlp_out", layer, None, "last") for layer in range(12)]
    assert [region_of(site, 12).quarter for site in sites] == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    assert [region_of(site, 2).quarter for site in sites[:2]] == [1, 3]


def test_the_mean_over_models_is_that_of_dersimonian_and_laird() -> None:
    effects, errors, n = np.array([0.2, 0.5, 0.9]), np.array([0.05, 0.1, 0.08]), 21
    reach = stats.t.ppf(0.975, n - 1) * errors
    found = pooled([Interval(e, e - r, e + r, n) for e, r in zip(effects, reach, strict=True)])
    weights = 1 / errors**2
    fixed = (weights * effects).sum() / weights.sum()
    q = (weights * (effects - fixed) ** 2).sum()
    tau2 = (q - 2) / (weights.sum() - (weights**2).sum() / weights.sum())
    random = 1 / (errors**2 + tau2)
    assert found is not None
    assert found.mean.estimate == pytest.approx((random * effects).sum() / random.sum())
    assert found.mean.high - found.mean.estimate == pytest.approx(stats.norm.ppf(0.975) / np.sqrt(random.sum()))
    assert (found.tau2, found.i2) == (pytest.approx(tau2), pytest.approx((q - 2) / q))
    assert found.p == pytest.approx(stats.chi2.sf(q, 2))


def test_one_model_has_no_mean_over_models() -> None:
    assert pooled([Interval(0.5, 0.4, 0.6, 20), Interval(0.5, np.nan, np.nan, 3)]) is None


def test_an_overlap_stands_beside_what_chance_gives() -> None:
    share, chance = overlap(outcome("a"), outcome("b"))
    assert (share, chance) == (1.0, pytest.approx(0.5))  # one region of two each: the same one half of the time
    assert all(np.isnan(overlap(outcome("a", regions=()), outcome("b", regions=()))))
