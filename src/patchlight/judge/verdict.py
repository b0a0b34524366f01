"""The verdict on one kind of knowledge: localised, distributed, undetermined, or no knowledge to localise.

The rule is `judge`, read from the top. It sees the sites one at a time: what several sites do together is not
measured yet, so a verdict is exploratory (grade C) at best, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from patchlight.judge.evidence import (
    FACTS_IN_EACH_HALF,
    LEVEL,
    Candidate,
    Evidence,
    RankedMap,
    find_candidates,
    ranked_map,
)
from patchlight.judge.indices import cells_for_share, index_interval
from patchlight.judge.statistics import cluster_bootstrap, fact_means
from patchlight.records import Interval
from patchlight.verify.stability import JACCARD_BAR, top_stability

Word = Literal["localised", "distributed", "undetermined", "no knowledge to localise"]
Grade = Literal["A", "B", "C", "D"]

# Placeholders of good sense, to be set by calibration on planted models (known truth); until then every
# verdict carries the reason "thresholds-not-calibrated".
KNOWN_FACTS = 5  # a model that answers fewer has nothing to localise
TEMPLATES = 2  # one wording cannot tell the fact from its wording
STRONG_SITE = 0.5  # localised: one site alone gives back, and alone takes away, half of the gap
WEAK_SITE = 1 / 3  # distributed: no site alone gives back or takes away a third of it
FEW_CELLS = 0.10  # localised: at most this part of the sites carries 80 % of the positive effect
MANY_CELLS = 0.20  # distributed: at least this part of the sites is needed for it
ADDED_UP = 0.5  # distributed: single effects add up to half of the gap, so no hidden backup need explain it
CONFIRMED_SHARE = 0.5  # fewer of the candidates confirmed: the halves disagree
SITES_OF_SPREAD = 3  # distributed: confirmed sites at least
FACTS_FOR_COVERAGE = 40  # measured: 95 % intervals cover 93 to 97 % from here on (92.8 % if strongly skewed)


@dataclass(frozen=True)
class Reason:
    """A stable code and the numbers that the report's sentence for it is filled with."""

    code: str
    numbers: Mapping[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What may be said of one kind of knowledge in one model, why, and why not more."""

    kind: str
    word: Word
    grade: Grade
    reasons: tuple[Reason, ...]
    why_not_stronger: tuple[Reason, ...] = ()
    candidates: tuple[Candidate, ...] = ()


ALWAYS = (
    "joint-effect-not-measured",
    "not-replicated",
    "thresholds-not-calibrated",
)
"""What no verdict can do without, as long as it is not measured."""

REASONS: Mapping[str, tuple[str, ...]] = {
    # no knowledge to localise
    "knows-too-few": ("known", "asked", "needed"),
    "gap-unclear": ("known",),
    # undetermined
    "too-few-facts": ("discovery", "confirmation", "needed"),
    "one-template": ("templates", "needed"),
    "nothing-swept": (),
    "units-failed": ("failed", "units"),
    "no-control": (),
    "nothing-to-rank": ("structural", "too_few_facts", "needed"),
    "nothing-found": ("sites", "discovery", "level"),
    "not-confirmed": ("candidates", "confirmed", "confirmation"),
    "control-touches": ("site", "null", "low", "control_high"),
    "control-touches-damage": ("site", "null", "low", "control_high"),
    "directions-disagree": ("site", "recovery", "damage"),
    "between": ("site", "recovery", "damage", "share", "sum"),
    # localised
    "one-site-gives-back": ("site", "estimate", "low", "high", "n"),
    "one-site-takes-away": ("site", "estimate", "low", "high", "n"),
    "few-sites-carry": ("share", "high", "sites"),
    # distributed
    "no-strong-site": ("recovery_high", "damage_high", "bar"),
    "many-sites-confirmed": ("confirmed", "layers"),
    "many-sites-carry": ("share", "low", "sites"),
    "single-effects-add-up": ("estimate", "low", "high", "n"),
    # localised or distributed
    "beats-control": ("site", "null", "low", "control_high"),
    # why not stronger
    "joint-effect-not-measured": (),
    "nulls-missing": ("nulls",),
    "not-replicated": (),
    "thresholds-not-calibrated": (),
    "list-unstable": ("jaccard", "bar"),
    "few-facts-for-intervals": ("facts", "needed"),
    "sites-not-ranked": ("structural", "too_few_facts"),
}
"""Every reason's code with the names of its numbers; `site` is a site's name, `null` a null map's, `nulls` several.

Shares are fractions."""


@dataclass(frozen=True)
class _Spread:
    """How the effect lies over all ranked sites, on all facts.

    `share` is the part of the sites that carries 80 % of the positive effect, `total` the sum of the single
    effects as a share of the gap; the highs are the largest upper limits of any one site.
    """

    share: Interval
    total: Interval
    recovery_high: float
    damage_high: float
    sites: int


def judge(evidence: Evidence, *, seed: int) -> Verdict:
    """The verdict on one kind of knowledge; the same evidence and seed give the same verdict.

    Want of evidence never raises: what is missing is the reason of an "undetermined".
    """
    lacking = _lacking(evidence)
    if lacking is not None:
        word: Word = "no knowledge to localise" if lacking.code == "knows-too-few" else "undetermined"
        return Verdict(evidence.kind, word, "D", (lacking,))
    ranked = ranked_map(evidence)
    candidates = find_candidates(ranked, evidence, seed)
    confirmed = tuple(candidate for candidate in candidates if candidate.confirmed)
    word, reasons = _rule(evidence, ranked, candidates, confirmed, seed)
    # a single-site map never shows what several sites do together: C is the most it can carry
    grade: Grade = "D" if word == "undetermined" else "C"
    limits = _why_not_stronger(evidence, ranked, len(confirmed), seed)
    return Verdict(evidence.kind, word, grade, reasons, limits, candidates)


def _rule(
    evidence: Evidence,
    ranked: RankedMap,
    candidates: tuple[Candidate, ...],
    confirmed: tuple[Candidate, ...],
    seed: int,
) -> tuple[Word, tuple[Reason, ...]]:
    """The word and its reasons. Candidates come strongest first, by the discovery facts alone."""
    missed = _nothing_held(evidence, ranked, candidates, confirmed)
    if missed is not None:
        return "undetermined", (missed,)
    strongest = confirmed[0]
    doubt = _doubt(strongest)
    if doubt is not None:
        return "undetermined", (doubt,)
    spread = _spread(ranked, evidence, seed)
    if _is_localised(strongest, spread):
        return "localised", _why_localised(strongest, spread)
    layers = len({candidate.site.layer for candidate in confirmed})
    if len(confirmed) >= SITES_OF_SPREAD and layers > 1 and _is_distributed(spread):
        spreading = _reason("many-sites-confirmed", confirmed=len(confirmed), layers=layers)
        return "distributed", (spreading, *_why_distributed(strongest, spread))
    numbers = {"recovery": strongest.recovery.estimate, "damage": strongest.damage.estimate}
    shares = {"share": spread.share.estimate, "sum": spread.total.estimate}
    return "undetermined", (_reason("between", site=str(strongest.site), **numbers, **shares),)


def _is_localised(strongest: Candidate, spread: _Spread) -> bool:
    strong = min(strongest.recovery.low, strongest.damage.low) >= STRONG_SITE
    return strong and spread.share.high <= FEW_CELLS


def _is_distributed(spread: _Spread) -> bool:
    weak = max(spread.recovery_high, spread.damage_high) < WEAK_SITE
    return weak and spread.share.low >= MANY_CELLS and spread.total.low >= ADDED_UP


def _why_localised(strongest: Candidate, spread: _Spread) -> tuple[Reason, ...]:
    site, share = str(strongest.site), spread.share
    return (
        _reason("one-site-gives-back", site=site, **_interval_numbers(strongest.recovery)),
        _reason("one-site-takes-away", site=site, **_interval_numbers(strongest.damage)),
        _reason("few-sites-carry", share=share.estimate, high=share.high, sites=spread.sites),
        _beats_control(strongest),
    )


def _why_distributed(strongest: Candidate, spread: _Spread) -> tuple[Reason, ...]:
    share, highs = spread.share, {"recovery_high": spread.recovery_high, "damage_high": spread.damage_high}
    return (
        _reason("no-strong-site", **highs, bar=WEAK_SITE),
        _reason("many-sites-carry", share=share.estimate, low=share.low, sites=spread.sites),
        _reason("single-effects-add-up", **_interval_numbers(spread.total)),
        _beats_control(strongest),
    )


def _doubt(strongest: Candidate) -> Reason | None:
    """What speaks against the strongest site: a null's band reaches it, or the directions disagree."""
    recovery, damage = strongest.recovery, strongest.damage
    site = str(strongest.site)
    if strongest.touches:
        return _null_touches("control-touches", site, recovery, *strongest.touches)
    # enough but not needed: a backup stands by; needed but not enough: others must help
    backup = recovery.low >= STRONG_SITE > damage.high
    helpers = damage.low >= STRONG_SITE > recovery.high
    if backup or helpers or damage.low <= 0:
        return _reason("directions-disagree", site=site, recovery=recovery.estimate, damage=damage.estimate)
    if strongest.damage_touches:
        return _null_touches("control-touches-damage", site, damage, *strongest.damage_touches)
    return None


def _null_touches(code: str, site: str, effect: Interval, name: str, null: Interval) -> Reason:
    return _reason(code, site=site, null=name, low=effect.low, control_high=null.high)


def _beats_control(strongest: Candidate) -> Reason:
    return _null_touches("beats-control", str(strongest.site), strongest.recovery, *strongest.largest_null)


def _lacking(evidence: Evidence) -> Reason | None:
    """What the evidence lacks before any site is looked at."""
    known, asked = len(set(evidence.facts)), evidence.facts_asked
    if known == 0 or known < KNOWN_FACTS <= asked:
        return _reason("knows-too-few", known=known, asked=asked, needed=KNOWN_FACTS)
    confirmation = len(set(evidence.facts) & evidence.confirmation)
    discovery = known - confirmation
    if min(discovery, confirmation) < FACTS_IN_EACH_HALF:
        halves = {"discovery": discovery, "confirmation": confirmation}
        return _reason("too-few-facts", **halves, needed=FACTS_IN_EACH_HALF)
    if len(set(evidence.templates)) < TEMPLATES:
        return _reason("one-template", templates=len(set(evidence.templates)), needed=TEMPLATES)
    if not evidence.components:
        return _reason("nothing-swept")
    if not all(part.nulls for part in evidence.components.values()):
        return _reason("no-control")
    return None


def _nothing_held(
    evidence: Evidence, ranked: RankedMap, candidates: tuple[Candidate, ...], confirmed: tuple[Candidate, ...]
) -> Reason | None:
    """Why no confirmed site can be spoken of, where that is so."""
    if not ranked.sites:
        left_out = {"structural": ranked.structural, "too_few_facts": ranked.too_few_facts}
        return _reason("nothing-to-rank", **left_out, needed=FACTS_IN_EACH_HALF)
    confirmation = len(set(evidence.facts) & evidence.confirmation)
    if not candidates:
        discovery = len(set(evidence.facts)) - confirmation
        return _reason("nothing-found", sites=len(ranked.sites), discovery=discovery, level=LEVEL)
    wiring = next((each for each in candidates if each.held and not each.confirmed), None)
    if not confirmed and wiring is not None:
        return _doubt(wiring)
    if len(confirmed) < CONFIRMED_SHARE * len(candidates):
        counts = {"candidates": len(candidates), "confirmed": len(confirmed)}
        return _reason("not-confirmed", **counts, confirmation=confirmation)
    return None


def _spread(ranked: RankedMap, evidence: Evidence, seed: int) -> _Spread:
    everything = np.nan_to_num(ranked.recovery)
    total, recovery, damage = (
        cluster_bootstrap(effects, evidence.gaps, evidence.facts, partners=evidence.partners, seed=seed)
        for effects in (everything.sum(axis=1), ranked.recovery, ranked.damage)
    )
    return _Spread(
        share=index_interval(cells_for_share, ranked.recovery, evidence.facts, partners=evidence.partners, seed=seed),
        total=total.at(),
        recovery_high=float(recovery.high.max()),
        damage_high=float(damage.high.max()),
        sites=len(ranked.sites),
    )


def _why_not_stronger(evidence: Evidence, ranked: RankedMap, confirmed: int, seed: int) -> tuple[Reason, ...]:
    limits = [_reason(code) for code in ALWAYS]
    if evidence.nulls_missing:
        limits.append(_reason("nulls-missing", nulls=", ".join(evidence.nulls_missing)))
    if confirmed:
        jaccard = top_stability(fact_means(ranked.contrast, evidence.facts), confirmed, seed=seed)
        if jaccard < JACCARD_BAR:
            limits.append(_reason("list-unstable", jaccard=jaccard, bar=JACCARD_BAR))
    facts = len(set(evidence.facts))
    if facts < FACTS_FOR_COVERAGE:
        limits.append(_reason("few-facts-for-intervals", facts=facts, needed=FACTS_FOR_COVERAGE))
    left_out = {"structural": ranked.structural, "too_few_facts": ranked.too_few_facts}
    if any(left_out.values()):
        limits.append(_reason("sites-not-ranked", **left_out))
    return tuple(limits)


def _reason(code: str, **numbers: float | int | str) -> Reason:
    return Reason(code, numbers)


def _interval_numbers(interval: Interval) -> dict[str, float | int | str]:
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high, "n": interval.n}
