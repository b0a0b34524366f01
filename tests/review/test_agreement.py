from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta
from statsmodels.stats.inter_rater import cohens_kappa, to_table

from patchlight.review.agreement import agree, clopper_pearson

WORDS = np.array(["accept", "reject", "unsure"])


def _ratings(table: dict[tuple[str, str], int]) -> list[tuple[str, str]]:
    return [rating for rating, count in table.items() for _ in range(count)]


def test_kappa_is_that_of_statsmodels() -> None:
    random = np.random.default_rng(5)
    first = random.choice(3, 60, p=[0.6, 0.3, 0.1])
    second = np.where(random.random(60) < 0.7, first, random.choice(3, 60))
    found = agree(list(zip(WORDS[first], WORDS[second], strict=True)))
    expected = cohens_kappa(to_table(np.stack([first, second], axis=1), bins=3)[0])
    assert found.kappa.estimate == pytest.approx(expected.kappa, abs=1e-12)
    assert found.raw.estimate == pytest.approx((first == second).mean())
    # Another way to an interval (a large-sample variance): near, not equal.
    assert found.kappa.low == pytest.approx(expected.kappa_low, abs=0.06)
    assert found.kappa.high == pytest.approx(expected.kappa_upp, abs=0.06)
    assert found.kappa.n == 60


def test_ac1_is_gwets_where_kappa_breaks_down() -> None:
    """Gwet 2008's paradox: 94 % agree, kappa is below 0. AC1 by its formula over the marginals, by hand."""
    found = agree(_ratings({("+", "+"): 118, ("+", "-"): 5, ("-", "+"): 2}))
    plus = (123 / 125 + 120 / 125) / 2
    chance = 2 * plus * (1 - plus)
    assert found.ac1.estimate == pytest.approx((0.944 - chance) / (1 - chance))
    assert found.ac1.estimate == pytest.approx(0.941, abs=5e-4)
    assert found.kappa.estimate == pytest.approx(-0.023, abs=5e-4)
    assert found.ac1.low < found.ac1.estimate < found.ac1.high <= 1


def test_one_word_only_has_no_kappa_and_nobody_agrees_about_nothing() -> None:
    assert math.isnan(agree([("accept", "accept")] * 9).kappa.estimate)
    assert agree([("accept", "accept")] * 9).ac1.estimate == 1
    assert math.isnan(agree([]).raw.estimate)
    assert math.isnan(agree([("accept", "reject")] * 4).raw.low)


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (10, 10)])
def test_false_accepts_have_the_exact_interval(hits: int, n: int) -> None:
    found = clopper_pearson(hits, n)
    assert found.low == pytest.approx(beta.ppf(0.025, hits, n - hits + 1) if hits else 0)
    assert found.high == pytest.approx(beta.ppf(0.975, hits + 1, n - hits) if hits < n else 1)
