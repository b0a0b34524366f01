"""How far the maps of different choices of corruption and metric agree with the default's.

The default is token replacement with the first metric. Every other choice is compared with it on the facts that both
measure, over the sites whose result no choice settles by construction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

from patchlight.errors import InputError
from patchlight.pairs.align import ROLES
from patchlight.records import Interval, Site
from patchlight.verify.stability import top_stability

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Bool, Float

TOP_SHARE = 0.05  # of the sites ranked, where no number is given
OVERLAP_BAR = 0.5  # Jaccard: two thirds of each list are named by the other, too
FEWEST = 5  # facts for an interval, and for a site to be ranked
RESAMPLES = 2000
METHOD = "percentile bootstrap over facts"


@dataclass(frozen=True)
class FactMap:
    """What one corruption and one metric gave: sums over the pairs of each fact, by layer and role of `ROLES`.

    `change` is what patches moved (towards the clean run in denoising, away from it in noising), `gap` the gap of the
    pairs that have the site, 0 where a fact has none. `settled` marks sites whose result follows by construction:
    everything comes back, or nothing can. `left_out` counts pairs by reason.
    """

    corruption: str
    metric: str
    facts: tuple[str, ...]
    change: Float[np.ndarray, "fact layer role"]
    gap: Float[np.ndarray, "fact layer role"]
    settled: Bool[np.ndarray, "layer role"]
    pairs: int
    left_out: Mapping[str, int]

    def of(self, facts: Sequence[str]) -> tuple[Float[np.ndarray, "fact layer role"], ...]:
        """`change` and `gap` of some of the facts."""
        rows = [self.facts.index(fact) for fact in facts]
        return self.change[rows], self.gap[rows]


@dataclass(frozen=True)
class Cell:
    """One corruption and metric: its map `[layer, role]`, and how far it agrees with the default's.

    `effect` is the mean recovery (in noising, damage) over all facts that pass the gap gate under this choice, a ratio
    of means, NaN where no fact has the site. `correlation` is Spearman's over the sites ranked, `overlap` the Jaccard
    index of the strongest sites; both over the facts that the default has, too, with percentile intervals over facts.
    `reading` is `agrees` where the whole interval of the overlap reaches the bar, `disagrees` where it stays below the
    bar and below the default's own stability, else `open`.
    """

    corruption: str
    metric: str
    effect: Float[np.ndarray, "layer role"]
    facts: int
    pairs: int
    left_out: Mapping[str, int]
    correlation: Interval
    overlap: Interval
    reading: str

    @property
    def name(self) -> str:
        """The choice in words: corruption and metric."""
        return f"{self.corruption} with {self.metric}"


@dataclass(frozen=True)
class Robustness:
    """The matrix of corruptions and metrics, the default's cell first: the `top` strongest of the `ranked` sites.

    `stability` is the mean overlap of the default's strongest sites with its own on resampled facts: what overlap to
    expect of a choice that changes nothing but the facts.
    """

    component: str
    direction: str
    roles: tuple[str, ...]
    ranked: Bool[np.ndarray, "layer role"]
    top: int
    stability: float
    cells: tuple[Cell, ...]

    def to_frame(self) -> pd.DataFrame:
        """A table, one line a cell: choice, facts, pairs, correlation and overlap with intervals, strongest site."""
        import pandas as pd

        return pd.DataFrame([self._line(cell) for cell in self.cells])

    def strongest(self, cell: Cell) -> tuple[Site | None, float]:
        """The ranked site with the largest effect on the cell's own map, and its effect; None without facts."""
        effect = np.where(self.ranked & np.isfinite(cell.effect), cell.effect, -np.inf)
        layer, *unit, role = (int(index) for index in np.unravel_index(effect.argmax(), effect.shape))
        if not np.isfinite(effect.max()):
            return None, math.nan
        return Site(self.component, layer, unit[0] if unit else None, self.roles[role]), float(effect.max())

    @property
    def conclusion(self) -> str:
        """One sentence: which choices name other sites than the default, which the same, which cannot be told."""
        words = {"disagrees": "other sites are named by", "agrees": "the same by", "open": "it cannot be told for"}
        named = {reading: [cell.name for cell in self.cells[1:] if cell.reading == reading] for reading in words}
        parts = [f"{words[reading]} {', '.join(cells)}" for reading, cells in named.items() if cells]
        site, agreeing = self.agreeing()
        return (
            f"The strongest site with {self.cells[0].name}, {site}, is the strongest under {agreeing} of "
            f"{len(self.cells)} choices; of the {self.top} strongest of {int(self.ranked.sum())} sites "
            f"({self.direction}), {'; '.join(parts) or 'nothing was compared'}."
        )

    def agreeing(self) -> tuple[Site | None, int]:
        """The default's strongest site, and under how many of the choices (the default's own with them) it is that."""
        named = [self.strongest(cell)[0] for cell in self.cells]
        return named[0], named.count(named[0])

    def _line(self, cell: Cell) -> dict[str, object]:
        site, effect = self.strongest(cell)
        ends = (("", "estimate"), ("_low", "low"), ("_high", "high"))
        return {
            "corruption": cell.corruption,
            "metric": cell.metric,
            "facts": cell.facts,
            "pairs": cell.pairs,
            "left_out": sum(cell.left_out.values()),
            "facts_compared": cell.overlap.n,
            **{f"correlation{end}": getattr(cell.correlation, name) for end, name in ends},
            **{f"overlap{end}": getattr(cell.overlap, name) for end, name in ends},
            "reading": cell.reading,
            "strongest": "" if site is None else str(site),
            "strongest_effect": effect,
        }


