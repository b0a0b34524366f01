"""What the facts held out say of the sets that were grown on the discovery facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from patchlight.judge.statistics import IntervalMap, cluster_bootstrap
from patchlight.judge.thresholds import Thresholds
from patchlight.records import Interval
from patchlight.trace.joint import JointEffects, Together
from patchlight.trace.sufficient import Curve, Grown, SetEffects, SetEvidence, SetNull

Reading = Literal["both", "sufficient", "necessary", "neither"]


@dataclass(frozen=True)
class TriedSet:
    """A grown set on the facts held out: shares of the gap with their intervals.

    `recovery` is what the set brings back, `damage` what it takes away, the surpluses what is beyond the sum of its
    sites one by one; `nulls` is what it brings back where the answer cannot come from, `damage_nulls` what it takes
    away where nothing particular is put in, by name. The single and left-out effects are `[site]`, the interactions of
    recovery and damage `[site, other]`. `complement` and `complement_damage` have NaN where all other sites together
    restore everything by construction.
    """

    grown: Grown
    recovery: Interval
    damage: Interval
    surplus: Interval
    surplus_damage: Interval
    nulls: Mapping[str, Interval]
    single: IntervalMap
    single_damage: IntervalMap
    left_out: IntervalMap
    left_out_damage: IntervalMap
    interaction: IntervalMap
    interaction_damage: IntervalMap
    complement: Interval
    complement_damage: Interval
    thresholds: Thresholds
    damage_nulls: Mapping[str, Interval] = field(default_factory=dict)

    @property
    def sites(self) -> Together:
        """Its sites."""
        return self.grown.sites

    @property
    def reading(self) -> Reading:
        """Whether it is enough (its interval of recovery lies above the bar), needed (that of damage does), or both."""
        bar = self.thresholds.confirmed
        enough, needed = self.recovery.low >= bar, self.damage.low >= bar
        return "both" if enough and needed else "sufficient" if enough else "necessary" if needed else "neither"

    @property
    def and_like(self) -> bool:
        """The sites bring back more together than one by one: each needs others."""
        return self.surplus.low > self.thresholds.surplus

    @property
    def or_like(self) -> bool:
        """Taking all away breaks more than one by one: each has a backup."""
        return self.surplus_damage.low > self.thresholds.surplus

    @property
    def highest_null(self) -> tuple[str, Interval] | None:
        """The null that reaches highest and its name; None where none was measured."""
        return max(self.nulls.items(), key=lambda null: null[1].high, default=None)

    @property
    def touched_by(self) -> tuple[str, Interval] | None:
        """The highest null that the interval of the recovery does not lie above; None where it is above all."""
        highest = self.highest_null
        return highest if highest and not self.recovery.low > highest[1].high else None

    @property
    def damage_touched_by(self) -> tuple[str, Interval] | None:
        """As `touched_by`, of the damage."""
        near = [null for null in self.damage_nulls.items() if not self.damage.low > null[1].high]
        return max(near, key=lambda null: null[1].high, default=None)


@dataclass(frozen=True)
class TriedCurve:
    """A growth curve: what the first `sizes` sites move on the discovery facts and on those held out."""

    direction: str
    sites: Together
    stopped: str
    sizes: tuple[int, ...]
    discovery: IntervalMap
    held_out: IntervalMap

    def upper(self, size: int) -> float:
        """The upper end of the interval, on the facts held out, of the largest measured set of at most `size` sites."""
        fitting = [index for index, each in enumerate(self.sizes) if each <= size]
        return float(np.max(self.held_out.high[fitting])) if fitting else 0.0


@dataclass(frozen=True)
class TriedSets:
    """All sets of a kind of knowledge as the held-out facts show them; a small set has at most `limit` sites."""

    evidence: SetEvidence
    limit: int
    sets: tuple[TriedSet, ...]
    curves: tuple[TriedCurve, ...]
    windows: IntervalMap
    windows_surplus: IntervalMap
    discovery_facts: int
    held_out_facts: int

    @property
    def small_highs(self) -> dict[str, float]:
        """For what small sets bring back ("recovery") and take away ("damage"), the upper end of the best interval."""
        names = {"denoise": "recovery", "noise": "damage"}
        return {names[each.direction]: each.upper(self.limit) for each in self.curves}

    @property
    def smallest(self) -> TriedSet | None:
        """The smallest set that reached its share, is confirmed in both directions and lies above every null."""
        found = [each for each in self.sets if each.grown.reached and each.reading == "both" and not each.touched_by]
        return min(found, key=lambda each: len(each.sites), default=None)

    @property
    def widest(self) -> TriedSet | None:
        """The largest set that was grown."""
        return max(self.sets, key=lambda each: len(each.sites), default=None)


def try_sets(
    evidence: SetEvidence,
    facts: Sequence[str],
    held_out: Bool[np.ndarray, " pair"],
    *,
    partners: Sequence[str] = (),
    thresholds: Thresholds,
    seed: int,
) -> TriedSets:
    """The intervals of every set, curve and window; rows of the evidence are the pairs of `facts` and `partners`.

    Windows were measured on the discovery facts alone and are exploratory.
    """
    held, discovery = (_Rows(evidence.gaps, facts, partners, rows, seed) for rows in (held_out, ~held_out))
    windows = evidence.windows
    return TriedSets(
        evidence,
        thresholds.small_set(evidence.eligible, evidence.cut),
        tuple(_tried(each, held, thresholds) for each in evidence.sets),
        tuple(_curve(each, discovery, held) for each in evidence.curves),
        discovery.intervals(windows.joint),
        discovery.intervals(windows.joint - windows.alone),
        len(set(discovery.facts)),
        len(set(held.facts)),
    )


class _Rows:
    """Some of the pairs, and intervals over their facts."""

    def __init__(
        self, gaps: np.ndarray, facts: Sequence[str], partners: Sequence[str], rows: np.ndarray, seed: int
    ) -> None:
        self.gaps, self.rows, self.seed = gaps[rows], rows, seed
        self.facts, self.partners = list(compress(facts, rows)), list(compress(partners, rows))

    def intervals(
        self, effects: Float[np.ndarray, "pair ..."], gaps: Float[np.ndarray, " pair"] | None = None
    ) -> IntervalMap:
        of = self.gaps if gaps is None else gaps[self.rows]
        return cluster_bootstrap(effects[self.rows], of, self.facts, partners=self.partners, seed=self.seed)


def _tried(each: SetEffects, held: _Rows, thresholds: Thresholds) -> TriedSet:
    def parts(effects: JointEffects) -> list[IntervalMap]:
        measured = (effects.joint, effects.surplus, effects.singles, effects.left_out)
        return [held.intervals(part) for part in (*measured, effects.interaction, effects.complement)]

    def of(nulls: Mapping[str, SetNull]) -> dict[str, Interval]:
        return {name: held.intervals(null.effects, null.gaps).at() for name, null in nulls.items()}

    recovery, surplus, single, left_out, interaction, complement = parts(each.denoise)
    damage, surplus_damage, single_damage, left_out_damage, interaction_damage, complement_damage = parts(each.noise)
    return TriedSet(
        each.grown,
        recovery.at(),
        damage.at(),
        surplus.at(),
        surplus_damage.at(),
        of(each.nulls),
        single,
        single_damage,
        left_out,
        left_out_damage,
        interaction,
        interaction_damage,
        complement.at(),
        complement_damage.at(),
        thresholds,
        of(each.damage_nulls),
    )


def _curve(curve: Curve, discovery: _Rows, held: _Rows) -> TriedCurve:
    effects = curve.effects
    seen = (discovery.intervals(effects), held.intervals(effects))
    return TriedCurve(curve.direction, curve.sites, curve.stopped, curve.sizes, *seen)
