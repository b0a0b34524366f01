"""Facts that lean on one another: ties, the factor on the variance, and what it does to intervals and tests."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from patchlight.judge.partners import ties, variance_factor
from patchlight.judge.significance import sign_flip
from patchlight.judge.statistics import cluster_bootstrap


def names(n: int) -> list[str]:
    return [f"fact-{i:03d}" for i in range(n)]


def ring(n: int, seed: int) -> np.ndarray:
    """Everyone's partner: each fact serves once, nobody mutually."""
    order = np.random.default_rng(seed).permutation(n)
    partner = np.empty(n, dtype=int)
    partner[order] = np.roll(order, -1)
    return partner


def leaning(draw, n: int, cells: int, weight: float, seed: int = 0) -> tuple[np.ndarray, list[str]]:  # type: ignore[no-untyped-def]
    """Effects in which the partner's own quality counts `weight` times the fact's, and the partners."""
    random, partner = np.random.default_rng([seed, n]), ring(n, seed)
    quality = draw(random, (n, cells))
    effects = quality + weight * quality[partner] + 0.3 * random.normal(size=(n, cells))
    return effects, [names(n)[index] for index in partner]


def test_facts_are_tied_that_lean_on_a_common_fact() -> None:
    tied = ties(["a", "a", "b", "c", "d"], ["b", "b", "e", "e", ""])
    assert tied.astype(int).tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(ties(["b", "a", "a"]), np.eye(2, dtype=bool))


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, -0.5])
def test_the_variance_factor_is_unbiased(weight: float) -> None:
    effects, partners = leaning(lambda random, shape: random.normal(size=shape), 60, 4000, weight)
    tied = ties(names(60), partners)
    found = variance_factor(effects - effects.mean(axis=0), tied)
    truth = 60 * effects.mean(axis=0).var() / effects.var(axis=0, ddof=1).mean()
    assert found.mean() == pytest.approx(truth, rel=0.1)


def test_without_partners_nothing_is_widened() -> None:
    influences = np.random.default_rng(0).normal(size=(12, 3))
    assert variance_factor(influences, np.eye(12, dtype=bool)).tolist() == [1.0, 1.0, 1.0]
    effects = np.random.default_rng(1).normal(0.4, 1, (12, 5))
    plain = sign_flip(effects, names(12), seed=0)
    np.testing.assert_array_equal(plain.p, sign_flip(effects, names(12), partners=[""] * 12, seed=0).p)


def test_partners_only_widen_and_only_raise_p() -> None:
    effects, partners = leaning(lambda random, shape: random.normal(0.5, 1, shape), 20, 30, 0.5)
    plain, wider = (
        cluster_bootstrap(effects, np.ones(20), names(20), partners=given, seed=0, resamples=1000)
        for given in ([], partners)
    )
    assert (wider.low <= plain.low).all()
    assert (wider.high >= plain.high).all()
    alone, together = (sign_flip(effects, names(20), partners=given, seed=0) for given in ([], partners))
    assert (together.p >= alone.p).all()


def test_so_few_facts_that_all_are_tied_get_the_largest_factor_by_design() -> None:
    tied = ties(names(5), ["fact-001", "fact-002", "fact-003", "fact-004", "fact-000"])
    assert variance_factor(np.random.default_rng(0).normal(size=(5, 2)), tied).tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("draw", "mean"),
    [
        (lambda random, shape: random.normal(0, 1, shape), 0.0),
        (lambda random, shape: random.lognormal(0, 0.8, shape), float(np.exp(0.32))),
        (lambda random, shape: random.standard_t(3, shape), 0.0),
    ],
    ids=["normal", "skewed", "heavy tails"],
)
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_intervals_of_40_leaning_facts_cover_93_to_97_percent(draw, mean, weight) -> None:  # type: ignore[no-untyped-def]
    cells, mean = 1500, mean * (1 + weight)
    effects, partners = leaning(draw, 40, cells, weight)
    result = cluster_bootstrap(effects, np.ones(40), names(40), partners=partners, seed=2, resamples=1000)
    covered = int(((result.low <= mean) & (mean <= result.high)).sum())
    reach = stats.binomtest(covered, cells).proportion_ci(0.999)
    assert reach.high > 0.93
    assert reach.low < 0.97


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_maps_of_nothing_hold_their_level_where_facts_lean_on_one_another(weight: float) -> None:
    data_sets, false = 200, 0
    for seed in range(data_sets):
        effects, partners = leaning(lambda random, shape: random.normal(size=shape), 20, 40, weight, seed)
        false += bool((sign_flip(effects, names(20), partners=partners, seed=seed, flips=1000).p <= 0.05).any())
    assert stats.binomtest(false, data_sets, 0.05, alternative="greater").pvalue > 0.001


def test_a_strong_effect_is_still_found() -> None:
    effects, partners = leaning(lambda random, shape: random.normal(0, 0.3, shape), 12, 40, 0.5)
    effects[:, 7] += 2.0
    found = sign_flip(effects, names(12), partners=partners, seed=0).p <= 0.05
    assert np.flatnonzero(found).tolist() == [7]
