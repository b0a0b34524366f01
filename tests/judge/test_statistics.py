"""Intervals and effect sizes: against scipy, against their definitions, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from patchlight.errors import InputError
from patchlight.judge.statistics import (
    cliff_delta,
    cluster_bootstrap,
    cohen_dz,
    expanded_level,
    fact_means,
    ratio_of_means,
)


def names(n: int, pairs_each: int = 1) -> list[str]:
    return [f"fact-{i:03d}" for i in range(n) for _ in range(pairs_each)]


def test_a_fact_with_many_pairs_has_one_mean() -> None:
    effects = np.array([[1.0, np.nan], [3.0, np.nan], [5.0, 7.0]])
    means = fact_means(effects, ["b", "b", "a"])
    np.testing.assert_array_equal(means, [[5.0, 7.0], [2.0, np.nan]])


def test_ratio_of_means_counts_only_the_gaps_of_pairs_that_have_the_cell() -> None:
    effects = np.array([[1.0, np.nan, np.nan], [3.0, 3.0, np.nan]])
    ratio = ratio_of_means(effects, np.array([2.0, 6.0]), ["a", "b"])
    np.testing.assert_allclose(ratio, [0.5, 0.5, np.nan])


@pytest.mark.parametrize("n", [10, 25, 60])
def test_limits_are_the_outer_ones_of_scipy_bca_and_scipy_t(n: int) -> None:
    random = np.random.default_rng(n)
    effects, gaps = random.exponential(1.0, n), random.uniform(1, 3, n)
    ours = cluster_bootstrap(effects, gaps, names(n), seed=1, resamples=40_000).at()
    theirs = stats.bootstrap(
        (effects, gaps),
        lambda effect, gap, axis: effect.sum(axis) / gap.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=40_000,
        batch=2000,
        confidence_level=float(expanded_level(0.95, n)),
        rng=random,
    ).confidence_interval
    wide = ours.high - ours.low
    estimate = effects.sum() / gaps.sum()
    left_out = (effects.sum() - effects) / (gaps.sum() - gaps)
    t = stats.t.interval(0.95, n - 1, estimate, np.sqrt((n - 1) * left_out.var()))
    assert ours.estimate == pytest.approx(estimate)
    assert ours.low == pytest.approx(min(theirs.low, t[0]), abs=0.04 * wide)
    assert ours.high == pytest.approx(max(theirs.high, t[1]), abs=0.06 * wide)


def test_pairs_of_one_fact_add_no_evidence() -> None:
    random = np.random.default_rng(0)
    effects, gaps = random.normal(1, 1, (20, 3)), random.uniform(1, 3, 20)
    once = cluster_bootstrap(effects, gaps, names(20), seed=3, resamples=500)
    fivefold = cluster_bootstrap(np.repeat(effects, 5, axis=0), np.repeat(gaps, 5), names(20, 5), seed=3, resamples=500)
    np.testing.assert_allclose(fivefold.low, once.low)
    np.testing.assert_allclose(fivefold.high, once.high)
    assert (fivefold.n == 20).all()


def test_a_cell_does_not_depend_on_its_neighbours_nor_on_the_order_of_pairs() -> None:
    random = np.random.default_rng(4)
    effects, gaps = random.normal(1, 1, (30, 4, 2)), random.uniform(1, 3, 30)
    effects[:9, 1, 1] = np.nan
    whole = cluster_bootstrap(effects, gaps, names(15, 2), seed=3, resamples=500)
    alone = cluster_bootstrap(effects[:, 1, 1], gaps, names(15, 2), seed=3, resamples=500)
    order = random.permutation(30)
    facts = [names(15, 2)[i] for i in order]
    shuffled = cluster_bootstrap(effects[order], gaps[order], facts, seed=3, resamples=500)
    assert whole.at(1, 1) == alone.at()
    assert whole.n[1, 1] == 11
    np.testing.assert_allclose(shuffled.low, whole.low)


def test_few_facts_have_an_estimate_and_no_interval() -> None:
    interval = cluster_bootstrap(np.arange(4.0), np.ones(4), names(4), seed=0).at()
    assert interval.estimate == 1.5
    assert interval.n == 4
    assert np.isnan([interval.low, interval.high]).all()


def test_facts_that_serve_each_other_as_partners_and_agree_count_as_half_as_many() -> None:
    """So few effective facts that the t quantile is out of a bootstrap's reach; the limits are finite all the same."""
    facts, partners = ["a", "b", "c", "d", "e", "f"], ["b", "a", "d", "c", "f", "e"]
    effects, gaps = np.array([0.1, 0.1, 0.5, 0.5, 0.7, 0.7]), np.ones(6)
    alone = cluster_bootstrap(effects, gaps, facts, seed=1).at()
    shared = cluster_bootstrap(effects, gaps, facts, seed=1, partners=partners).at()
    assert shared.estimate == alone.estimate
    assert -5 < shared.low < alone.low < alone.high < shared.high < 5
    alike = cluster_bootstrap(effects, gaps, facts, seed=1, partners=["b", "c", "d", "e", "f", "a"]).at()
    assert np.isfinite([alike.low, alike.high]).all()


