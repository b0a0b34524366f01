"""Shares of the gap."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from patchlight.trace.metrics import damage, ratio_of_means, recovery

LOGITS = st.floats(-50, 50).map(lambda value: round(value, 3))


@given(clean=LOGITS, corrupted=LOGITS, share=st.floats(-2, 2))
def test_recovery_and_damage_are_two_readings_of_one_value(clean, corrupted, share):
    gap = clean - corrupted
    value = np.array([[corrupted + share * gap]])
    brought = recovery(value, np.array([clean]), np.array([corrupted]))[0, 0]
    taken = damage(value, np.array([clean]), np.array([corrupted]))[0, 0]
    if gap < 0.5:
        assert np.isnan(brought) and np.isnan(taken)
    else:
        np.testing.assert_allclose([brought, taken], [share, 1 - share], atol=1e-9)


def test_the_floor_can_be_moved():
    value, clean, corrupted = np.array([[0.2], [3.0]]), np.array([0.4, 4.0]), np.array([0.0, 0.0])
    np.testing.assert_array_equal(recovery(value, clean, corrupted), [[np.nan], [0.75]])
    np.testing.assert_array_equal(recovery(value, clean, corrupted, floor=0.1), [[0.5], [0.75]])


def test_the_ratio_of_means_is_not_the_mean_of_ratios():
    change, gap = np.array([[1.0, 0.0], [1.0, 10.0]]), np.array([1.0, 10.0])
    np.testing.assert_allclose(ratio_of_means(change, gap), [2 / 11, 10 / 11])
