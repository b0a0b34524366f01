"""Sets that really grow, on maps whose joint effects follow from their single effects by a stated law."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from patchlight.judge.evidence import Evidence
from patchlight.records import Site
from patchlight.trace.sufficient import NullEffects, find_sets

Together = tuple[Site, ...]
Combine = Callable[[np.ndarray], np.ndarray]


def up_to_all(shares: np.ndarray) -> np.ndarray:
    """Single shares `[pair, site]` add up, to no more than the whole gap."""
    return np.minimum(shares.sum(axis=1), 1.0)


@dataclass(frozen=True)
class ToyBench:
    """A bench on which the joint effect of a set follows from its single effects `[pair, layer, role]`."""

    direction: str
    gaps: np.ndarray
    maps: Mapping[str, np.ndarray]
    roles: tuple[str, ...]
    combine: Combine

    def effects(self, sets: Sequence[Together]) -> np.ndarray:
        return np.array([self._joint(sites) for sites in sets]).reshape(len(sets), len(self.gaps)).T

    def structural(self, sets: Sequence[Together]) -> np.ndarray:
        last = {Site("attn_out", layer, None, "last") for layer in range(self.maps["attn_out"].shape[1])}
        return np.array([last <= set(sites) for sites in sets], dtype=bool)

    def of(self, rows: np.ndarray) -> ToyBench:
        return replace(self, gaps=self.gaps[rows], maps={name: part[rows] for name, part in self.maps.items()})

    def _joint(self, sites: Together) -> np.ndarray:
        alone = [self._alone(site) / self.gaps for site in sites]
        return self.combine(np.stack(alone, axis=1)) * self.gaps if alone else np.zeros(len(self.gaps))

    def _alone(self, site: Site) -> np.ndarray:
        layers = [site.layer] if isinstance(site.layer, int) else list(site.layer)
        return self.maps[site.component][:, layers, self.roles.index(site.position)].sum(axis=1)


def with_sets(evidence: Evidence, recovery: Combine = up_to_all, damage: Combine = up_to_all) -> Evidence:
    """The same evidence with the sets that grow on its discovery facts, and all their nulls."""
    parts = evidence.components.items()

    def bench(direction: str, maps: Mapping[str, np.ndarray], combine: Combine) -> ToyBench:
        whole = {component: np.nan_to_num(effects) for component, effects in maps.items()}
        return ToyBench(direction, evidence.gaps, whole, evidence.roles, combine)

    every = {
        "denoise": bench("denoise", {component: part.recovery for component, part in parts}, recovery),
        "noise": bench("noise", {component: part.damage for component, part in parts}, damage),
    }
    first, discovery = next(iter(evidence.components.values())), ~evidence.held_out
    nulls: dict[str, NullEffects] = {}
    for name in first.nulls:
        donor = bench("denoise", {component: part.nulls[name] for component, part in parts}, recovery)
        nulls[name] = lambda chosen, donor=donor: (donor.effects(chosen), evidence.gaps)
    for name, model in first.models.items():
        of_model = {component: part.models[name].recovery for component, part in parts}
        other = replace(bench("denoise", of_model, recovery), gaps=model.gaps)
        nulls[name] = lambda chosen, other=other: (other.effects(chosen), other.gaps)
    lost: dict[str, NullEffects] = {}
    for name in first.damage_nulls:
        push = bench("noise", {component: part.damage_nulls[name] for component, part in parts}, damage)
        lost[name] = lambda chosen, push=push: (push.effects(chosen), evidence.gaps)
    sets = find_sets(
        {name: each.of(discovery) for name, each in every.items()},
        every,
        discovery,
        tuple(
            Site(component, layer, None, role)
            for component, part in parts
            for layer in range(len(part.structural))
            for role in evidence.roles
        ),
        shares=(0.8,),
        largest=20,
        nulls=nulls,
        damage_nulls=lost,
    )
    return replace(evidence, sets=sets)
