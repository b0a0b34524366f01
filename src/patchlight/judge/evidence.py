"""What a verdict is made from: the maps of one kind of knowledge, and the sites that its facts name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from patchlight.errors import InputError
from patchlight.judge.significance import SignFlip, sign_flip
from patchlight.judge.statistics import IntervalMap, cluster_bootstrap, fact_means
from patchlight.records import MODEL_NULLS, Interval, Site
from patchlight.trace.sufficient import SetEvidence

LEVEL = 0.05  # family-wise, over the map in discovery and over the list in confirmation
FACTS_IN_EACH_HALF = 8  # with fewer, even all facts agreeing gives p > 0.015 in one cell and nothing in a map
STILL = 1e-3  # in the metric's unit; of logits, twenty times what float32 may differ by when nothing was changed


@dataclass(frozen=True)
class ModelNull:
    """The same pairs in a model without the knowledge: effects, and the positive gaps that they are shares of."""

    recovery: Float[np.ndarray, "pair ..."]
    damage: Float[np.ndarray, "pair ..."]
    gaps: Float[np.ndarray, " pair"]


@dataclass(frozen=True)
class ComponentMap:
    """The effects of one component's sites in the metric's unit, NaN where a pair lacks the role.

    `recovery` is patched - corrupted (clean into corrupted), `damage` is clean - patched (corrupted into
    clean). `nulls` are as `recovery` and `damage_nulls` as `damage`, with donors that cannot bring the answer,
    by name; NaN for pairs without such a donor. `models` are the null maps of other models. `structural` marks
    the sites that restore everything by construction.
    """

    recovery: Float[np.ndarray, "pair layer role"]
    damage: Float[np.ndarray, "pair layer role"]
    structural: Bool[np.ndarray, "layer role"]
    nulls: Mapping[str, Float[np.ndarray, "pair layer role"]] = field(default_factory=dict)
    damage_nulls: Mapping[str, Float[np.ndarray, "pair layer role"]] = field(default_factory=dict)
    models: Mapping[str, ModelNull] = field(default_factory=dict)

    @property
    def maps(self) -> list[Float[np.ndarray, "pair layer role"]]:
        """Every map there is, those of the nulls among them."""
        of_models = [effects for null in self.models.values() for effects in (null.recovery, null.damage)]
        return [self.recovery, self.damage, *self.nulls.values(), *self.damage_nulls.values(), *of_models]


@dataclass(frozen=True)
class Evidence:
    """Everything that the verdict on one kind of knowledge is made from; rows are pairs past the screen.

    `components` are judged as one map: give contributions (`attn_out`, `mlp_out`), not the residual stream
    that carries them. `confirmation` names the facts held out before the first sweep, the others are for
    discovery, and `partners` the fact that each pair leans on beside its own. `facts_asked` counts the facts for which
    a pair could be built, answered right or not. Every component has the same nulls; `nulls_missing` names those that
    would apply and were not made.
    `sets` are what several sites do together, None where it was not measured.
    """

    kind: str
    roles: tuple[str, ...]
    components: Mapping[str, ComponentMap]
    gaps: Float[np.ndarray, " pair"]
    facts: tuple[str, ...]
    templates: tuple[str, ...]
    confirmation: frozenset[str]
    facts_asked: int
    nulls_missing: tuple[str, ...] = ()
    partners: tuple[str, ...] = ()
    sets: SetEvidence | None = None

    def __post_init__(self) -> None:
        pairs, roles = len(self.facts), len(self.roles)
        if not pairs == len(self.gaps) == len(self.templates):
            raise InputError("judge-rows-differ", f"{self.kind}: facts, gaps and templates must be one a pair")
        for name, part in self.components.items():
            shape = (pairs, len(part.structural), roles)
            if any(effects.shape != shape for effects in part.maps):
                raise InputError("judge-map-shape", f"{self.kind}, {name}: every map must be {shape}")
        for name in ("nulls", "damage_nulls", "models"):
            if len({frozenset(getattr(part, name)) for part in self.components.values()}) > 1:
                raise InputError("judge-nulls-differ", f"{self.kind}: every component must have the same {name}")

    @property
    def held_out(self) -> Bool[np.ndarray, " pair"]:
        """Which pairs ask about a confirmation fact."""
        return np.array([fact in self.confirmation for fact in self.facts], dtype=bool)

    def partners_of(self, rows: Bool[np.ndarray, " pair"]) -> tuple[str, ...]:
        """The partners of some of the pairs; empty where none are named."""
        return tuple(partner for partner, row in zip(self.partners, rows, strict=False) if row)


@dataclass(frozen=True)
class Candidate:
    """A site found on the discovery facts, and what the confirmation facts say of it.

    `p` is family-wise over the map (discovery), `p_confirmed` is Holm-adjusted over the candidates
    (confirmation), 1 where a null gives back more; both test recovery against every donor null and are the largest
    of these tests. The intervals are shares of the gap on the confirmation facts, those of the nulls by name.
    """

    site: Site
    p: float
    p_confirmed: float
    recovery: Interval
    damage: Interval
    nulls: Mapping[str, Interval]
    damage_nulls: Mapping[str, Interval] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        """True where the held-out facts agree that the site gives back more than any other donor does."""
        return self.p_confirmed <= LEVEL

    @property
    def confirmed(self) -> bool:
        """True where it held, and no model without the knowledge gives back as much."""
        models = [interval for name, interval in self.nulls.items() if name in MODEL_NULLS]
        return self.held and all(self.recovery.low > null.high for null in models)

    @property
    def largest_null(self) -> tuple[str, Interval]:
        """The null that reaches highest in recovery, and its name."""
        return max(self.nulls.items(), key=lambda null: null[1].high)

    @property
    def touches(self) -> tuple[str, Interval] | None:
        """The null that the recovery's interval does not lie above, the highest one; None where it is above all."""
        return _touching(self.recovery, self.nulls)

    @property
    def damage_touches(self) -> tuple[str, Interval] | None:
        """As `touches`, of the damage."""
        return _touching(self.damage, self.damage_nulls)


