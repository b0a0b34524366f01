"""Would the same sites be named with other facts: the split of the facts, and the stability of the list."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from jaxtyping import Bool, Float

JACCARD_BAR = 0.8


def split_facts(facts: Collection[str], seed: int, share: float = 0.5) -> tuple[frozenset[str], frozenset[str]]:
    """The facts for discovery and the facts for confirmation, `share` of them (rounded up) for discovery.

    Depends on the set of names and the seed alone. Split each kind by itself, before the first sweep.
    """
    names = sorted(set(facts))
    order = np.random.default_rng(seed).permutation(len(names))
    first = int(np.ceil(share * len(names)))
    return frozenset(names[i] for i in order[:first]), frozenset(names[i] for i in order[first:])


def top_stability(means: Float[np.ndarray, "fact cell"], top: int, *, seed: int, resamples: int = 1000) -> float:
    """The mean Jaccard overlap of the `top` strongest cells with those of bootstrap resamples of the facts.

    `means` holds the mean effect of each fact (NaN where it lacks the cell). 1 means that every resample
    names the same cells; the bar for a stable list is `JACCARD_BAR`.
    """
    n, cells = means.shape
    if not 0 < top <= cells:
        raise ValueError(f"top must be between 1 and {cells}, not {top}")
    weights = np.random.default_rng([seed, n]).multinomial(n, np.full(n, 1 / n), size=resamples)
    named, original = _strongest(means, weights, top), _strongest(means, np.ones((1, n)), top)
    common = (named & original).sum(axis=1)
    return float((common / (2 * top - common)).mean())


def _strongest(
    means: Float[np.ndarray, "fact cell"], weights: Float[np.ndarray, "resample fact"], top: int
) -> Bool[np.ndarray, "resample cell"]:
    """Which cells have the largest weighted mean; a cell that no drawn fact has counts as 0."""
    drawn = np.maximum(weights @ np.isfinite(means), 1)
    effects = weights @ np.nan_to_num(means) / drawn
    named = np.zeros(effects.shape, dtype=bool)
    np.put_along_axis(named, np.argsort(-effects, axis=1, kind="stable")[:, :top], True, axis=1)
    return named
