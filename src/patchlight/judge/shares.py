"""Shares of facts with exact intervals, and whether two shares of the same facts differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scipy.stats import binomtest


@dataclass(frozen=True)
class Share:
    """`count` of `total`; the exact interval (Clopper and Pearson 1934) of the share at `confidence`."""

    count: int
    total: int
    low: float
    high: float
    confidence: float

    @property
    def estimate(self) -> float:
        """The share, 0 to 1."""
        return self.count / self.total


class Paired(NamedTuple):
    """How many changed from no to yes and from yes to no, and the exact two-sided p of McNemar's test."""

    gained: int
    lost: int
    p: float


def exact_share(count: int, total: int, confidence: float = 0.95) -> Share:
    """The share with its interval. Raises ValueError where `total` is 0 or `count` does not lie within it."""
    interval = binomtest(count, total).proportion_ci(confidence, "exact")
    return Share(count, total, float(interval.low), float(interval.high), confidence)


def paired(before: Sequence[bool], after: Sequence[bool]) -> Paired:
    """The changes between two answers to the same questions, in the same order; p is 1 where nothing changed."""
    gained = sum(now and not then for then, now in zip(before, after, strict=True))
    lost = sum(then and not now for then, now in zip(before, after, strict=True))
    p = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return Paired(gained, lost, p)
