"""Several sites at once: what a set does together, alone, without each of its sites, and two by two."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Protocol

import numpy as np

from patchlight.pairs.align import Alignment
from patchlight.pairs.answers import steps_read
from patchlight.records import Pair, Site, TokenPair
from patchlight.trace.corruptions import TOKEN
from patchlight.trace.random_donor import RandomDonor
from patchlight.trace.rows import Rows
from patchlight.trace.sites import are_structural, check_site, present
from patchlight.trace.sweep import MEMORY, Settings, Work, measured, work_on

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from patchlight.model.anatomy import Model
    from patchlight.trace.capture import Run

Together = tuple[Site, ...]


@dataclass(frozen=True)
class JointEffects:
    """What a set of sites moves, in the metric's unit: towards the clean run (denoise) or away from it (noise).

    `joint` is of all sites together, `singles[pair, site]` of each alone, `left_out` of all but one, `couples` of two
    (NaN where they were not asked), `complement` of every other eligible site, NaN where these restore everything by
    construction. `gaps` are the metric's clean minus corrupted run.
    """

    sites: Together
    direction: str
    joint: Float[np.ndarray, " pair"]
    singles: Float[np.ndarray, "pair site"]
    left_out: Float[np.ndarray, "pair site"]
    couples: Float[np.ndarray, "pair site other"]
    complement: Float[np.ndarray, " pair"]
    gaps: Float[np.ndarray, " pair"]

    @property
    def interaction(self) -> Float[np.ndarray, "pair site other"]:
        """What two sites move together beyond the sum of what each moves alone: e(ab) - e(a) - e(b)."""
        return np.asarray(self.couples - self.singles[:, :, None] - self.singles[:, None, :])

    @property
    def surplus(self) -> Float[np.ndarray, " pair"]:
        """What the sites move together beyond the sum of what each moves alone."""
        return np.asarray(self.joint - self.singles.sum(axis=1))

    @property
    def super_additivity(self) -> float:
        """The joint effect over the sum of the single effects, as a ratio of means; NaN where that is not positive."""
        alone = float(self.singles.sum(axis=1).mean())
        return float(self.joint.mean()) / alone if alone > 0 else float("nan")


class SetBench(Protocol):
    """Pairs on which sets are tried in one direction."""

    direction: str

    @property
    def gaps(self) -> Float[np.ndarray, " pair"]:
        """The metric of the clean run minus that of the corrupted run."""

    def effects(self, sets: Sequence[Together]) -> Float[np.ndarray, "pair set"]:
        """What each set moves of the metric, in its unit."""

    def structural(self, sets: Sequence[Together]) -> Bool[np.ndarray, " set"]:
        """Which sets restore everything by construction."""


class Bench:
    """Pairs whose runs are kept, on which sets of sites are tried one after another.

    A site whose role a pair lacks replaces nothing there; a set of which a pair has no site moves nothing.
    """

    def __init__(
        self,
        model: Model,
        pairs: Sequence[Pair | TokenPair],
        components: Collection[str],
        *,
        direction: str = "denoise",
        metric: str = "logit_diff",
        donors: Sequence[str | Sequence[int]] | RandomDonor | None = None,
        memory: int = MEMORY,
    ) -> None:
        self.model, self.direction, self.metric = model, direction, metric
        settings = Settings(direction, (metric,), TOKEN, "exact", memory)
        nothing = _Chosen((), frozenset(components))
        work = work_on(model, pairs, nothing, settings, donors)
        # Half of the memory is for runs: they are kept where those of all pairs fit into it.
        fits = sum(1 / work.pairs_at_once(index) for index in range(len(pairs))) <= 1
        self._work = _Kept(*vars(work).values()) if fits else work
        runs = self._measure(nothing)
        self.clean, self.corrupted = runs[1], runs[2]

    @property
    def gaps(self) -> Float[np.ndarray, " pair"]:
        """The metric of the clean run minus that of the corrupted run."""
        return np.asarray(self.clean - self.corrupted)

    def effects(self, sets: Sequence[Together]) -> Float[np.ndarray, "pair set"]:
        """What each set moves of the metric, in its unit: towards the clean run (denoise) or away from it (noise).

        Raises InputError for a site that the model does not have.
        """
        for site in {site for sites in sets for site in sites}:
            check_site(site, self.model)
        values = self._measure(_Chosen(tuple(sets), self._work.cells.components))[0]
        moved = values - self.corrupted[:, None] if self.direction == "denoise" else self.clean[:, None] - values
        return np.asarray(moved)

    def structural(self, sets: Sequence[Together]) -> Bool[np.ndarray, " set"]:
        """Which sets restore everything by construction in any of the pairs."""
        read = {each: tuple(steps_read(each, self.metric)) for each in self._work.alignments}
        shapes = {(each.roles, each.differing, steps): each for each, steps in read.items()}
        found = np.zeros(len(sets), dtype=bool)
        for alignment in shapes.values():
            chosen = [present(sites, alignment) for sites in sets]
            found |= are_structural(chosen, alignment, self.model, read[alignment])
        return found

    def _measure(self, cells: _Chosen) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pairs = len(self._work.alignments)
        values, runs = np.full((pairs, len(cells.sets)), np.nan), np.full((2, pairs), np.nan)
        for batch, found in measured(replace(self._work, cells=cells), None):
            values[batch] = found.values[self.metric]
            runs[:, batch] = found.clean[self.metric], found.corrupted[self.metric]
        return values, runs[0], runs[1]


def joint_effects(bench: SetBench, sites: Together, eligible: Iterable[Site] = (), couples: int = 8) -> JointEffects:
    """What these sites do together, alone, without each, and (the first `couples` of them) two by two.

    `eligible` are the sites from which they were chosen: the complement is all of these but the set.
    """
    size, others = len(sites), tuple(site for site in eligible if site not in sites)
    two = list(combinations(range(min(size, couples)), 2))
    singles = [(site,) for site in sites]
    left_out = [tuple(other for other in sites if other != site) for site in sites]
    found = bench.effects([sites, *singles, *left_out, *((sites[a], sites[b]) for a, b in two)])
    joint, alone, without, pairwise = np.split(found, np.cumsum([1, size, size]), axis=1)
    together = np.full((len(found), size, size), np.nan)
    for column, (a, b) in enumerate(two):
        together[:, a, b] = together[:, b, a] = pairwise[:, column]
    return JointEffects(
        sites, bench.direction, joint[:, 0], alone, without, together, _complement(bench, others), bench.gaps
    )


def _complement(bench: SetBench, others: Together) -> Float[np.ndarray, " pair"]:
    if not others or bench.structural([others])[0]:
        return np.full(len(bench.gaps), np.nan)
    return np.asarray(bench.effects([others])[:, 0])


@dataclass(frozen=True)
class _Chosen:
    """Cells that are sets of sites, as far as a pair has them; `components` are those of all sets to come."""

    sets: tuple[Together, ...]
    components: frozenset[str]

    def rows(self, alignments: Sequence[Alignment]) -> Rows:
        pair = [index for index in range(len(alignments)) for _ in self.sets]
        shapes = {each.roles: each for each in alignments}
        of_roles = {roles: [present(sites, each) for sites in self.sets] for roles, each in shapes.items()}
        sites = [found for each in alignments for found in of_roles[each.roles]]
        return Rows.of(pair, sites, len(alignments[0].clean_ids))

    def shape(self, _: Sequence[Alignment]) -> tuple[int, ...]:
        return (len(self.sets),)

    def absent(self, alignments: Sequence[Alignment]) -> Bool[np.ndarray, "pair set"]:
        return np.zeros((len(alignments), len(self.sets)), dtype=bool)

    def patches(self, alignment: Alignment) -> int:
        return sum(map(len, self.sets)) * len(alignment.clean_ids)


@dataclass(frozen=True)
class _Kept(Work):
    """Work whose runs are captured once, whatever is replaced in them."""

    runs: dict[Hashable, tuple[Run, Run, Run]] = field(default_factory=dict)

    def _runs(self, batch: Sequence[int], continuation: Int[Tensor, "pair token"], draw: int) -> tuple[Run, Run, Run]:
        key = (tuple(batch), str(continuation.tolist()), draw)
        if key not in self.runs:
            self.runs[key] = super()._runs(batch, continuation, draw)
        return self.runs[key]
