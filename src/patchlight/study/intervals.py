"""Intervals over the facts of a stored unit, with a study's settings."""

from __future__ import annotations

import numpy as np

from patchlight.judge.statistics import IntervalMap, cluster_bootstrap
from patchlight.store.results import Artifact
from patchlight.study.spec import Study
from patchlight.study.stages import seed_of


def unit_intervals(study: Study, kind: str, effects: np.ndarray, artifact: Artifact, *, use: str) -> IntervalMap:
    """Shares of the gap of `effects[pair, ...]`; the unit holds `gaps`, and the facts and partners of its pairs."""
    statistics = study.spec.statistics
    return cluster_bootstrap(
        effects,
        artifact.tensors("effects")["gaps"],
        artifact.meta["facts"],
        seed=seed_of(study, use, kind),
        resamples=statistics.resamples,
        confidence=statistics.confidence,
        partners=artifact.meta["partners"],
    )
