"""How much less certain a mean is because facts lean on one another.

A pair asks about a fact and leans on a partner, which is itself a fact that other pairs ask about. Facts that lean on a
common fact are not independent, so the mean over facts varies more than their number says. All pairs of facts that
may covary are known, so the factor can be estimated. Sources: Aronow, Samii & Assenova 2015, Political Analysis
23:564-577; Kish 1965 (effective sample size).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

CROWDED = 0.5  # of all pairs of facts tied: too few free ones to estimate a covariance from
MOST_BY_DESIGN = 2.0  # where each fact serves once: (1 + w)^2 / (1 + w^2) is 2 at most, whatever the partner's weight w


def ties(facts: Sequence[str], partners: Sequence[str] = ()) -> Bool[np.ndarray, "fact fact"]:
    """Which facts, sorted by name, lean on a common fact; without partners each on itself alone.

    `facts` and `partners` name one fact a pair; a partner "" stands for none.
    """
    names = sorted(set(facts))
    place = {name: index for index, name in enumerate(sorted({*facts, *partners}))}
    leans = np.zeros((len(names), len(place)))
    row = {name: index for index, name in enumerate(names)}
    for fact in names:
        leans[row[fact], place[fact]] = 1
    for fact, partner in zip(facts, partners, strict=False):
        if partner:
            leans[row[fact], place[partner]] = 1
    return np.asarray(leans @ leans.T > 0)


def variance_factor(
    influences: Float[np.ndarray, "fact cell"], tied: Bool[np.ndarray, "fact fact"]
) -> Float[np.ndarray, " cell"]:
    """How many times larger the variance of each cell's mean is than that of as many independent facts.

    `influences` are the facts' deviations from the mean, summing to 0 in each cell. Their products over tied facts
    estimate the variance; centring takes the share of tied pairs away from it, which is given back. An estimate: it
    may come out below 1, and whoever uses it decides what to make of that.
    """
    n, cells = influences.shape
    crowding = float(tied.mean())
    if crowding <= 1 / n:
        return np.ones(cells)
    if crowding > CROWDED:
        return np.full(cells, MOST_BY_DESIGN)
    alone = (influences**2).sum(axis=0) / (1 - 1 / n)
    together = (influences * (tied.astype(float) @ influences)).sum(axis=0) / (1 - crowding)
    factor = np.ones(cells)
    np.divide(together, alone, out=factor, where=alone > 0)
    return factor
