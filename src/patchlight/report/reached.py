"""What a report shows of the parts behind a place, those that make up for it and those that read it: records only."""

from __future__ import annotations

from dataclasses import dataclass

from patchlight.judge.statistics import IntervalMap
from patchlight.records import Interval, Site

LOSSES = ("predicted", "measured", "repaired")


@dataclass(frozen=True)
class RepairResult:
    """Places knocked out of the clean run over facts held out, in shares of the gap lost: `losses[site, LOSSES]`.

    `compensating` names for each site the later parts that react against its loss, with their mean share; `backups`
    pairs of places of which the later costs more once the earlier is gone, by how much.
    """

    sites: tuple[Site, ...]
    losses: IntervalMap
    compensating: tuple[tuple[tuple[Site, float], ...], ...]
    backups: tuple[tuple[Site, Site, Interval], ...]
    facts: int
    pairs: int


@dataclass(frozen=True)
class RoutesResult:
    """What each sender carries to the readers found for it on the discovery facts: `shares[sender, reader]`.

    Over facts held out, as shares of the gap; `readers[sender]` are single places, `logits` is the answer itself.
    """

    senders: tuple[Site, ...]
    readers: tuple[tuple[Site, ...], ...]
    shares: IntervalMap
    facts: int
    pairs: int


@dataclass(frozen=True)
class Reached:
    """What was measured of a kind of knowledge; None where it was not asked for or nothing could be ranked."""

    repair: RepairResult | None = None
    routes: RoutesResult | None = None
