"""The verdict on maps of activations of a model whose truth is known, by the same rule and sets as in a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from patchlight.judge.evidence import ComponentMap, Evidence, ModelNull
from patchlight.judge.thresholds import THRESHOLDS
from patchlight.judge.verdict import Reason, Verdict, judge
from patchlight.pairs.align import ROLES, align
from patchlight.pairs.screen import known_facts, screen
from patchlight.records import Pair
from patchlight.study.sets import SetBenches, found_sets
from patchlight.study.sweeping import Sets
from patchlight.study.view import CONTRIBUTIONS
from patchlight.trace.sweep import MEMORY

if TYPE_CHECKING:
    from jaxtyping import Float

    from patchlight.model.anatomy import Model

SETS = Sets()  # as in a study that says nothing else
METRIC = "logit_diff"


def verdict_on_maps(model: Model, random: Model, pairs: Sequence[Pair], seed: int) -> Verdict:
    """The verdict on the pairs' one kind of knowledge in maps of the attention and MLP outputs.

    `random` is the same architecture with random weights; pairs name their halves. The gate of every study comes first:
    is there a gap over all facts?
    """
    screened = screen(model, pairs)
    (kind,) = screened.knowledge.values()
    if kind.gap is None or kind.gap.low <= 0:
        return Verdict(kind.kind, "no knowledge to localise", "D", (Reason("gap-unclear", {"known": len(kind.known)}),))
    known = known_facts(screened)
    if len(known) < THRESHOLDS.known_facts:
        numbers = {"known": len(known), "asked": kind.asked, "needed": THRESHOLDS.known_facts}
        return Verdict(kind.kind, "no knowledge to localise", "D", (Reason("knows-too-few", numbers),))
    kept = [pair for pair in screened.kept if pair.fact in known]
    benches = SetBenches(model, random, kept, CONTRIBUTIONS, METRIC, MEMORY, seed)
    return judge(_evidence(benches, kept, len({pair.fact for pair in pairs})), seed=seed)


def _evidence(benches: SetBenches, pairs: Sequence[Pair], asked: int) -> Evidence:
    in_discovery = np.array([pair.half == "discovery" for pair in pairs], dtype=bool)
    aligned = [align(benches.model.tokenizer, pair).roles for pair in pairs]
    roles = tuple(role for role in ROLES if any(role in each for each in aligned))
    return Evidence(
        kind=pairs[0].kind,
        roles=roles,
        components=_maps(benches, aligned, roles),
        gaps=benches.every["denoise"].gaps,
        facts=tuple(pair.fact for pair in pairs),
        templates=tuple(pair.template for pair in pairs),
        confirmation=frozenset(pair.fact for pair in pairs if pair.half == "confirmation"),
        facts_asked=asked,
        partners=tuple(pair.partner for pair in pairs),
        sets=found_sets(benches, in_discovery, SETS) if len({*in_discovery}) > 1 else None,
    )


def _maps(benches: SetBenches, aligned: Sequence[Sequence[str]], roles: Sequence[str]) -> dict[str, ComponentMap]:
    """The maps of single sites and their nulls, all tokens of a role together.

    NaN where a pair lacks the role, nought before the words that differ.
    """
    layers = benches.model.n_layers
    lacking = np.array([[role not in each for role in roles] for each in aligned])[:, None, :]

    def of(component: str) -> ComponentMap:
        sites = [site for site in benches.sites() if site.component == component]
        chosen = [(site,) for site in sites]
        at = np.array([(site.layer, roles.index(str(site.position))) for site in sites]).T

        def shaped(effects: Float[np.ndarray, "pair site"]) -> Float[np.ndarray, "pair layer role"]:
            whole = np.zeros((len(aligned), layers, len(roles)))
            whole[:, at[0], at[1]] = effects
            return np.where(lacking, np.nan, whole)

        structural = np.zeros((layers, len(roles)), dtype=bool)
        structural[at[0], at[1]] = benches.every["denoise"].structural(chosen)
        found, lost = (
            {name: null(chosen) for name, null in each.items()} for each in (benches.nulls, benches.damage_nulls)
        )
        (recovery, gaps), (damage, _) = found.pop("random-init"), lost.pop("random-init")
        return ComponentMap(
            shaped(benches.every["denoise"].effects(chosen)),
            shaped(benches.every["noise"].effects(chosen)),
            structural,
            {name: shaped(effects) for name, (effects, _) in found.items()},
            {name: shaped(effects) for name, (effects, _) in lost.items()},
            {"random-init": ModelNull(shaped(recovery), shaped(damage), gaps)},
        )

    return {component: of(component) for component in CONTRIBUTIONS}