def _touching(interval: Interval, nulls: Mapping[str, Interval]) -> tuple[str, Interval] | None:
    near = [null for null in nulls.items() if not interval.low > null[1].high]
    return max(near, key=lambda null: null[1].high, default=None)


@dataclass(frozen=True)
class RankedMap:
    """The sites that may be ranked, side by side: effects `[pair, cell]` and the site of each cell."""

    recovery: Float[np.ndarray, "pair cell"]
    damage: Float[np.ndarray, "pair cell"]
    nulls: Mapping[str, Float[np.ndarray, "pair cell"]]
    damage_nulls: Mapping[str, Float[np.ndarray, "pair cell"]]
    models: Mapping[str, ModelNull]
    sites: tuple[Site, ...]
    structural: int = 0
    too_few_facts: int = 0

    @property
    def contrasts(self) -> Float[np.ndarray, "pair null cell"]:
        """What the donor gives beyond each donor that cannot bring the answer."""
        return np.stack([self.recovery - null for null in self.nulls.values()], axis=1)

    @property
    def contrast(self) -> Float[np.ndarray, "pair cell"]:
        """What the donor gives beyond the null that gives back most in that cell."""
        contrasts = self.contrasts
        closest = np.nanmean(contrasts, axis=0).argmin(axis=0)
        return np.asarray(contrasts[:, closest, np.arange(contrasts.shape[2])])

    def take(self, cells: Bool[np.ndarray, " cell"] | Int[np.ndarray, " some"]) -> RankedMap:
        """Some of the cells."""
        return replace(
            self,
            recovery=self.recovery[:, cells],
            damage=self.damage[:, cells],
            nulls={name: null[:, cells] for name, null in self.nulls.items()},
            damage_nulls={name: null[:, cells] for name, null in self.damage_nulls.items()},
            models={
                name: ModelNull(null.recovery[:, cells], null.damage[:, cells], null.gaps)
                for name, null in self.models.items()
            },
            sites=tuple(np.array(self.sites, dtype=object)[cells]),
        )


def ranked_map(evidence: Evidence) -> RankedMap:
    """The sites of all components that are not structural, can have an effect, and have enough facts.

    A site where nothing ever changes (before the words that differ) is not ranked. Needs a donor null in every
    component, and enough facts (with a donor) in both halves.
    """
    every = _side_by_side(evidence)
    structural = np.concatenate([part.structural.ravel() for part in evidence.components.values()])
    still = np.abs(np.nan_to_num(every.recovery)).max(axis=0) <= STILL
    few = _facts_in_smaller_half(every.contrasts, evidence).min(axis=0) < FACTS_IN_EACH_HALF
    return replace(
        every.take(~(structural | still | few)),
        structural=int(structural.sum()),
        too_few_facts=int((few & ~structural & ~still).sum()),
    )


