"""The shares of the gap that a patch brings back or takes away; the metrics themselves are in `pairs.answers`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from patchlight.pairs.answers import METRICS, measure

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["FLOOR", "FLOORS", "damage", "mean_of_ratios", "measure", "ratio_of_means", "recovery"]

FLOORS = {name: metric.floor for name, metric in METRICS.items()}  # below it a gap is noise, its shares not defined
FLOOR = FLOORS["logit_diff"]


def recovery(
    value: Float[np.ndarray, "pair ..."],
    clean: Float[np.ndarray, "pair"],
    corrupted: Float[np.ndarray, "pair"],
    floor: float = FLOOR,
) -> Float[np.ndarray, "pair ..."]:
    """The share of the gap that each denoising patch brings back; NaN where the gap is under `floor`."""
    return _share(value - _beside(corrupted, value), clean - corrupted, floor)


def damage(
    value: Float[np.ndarray, "pair ..."],
    clean: Float[np.ndarray, "pair"],
    corrupted: Float[np.ndarray, "pair"],
    floor: float = FLOOR,
) -> Float[np.ndarray, "pair ..."]:
    """The share of the gap that each noising patch takes away; NaN where the gap is under `floor`."""
    return _share(_beside(clean, value) - value, clean - corrupted, floor)


def ratio_of_means(change: Float[np.ndarray, "pair ..."], gap: Float[np.ndarray, "pair"]) -> Float[np.ndarray, "..."]:
    """The mean change over the mean gap: the share of the gap over all pairs, which small gaps cannot inflate."""
    ratio: np.ndarray = change.mean(axis=0) / gap.mean()
    return ratio


def mean_of_ratios(change: Float[np.ndarray, "pair ..."], gap: Float[np.ndarray, "pair"]) -> Float[np.ndarray, "..."]:
    """The mean over pairs of each pair's share: every pair counts alike, and small gaps can inflate it."""
    mean: np.ndarray = (change / _beside(gap, change)).mean(axis=0)
    return mean


def _share(change: np.ndarray, gap: np.ndarray, floor: float) -> np.ndarray:
    usable = np.where(gap >= floor, gap, np.nan)
    share: np.ndarray = change / _beside(usable, change)
    return share


def _beside(per_pair: np.ndarray, values: np.ndarray) -> np.ndarray:
    return per_pair.reshape(-1, *[1] * (values.ndim - 1))
