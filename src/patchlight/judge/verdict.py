"""The verdict on one kind of knowledge: localised, distributed, undetermined, or no knowledge to localise.

The rule is `_rule_of_sets`, read from the top; its bars are in `judge.thresholds`, its reasons in `judge.reasons`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from patchlight.judge.evidence import Candidate, Evidence, RankedMap, find_candidates, ranked_map
from patchlight.judge.reasons import (
    KEEP_FROM_A,
    REASONS,
    Reason,
    doubt,
    lacking,
    nothing_to_rank,
    reason,
    set_limits,
    why_distributed,
    why_localised,
    why_not_stronger,
)
from patchlight.judge.sets import TriedSet, TriedSets, try_sets
from patchlight.judge.stability import list_stability
from patchlight.judge.thresholds import THRESHOLDS, Thresholds
from patchlight.verify.stability import Stability

__all__ = ["REASONS", "Grade", "Reason", "Verdict", "Word", "judge", "word_under"]

Word = Literal["localised", "distributed", "undetermined", "no knowledge to localise"]
Grade = Literal["A", "B", "C", "D"]
BEFORE_SETS = ("knows-too-few", "gap-unclear", "no-question", "too-few-facts", "one-template", "nothing-swept",
               "units-failed", "no-control", "nothing-to-rank", "sets-not-measured", "no-set-grown")  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What may be said of one kind of knowledge in one model, why, and why not more.

    `candidates` are its places one at a time, `sets` its places together; both are None or empty where the evidence
    lacks something before.
    """

    kind: str
    word: Word
    grade: Grade
    reasons: tuple[Reason, ...]
    why_not_stronger: tuple[Reason, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    sets: TriedSets | None = field(default=None, compare=False)
    stability: Stability | None = None

    @property
    def named_set(self) -> TriedSet | None:
        """The set that a "localised" or "distributed" stands on; None where the verdict is another."""
        if self.sets is None or self.word not in ("localised", "distributed"):
            return None
        return self.sets.smallest if self.word == "localised" else self.sets.widest


def judge(evidence: Evidence, *, seed: int, thresholds: Thresholds = THRESHOLDS) -> Verdict:
    """The verdict on one kind of knowledge; the same evidence and seed give the same verdict.

    Want of evidence never raises: what is missing is the reason of an "undetermined".
    """
    missing, sets = lacking(evidence, thresholds), _tried(evidence, thresholds, seed)
    if missing is not None:
        word: Word = "no knowledge to localise" if missing.code == "knows-too-few" else "undetermined"
        return Verdict(evidence.kind, word, "D", (missing,), sets=sets)
    ranked = ranked_map(evidence)
    candidates = find_candidates(ranked, evidence, seed)
    word, reasons = _rule(ranked, sets, thresholds)
    confirmed = sum(candidate.confirmed for candidate in candidates)
    stability = list_stability(ranked, evidence, confirmed, seed)
    limits = why_not_stronger(evidence, ranked, stability, thresholds)
    rests_on = None if sets is None else {"localised": sets.smallest, "distributed": sets.widest}.get(word)
    limits += () if rests_on is None else set_limits(evidence, rests_on)
    return Verdict(evidence.kind, word, _grade(word, limits), reasons, limits, candidates, sets, stability)


def word_under(verdict: Verdict, thresholds: Thresholds) -> Word:
    """The word that other thresholds make of the same intervals; what is decided before any set stays."""
    sets = None if verdict.reasons[0].code in BEFORE_SETS else sets_under(verdict, thresholds)
    if sets is None or sets.widest is None:
        return verdict.word
    return _rule_of_sets(sets, sets.widest, thresholds)[0]


def sets_under(verdict: Verdict, thresholds: Thresholds) -> TriedSets | None:
    """The sets of the verdict as other thresholds see them; None where none were measured."""
    if verdict.sets is None:
        return None
    limit = thresholds.small_set(verdict.sets.evidence.eligible, verdict.sets.evidence.cut)
    tried = tuple(replace(each, thresholds=thresholds) for each in verdict.sets.sets)
    return replace(verdict.sets, sets=tried, limit=limit)


def _rule(ranked: RankedMap, sets: TriedSets | None, thresholds: Thresholds) -> tuple[Word, tuple[Reason, ...]]:
    nothing = nothing_to_rank(ranked)
    if nothing is not None:
        return "undetermined", (nothing,)
    if sets is None:
        return "undetermined", (reason("sets-not-measured"),)
    if sets.widest is None:
        return "undetermined", (reason("no-set-grown", eligible=sets.evidence.eligible),)
    return _rule_of_sets(sets, sets.widest, thresholds)


def _rule_of_sets(sets: TriedSets, widest: TriedSet, thresholds: Thresholds) -> tuple[Word, tuple[Reason, ...]]:
    """Localised: a small set, confirmed in both directions, above every null. Distributed: a confirmed joint effect
    that no small set reaches. Everything else is undetermined.
    """
    smallest, against = sets.smallest, doubt(widest)
    if smallest is not None and len(smallest.sites) <= sets.limit:
        return "localised", why_localised(smallest, sets)
    if against is not None:
        return "undetermined", (against,)
    if _no_small_set(sets, thresholds):
        return "distributed", why_distributed(widest, sets)
    sizes = {"size": len(widest.sites), "limit": sets.limit, "eligible": sets.evidence.eligible}
    return "undetermined", (reason("between", **sizes, share=thresholds.share),)


def _no_small_set(sets: TriedSets, thresholds: Thresholds) -> bool:
    """Small sets stay below the share on the facts held out, and sets of twice their size on the discovery facts."""
    wanting = max(sets.small_highs.values()) < thresholds.share
    reached = [len(each.sites) for each in sets.sets if each.grown.reached]
    return wanting and min(reached, default=sets.evidence.eligible) >= thresholds.spread * sets.limit


def _grade(word: Word, limits: tuple[Reason, ...]) -> Grade:
    """A where nothing that A demands is wanting; B waits for a replication, which no single study has."""
    if word == "undetermined":
        return "D"
    return "C" if any(limit.code in KEEP_FROM_A for limit in limits) else "A"


def _tried(evidence: Evidence, thresholds: Thresholds, seed: int) -> TriedSets | None:
    if evidence.sets is None:
        return None
    return try_sets(
        evidence.sets,
        evidence.facts,
        evidence.held_out,
        partners=evidence.partners,
        thresholds=thresholds,
        seed=seed,
    )
