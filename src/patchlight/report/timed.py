"""What a report shows of each token of an answer, and of neighbours exchanged together: records without prose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from patchlight.judge.statistics import IntervalMap


@dataclass(frozen=True)
class StepsResult:
    """Effects of a component by token of the answer, as shares of the whole answer's gap: `effect[layer, place, step]`.

    `gap[step]` is the share of the gap that lies on each token. `left_out` pairs have no gap over the whole answer,
    `single` pairs an answer of one token.
    """

    component: str
    direction: str
    places: tuple[str, ...]
    effect: IntervalMap
    gap: IntervalMap
    structural: Bool[np.ndarray, "layer place step"]
    facts: int
    pairs: int
    left_out: int
    single: int


@dataclass(frozen=True)
class WindowsResult:
    """Windows of `layers` by `positions`, named by their first: `shares[layer, role, (together, sum of singles)]`."""

    component: str
    direction: str
    layers: int
    positions: int
    roles: tuple[str, ...]
    shares: IntervalMap
    structural: Bool[np.ndarray, "layer role"]
    facts: int
    pairs: int


@dataclass(frozen=True)
class Timed:
    """What was measured of a kind of knowledge, component by component; empty where it was not asked for."""

    steps: tuple[StepsResult, ...] = ()
    windows: tuple[WindowsResult, ...] = ()
