"""Sets that really grow, on maps whose joint effects follow from their single effects by a stated law."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from patchlight.judge.evidence import Evidence
from patchlight.records import Site
from patchlight.trace.sufficient import find_sets

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
    """The same evidence with the sets that grow on its discovery facts, and another fact's donor as their null."""
    parts = evidence.components.items()

    def bench(direction: str, name: str, combine: Combine) -> ToyBench:
        maps = {
            component: np.nan_to_num(part.nulls[name] if name in part.nulls else getattr(part, name))
            for component, part in parts
        }
        return ToyBench(direction, evidence.gaps, maps, evidence.roles, combine)

    every = {"denoise": bench("denoise", "recovery", recovery), "noise": bench("noise", "damage", damage)}
    null, discovery = bench("denoise", "another-fact", recovery), ~evidence.held_out
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
        nulls={"another-fact": lambda chosen: (null.effects(chosen), evidence.gaps)},
    )
    return replace(evidence, sets=sets)
