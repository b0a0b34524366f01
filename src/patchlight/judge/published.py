"""What a figure of the published protocol can show: one word a row, by rules over what was measured.

The rules are `weigh`, read from the top; the first that fires gives the word, and every reason found is kept. They
are method.md's section 1 turned into code: identities, denominators, rival explanations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from patchlight.judge.statistics import FEWEST_FOR_INTERVAL, cluster_bootstrap
from patchlight.judge.verdict import Reason
from patchlight.records import Interval

Word = Literal["identity", "no valid denominator", "rival explanation", "supported"]
TOKENS_ALONE = 0.5  # of the recovery: from here on the tokens by themselves explain it


@dataclass(frozen=True)
class ModuleEvidence:
    """What was measured of one module over the questions of a kind, each about a fact of its own.

    `gaps` are clean minus corrupted, `changes` and `tokens_alone` what patches moved towards the clean run, in the
    metric's unit. `random` is the recovery in models with random weights, a value a model. The last two count
    questions: those whose prompt holds the answer, and those that score another phrase than the answer.
    """

    full_cut: bool
    facts: Sequence[str]
    gaps: Float[np.ndarray, " fact"]
    changes: Float[np.ndarray, " fact"]
    tokens_alone: Float[np.ndarray, " fact"]
    random: Float[np.ndarray, " model"]
    answers_in_prompt: int
    other_phrases: int


@dataclass(frozen=True)
class Weighed:
    """The word for one figure and every reason found; `recovery` has no floor, as published, `gap` is in its unit."""

    word: Word
    reasons: tuple[Reason, ...]
    recovery: Interval
    gap: Interval


REASONS = {
    "full-cut": (),
    "gap-under-floor": ("gap", "floor"),
    "gap-touches-zero": ("low", "high", "n"),
    "answer-in-prompt": ("count", "n"),
    "phrase-not-answer": ("count", "n"),
    "random-weights": ("highest", "models"),
    "tokens-alone": ("share",),
    "few-questions": ("n", "needed"),
    "beats-rivals": ("low", "highest", "share"),
}


def weigh(evidence: ModuleEvidence, *, floor: float, seed: int) -> Weighed:
    """The word for a module's recovery: what it is by construction, by division, by another cause, or by itself."""
    gap, recovery = _mean(evidence.gaps, evidence.facts, seed), _recovery(evidence, seed)
    if evidence.full_cut:
        # It gives 1 whatever the prompts and the gap: nothing else about the row matters.
        return Weighed("identity", (Reason("full-cut"),), recovery, gap)
    denominator, rivals = _denominator(gap, floor), _rivals(evidence, recovery)
    if denominator:
        return Weighed("no valid denominator", (*denominator, *rivals), recovery, gap)
    if rivals:
        return Weighed("rival explanation", tuple(rivals), recovery, gap)
    numbers = {"low": recovery.low, "highest": float(evidence.random.max()), "share": _alone(evidence)}
    return Weighed("supported", (Reason("beats-rivals", numbers),), recovery, gap)


def plain_recovery(changes: Float[np.ndarray, " fact"], gaps: Float[np.ndarray, " fact"]) -> float:
    """The mean change over the mean gap, as published: without a floor; NaN where the gaps add up to nothing."""
    return float(changes.sum() / gaps.sum()) if gaps.sum() else float("nan")


def pooled_recovery(changes: Float[np.ndarray, " fact"], gaps: Float[np.ndarray, " fact"]) -> float:
    """The share of the gaps, whatever their sign, that patches bring back; 0 where there is no gap at all.

    In a model that knows nothing gaps are tiny and of any sign: weighed by their size they make one steady share.
    """
    size = np.abs(gaps).sum()
    return float((changes * np.sign(gaps)).sum() / size) if size else 0.0


def _denominator(gap: Interval, floor: float) -> list[Reason]:
    if gap.estimate < floor:
        return [Reason("gap-under-floor", {"gap": gap.estimate, "floor": floor})]
    if gap.low <= 0:
        return [Reason("gap-touches-zero", {"low": gap.low, "high": gap.high, "n": gap.n})]
    return []


def _rivals(evidence: ModuleEvidence, recovery: Interval) -> list[Reason]:
    n, found = len(evidence.facts), []
    if evidence.answers_in_prompt:
        found.append(Reason("answer-in-prompt", {"count": evidence.answers_in_prompt, "n": n}))
    if evidence.other_phrases:
        found.append(Reason("phrase-not-answer", {"count": evidence.other_phrases, "n": n}))
    surely = recovery.low if np.isfinite(recovery.low) else recovery.estimate
    highest = float(evidence.random.max())
    if not surely > highest:
        found.append(Reason("random-weights", {"highest": highest, "models": len(evidence.random)}))
    if _alone(evidence) >= TOKENS_ALONE:
        found.append(Reason("tokens-alone", {"share": _alone(evidence)}))
    if n < FEWEST_FOR_INTERVAL:
        found.append(Reason("few-questions", {"n": n, "needed": FEWEST_FOR_INTERVAL}))
    return found


def _alone(evidence: ModuleEvidence) -> float:
    """The share of what the module brings back that it would bring with every token read by itself."""
    whole = float(evidence.changes.sum())
    return float(evidence.tokens_alone.sum()) / whole if whole else 0.0


def _mean(values: Float[np.ndarray, " fact"], facts: Sequence[str], seed: int) -> Interval:
    return cluster_bootstrap(values[:, None], np.ones(len(values)), facts, seed=seed).at(0)


def _recovery(evidence: ModuleEvidence, seed: int) -> Interval:
    """The mean change over the mean gap; an interval only where every gap is positive, for no other has a share."""
    gaps, changes, n = evidence.gaps, evidence.changes, len(evidence.facts)
    if (gaps > 0).all():
        return cluster_bootstrap(changes[:, None], gaps, evidence.facts, seed=seed).at(0)
    return Interval(plain_recovery(changes, gaps), float("nan"), float("nan"), n)
