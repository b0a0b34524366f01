"""How far reviewers agree beyond chance, and how often they accept what is known to be null."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from sqlalchemy import Engine, select

from patchlight.records import Interval
from patchlight.review.queue import UNDONE
from patchlight.store import review as tables
from patchlight.store.database import reading

RESAMPLES = 2_000
FEWEST = 5  # candidates; with fewer, resampling only repeats them: no interval

Rating = tuple[str, str]


@dataclass(frozen=True)
class Agreement:
    """Of two ratings a candidate: the share that agree, Cohen's kappa, Gwet's AC1; n counts candidates.

    Kappa is NaN where both reviewers always say the same one word. Intervals are percentiles over resampled candidates.
    """

    raw: Interval
    kappa: Interval
    ac1: Interval


def agree(
    ratings: Sequence[Rating], *, seed: int = 0, resamples: int = RESAMPLES, confidence: float = 0.95
) -> Agreement:
    """The agreement in ratings (first reviewer, second reviewer), one a candidate; NaN where there are none.

    Sources: Cohen 1960; Gwet 2008, British Journal of Mathematical and Statistical Psychology 61:29-48.
    """
    words = sorted({word for rating in ratings for word in rating})
    places = [words.index(one) * len(words) + words.index(other) for one, other in ratings]
    counts = np.bincount(places, minlength=len(words) ** 2).astype(float)
    n = len(ratings)
    random = np.random.default_rng(seed)
    drawn = random.multinomial(n, counts / n, size=resamples).astype(float) if n >= FEWEST else np.empty((0, 0))

    def of(statistic: Callable[[np.ndarray], np.ndarray]) -> Interval:
        method = "percentile bootstrap over candidates"
        estimate = float(statistic(_tables(counts[None], len(words)))[0]) if n else float("nan")
        values = statistic(_tables(drawn, len(words))) if len(drawn) else np.empty(0)
        values = values[np.isfinite(values)]
        if not len(values):
            return Interval(estimate, float("nan"), float("nan"), n, confidence, method)
        low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
        return Interval(estimate, float(low), float(high), n, confidence, method)

    return Agreement(of(_raw), of(_kappa), of(_ac1))


def agreement_of(database: Engine, study_id: str | None = None) -> Agreement:
    """The agreement over all candidates that two people or more have judged on their current evidence.

    Of each, the first two judgements count, ordered by the reviewers' ids; decoys are among them.
    """
    ratings = []
    for reviews in _reviews(database, study_id).values():
        if len(reviews) > 1:
            one, other = sorted(reviews[:2])
            ratings.append((one[1], other[1]))
    return agree(ratings)


def decoy_rates(database: Engine, study_id: str | None = None) -> dict[str, Interval]:
    """By reviewer's name, and pooled under the empty name: the share of judged decoys that were accepted.

    Intervals are Clopper-Pearson (exact); n counts judgements. The pooled interval takes judgements as independent,
    though two people may judge one decoy.
    """
    with reading(database) as connection:
        decoys = set(connection.scalars(select(tables.candidates.c.id).where(tables.candidates.c.decoy)))
        names = {row.id: row.name for row in connection.execute(select(tables.people.c.id, tables.people.c.name))}
    seen: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    for candidate, reviews in _reviews(database, study_id).items():
        if candidate in decoys:
            for reviewer, word in reviews:
                for name in ("", names[reviewer]):
                    seen[name] += 1
                    accepted[name] += word == "accept"
    return {name: clopper_pearson(accepted[name], seen[name]) for name in sorted(seen)}


def clopper_pearson(hits: int, n: int, confidence: float = 0.95) -> Interval:
    """The share of `hits` among `n` (one or more) with its exact interval."""
    limits = binomtest(hits, n).proportion_ci(confidence, method="exact")
    return Interval(hits / n, float(limits.low), float(limits.high), n, confidence, "Clopper-Pearson")


def _reviews(database: Engine, study_id: str | None) -> dict[str, list[tuple[int, str]]]:
    """For each candidate the standing judgements (reviewer, word) on its current evidence, oldest first."""
    chosen = (
        select(tables.decisions, tables.candidates.c.study_id)
        .join(tables.candidates, tables.candidates.c.id == tables.decisions.c.candidate)
        .where(tables.decisions.c.evidence == tables.candidates.c.evidence, tables.decisions.c.purpose == "review")
        .where(tables.decisions.c.number.not_in(UNDONE))
        .order_by(tables.decisions.c.number)
    )
    found: dict[str, dict[int, str]] = {}
    with reading(database) as connection:
        for row in connection.execute(chosen):
            if study_id in (None, row.study_id):
                found.setdefault(row.candidate, {})[row.person] = row.word
    return {candidate: list(words.items()) for candidate, words in found.items()}


def _tables(counts: np.ndarray, words: int) -> np.ndarray:
    """Shares `[resample, first, second]`."""
    return np.asarray(counts.reshape(-1, words, words) / counts.sum(axis=1)[:, None, None])


def _raw(shares: np.ndarray) -> np.ndarray:
    return np.asarray(np.trace(shares, axis1=1, axis2=2))


def _kappa(shares: np.ndarray) -> np.ndarray:
    chance = (shares.sum(axis=2) * shares.sum(axis=1)).sum(axis=1)
    return _beyond(_raw(shares), chance)


def _ac1(shares: np.ndarray) -> np.ndarray:
    words = shares.shape[1]
    if words < 2:
        return np.ones(len(shares))
    used = (shares.sum(axis=2) + shares.sum(axis=1)) / 2
    return _beyond(_raw(shares), (used * (1 - used)).sum(axis=1) / (words - 1))


def _beyond(agreed: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Agreement beyond chance, as a share of what chance leaves; NaN where it leaves nothing."""
    beyond = np.full(agreed.shape, np.nan)
    np.divide(agreed - chance, 1 - chance, out=beyond, where=chance < 1 - 1e-12)
    return beyond
