"""What held when a study was run again: on other models, with other packs, from other seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

import numpy as np
from scipy import stats

from patchlight.judge.reasons import Reason
from patchlight.judge.verdict import Grade, Word
from patchlight.records import Interval, Site

QUARTERS = 4  # of a model's depth, so that models of different depth can be compared
MODELS_TO_REPLICATE = 2
STATED: tuple[Word, ...] = ("localised", "distributed")
Held = Literal["replicated", "not replicated", "contradicted", "nothing to compare"]


@dataclass(frozen=True, order=True)
class Region:
    """A place that models of different depth share: a component, a role, and a quarter of the depth (from 1)."""

    component: str
    role: str
    quarter: int


@dataclass(frozen=True)
class Outcome:
    """One kind of knowledge in one model of one run.

    `origin` is the same for models that are not independent (one fine-tuned from the other, or loaded again). `regions`
    hold the confirmed sites; `effects` are sums of the recovery of single sites over a region.
    """

    run: str
    varied: str  # study, model, pack, seed
    model: str
    checkpoint: str
    origin: str
    pack: str
    seed: int
    kind: str
    word: Word
    grade: Grade
    facts: int
    reasons: tuple[Reason, ...] = ()
    regions: frozenset[Region] = frozenset()
    effects: Mapping[Region, Interval] = field(default_factory=dict)

    @property
    def can_answer(self) -> bool:
        """False where the model has no knowledge to localise: such a model counts neither for nor against."""
        return self.word != "no knowledge to localise"


@dataclass(frozen=True)
class Pooled:
    """The random-effects mean over models with its interval, and how far the models differ (I2, tau2, p of Q)."""

    mean: Interval
    i2: float
    tau2: float
    p: float


@dataclass(frozen=True)
class Replicated:
    """What came of one kind of knowledge: the answer, the independent models behind it, and the regions they share."""

    kind: str
    held: Held
    word: Word | None
    models: tuple[str, ...]
    able: int  # independent models that can answer
    regions: tuple[Region, ...]


def region_of(site: Site, layers: int) -> Region:
    """The region of a site in a model of that many layers."""
    if not isinstance(site.layer, int):
        raise ValueError(f"{site} is not a site of one layer")
    return Region(site.component, str(site.position), 1 + site.layer * QUARTERS // layers)


def replicated(kind: str, outcomes: Sequence[Outcome]) -> Replicated:
    """Whether the same statement, at the same regions, was made in two independent models or more.

    "Contradicted" says that independent models came to opposite statements. What is undetermined does not hold; a model
    that cannot answer is not counted.
    """
    able = [each for each in outcomes if each.kind == kind and each.can_answer]
    origins = {each.origin for each in able}
    stated = {word: [each for each in able if each.word == word] for word in STATED}
    if all(stated.values()) and len({each.origin for each in able if each.word in STATED}) > 1:
        return Replicated(kind, "contradicted", None, (), len(origins), ())
    word, found = max(stated.items(), key=lambda each: len({one.origin for one in each[1]}))
    shared = _shared(found)
    models = _one_of_each(each for each in found if word == "distributed" or each.regions & set(shared))
    names = tuple(each.model for each in models)
    if len(models) >= MODELS_TO_REPLICATE:
        return Replicated(kind, "replicated", word, names, len(origins), shared)
    held: Held = "not replicated" if len(origins) >= MODELS_TO_REPLICATE else "nothing to compare"
    return Replicated(kind, held, word if found else None, tuple(each.model for each in _one_of_each(found)),
                      len(origins), ())  # fmt: skip


def grade_of(outcome: Outcome, answer: Replicated) -> Grade:
    """The grade of an outcome beside its replications: C becomes B where the statement was replicated."""
    agrees = answer.held == "replicated" and outcome.word == answer.word
    shares = answer.word == "distributed" or bool(outcome.regions & set(answer.regions))
    return "B" if outcome.grade == "C" and agrees and shares else outcome.grade


def overlap(one: Outcome, other: Outcome) -> tuple[float, float]:
    """The Jaccard overlap of two lists of regions, and what lists of these lengths share by chance; NaN for no list."""
    either = one.regions | other.regions
    if not either:
        return math.nan, math.nan
    everywhere = len(set(one.effects) | set(other.effects) | either)
    first, second = len(one.regions), len(other.regions)
    common = np.arange(min(first, second) + 1)
    chance = stats.hypergeom.pmf(common, everywhere, first, second)
    expected = float((chance * common / (first + second - common)).sum())
    return len(one.regions & other.regions) / len(either), expected


def pooled(effects: Sequence[Interval]) -> Pooled | None:
    """The random-effects mean of the models' effects (DerSimonian & Laird 1986); None for fewer than two of them.

    Each variance is read from the model's interval. The models were asked about the same facts: the mean speaks of
    other models, not of other facts.
    """
    from statsmodels.stats.meta_analysis import combine_effects

    usable = [each for each in effects if each.n > 1 and each.high > each.low]  # false for NaN, too
    if len(usable) < MODELS_TO_REPLICATE:
        return None
    errors = [(one.high - one.low) / 2 / stats.t.ppf((1 + one.confidence) / 2, one.n - 1) for one in usable]
    found = combine_effects(np.array([one.estimate for one in usable]), np.square(errors), method_re="dl")
    mean, reach = float(found.mean_effect_re), float(stats.norm.ppf(0.975) * found.sd_eff_w_re)
    interval = Interval(mean, mean - reach, mean + reach, len(usable), method="DerSimonian-Laird over models")
    p = float(stats.chi2.sf(found.q, len(usable) - 1))
    return Pooled(interval, max(0.0, float(found.i2)), max(0.0, float(found.tau2)), p)


def independent(kind: str, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """One outcome of each independent model that can answer."""
    return _one_of_each(each for each in outcomes if each.kind == kind and each.can_answer)


def _one_of_each(outcomes: Iterable[Outcome]) -> list[Outcome]:
    first: dict[str, Outcome] = {}
    for each in outcomes:
        first.setdefault(each.origin, each)
    return list(first.values())


def _shared(outcomes: Sequence[Outcome]) -> tuple[Region, ...]:
    """The regions that hold a confirmed site in two independent models or more."""
    pairs = combinations(outcomes, 2)
    return tuple(sorted({one for a, b in pairs if a.origin != b.origin for one in a.regions & b.regions}))
