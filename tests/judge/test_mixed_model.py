"""The mixed model: against a plain analysis of variance, and on effects whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from patchlight.errors import InputError
from patchlight.judge.mixed_model import mixed_model

FACTS, LAYERS = 24, 5
NAMES = [f"fact-{i:03d}" for i in range(FACTS)]
KINDS = ["definitional" if i % 2 else "associative" for i in range(FACTS)]


def noise(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(0, 1, (FACTS, 1)) + random.normal(0, 0.5, (FACTS, LAYERS))


def p_values(effects: np.ndarray, **covariates: np.ndarray) -> dict[str, float]:
    fit = mixed_model(effects, NAMES, KINDS, covariates)
    assert fit.converged
    assert fit.n == FACTS
    return {term.name: term.p for term in fit.terms}


def test_in_a_balanced_design_it_is_the_repeated_measures_anova() -> None:
    effects = noise(0) + np.array([0, 0.2, 0, 0.1, 0])
    fit = mixed_model(effects, NAMES, ["one kind"] * FACTS, {})
    by_layer, by_fact = effects.mean(0), effects.mean(1, keepdims=True)
    residual = effects - by_layer - by_fact + effects.mean()
    within = (residual**2).sum() / ((FACTS - 1) * (LAYERS - 1))
    assert fit.residual_variance == pytest.approx(within, rel=1e-4)
    expected = FACTS * ((by_layer - effects.mean()) ** 2).sum() / within
    assert [term.name for term in fit.terms] == ["layer"]
    assert fit.terms[0].chi_square == pytest.approx(expected, rel=1e-3)
    assert fit.terms[0].p == pytest.approx(stats.chi2.sf(expected, LAYERS - 1), rel=1e-2)


def test_a_layer_that_serves_one_kind_is_an_interaction() -> None:
    bump = np.outer(np.array(KINDS) == "definitional", np.arange(LAYERS) == 2)
    p = p_values(noise(1) + 1.5 * bump)
    assert p["layer:kind"] < 1e-4
    assert p_values(noise(1))["layer:kind"] > 0.01


def test_a_covariate_takes_what_is_its_own() -> None:
    frequency = np.linspace(-2, 2, FACTS) + np.random.default_rng(5).normal(0, 0.1, FACTS)
    p = p_values(noise(2) + 3 * frequency[:, None], frequency=frequency)
    assert p["frequency"] < 1e-6
    assert set(p) == {"layer", "kind", "layer:kind", "frequency"}


def test_pairs_of_one_fact_count_once() -> None:
    effects = noise(3)
    once = mixed_model(effects, NAMES, KINDS, {})
    thrice = mixed_model(np.repeat(effects, 3, axis=0), np.repeat(NAMES, 3).tolist(), np.repeat(KINDS, 3).tolist(), {})
    assert thrice.terms[0].p == pytest.approx(once.terms[0].p, rel=1e-3)


@pytest.mark.parametrize("effects", [np.ones((FACTS, LAYERS)), np.zeros((FACTS, LAYERS))])
def test_constant_effects_are_refused(effects: np.ndarray) -> None:
    with pytest.raises(InputError) as refused:
        mixed_model(effects, NAMES, KINDS, {})
    assert refused.value.code == "judge-no-variance"
