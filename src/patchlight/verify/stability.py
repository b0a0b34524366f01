"""Would the same sites be named with other facts: the split of the facts, and the stability of the list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from patchlight.records import Interval, Site

JACCARD_BAR = 0.8
REDRAWN = 200  # splits, and choices of a wording for each fact; facts are drawn again 1,000 times


@dataclass(frozen=True)
class Variation:
    """What one source of variation does to the list: its mean Jaccard overlap, and how often each site is named.

    The interval holds the middle 95 % of the overlaps; its `n` counts the variations. `shares` are fractions of them.
    """

    source: str
    jaccard: Interval
    shares: tuple[tuple[Site, float], ...]

    @property
    def stable(self) -> bool:
        """True where the mean overlap reaches the bar."""
        return self.jaccard.estimate >= JACCARD_BAR


@dataclass(frozen=True)
class Stability:
    """Would the same sites be named otherwise: the list, and each source of variation that could be tried."""

    sites: tuple[Site, ...]
    variations: tuple[Variation, ...]

    @property
    def weakest(self) -> Variation | None:
        """The source that changes the list most; None where none could be tried."""
        return min(self.variations, key=lambda each: each.jaccard.estimate, default=None)

    def going(self, variation: Variation) -> list[tuple[Site, float]]:
        """Sites of the list that some variations do not name, the least named first."""
        found = [(site, share) for site, share in variation.shares if site in self.sites and share < 1]
        return sorted(found, key=lambda each: each[1])

    def coming(self, variation: Variation) -> list[tuple[Site, float]]:
        """Sites off the list that some variations name, the most named first."""
        found = [(site, share) for site, share in variation.shares if site not in self.sites and share > 0]
        return sorted(found, key=lambda each: -each[1])


def stability(
    effects: Float[np.ndarray, "pair cell"],
    facts: Sequence[str],
    templates: Sequence[str],
    sites: Sequence[Site],
    top: int,
    *,
    seed: int,
) -> Stability:
    """How far the list of the `top` strongest cells is the same under every variation that needs no new run.

    Sources: `facts` (bootstrap), `halves` (the first half of other splits), `templates` (each left out in turn) and
    `paraphrases` (one wording of each fact, drawn at random); the last two where there are two wordings or more.
    `effects` is in the metric's unit, NaN where a pair lacks the cell. `sites` names the cells.
    """
    names, index = np.unique(np.asarray(facts), return_inverse=True)
    means = _means(effects, index, len(names))
    if not 0 < top <= len(sites):
        raise ValueError(f"top must be between 1 and {len(sites)}, not {top}")
    original = _strongest(means, np.ones((1, len(names))), top)[0]
    others = {
        "facts": _strongest(means, _resamples(len(names), seed, 1000), top),
        "halves": _strongest(means, _halves(len(names), seed), top),
    }
    if len(set(templates)) > 1:
        wordings = np.array([template != left_out for left_out in sorted(set(templates)) for template in templates])
        paraphrases = np.array(list(_one_wording_each(index, seed)))
        for source, kept in (("templates", wordings.reshape(-1, len(facts))), ("paraphrases", paraphrases)):
            of_pairs = [_strongest(_means(effects[rows], index[rows], len(names)), np.ones((1, len(names))), top)
                        for rows in kept]  # fmt: skip
            others[source] = np.concatenate(of_pairs)
    named = tuple(sites[int(cell)] for cell in np.flatnonzero(original))
    return Stability(named, tuple(varied(source, each, original, sites) for source, each in others.items()))


def varied(
    source: str,
    others: Bool[np.ndarray, "variation cell"],
    original: Bool[np.ndarray, " cell"],
    sites: Sequence[Site],
) -> Variation:
    """A source of variation, from the cells that each of its variations names."""
    either = (others | original).sum(axis=1)
    overlap = np.where(either, (others & original).sum(axis=1) / np.maximum(either, 1), 1.0)
    low, high = np.quantile(overlap, (0.025, 0.975))
    mean = Interval(
        float(overlap.mean()), float(low), float(high), len(overlap), method="middle 95 % of the variations"
    )
    shares = others.mean(axis=0)
    cells = np.flatnonzero(original | (shares > 0))
    return Variation(source, mean, tuple((sites[int(i)], float(shares[i])) for i in cells))


def top_stability(means: Float[np.ndarray, "fact cell"], top: int, *, seed: int, resamples: int = 1000) -> float:
    """The mean Jaccard overlap of the `top` strongest cells with those of bootstrap resamples of the facts.

    `means` holds the mean effect of each fact (NaN where it lacks the cell). 1 means that every resample
    names the same cells; the bar for a stable list is `JACCARD_BAR`.
    """
    n, cells = means.shape
    if not 0 < top <= cells:
        raise ValueError(f"top must be between 1 and {cells}, not {top}")
    weights = _resamples(n, seed, resamples)
    named, original = _strongest(means, weights, top), _strongest(means, np.ones((1, n)), top)
    common = (named & original).sum(axis=1)
    return float((common / (2 * top - common)).mean())


def _resamples(n: int, seed: int, resamples: int) -> Float[np.ndarray, "resample fact"]:
    return np.random.default_rng([seed, n]).multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)


def _halves(n: int, seed: int) -> Float[np.ndarray, "split fact"]:
    order = np.random.default_rng([seed, n, 1]).permuted(np.tile(np.arange(n), (REDRAWN, 1)), axis=1)
    return (order < (n + 1) // 2).astype(float)


def _one_wording_each(index: np.ndarray, seed: int) -> Iterator[Bool[np.ndarray, " pair"]]:
    """Which pairs are kept when each fact keeps one of its own, drawn at random."""
    random = np.random.default_rng([seed, len(index), 2])
    for _ in range(REDRAWN):
        order = random.permutation(len(index))
        kept = np.zeros(len(index), dtype=bool)
        kept[order[np.unique(index[order], return_index=True)[1]]] = True
        yield kept


def _means(effects: Float[np.ndarray, "pair cell"], index: np.ndarray, facts: int) -> Float[np.ndarray, "fact cell"]:
    """The mean of each fact over its pairs; NaN where it has none."""
    member = (np.arange(facts)[:, None] == index).astype(float)
    count = member @ np.isfinite(effects)
    means = np.full(count.shape, np.nan)
    np.divide(member @ np.nan_to_num(effects), count, out=means, where=count > 0)
    return means


def _strongest(
    means: Float[np.ndarray, "fact cell"], weights: Float[np.ndarray, "resample fact"], top: int
) -> Bool[np.ndarray, "resample cell"]:
    """Which cells have the largest weighted mean; a cell that no drawn fact has counts as 0."""
    drawn = np.maximum(weights @ np.isfinite(means), 1)
    effects = weights @ np.nan_to_num(means) / drawn
    named = np.zeros(effects.shape, dtype=bool)
    np.put_along_axis(named, np.argsort(-effects, axis=1, kind="stable")[:, :top], True, axis=1)
    return named
