"""Intervals and effect sizes in which the unit is the fact, never the token, the template or the site.

Every function takes one row a pair and the fact that each pair asks about: `effects` is `[pair, ...]` in
the metric's unit (NaN where a pair has no such cell), `gaps` `[pair]` is in it too, `facts` names one fact a pair, and
`partners`, where it is given, the fact that each pair leans on beside its own (see `judge.partners`).
Cells of a map are worked on together and never influence one another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special, stats

from patchlight.errors import InputError
from patchlight.judge.partners import ties, variance_factor
from patchlight.records import Interval

FEWEST_FOR_INTERVAL = 5  # under five facts a bootstrap can only repeat them: the estimate is given, the interval is not
RESAMPLES = 10_000
BLOCK_OF_CELLS = 1024  # holds the resampled map under about 100 MB at 10,000 resamples
WIDEST_LEVEL = 1 - 1e-12  # no resample is as far out: the t limits decide


@dataclass(frozen=True)
class IntervalMap:
    """Estimates with intervals for every cell of a map; `n` counts the facts that have the cell.

    NaN in `estimate` means that no fact has the cell, NaN in `low` and `high` that fewer than five have it.
    """

    estimate: Float[np.ndarray, "..."]
    low: Float[np.ndarray, "..."]
    high: Float[np.ndarray, "..."]
    n: Int[np.ndarray, "..."]
    confidence: float = 0.95
    method: str = "BCa or t over facts, the wider"

    def apart_from(self, other: IntervalMap) -> Bool[np.ndarray, "..."]:
        """Which intervals do not touch those of the other map; False where either has none."""
        return np.asarray((self.low > other.high) | (self.high < other.low))

    def at(self, *cell: int) -> Interval:
        """The interval of one cell."""
        low, high = float(self.low[cell]), float(self.high[cell])
        return Interval(float(self.estimate[cell]), low, high, int(self.n[cell]), self.confidence, self.method)


@dataclass(frozen=True)
class _FactSums:
    """Sums over the pairs of each fact, `[fact, cell]`, with facts in the order of their names."""

    effects: Float[np.ndarray, "fact cell"]
    gaps: Float[np.ndarray, "fact cell"]
    pairs: Float[np.ndarray, "fact cell"]
    cells: tuple[int, ...]

    @property
    def present(self) -> Bool[np.ndarray, "fact cell"]:
        return self.pairs > 0


def fact_means(effects: Float[np.ndarray, "pair ..."], facts: Sequence[str]) -> Float[np.ndarray, "fact ..."]:
    """The mean effect of each fact over its pairs, facts sorted by name; NaN where a fact has none."""
    sums = _sum_by_fact(effects, np.ones(len(facts)), facts)
    means = np.full(sums.effects.shape, np.nan)
    np.divide(sums.effects, sums.pairs, out=means, where=sums.present)
    return means.reshape(len(means), *sums.cells)


def ratio_of_means(
    effects: Float[np.ndarray, "pair ..."], gaps: Float[np.ndarray, " pair"], facts: Sequence[str]
) -> Float[np.ndarray, "..."]:
    """The mean effect over the mean gap of the pairs that have the cell; NaN where no pair has it."""
    sums = _sum_by_fact(effects, gaps, facts)
    return _ratio(sums.effects.sum(axis=0), sums.gaps.sum(axis=0)).reshape(sums.cells)


def cluster_bootstrap(
    effects: Float[np.ndarray, "pair ..."],
    gaps: Float[np.ndarray, " pair"],
    facts: Sequence[str],
    *,
    seed: int,
    partners: Sequence[str] = (),
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> IntervalMap:
    """The ratio of means of every cell with its interval, whole facts being resampled.

    Each limit is the outer one of BCa and the t interval: the first is short for heavy tails, the second for skewed
    effects. Both are widened for what facts share with partners. A cell's interval depends on the seed and on the
    facts that have the cell, not on the rest of the map. Raises `InputError` for a gap that is not positive.
    Sources: Efron & Tibshirani 1993, chapter 14; figures in docs/validation/statistics.md.
    """
    tied = ties(facts, partners)
    sums = _sum_by_fact(effects, gaps, facts)
    estimate = _ratio(sums.effects.sum(axis=0), sums.gaps.sum(axis=0))
    low, high = np.full(estimate.shape, np.nan), np.full(estimate.shape, np.nan)
    for rows, columns in _cells_with_same_facts(sums.present):
        chosen = np.ix_(rows, columns)
        numerator, denominator = sums.effects[chosen], sums.gaps[chosen]
        weights = resample_weights(len(rows), seed, resamples)
        resampled = (numerator.T @ weights) / (denominator.T @ weights)
        left_out = (numerator.sum(0) - numerator) / (denominator.sum(0) - denominator)
        low[columns], high[columns] = outer_limits(
            estimate[columns], resampled, left_out.T, confidence, tied[np.ix_(rows, rows)]
        )
    return IntervalMap(
        estimate=estimate.reshape(sums.cells),
        low=low.reshape(sums.cells),
        high=high.reshape(sums.cells),
        n=sums.present.sum(axis=0).reshape(sums.cells),
        confidence=confidence,
    )


def resample_weights(n_facts: int, seed: int, resamples: int) -> Float[np.ndarray, "fact resample"]:
    """How often each fact is drawn in each bootstrap resample; the same for every map with the same facts."""
    random = np.random.default_rng([seed, n_facts])
    drawn = random.multinomial(n_facts, np.full(n_facts, 1 / n_facts), size=resamples)
    return drawn.T.astype(float)


def bca_limits(
    estimate: Float[np.ndarray, " cell"],
    resampled: Float[np.ndarray, "cell resample"],
    left_out: Float[np.ndarray, "cell fact"],
    confidence: float,
    tied: Bool[np.ndarray, "fact fact"],
) -> tuple[Float[np.ndarray, " cell"], Float[np.ndarray, " cell"]]:
    """The lower and upper BCa limits of each cell from its resampled and its leave-one-fact-out values.

    They are widened, and the nominal level expanded (see `expanded_level`), for what facts share with partners
    (`tied`). Cells that do not vary between resamples get the estimate itself as both limits.
    """
    factor = _factor(left_out, tied)
    ordered = np.sort(resampled, axis=1)
    size = ordered.shape[1]
    target = estimate[:, None]
    below = ((resampled < target).sum(axis=1) + (resampled <= target).sum(axis=1)) / (2 * size)
    bias = special.ndtri(np.clip(below, 0.5 / size, 1 - 0.5 / size))
    acceleration = _acceleration(left_out)
    reach = -special.ndtri((1 - expanded_level(confidence, left_out.shape[1] / factor)) / 2)
    limits = []
    for z in (-reach, reach):
        shifted = bias + z
        level = special.ndtr(bias + shifted / np.maximum(1 - acceleration * shifted, 1e-9))
        limits.append(estimate + np.sqrt(factor) * (_quantile(ordered, level) - estimate))
    fixed = ordered[:, -1] - ordered[:, 0] <= 1e-12 * np.abs(estimate)
    return np.where(fixed, estimate, limits[0]), np.where(fixed, estimate, limits[1])


def outer_limits(
    estimate: Float[np.ndarray, " cell"],
    resampled: Float[np.ndarray, "cell resample"],
    left_out: Float[np.ndarray, "cell fact"],
    confidence: float,
    tied: Bool[np.ndarray, "fact fact"],
) -> tuple[Float[np.ndarray, " cell"], Float[np.ndarray, " cell"]]:
    """The outer ones of the BCa limits and of the t limits with the jackknife's standard error."""
    low, high = bca_limits(estimate, resampled, left_out, confidence, tied)
    n, factor = left_out.shape[1], _factor(left_out, tied)
    error = np.sqrt(factor * (n - 1) * left_out.var(axis=1))
    reach = stats.t.ppf((1 + confidence) / 2, n / factor - 1) * error
    return np.minimum(low, estimate - reach), np.maximum(high, estimate + reach)


