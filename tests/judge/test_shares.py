"""Exact shares and paired changes against their formulas."""

import pytest
from scipy.stats import beta, binom

from patchlight.judge.shares import exact_share, paired


def test_the_interval_is_that_of_clopper_and_pearson() -> None:
    share = exact_share(7, 20)
    assert (share.low, share.high) == pytest.approx((beta.ppf(0.025, 7, 14), beta.ppf(0.975, 8, 13)))
    assert exact_share(0, 20).low == 0.0


def test_mcnemar_counts_only_what_changed() -> None:
    before, after = [True] * 10 + [False] * 9 + [True], [True] * 10 + [True] * 8 + [False] + [False]
    changed = paired(before, after)
    assert (changed.gained, changed.lost) == (8, 1)
    assert changed.p == pytest.approx(2 * binom.cdf(1, 9, 0.5))
    assert paired([True], [True]).p == 1.0
