"""Tests in which the unit is the fact: sign-flips over a map, the layer effect, equivalence, the mixed model.

`effects` is `[pair, ...]` in the metric's unit (NaN where a pair has no such cell) and `facts` names one fact a pair.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from patchlight.judge.partners import ties, variance_factor
from patchlight.judge.statistics import RESAMPLES, constant_cells, fact_means


@dataclass(frozen=True)
class SignFlip:
    """Family-wise p-values of a map under sign-flips of whole facts.

    `p` is corrected over all cells (max-T), `p_single` is of the cell alone; `constant` marks cells without
    variance between facts, whose p is 1: an identity, not a measurement. `smallest_p` is the least value that
    so few facts can reach; above the wished level nothing can be found and the answer is "undetermined".
    """

    statistic: Float[np.ndarray, "..."]
    p: Float[np.ndarray, "..."]
    p_single: Float[np.ndarray, "..."]
    n: Int[np.ndarray, "..."]
    constant: Bool[np.ndarray, "..."]
    smallest_p: float
    exact: bool


def sign_flip(
    effects: Float[np.ndarray, "pair ..."],
    facts: Sequence[str],
    *,
    seed: int,
    partners: Sequence[str] = (),
    flips: int = RESAMPLES,
) -> SignFlip:
    """Two-sided p-values for "the mean effect is zero" in every cell, family-wise over the map by max-T.

    Signs of whole facts are flipped: all 2^n of them where that is no more than `flips`, otherwise a sample.
    The statistic is sum(e) / sqrt(sum(e^2)) over fact means, which orders flips as the t statistic does, has
    variance 1 under the flips in every cell, and stays finite. Where facts lean on common partners, the observed
    statistic is brought down for it first (see `_as_if_independent`). Cells NaN throughout are outside the family.
    Source: Westfall & Young 1993; Winkler et al. 2014, NeuroImage 92:381-397.
    """
    means = fact_means(effects, facts)
    cells = means.shape[1:]
    flat = means.reshape(len(means), -1)
    constant = constant_cells(flat)
    measured = np.where(constant, 0.0, np.nan_to_num(flat))
    scaled = _unit_columns(measured)
    signs, exact = _signs(len(flat), seed, flips)
    statistic = _as_if_independent(scaled.sum(axis=0), measured, ties(facts, partners))
    observed = np.abs(statistic)
    single, family = _count_as_extreme(signs, scaled, observed)
    extra = 0 if exact else 1  # the observed signs count as one of the sample; enumeration has them already
    draws = len(signs) + extra
    return SignFlip(
        statistic=statistic.reshape(cells),
        p=((family + extra) / draws).reshape(cells),
        p_single=((single + extra) / draws).reshape(cells),
        n=np.isfinite(flat).sum(axis=0).reshape(cells),
        constant=constant.reshape(cells),
        smallest_p=2.0 ** (1 - len(flat)) if exact else 1 / draws,
        exact=exact,
    )


def layer_effect(
    effects: Float[np.ndarray, "pair layer"],
    facts: Sequence[str],
    *,
    seed: int,
    permutations: int = RESAMPLES,
) -> float:
    """The p-value of "the effect does not depend on the layer": layers are permuted inside each fact.

    The statistic is the variance of the layer means. Facts without a value in some layer are left out; with
    fewer than two facts or no variance p is 1.
    """
    means = fact_means(effects, facts)
    means = means[np.isfinite(means).all(axis=1)]
    if len(means) < 2 or np.ptp(means, axis=1).max() == 0:
        return 1.0

    def spread(*layers: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(np.var([np.mean(layer, axis=axis) for layer in layers], axis=0))

    result = stats.permutation_test(
        list(means.T),
        spread,
        permutation_type="samples",
        vectorized=True,
        n_resamples=permutations,
        batch=500,
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


@dataclass(frozen=True)
class Equivalence:
    """Whether a mean effect lies within +-`bound`: p of two one-sided t tests, and their 90 % interval."""

    p: float
    low: float
    high: float
    bound: float
    n: int


def equivalence(
    effects: Float[np.ndarray, " pair"], facts: Sequence[str], *, bound: float, partners: Sequence[str] = ()
) -> Equivalence:
    """The p-value of "the mean effect is at least `bound` away from zero"; small means "no effect" (TOST).

    The standard error and its degrees of freedom allow for what facts share with partners. With fewer than two facts,
    or no variance between them, p is 1: nothing can be said.
    Source: Schuirmann 1987.
    """
    means = fact_means(effects, facts)
    measured = np.isfinite(means)
    means, tied = means[measured], ties(facts, partners)[np.ix_(measured, measured)]
    if len(means) < 2 or constant_cells(means[:, None])[0]:
        middle = float(means.mean()) if len(means) else 0.0
        return Equivalence(1.0, middle, middle, bound, len(means))
    n, mean = len(means), float(means.mean())
    factor = float(np.clip(variance_factor((means - mean)[:, None], tied)[0], 1.0, n / 2)) if n > 2 else 1.0
    error, freedom = float(np.sqrt(factor / n) * means.std(ddof=1)), n / factor - 1
    p = stats.t.sf((bound - abs(mean)) / error, freedom)
    reach = stats.t.ppf(0.95, freedom) * error
    return Equivalence(float(p), mean - reach, mean + reach, bound, n)


def _as_if_independent(
    statistic: Float[np.ndarray, " cell"],
    means: Float[np.ndarray, "fact cell"],
    tied: Bool[np.ndarray, "fact fact"],
) -> Float[np.ndarray, " cell"]:
    """The statistic that as many independent facts would give at the same p-value; never a larger one.

    Flips of single facts know nothing of partners. The t statistic is divided by the root of the variance factor
    (the cell's own or the map's mean, the larger) and read at the effective number of facts. Source: figures in
    docs/validation/statistics.md.
    """
    n = len(means)
    own = variance_factor(means - means.mean(axis=0), tied)
    varies = means.any(axis=0)
    factor = np.clip(np.maximum(own, own.mean(where=varies) if varies.any() else 1.0), 1.0, max(1.0, n / 2))
    if np.all(factor == 1.0):
        return statistic
    room = np.maximum(n - statistic**2, 1e-12 * n)
    t = np.abs(statistic) * np.sqrt((n - 1) / room)
    as_independent = stats.t.isf(np.maximum(stats.t.sf(t / np.sqrt(factor), n / factor - 1), 1e-300), n - 1)
    reduced = as_independent * np.sqrt(n / (n - 1 + as_independent**2))
    return np.asarray(np.sign(statistic) * np.minimum(reduced, np.abs(statistic)))


def _unit_columns(means: Float[np.ndarray, "fact cell"]) -> Float[np.ndarray, "fact cell"]:
    length = np.sqrt((means**2).sum(axis=0))
    return np.asarray(means / np.where(length > 0, length, 1.0))


def _signs(n_facts: int, seed: int, flips: int) -> tuple[Float[np.ndarray, "flip fact"], bool]:
    """All sign patterns where they are few enough, otherwise a sample; and whether they are all."""
    if 2**n_facts <= flips:
        return np.array(list(itertools.product((1.0, -1.0), repeat=n_facts))), True
    return np.random.default_rng([seed, n_facts]).choice((-1.0, 1.0), size=(flips, n_facts)), False


def _count_as_extreme(
    signs: Float[np.ndarray, "flip fact"],
    scaled: Float[np.ndarray, "fact cell"],
    observed: Float[np.ndarray, " cell"],
) -> tuple[Int[np.ndarray, " cell"], Int[np.ndarray, " cell"]]:
    """How many flips are as extreme as the observed value: in the cell itself, and anywhere in the map."""
    single, family = np.zeros(len(observed), int), np.zeros(len(observed), int)
    reach = observed - 1e-9  # the observed pattern and its mirror must count as equal, whatever the rounding
    for start in range(0, len(signs), 1000):
        flipped = np.abs(signs[start : start + 1000] @ scaled)
        single += (flipped >= reach).sum(axis=0)
        family += (flipped.max(axis=1, initial=0.0)[:, None] >= reach).sum(axis=0)
    return single, family