def test_constant_effects_have_themselves_as_limits() -> None:
    effects = np.column_stack([np.full(12, 0.3), np.zeros(12), -np.linspace(1, 2, 12)])
    result = cluster_bootstrap(effects, np.linspace(1, 2, 12), names(12), seed=0, resamples=500)
    assert (result.low[1], result.high[1]) == (0.0, 0.0)
    assert result.low[2] == pytest.approx(-1.0)
    assert result.high[2] == pytest.approx(-1.0)
    assert result.low[0] <= result.estimate[0] <= result.high[0]


@pytest.mark.parametrize(
    ("effects", "gaps", "code"),
    [
        (np.ones(3), np.array([1.0, 0.0, 1.0]), "judge-gap-not-positive"),
        (np.ones(3), np.array([1.0, np.nan, 1.0]), "judge-gap-not-positive"),
        (np.array([1.0, np.inf, 0.0]), np.ones(3), "judge-infinite-effect"),
        (np.ones(4), np.ones(3), "judge-rows-differ"),
        (np.ones(0), np.ones(0), "judge-rows-differ"),
    ],
)
def test_what_cannot_be_averaged_is_refused(effects: np.ndarray, gaps: np.ndarray, code: str) -> None:
    with pytest.raises(InputError) as refused:
        cluster_bootstrap(effects, gaps, names(len(gaps)), seed=0)
    assert refused.value.code == code


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_intervals_are_ordered_and_scale_with_the_effects(data: st.DataObject) -> None:
    n = data.draw(st.integers(5, 12))
    effects = np.array(data.draw(st.lists(st.floats(-10, 10, width=32), min_size=n, max_size=n)))
    gaps = np.array(data.draw(st.lists(st.floats(0.5, 9), min_size=n, max_size=n)))
    result = cluster_bootstrap(np.column_stack([effects, 8 * effects]), gaps, names(n), seed=0, resamples=200)
    assert np.isfinite([result.low, result.high]).all()
    assert (result.low <= result.high).all()
    np.testing.assert_allclose(result.low[1], 8 * result.low[0], atol=1e-9)


@pytest.mark.parametrize(
    ("draw", "mean"),
    [
        (lambda random, shape: random.normal(0.3, 0.5, shape), 0.3),
        (lambda random, shape: random.exponential(0.5, shape), 0.5),
        (lambda random, shape: random.binomial(1, 0.3, shape) + random.normal(0, 0.1, shape), 0.3),
    ],
    ids=["normal", "skewed", "two groups"],
)
def test_intervals_of_40_facts_cover_93_to_97_percent(draw, mean) -> None:  # type: ignore[no-untyped-def]
    data_sets = 3000
    effects = draw(np.random.default_rng(11), (40, data_sets))
    result = cluster_bootstrap(effects, np.ones(40), names(40), seed=2, resamples=1000)
    covered = int(((result.low <= mean) & (mean <= result.high)).sum())
    # the 99.9 % binomial interval of what was seen must reach the promised band
    reach = stats.binomtest(covered, data_sets).proportion_ci(0.999)
    assert reach.high > 0.93
    assert reach.low < 0.97


def test_cohen_dz_is_mean_over_deviation_of_facts() -> None:
    values = np.random.default_rng(0).normal(1.0, 0.5, 30)
    result = cohen_dz(np.repeat(values, 2), names(30, 2), seed=0)
    assert result.estimate == pytest.approx(values.mean() / values.std(ddof=1))
    assert result.low < result.estimate < result.high
    assert result.n == 30


@pytest.mark.parametrize("effects", [np.full(9, 2.0), np.array([1.0, 2.0, 3.0])])
def test_an_effect_size_without_variance_or_facts_is_refused(effects: np.ndarray) -> None:
    with pytest.raises(InputError) as refused:
        cohen_dz(effects, names(len(effects)), seed=0)
    assert refused.value.code == "judge-no-variance"


def test_cliff_delta_counts_which_group_is_larger() -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(0.5, 1, 20), random.normal(0, 1, 25)
    larger = np.mean([np.sign(a - b) for a in first for b in second])
    result = cliff_delta(first, second, seed=0)
    assert result.estimate == pytest.approx(larger)
    assert result.low < result.estimate < result.high
    apart = cliff_delta(first + 100, second, seed=0)
    assert (apart.low, apart.estimate, apart.high) == (1.0, 1.0, 1.0)
    with pytest.raises(InputError, match="5 facts in each group"):
        cliff_delta(first[:3], second, seed=0)


def test_two_effective_facts_leave_the_level_below_one() -> None:
    assert expanded_level(0.95, 2) < 1
