"""Indices of concentration: known values at the extremes, and invariances in between."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchlight.judge.indices import (
    cells_for_share,
    centre,
    gini,
    index_interval,
    normalised_entropy,
    participation_ratio,
    width,
)

CONCENTRATIONS = [cells_for_share, participation_ratio, gini, normalised_entropy]
effect_maps = st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=30).filter(lambda v: max(v) > 1e-3)


@pytest.mark.parametrize("cells", [2, 5, 40])
def test_one_cell_and_equal_cells_have_their_known_values(cells: int) -> None:
    one, equal = np.eye(cells)[1] * 3, np.full(cells, 0.2)
    assert cells_for_share(one) == pytest.approx(1 / cells)
    assert cells_for_share(equal) == pytest.approx(np.ceil(round(0.8 * cells, 6)) / cells)
    assert participation_ratio(one) == pytest.approx(1)
    assert participation_ratio(equal) == pytest.approx(cells)
    assert gini(one) == pytest.approx(1 - 1 / cells)
    assert gini(equal) == pytest.approx(0, abs=1e-12)
    assert normalised_entropy(one) == pytest.approx(0)
    assert normalised_entropy(equal) == pytest.approx(1)


def test_centre_and_width_are_mean_and_deviation_over_depth() -> None:
    depth = np.arange(6.0)
    effects = np.array([[0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 1]], float)
    np.testing.assert_allclose(centre(effects, depth), [2, 2.5])
    np.testing.assert_allclose(width(effects, depth), [0, 2.5])


@pytest.mark.parametrize("index", CONCENTRATIONS)
def test_an_effect_without_a_positive_part_has_no_concentration(index) -> None:  # type: ignore[no-untyped-def]
    assert np.isnan(index(np.array([[0.0, 0.0], [-1.0, -2.0]]))).all()


@pytest.mark.parametrize("index", CONCENTRATIONS)
@given(values=effect_maps, scale=st.floats(0.1, 10), seed=st.integers(0, 9))
def test_indices_ignore_scale_order_and_negative_parts(index, values, scale, seed) -> None:  # type: ignore[no-untyped-def]
    effects = np.array(values)
    shuffled = np.random.default_rng(seed).permutation(effects) * scale
    assert index(shuffled) == pytest.approx(index(effects), rel=1e-6, abs=1e-9)
    assert index(np.maximum(effects, 0)) == pytest.approx(index(effects))


@given(values=effect_maps)
def test_indices_stay_in_their_ranges(values) -> None:  # type: ignore[no-untyped-def]
    effects = np.array(values)
    cells = len(effects)
    assert 1 / cells <= cells_for_share(effects) <= 1
    assert 1 - 1e-9 <= participation_ratio(effects) <= cells + 1e-9
    assert -1e-9 <= gini(effects) <= 1 - 1 / cells + 1e-9
    assert -1e-9 <= normalised_entropy(effects) <= 1 + 1e-9


def test_moving_effect_from_the_weakest_to_the_strongest_concentrates() -> None:
    before, after = np.array([3.0, 2.0, 1.0, 1.0]), np.array([3.9, 2.0, 1.0, 0.1])
    assert gini(after) > gini(before)
    assert normalised_entropy(after) < normalised_entropy(before)
    assert participation_ratio(after) < participation_ratio(before)


def test_interval_covers_the_index_of_the_true_map() -> None:
    truth = np.array([1.0, 0.8, 0.6, 0.4] + [0.05] * 8)
    facts = [f"fact-{i}" for i in range(40)]
    covered = 0
    for seed in range(100):
        effects = truth * np.random.default_rng(seed).normal(1, 0.4, (40, 12))
        interval = index_interval(gini, effects, facts, seed=seed, resamples=400)
        assert interval.low <= interval.estimate <= interval.high
        covered += bool(interval.low <= gini(truth) <= interval.high)
    assert covered >= 85