def _side_by_side(evidence: Evidence) -> RankedMap:
    """All sites of all components."""
    parts = list(evidence.components.values())

    def joined(maps: Iterable[np.ndarray]) -> Float[np.ndarray, "pair cell"]:
        return np.concatenate([np.asarray(effects).reshape(len(evidence.facts), -1) for effects in maps], axis=1)

    return RankedMap(
        joined(part.recovery for part in parts),
        joined(part.damage for part in parts),
        {name: joined(part.nulls[name] for part in parts) for name in parts[0].nulls},
        {name: joined(part.damage_nulls[name] for part in parts) for name in parts[0].damage_nulls},
        {
            name: ModelNull(
                joined(part.models[name].recovery for part in parts),
                joined(part.models[name].damage for part in parts),
                null.gaps,
            )
            for name, null in parts[0].models.items()
        },
        tuple(
            Site(component, layer, None, role)
            for component, part in evidence.components.items()
            for layer in range(part.structural.shape[0])
            for role in evidence.roles
        ),
    )


def find_candidates(ranked: RankedMap, evidence: Evidence, seed: int) -> tuple[Candidate, ...]:
    """The sites whose recovery beats every donor null on the discovery facts, strongest first, then tried.

    The family of the corrected tests is every cell against every null; of a cell's tests the largest p counts.
    """
    held_out, contrasts = evidence.held_out, ranked.contrasts
    p, strength = _discovery(ranked, evidence, seed)
    found = np.flatnonzero((p <= LEVEL) & (strength > 0))
    found = found[np.argsort(-strength[found], kind="stable")]
    if not len(found):
        return ()
    confirmation = _test(contrasts[:, :, found], evidence, held_out, seed)
    adjusted = _holm(np.where(confirmation.statistic > 0, confirmation.p_single, 1.0).max(axis=0))
    return _with_intervals(ranked.take(found), evidence, p[found], adjusted, seed)


def discovered(ranked: RankedMap, evidence: Evidence, seed: int) -> Bool[np.ndarray, " cell"]:
    """Which cells the discovery facts name, before they are tried on those held out."""
    p, strength = _discovery(ranked, evidence, seed)
    return np.asarray((p <= LEVEL) & (strength > 0))


def _discovery(ranked: RankedMap, evidence: Evidence, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each cell the largest corrected p over the nulls, and the smallest mean effect beyond one."""
    rows, contrasts = ~evidence.held_out, ranked.contrasts
    strength = np.nanmean(fact_means(contrasts[rows], _facts(evidence, rows)), axis=0).min(axis=0)
    return _test(contrasts, evidence, rows, seed).p.max(axis=0), strength


def _with_intervals(
    found: RankedMap, evidence: Evidence, p: np.ndarray, p_confirmed: np.ndarray, seed: int
) -> tuple[Candidate, ...]:
    """Candidates in the order of these cells, with the shares that the confirmation facts give each."""
    held_out = evidence.held_out
    facts, partners = _facts(evidence, held_out), evidence.partners_of(held_out)

    def share(effects: np.ndarray, gaps: np.ndarray = evidence.gaps) -> IntervalMap:
        return cluster_bootstrap(effects[held_out], gaps[held_out], facts, partners=partners, seed=seed)

    recovery, damage = share(found.recovery), share(found.damage)
    nulls = {name: share(null) for name, null in found.nulls.items()}
    nulls |= {name: share(null.recovery, null.gaps) for name, null in found.models.items()}
    damage_nulls = {name: share(null) for name, null in found.damage_nulls.items()}
    damage_nulls |= {name: share(null.damage, null.gaps) for name, null in found.models.items()}
    return tuple(
        Candidate(
            site,
            float(p[i]),
            float(p_confirmed[i]),
            recovery.at(i),
            damage.at(i),
            {name: null.at(i) for name, null in nulls.items()},
            {name: null.at(i) for name, null in damage_nulls.items()},
        )
        for i, site in enumerate(found.sites)
    )


def _test(contrast: np.ndarray, evidence: Evidence, rows: np.ndarray, seed: int) -> SignFlip:
    return sign_flip(contrast[rows], _facts(evidence, rows), partners=evidence.partners_of(rows), seed=seed)


def _facts(evidence: Evidence, rows: np.ndarray) -> Sequence[str]:
    return [fact for fact, row in zip(evidence.facts, rows, strict=True) if row]


def _holm(p: Float[np.ndarray, " candidate"]) -> Float[np.ndarray, " candidate"]:
    from statsmodels.stats.multitest import multipletests  # imports pandas and patsy: seconds

    return np.asarray(multipletests(p, alpha=LEVEL, method="holm")[1])


def _facts_in_smaller_half(effects: np.ndarray, evidence: Evidence) -> np.ndarray:
    counts = [
        np.isfinite(fact_means(effects[rows], _facts(evidence, rows))).sum(axis=0)
        for rows in (evidence.held_out, ~evidence.held_out)
    ]
    return np.asarray(np.minimum(*counts))
