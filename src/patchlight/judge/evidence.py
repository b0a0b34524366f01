"""What a verdict is made from: the maps of one kind of knowledge, and the sites that its facts name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from patchlight.errors import InputError
from patchlight.judge.significance import SignFlip, sign_flip
from patchlight.judge.statistics import cluster_bootstrap, fact_means
from patchlight.records import Interval, Site

LEVEL = 0.05  # family-wise, over the map in discovery and over the list in confirmation
FACTS_IN_EACH_HALF = 8  # with fewer, even all facts agreeing gives p > 0.015 in one cell and nothing in a map
STILL = 1e-3  # in the metric's unit; of logits, twenty times what float32 may differ by when nothing was changed


@dataclass(frozen=True)
class ComponentMap:
    """The effects of one component's sites in the metric's unit, NaN where a pair lacks the role.

    `recovery` is patched - corrupted (clean into corrupted), `damage` is clean - patched (corrupted into
    clean), `control` is as `recovery` with a donor from another fact, NaN for pairs without such a donor.
    `structural` marks the sites that restore everything by construction.
    """

    recovery: Float[np.ndarray, "pair layer role"]
    damage: Float[np.ndarray, "pair layer role"]
    control: Float[np.ndarray, "pair layer role"] | None
    structural: Bool[np.ndarray, "layer role"]


@dataclass(frozen=True)
class Evidence:
    """Everything that the verdict on one kind of knowledge is made from; rows are pairs past the screen.

    `components` are judged as one map: give contributions (`attn_out`, `mlp_out`), not the residual stream
    that carries them. `confirmation` names the facts held out before the first sweep, the others are for
    discovery. `facts_asked` counts the facts for which a pair could be built, answered right or not.
    """

    kind: str
    roles: tuple[str, ...]
    components: Mapping[str, ComponentMap]
    gaps: Float[np.ndarray, " pair"]
    facts: tuple[str, ...]
    templates: tuple[str, ...]
    confirmation: frozenset[str]
    facts_asked: int

    def __post_init__(self) -> None:
        pairs, roles = len(self.facts), len(self.roles)
        if not pairs == len(self.gaps) == len(self.templates):
            raise InputError("judge-rows-differ", f"{self.kind}: facts, gaps and templates must be one a pair")
        for name, part in self.components.items():
            shape = (pairs, len(part.structural), roles)
            maps = (part.recovery, part.damage, part.control)
            if any(effects is not None and effects.shape != shape for effects in maps):
                raise InputError("judge-map-shape", f"{self.kind}, {name}: every map must be {shape}")

    @property
    def held_out(self) -> Bool[np.ndarray, " pair"]:
        """Which pairs ask about a confirmation fact."""
        return np.array([fact in self.confirmation for fact in self.facts], dtype=bool)


@dataclass(frozen=True)
class Candidate:
    """A site found on the discovery facts, and what the confirmation facts say of it.

    `p` is family-wise over the map (discovery), `p_confirmed` is Holm-adjusted over the candidates
    (confirmation), 1 where the control gives back more; both test recovery against the control. The intervals
    are shares of the gap on the confirmation facts.
    """

    site: Site
    p: float
    p_confirmed: float
    recovery: Interval
    damage: Interval
    control: Interval

    @property
    def confirmed(self) -> bool:
        """True where the held-out facts agree that the site gives back more than the control does."""
        return self.p_confirmed <= LEVEL


@dataclass(frozen=True)
class RankedMap:
    """The sites that may be ranked, side by side: effects `[pair, cell]` and the site of each cell."""

    recovery: Float[np.ndarray, "pair cell"]
    damage: Float[np.ndarray, "pair cell"]
    control: Float[np.ndarray, "pair cell"]
    sites: tuple[Site, ...]
    structural: int
    too_few_facts: int

    @property
    def contrast(self) -> Float[np.ndarray, "pair cell"]:
        """What the donor gives beyond a donor from another fact."""
        return np.asarray(self.recovery - self.control)


def ranked_map(evidence: Evidence) -> RankedMap:
    """The sites of all components that are not structural, can have an effect, and have enough facts.

    A site where nothing ever changes (before the words that differ) is not ranked. Needs a control in every
    component, and enough facts (with a control) in both halves.
    """
    sites = np.array(
        [
            Site(component, layer, None, role)
            for component, part in evidence.components.items()
            for layer in range(part.structural.shape[0])
            for role in evidence.roles
        ],
        dtype=object,
    )
    parts = evidence.components.values()
    recovery, damage, control = (
        np.concatenate([np.asarray(effects).reshape(len(evidence.facts), -1) for effects in kind], axis=1)
        for kind in zip(*((part.recovery, part.damage, part.control) for part in parts), strict=True)
    )
    structural = np.concatenate([part.structural.ravel() for part in parts])
    still = np.abs(np.nan_to_num(recovery)).max(axis=0) <= STILL
    few = _facts_in_smaller_half(recovery - control, evidence) < FACTS_IN_EACH_HALF
    ranked = ~(structural | still | few)
    return RankedMap(
        recovery[:, ranked],
        damage[:, ranked],
        control[:, ranked],
        tuple(sites[ranked]),
        structural=int(structural.sum()),
        too_few_facts=int((few & ~structural & ~still).sum()),
    )


def find_candidates(ranked: RankedMap, evidence: Evidence, seed: int) -> tuple[Candidate, ...]:
    """The sites whose recovery beats the control on the discovery facts, strongest first, then tried."""
    held_out = evidence.held_out
    discovery = _test(ranked.contrast, evidence, ~held_out, seed)
    strength = np.nanmean(fact_means(ranked.contrast[~held_out], _facts(evidence, ~held_out)), axis=0)
    found = np.flatnonzero((discovery.p <= LEVEL) & (strength > 0))
    found = found[np.argsort(-strength[found], kind="stable")]
    if not len(found):
        return ()
    confirmation = _test(ranked.contrast[:, found], evidence, held_out, seed)
    adjusted = _holm(np.where(confirmation.statistic > 0, confirmation.p_single, 1.0))
    gaps, facts = evidence.gaps[held_out], _facts(evidence, held_out)
    recovery, damage, control = (
        cluster_bootstrap(effects[held_out][:, found], gaps, facts, seed=seed)
        for effects in (ranked.recovery, ranked.damage, ranked.control)
    )
    return tuple(
        Candidate(
            ranked.sites[cell],
            float(discovery.p[cell]),
            float(adjusted[i]),
            recovery.at(i),
            damage.at(i),
            control.at(i),
        )
        for i, cell in enumerate(found)
    )


def _test(contrast: np.ndarray, evidence: Evidence, rows: np.ndarray, seed: int) -> SignFlip:
    return sign_flip(contrast[rows], _facts(evidence, rows), seed=seed)


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