def _factor(left_out: Float[np.ndarray, "cell fact"], tied: Bool[np.ndarray, "fact fact"]) -> np.ndarray:
    """The variance factor of partners, at least 1 and such that two effective facts remain."""
    influences = left_out.mean(axis=1, keepdims=True) - left_out
    return np.asarray(np.clip(variance_factor(influences.T, tied), 1.0, left_out.shape[1] / 2))


def expanded_level(confidence: float, n: Float[np.ndarray, "..."] | float) -> Float[np.ndarray, "..."]:
    """The nominal level that makes a bootstrap interval of `n` facts as wide as a t interval.

    A resample has the plug-in variance (n-1)/n and no notion of the t distribution; at 40 facts the two cost
    a percent of coverage. Source: Hesterberg 2015, The American Statistician 69:371-386.
    """
    reach = np.sqrt(n / (n - 1)) * stats.t.ppf((1 + confidence) / 2, n - 1)
    # Two facts' worth gives a reach of 18 deviations, whose level is 1 in floating point and has no quantile.
    return np.minimum(2 * special.ndtr(reach) - 1, WIDEST_LEVEL)


def cohen_dz(effects: Float[np.ndarray, " pair"], facts: Sequence[str], *, seed: int) -> Interval:
    """Mean over standard deviation of the facts' effects (Cohen dz), with its BCa interval."""
    means = fact_means(effects, facts)
    means = means[np.isfinite(means)]
    if len(means) < FEWEST_FOR_INTERVAL or constant_cells(means[:, None])[0]:
        raise InputError(
            "judge-no-variance",
            f"an effect size needs {FEWEST_FOR_INTERVAL} facts that differ; there are {len(means)}",
            fix="add facts, or leave this cell out",
        )
    scale = float(np.abs(means).max())

    def dz(values: np.ndarray, axis: int) -> np.ndarray:
        deviation = np.std(values, axis=axis, ddof=1)
        # a resample may draw one fact only; its dz has no bound but must stay finite to be ordered
        return np.asarray(np.mean(values, axis=axis) / np.maximum(deviation, 1e-9 * scale))

    return _scipy_interval((means,), dz, seed)


