"""Why a verdict is what it is, and why it is not stronger: stable codes, with the numbers of their sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from patchlight.judge.evidence import FACTS_IN_EACH_HALF, Evidence, RankedMap
from patchlight.judge.sets import TriedSet, TriedSets
from patchlight.judge.thresholds import Thresholds
from patchlight.records import Interval
from patchlight.verify.stability import JACCARD_BAR, Stability

Number = float | int | str


@dataclass(frozen=True)
class Reason:
    """A stable code and the numbers that the report's sentence for it is filled with."""

    code: str
    numbers: Mapping[str, Number] = field(default_factory=dict)


REASONS: Mapping[str, tuple[str, ...]] = {
    # no knowledge to localise
    "knows-too-few": ("known", "asked", "needed"),
    "gap-unclear": ("known",),
    # undetermined
    "no-question": (),
    "too-few-facts": ("discovery", "confirmation", "needed"),
    "one-template": ("templates", "needed"),
    "nothing-swept": (),
    "units-failed": ("failed", "units"),
    "no-control": (),
    "nothing-to-rank": ("structural", "too_few_facts", "needed"),
    "sets-not-measured": (),
    "no-set-grown": ("eligible",),
    "set-not-confirmed": ("size", "recovery", "recovery_low", "damage", "damage_low", "bar"),
    "set-touches-null": ("size", "null", "low", "null_high"),
    "enough-not-needed": ("size", "recovery", "damage"),
    "needed-not-enough": ("size", "recovery", "damage"),
    "between": ("size", "limit", "eligible", "share"),
    # localised
    "set-gives-back": ("size", "estimate", "low", "high", "n"),
    "set-takes-away": ("size", "estimate", "low", "high", "n"),
    "set-is-small": ("size", "eligible", "limit"),
    # distributed
    "joint-gives-back": ("size", "estimate", "low", "high", "n"),
    "joint-takes-away": ("size", "estimate", "low", "high", "n"),
    "no-small-set": ("limit", "eligible", "recovery_high", "damage_high", "share"),
    # localised or distributed
    "set-beats-nulls": ("size", "low", "null", "null_high"),
    "and-like": ("surplus", "low"),
    "or-like": ("surplus", "low"),
    # why not stronger
    "nulls-missing": ("nulls",),
    "not-replicated": (),
    "set-nulls-missing": ("nulls",),
    "damage-touches-null": ("size", "null", "low", "null_high"),
    "thresholds-not-calibrated": (),
    "list-unstable": ("source", "jaccard", "bar"),
    "few-facts-for-intervals": ("facts", "needed"),
    "sites-not-ranked": ("structural", "too_few_facts"),
}
"""Every reason's code with the names of its numbers; `null` names a null map, `nulls` several, shares are fractions."""

KEEP_FROM_A = ("nulls-missing", "set-nulls-missing", "damage-touches-null", "thresholds-not-calibrated",
               "list-unstable", "few-facts-for-intervals")  # fmt: skip
"""Grade A says held out, both directions, all controls, stable: with one of these it cannot be said."""


def lacking(evidence: Evidence, thresholds: Thresholds) -> Reason | None:
    """What the evidence lacks before any site is looked at."""
    known, asked = len(set(evidence.facts)), evidence.facts_asked
    if known == 0 or known < thresholds.known_facts <= asked:
        return reason("knows-too-few", known=known, asked=asked, needed=thresholds.known_facts)
    confirmation = len(set(evidence.facts) & evidence.confirmation)
    discovery = known - confirmation
    if min(discovery, confirmation) < FACTS_IN_EACH_HALF:
        halves = {"discovery": discovery, "confirmation": confirmation}
        return reason("too-few-facts", **halves, needed=FACTS_IN_EACH_HALF)
    if len(set(evidence.templates)) < thresholds.templates:
        return reason("one-template", templates=len(set(evidence.templates)), needed=thresholds.templates)
    if not evidence.components:
        return reason("nothing-swept")
    if not all(part.nulls for part in evidence.components.values()):
        return reason("no-control")
    return None


def nothing_to_rank(ranked: RankedMap) -> Reason | None:
    """Why no site may be ranked at all, where that is so."""
    if ranked.sites:
        return None
    left_out = {"structural": ranked.structural, "too_few_facts": ranked.too_few_facts}
    return reason("nothing-to-rank", **left_out, needed=FACTS_IN_EACH_HALF)


