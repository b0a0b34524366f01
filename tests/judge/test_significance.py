"""Tests over facts: exact where facts are few, honest under the null, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from patchlight.judge.significance import equivalence, layer_effect, sign_flip


def names(n: int, pairs_each: int = 1) -> list[str]:
    return [f"fact-{i:03d}" for i in range(n) for _ in range(pairs_each)]


def test_one_cell_agrees_with_scipy_exactly() -> None:
    values = np.random.default_rng(0).normal(0.4, 1, 9)
    ours = sign_flip(values[:, None], names(9), seed=0)
    theirs = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert ours.exact
    assert ours.p_single[0] == pytest.approx(theirs.pvalue)
    assert ours.p[0] == ours.p_single[0]


def test_five_facts_cannot_reach_five_percent_and_say_so() -> None:
    result = sign_flip(np.full((5, 2), 3.0) + np.arange(5)[:, None], names(5), seed=0)
    assert result.smallest_p == 1 / 16
    assert (result.p == 1 / 16).all()


def test_constant_and_missing_cells_have_p_one_and_never_nan() -> None:
    effects = np.random.default_rng(0).normal(2, 0.5, (12, 4))
    effects[:, 1], effects[:, 2], effects[:, 3] = 0.7, 0.0, np.nan
    result = sign_flip(effects, names(12), seed=0)
    assert result.constant.tolist() == [False, True, True, True]
    assert result.p[1:].tolist() == [1.0, 1.0, 1.0]
    assert result.n.tolist() == [12, 12, 12, 0]
    assert result.p[0] < 0.01


def test_structural_cells_set_to_nan_leave_the_others_as_they_are() -> None:
    effects = np.random.default_rng(0).normal(0.5, 1, (20, 6))
    masked = effects.copy()
    masked[:, 5] = np.nan
    with_nan = sign_flip(masked, names(20), seed=1)
    without = sign_flip(effects[:, :5], names(20), seed=1)
    np.testing.assert_array_equal(with_nan.p[:5], without.p)


def test_family_wise_p_is_never_below_the_single_one() -> None:
    result = sign_flip(np.random.default_rng(3).normal(0.3, 1, (25, 4, 5)), names(25), seed=0)
    assert (result.p >= result.p_single).all()
    assert result.p.shape == (4, 5)


def test_family_wise_error_is_five_percent_or_less_under_the_null() -> None:
    random = np.random.default_rng(8)
    data_sets = 400
    false = 0
    for index in range(data_sets):
        # skewed in size between cells, correlated between neighbours: symmetric about zero, nothing else
        effects = random.standard_t(4, (12, 30)) * random.uniform(0.1, 5, 30)
        effects[:, 1:] += effects[:, :-1]
        false += bool((sign_flip(effects, names(12), seed=index, flips=1000).p <= 0.05).any())
    assert stats.binomtest(false, data_sets, 0.05, alternative="greater").pvalue > 0.001


def test_single_p_values_are_uniform_under_the_null() -> None:
    effects = np.random.default_rng(5).normal(0, 1, (30, 500))
    p = sign_flip(effects, names(30), seed=0, flips=4000).p_single
    assert stats.kstest(p, "uniform").pvalue > 0.001


def test_layer_effect_sees_a_layer_and_nothing_where_layers_are_alike() -> None:
    random = np.random.default_rng(2)
    flat = random.normal(0, 1, (20, 6)) + random.normal(0, 3, (20, 1))
    peaked = flat + np.array([0, 0, 2, 0, 0, 0])
    assert layer_effect(peaked, names(20), seed=0, permutations=999) <= 0.002
    under_null = [layer_effect(random.normal(0, 1, (10, 4)), names(10), seed=i, permutations=199) for i in range(150)]
    assert stats.kstest(under_null, "uniform").pvalue > 0.001


def test_layer_effect_without_variance_or_facts_is_one() -> None:
    assert layer_effect(np.ones((8, 3)), names(8), seed=0) == 1.0
    assert layer_effect(np.ones((1, 3)), names(1), seed=0) == 1.0


def test_equivalence_agrees_with_statsmodels() -> None:
    from statsmodels.stats.weightstats import DescrStatsW

    values = np.random.default_rng(0).normal(0.05, 0.3, 30)
    result = equivalence(np.repeat(values, 2), names(30, 2), bound=0.2)
    theirs = DescrStatsW(values).ttost_mean(-0.2, 0.2)[0]
    assert result.p == pytest.approx(theirs)
    assert result.n == 30
    assert (result.p < 0.05) == (result.low > -0.2 and result.high < 0.2)


def test_equivalence_of_constant_effects_claims_nothing() -> None:
    result = equivalence(np.zeros(10), names(10), bound=0.1)
    assert (result.p, result.low, result.high) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("partners", [(), ("b", "b"), ("b", "c")])
def test_one_fact_shows_nothing_anywhere(partners: tuple[str, ...]) -> None:
    effects = np.random.default_rng(0).normal(3, 1, (2, 4, 3))
    found = sign_flip(effects, ["a", "a"], partners=partners, seed=0)
    assert (found.p == 1).all() and (found.p_single == 1).all()