def cliff_delta(first: Float[np.ndarray, " fact"], second: Float[np.ndarray, " other"], *, seed: int) -> Interval:
    """P(first > second) - P(first < second) for two independent groups of facts, with its BCa interval.

    Groups that do not overlap give 1 or -1 with itself as both limits: no resample can make them overlap.
    """
    first, second = first[np.isfinite(first)], second[np.isfinite(second)]
    if min(len(first), len(second)) < FEWEST_FOR_INTERVAL:
        raise InputError("judge-too-few-facts", f"Cliff's delta needs {FEWEST_FOR_INTERVAL} facts in each group")

    def delta(one: np.ndarray, other: np.ndarray, axis: int) -> np.ndarray:
        one, other = np.moveaxis(one, axis, -1), np.moveaxis(other, axis, -1)
        return np.asarray(np.sign(one[..., :, None] - other[..., None, :]).mean(axis=(-2, -1)))

    if abs(delta(first, second, -1)) == 1:
        value = float(delta(first, second, -1))
        return Interval(value, value, value, len(first) + len(second), method="no overlap")
    return _scipy_interval((first, second), delta, seed)


def constant_cells(means: Float[np.ndarray, "fact cell"]) -> Bool[np.ndarray, " cell"]:
    """Which cells have no variance between facts beyond rounding (cells without facts count as constant)."""
    high = np.max(means, axis=0, initial=-np.inf, where=np.isfinite(means))
    low = np.min(means, axis=0, initial=np.inf, where=np.isfinite(means))
    return np.asarray(high - low <= 1e-12 * np.maximum(np.abs(high), np.abs(low)))


def _sum_by_fact(
    effects: Float[np.ndarray, "pair ..."], gaps: Float[np.ndarray, " pair"], facts: Sequence[str]
) -> _FactSums:
    if not len(effects) == len(gaps) == len(facts) or not len(facts):
        raise InputError(
            "judge-rows-differ",
            f"effects, gaps and facts have {len(effects)}, {len(gaps)} and {len(facts)} rows, not one a pair",
        )
    if not np.all(np.isfinite(gaps) & (gaps > 0)):
        raise InputError(
            "judge-gap-not-positive",
            "a pair whose gap is not positive has no share to give back",
            fix="leave out what the screen leaves out (pairs.screen)",
        )
    if np.isinf(effects).any():
        raise InputError("judge-infinite-effect", "an effect is infinite: the unit that made it is invalid")
    flat = np.asarray(effects, dtype=float).reshape(len(facts), -1)
    measured = np.isfinite(flat)
    names, index = np.unique(np.asarray(facts), return_inverse=True)
    member = (np.arange(len(names))[:, None] == index).astype(float)
    return _FactSums(
        effects=member @ np.where(measured, flat, 0.0),
        gaps=member @ (measured * np.asarray(gaps, dtype=float)[:, None]),
        pairs=member @ measured,
        cells=effects.shape[1:],
    )


def _cells_with_same_facts(present: Bool[np.ndarray, "fact cell"]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Facts and cells of each block of cells that the same facts have, five facts or more."""
    patterns, which = np.unique(present, axis=1, return_inverse=True)
    for index, pattern in enumerate(patterns.T):
        if pattern.sum() >= FEWEST_FOR_INTERVAL:
            columns = np.flatnonzero(which == index)
            for start in range(0, len(columns), BLOCK_OF_CELLS):
                yield np.flatnonzero(pattern), columns[start : start + BLOCK_OF_CELLS]


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    ratio = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio


def _acceleration(left_out: Float[np.ndarray, "cell fact"]) -> Float[np.ndarray, " cell"]:
    pull = left_out.mean(axis=1, keepdims=True) - left_out
    squares = (pull**2).sum(axis=1)
    cubes = (pull**3).sum(axis=1)
    acceleration = np.zeros(len(pull))
    np.divide(cubes, 6 * squares**1.5, out=acceleration, where=squares > 1e-150)
    return acceleration


def _quantile(ordered: Float[np.ndarray, "cell resample"], level: Float[np.ndarray, " cell"]) -> np.ndarray:
    """The linearly interpolated quantile of each row at that row's own level."""
    place = level * (ordered.shape[1] - 1)
    lower = np.floor(place).astype(int)
    upper = np.minimum(lower + 1, ordered.shape[1] - 1)
    row = np.arange(len(ordered))
    below, above = ordered[row, lower], ordered[row, upper]
    return np.asarray(below + (place - lower) * (above - below))


def _scipy_interval(groups: tuple[np.ndarray, ...], statistic: Callable[..., np.ndarray], seed: int) -> Interval:
    n = sum(len(group) for group in groups)
    result = stats.bootstrap(
        groups,
        statistic,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=500,
        confidence_level=float(expanded_level(0.95, min(len(group) for group in groups))),
        method="BCa",
        rng=np.random.default_rng(seed),
    )
    limits = result.confidence_interval
    estimate = float(statistic(*groups, axis=-1))
    return Interval(estimate, float(limits.low), float(limits.high), n, method="expanded BCa over facts")
