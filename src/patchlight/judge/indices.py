"""How concentrated an effect is over the cells of a map, and where in the depth of the model it lies.

All functions take effects `[..., cell]` (any leading axes) and use their positive part; for what suppresses
the answer, give them `-effects`. An effect without a positive part has no concentration: NaN.
Sources: participation ratio, Bell & Dean 1970; Gini 1912; entropy, Shannon 1948.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from patchlight.judge.partners import ties
from patchlight.judge.statistics import RESAMPLES, bca_limits, fact_means, resample_weights
from patchlight.records import Interval

Effects = Float[np.ndarray, "... cell"]
Index = Float[np.ndarray, "..."]


def cells_for_share(effects: Effects, share: float = 0.8) -> Index:
    """The part of the cells, strongest first, that makes up `share` of the positive effect; in (0, 1]."""
    ordered = -np.sort(-_shares(effects), axis=-1)
    # 1e-9 keeps a share that is reached exactly from needing one cell more by rounding
    short = (np.cumsum(ordered, axis=-1) < share - 1e-9).sum(axis=-1) + 1
    return _where_positive(effects, short / effects.shape[-1])


def participation_ratio(effects: Effects) -> Index:
    """(sum e)^2 / sum e^2: the number of equal cells that would be as concentrated; from 1 to all cells."""
    squares = (_shares(effects) ** 2).sum(axis=-1)
    return _where_positive(effects, 1 / np.where(squares > 0, squares, 1.0))


def gini(effects: Effects) -> Index:
    """The Gini coefficient: 0 when all cells are equal, 1 - 1/cells when one cell has everything."""
    ordered = np.sort(_shares(effects), axis=-1)
    cells = effects.shape[-1]
    rank = np.arange(1, cells + 1)
    return _where_positive(effects, (ordered * (2 * rank - cells - 1)).sum(axis=-1) / cells)


def normalised_entropy(effects: Effects) -> Index:
    """The entropy of the shares over that of equal shares: 0 for one cell, 1 for equal cells."""
    shares = _shares(effects)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=-1)
    return _where_positive(effects, entropy / np.log(max(effects.shape[-1], 2)))


def centre(effects: Effects, depth: Float[np.ndarray, " cell"]) -> Index:
    """The mean depth of the positive effect, in the units of `depth` (one value a cell)."""
    return _where_positive(effects, _shares(effects) @ depth)


def width(effects: Effects, depth: Float[np.ndarray, " cell"]) -> Index:
    """The standard deviation of the depth of the positive effect, in the units of `depth`."""
    shares = _shares(effects)
    variance = shares @ depth**2 - (shares @ depth) ** 2
    return _where_positive(effects, np.sqrt(np.maximum(variance, 0.0)))


def index_interval(
    index: Callable[[Effects], Index],
    effects: Float[np.ndarray, "pair cell"],
    facts: Sequence[str],
    *,
    seed: int,
    partners: Sequence[str] = (),
    resamples: int = RESAMPLES,
) -> Interval:
    """The index of the facts' mean effect, with its BCa interval over facts.

    A cell that a fact lacks (NaN) adds nothing for that fact. Noise alone looks spread: beside a null map an
    index says something, alone it does not.
    """
    means = np.nan_to_num(fact_means(effects, facts))
    n = len(means)
    estimate = np.atleast_1d(index(means.mean(axis=0)))
    resampled = index(resample_weights(n, seed, resamples).T @ means / n)
    left_out = index((means.sum(axis=0) - means) / max(n - 1, 1))
    low, high = bca_limits(estimate, resampled[None], left_out[None], 0.95, ties(facts, partners))
    low, high = np.maximum(low, resampled.min()), np.minimum(high, resampled.max())  # a share stays a share
    return Interval(float(estimate[0]), float(low[0]), float(high[0]), n, method="expanded BCa over facts")


def _shares(effects: Effects) -> Effects:
    positive = np.maximum(effects, 0.0)
    total = positive.sum(axis=-1, keepdims=True)
    return np.asarray(positive / np.where(total > 0, total, 1.0))


def _where_positive(effects: Effects, index: Index) -> Index:
    return np.where((effects > 0).any(axis=-1), index, np.nan)
