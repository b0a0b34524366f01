"""Maps whose truth is known, as a study would hand them to the judge."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import pytest

from patchlight.judge.evidence import ComponentMap, Evidence

LAYERS = 6
ROLES = ("subject_first", "subject_last", "relation", "last")


def true_map(truth: str) -> dict[str, np.ndarray]:
    """The share of the gap that each site `[layer, role]` carries."""
    maps = {"attn_out": np.zeros((LAYERS, 4)), "mlp_out": np.zeros((LAYERS, 4))}
    if truth == "localised":
        maps["mlp_out"][1, 1], maps["attn_out"][4, 3] = 0.85, 0.75
    if truth == "distributed":
        for effects in maps.values():
            effects[:, 1], effects[:, 3] = 0.09, 0.05
    if truth == "in between":
        maps["mlp_out"][1:4, 1], maps["attn_out"][3:5, 3] = 0.25, 0.3
    return maps


def simulated(
    truth: str,
    seed: int,
    facts: int = 40,
    templates: int = 2,
    noise: float = 0.02,
    control: float = 0.5,
    damage: float = 1.0,
    asked: int | None = None,
) -> Evidence:
    """Evidence with that truth: sites vary by fact, and a control donor gives back part of what the donor does."""
    random = np.random.default_rng(seed)
    pairs = facts * templates
    gaps = random.uniform(2, 5, pairs)

    def effects(shares: np.ndarray, scale: float, by_fact: np.ndarray) -> np.ndarray:
        disturbance = noise * random.normal(size=(facts, *shares.shape))
        by_pair = np.repeat(scale * shares * by_fact + disturbance, templates, axis=0)
        return by_pair * gaps[:, None, None] + 0.05 * random.normal(size=(pairs, *shares.shape))

    components = {}
    for name, shares in true_map(truth).items():
        by_fact = 1 + 0.25 * random.normal(size=(facts, *shares.shape))
        components[name] = ComponentMap(
            recovery=effects(shares, 1.0, by_fact),
            damage=effects(shares, damage, by_fact),
            structural=np.zeros(shares.shape, dtype=bool),
            nulls={"another-fact": effects(shares, control, by_fact)},
        )
    names = [f"fact-{i:03d}" for i in range(facts)]
    return Evidence(
        kind="definitional",
        roles=ROLES,
        components=components,
        gaps=gaps,
        facts=tuple(name for name in names for _ in range(templates)),
        templates=tuple(f"template-{i}" for _ in names for i in range(templates)),
        confirmation=split_facts(names, seed)[1],
        facts_asked=facts if asked is None else asked,
    )


@pytest.fixture
def simulate() -> Callable[..., Evidence]:
    return simulated


def split_facts(facts: Collection[str], seed: int, share: float = 0.5) -> tuple[frozenset[str], frozenset[str]]:
    """The facts for discovery and the facts for confirmation, `share` of them (rounded up) for discovery.

    Depends on the set of names and the seed alone. Split each kind by itself, before the first sweep.
    """
    names = sorted(set(facts))
    order = np.random.default_rng(seed).permutation(len(names))
    first = int(np.ceil(share * len(names)))
    return frozenset(names[i] for i in order[:first]), frozenset(names[i] for i in order[first:])