def compare(
    maps: Sequence[FactMap],
    component: str,
    direction: str,
    *,
    top: int | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Robustness:
    """The matrix made of measured maps, the default's first. Raises InputError where no site can be ranked."""
    default = maps[0]
    ranked = rankable(maps)
    if not ranked.any():
        what = f"no site of {component} can be ranked: {len(default.facts)} facts pass the gap gate under the default"
        raise InputError("verify-nothing-to-rank", what, fix="give pairs that the model answers, or another component")
    count = top or math.ceil(TOP_SHARE * ranked.sum())
    if count > ranked.sum():
        what = f"the {count} strongest sites of {int(ranked.sum())} that can be ranked"
        raise InputError("verify-top", what, fix="ask for fewer")
    present: np.ndarray = np.any(default.gap > 0, axis=tuple(range(default.gap.ndim - 1)))
    stability = top_stability(_means(default, ranked), count, seed=seed)
    return Robustness(
        component,
        direction,
        roles=tuple(role for role, here in zip(ROLES, present, strict=True) if here),
        ranked=ranked[..., present],
        top=count,
        stability=stability,
        cells=tuple(_cell(each, default, ranked, count, present, stability, seed, resamples) for each in maps),
    )


def rankable(maps: Sequence[FactMap]) -> Bool[np.ndarray, "layer *head role"]:
    """The sites that are ranked: no choice settles them, and enough facts have them under the default, the first."""
    default = maps[0]
    settled = np.any([each.settled for each in maps], axis=0)
    ranked: np.ndarray = ~settled & ((default.gap > 0).sum(axis=0) >= max(1, min(FEWEST, len(default.facts))))
    return ranked


def _means(each: FactMap, ranked: Bool[np.ndarray, "layer *head role"]) -> Float[np.ndarray, "fact site"]:
    return np.where(each.gap > 0, each.change, np.nan)[:, ranked]


def _cell(
    each: FactMap,
    default: FactMap,
    ranked: Bool[np.ndarray, "layer *head role"],
    top: int,
    present: Bool[np.ndarray, " role"],
    stability: float,
    seed: int,
    resamples: int,
) -> Cell:
    common = [fact for fact in each.facts if fact in default.facts]
    weights = _weights(len(common), seed, resamples)
    one, other = (_resampled_map(weights, *(part[:, ranked] for part in which.of(common))) for which in (each, default))
    overlap = _interval(_overlap(one, other, top), len(common))
    whole = each.change.sum(axis=0), each.gap.sum(axis=0)
    return Cell(
        each.corruption,
        each.metric,
        effect=_ratio(*whole, otherwise=np.nan)[..., present],
        facts=len(each.facts),
        pairs=each.pairs,
        left_out=each.left_out,
        correlation=_interval(_spearman(one, other), len(common)),
        overlap=overlap,
        reading=_reading(overlap, stability),
    )


def _reading(overlap: Interval, stability: float) -> str:
    if overlap.high < min(OVERLAP_BAR, stability):
        return "disagrees"
    return "agrees" if overlap.low >= OVERLAP_BAR else "open"


def _weights(facts: int, seed: int, resamples: int) -> Float[np.ndarray, "resample fact"]:
    """How often each fact counts: once each, then as drawn again and again."""
    if not facts:
        return np.ones((1, 0))
    drawn = np.random.default_rng([seed, facts]).multinomial(facts, np.full(facts, 1 / facts), size=resamples)
    return np.vstack([np.ones(facts), drawn])


def _resampled_map(
    weights: Float[np.ndarray, "resample fact"],
    change: Float[np.ndarray, "fact site"],
    gap: Float[np.ndarray, "fact site"],
) -> Float[np.ndarray, "resample site"]:
    """The ratio of means on each resample; a site that no drawn fact has counts as 0."""
    return _ratio(weights @ change, weights @ gap, otherwise=0.0)


def _ratio(change: np.ndarray, gap: np.ndarray, otherwise: float) -> np.ndarray:
    ratio: np.ndarray = np.divide(change, gap, out=np.full(change.shape, otherwise), where=gap > 0)
    return ratio


def _spearman(
    one: Float[np.ndarray, "resample site"], other: Float[np.ndarray, "resample site"]
) -> Float[np.ndarray, " resample"]:
    """NaN where a map is the same everywhere."""
    ranks = [rankdata(each, axis=1) - (each.shape[1] + 1) / 2 for each in (one, other)]
    spread = np.sqrt((ranks[0] ** 2).sum(axis=1) * (ranks[1] ** 2).sum(axis=1))
    return _ratio((ranks[0] * ranks[1]).sum(axis=1), spread, otherwise=np.nan)


def _overlap(
    one: Float[np.ndarray, "resample site"], other: Float[np.ndarray, "resample site"], top: int
) -> Float[np.ndarray, " resample"]:
    named = [np.argsort(np.argsort(-each, axis=1, kind="stable"), axis=1) < top for each in (one, other)]
    common = (named[0] & named[1]).sum(axis=1)
    overlap: np.ndarray = common / (2 * top - common)
    return overlap


def _interval(values: Float[np.ndarray, " resample"], facts: int) -> Interval:
    """The first value with the percentile interval of the others; no interval below the fewest facts."""
    estimate = float(values[0]) if facts else math.nan
    resampled = values[1:][np.isfinite(values[1:])]
    if facts < FEWEST or not len(resampled):
        return Interval(estimate, math.nan, math.nan, facts, method=METHOD)
    low, high = np.quantile(resampled, [0.025, 0.975]).tolist()
    return Interval(estimate, low, high, facts, method=METHOD)
