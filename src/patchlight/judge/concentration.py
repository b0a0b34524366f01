"""How concentrated the effects of single sites are and where in the depth they lie, beside the same on a null map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from patchlight.judge import indices
from patchlight.judge.evidence import Evidence, ranked_map
from patchlight.judge.reasons import lacking
from patchlight.judge.thresholds import THRESHOLDS
from patchlight.records import Interval

RESAMPLES = 2000  # intervals of indices describe and decide nothing


@dataclass(frozen=True)
class IndexRow:
    """One index of what brings the answer back ("positive") or of what suppresses it ("negative").

    `recovery` and `damage` are of the maps, `null` of the recovery's null map; None where an effect has no such part.
    """

    name: str
    sign: str
    recovery: Interval | None
    damage: Interval | None
    null: Interval | None


def concentration_of(evidence: Evidence, seed: int) -> tuple[IndexRow, ...]:
    """Every index of a kind's ranked sites, positive and negative parts apart, with intervals over facts.

    Noise alone looks spread: an index says something only beside that of its null map.
    """
    if lacking(evidence, THRESHOLDS) is not None:
        return ()
    ranked = ranked_map(evidence)
    depth = np.array([float(site.layer) if isinstance(site.layer, int) else 0.0 for site in ranked.sites])
    return tuple(
        IndexRow(
            name,
            word,
            *(
                _interval(index, sign * np.nan_to_num(effects), evidence, seed)
                for effects in (ranked.recovery, ranked.damage, ranked.recovery - ranked.contrast)
            ),
        )
        for word, sign in (("positive", 1.0), ("negative", -1.0))
        for name, index in _indices(depth).items()
    )


def _indices(depth: Float[np.ndarray, " cell"]) -> Mapping[str, Callable[[np.ndarray], np.ndarray]]:
    return {
        "share": indices.cells_for_share,
        "participation": indices.participation_ratio,
        "gini": indices.gini,
        "entropy": indices.normalised_entropy,
        "centre": lambda effects: indices.centre(effects, depth),
        "width": lambda effects: indices.width(effects, depth),
    }


def _interval(
    index: Callable[[np.ndarray], np.ndarray], effects: np.ndarray, evidence: Evidence, seed: int
) -> Interval | None:
    if not (effects > 0).any():
        return None
    found = indices.index_interval(
        index, effects, evidence.facts, partners=evidence.partners, seed=seed, resamples=RESAMPLES
    )
    return found if np.isfinite([found.estimate, found.low, found.high]).all() else None
