"""The stability of the list that a verdict rests on, over facts, splits, wordings and the chance within the tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from patchlight.judge.evidence import Evidence, RankedMap, discovered
from patchlight.verify.stability import Stability, stability, varied

OTHER_SEEDS = 4  # of the permutation test; each costs one test over the map, a second or two on a large one


def list_stability(ranked: RankedMap, evidence: Evidence, confirmed: int, seed: int) -> Stability | None:
    """How stable the list of as many strongest sites as were confirmed is; None where none was.

    Beside the sources of `verify.stability` there is `tests`: the permutation test of the discovery facts, drawn with
    other seeds. Other partners and another training need new runs: `patchlight replicate --seeds`.
    """
    if not confirmed:
        return None
    found = stability(ranked.contrast, evidence.facts, evidence.templates, ranked.sites, confirmed, seed=seed)
    original, *others = (discovered(ranked, evidence, seed + number) for number in range(OTHER_SEEDS + 1))
    return replace(found, variations=(*found.variations, varied("tests", np.array(others), original, ranked.sites)))