def doubt(tried: TriedSet) -> Reason | None:
    """What speaks against a set: it is not confirmed, a null brings back as much, or the directions disagree."""
    size, recovery, damage = len(tried.sites), tried.recovery, tried.damage
    estimates = {"recovery": recovery.estimate, "damage": damage.estimate}
    if tried.reading == "neither":
        lows = {"recovery_low": recovery.low, "damage_low": damage.low}
        numbers = {name: (estimates | lows)[name] for name in REASONS["set-not-confirmed"][1:-1]}
        return reason("set-not-confirmed", size=size, **numbers, bar=tried.thresholds.confirmed)
    if tried.touched_by is not None:
        name, null = tried.touched_by
        return reason("set-touches-null", size=size, null=name, low=recovery.low, null_high=null.high)
    if tried.reading != "both":
        code = "enough-not-needed" if tried.reading == "sufficient" else "needed-not-enough"
        return reason(code, size=size, **estimates)
    return None


def why_localised(tried: TriedSet, sets: TriedSets) -> tuple[Reason, ...]:
    """The reasons of "localised": the set, in both directions, how small it is, and the nulls."""
    size = len(tried.sites)
    return (
        reason("set-gives-back", size=size, **_interval(tried.recovery)),
        reason("set-takes-away", size=size, **_interval(tried.damage)),
        reason("set-is-small", size=size, eligible=sets.evidence.eligible, limit=sets.limit),
        *_beats_nulls(tried),
        *_together(tried),
    )


def why_distributed(tried: TriedSet, sets: TriedSets) -> tuple[Reason, ...]:
    """The reasons of "distributed": what the widest set does, and how little small ones do."""
    size, highs = len(tried.sites), {f"{name}_high": high for name, high in sets.small_highs.items()}
    limits = {"limit": sets.limit, "eligible": sets.evidence.eligible}
    return (
        reason("joint-gives-back", size=size, **_interval(tried.recovery)),
        reason("joint-takes-away", size=size, **_interval(tried.damage)),
        reason("no-small-set", **limits, **highs, share=tried.thresholds.share),
        *_beats_nulls(tried),
        *_together(tried),
    )


def why_not_stronger(
    evidence: Evidence, ranked: RankedMap, stability: Stability | None, thresholds: Thresholds
) -> tuple[Reason, ...]:
    """What keeps the verdict from saying more."""
    limits = [reason("not-replicated")]
    if evidence.nulls_missing:
        limits.append(reason("nulls-missing", nulls=", ".join(evidence.nulls_missing)))
    if not thresholds.calibrated:
        limits.append(reason("thresholds-not-calibrated"))
    weakest = stability.weakest if stability else None
    if weakest is not None and not weakest.stable:
        jaccard = weakest.jaccard.estimate
        limits.append(reason("list-unstable", source=weakest.source, jaccard=jaccard, bar=JACCARD_BAR))
    facts = len(set(evidence.facts))
    if facts < thresholds.facts_for_coverage:
        limits.append(reason("few-facts-for-intervals", facts=facts, needed=thresholds.facts_for_coverage))
    left_out = {"structural": ranked.structural, "too_few_facts": ranked.too_few_facts}
    if any(left_out.values()):
        limits.append(reason("sites-not-ranked", **left_out))
    return tuple(limits)


def set_limits(evidence: Evidence, tried: TriedSet) -> tuple[Reason, ...]:
    """What the nulls leave open of the set that a verdict rests on: those that only the map has, and its damage.

    A push in any direction may break an answer wherever it is kept, so this keeps from grade A and not from a verdict.
    """
    limits, missing = [], _nulls_not_of(evidence, tried)
    if missing:
        limits.append(reason("set-nulls-missing", nulls=", ".join(missing)))
    if tried.damage_touched_by is not None:
        name, null = tried.damage_touched_by
        numbers = {"low": tried.damage.low, "null_high": null.high}
        limits.append(reason("damage-touches-null", size=len(tried.sites), null=name, **numbers))
    return tuple(limits)


def _nulls_not_of(evidence: Evidence, tried: TriedSet) -> list[str]:
    """The nulls, in either direction, that stand beside the single sites and not beside the set."""
    part = next(iter(evidence.components.values()))
    wanted = [(part.nulls, tried.nulls), (part.damage_nulls, tried.damage_nulls)]
    missing = {name for singles, of_set in wanted for name in {*singles, *part.models} - of_set.keys()}
    return sorted(missing)


def reason(code: str, **numbers: Number) -> Reason:
    """A reason with its numbers."""
    return Reason(code, numbers)


def _beats_nulls(tried: TriedSet) -> tuple[Reason, ...]:
    if tried.highest_null is None:
        return ()
    name, null = tried.highest_null
    size, low = len(tried.sites), tried.recovery.low
    return (reason("set-beats-nulls", size=size, low=low, null=name, null_high=null.high),)


def _together(tried: TriedSet) -> tuple[Reason, ...]:
    found = {"and-like": (tried.and_like, tried.surplus), "or-like": (tried.or_like, tried.surplus_damage)}
    return tuple(
        reason(code, surplus=surplus.estimate, low=surplus.low) for code, (is_so, surplus) in found.items() if is_so
    )


def _interval(interval: Interval) -> dict[str, Number]:
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high, "n": interval.n}
