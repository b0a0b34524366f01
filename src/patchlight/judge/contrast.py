"""Do two kinds of knowledge differ: matched facts, the difference at every place, and whether others show it too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import optimize, stats

from patchlight.errors import InputError
from patchlight.judge.mixed_model import mixed_model
from patchlight.judge.significance import equivalence, layer_effect, sign_flip
from patchlight.judge.statistics import cliff_delta, cluster_bootstrap, cohen_dz
from patchlight.records import Interval

LEVEL = 0.05
CALIPER = 0.5  # matched facts differ by at most half a standard deviation in every covariate
BALANCED = 0.25  # of a standard deviation between the means of matched facts; the usual bar
FEWEST_MATCHED = 8  # as many as a half of the facts needs
ALIKE = 0.1  # of the gap: kinds that surely differ by less than this are called alike
NEEDED = "random-init"  # the model without whose contrast none is stated

Outcome = Literal[
    "too-few-matched", "not-balanced", "no-common-place", "alike", "not-told-apart", "no-reference",
    "shown-elsewhere", "differ",
]  # fmt: skip


@dataclass(frozen=True)
class KindFacts:
    """What is known of the facts of one kind, row by row.

    `shares` are effects as shares of each fact's gap, `references` the same of models and donors that lack the
    knowledge, by name; `leans` are the facts that each fact's pairs lean on, its own among them.
    """

    kind: str
    leans: tuple[frozenset[str], ...]
    covariates: Mapping[str, Float[np.ndarray, " fact"]]
    shares: Float[np.ndarray, "fact layer role"]
    references: Mapping[str, Float[np.ndarray, "fact layer role"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Balance:
    """A covariate's standardised difference between the kinds, before and after matching."""

    name: str
    before: float
    after: float


@dataclass(frozen=True)
class Contrast:
    """What may be said of two kinds at the places of one component, and what it rests on.

    Where places were tested, `cell` is that with the largest difference against its spread, `p` its family-wise
    p-value, `difference` first minus second as a share of the gap with `dz` and `delta` (Cohen, Cliff) as sizes, and
    `elsewhere` how much larger it is than in each reference. `exploratory` counts places under a false discovery
    rate of 5 %. `layers` are the p-values of the layer effect in each kind, `layer_by_kind` that of the interaction
    in a mixed model with the covariates; NaN where it cannot be fitted.
    """

    kinds: tuple[str, str]
    facts: tuple[int, int]
    matched: int
    balance: tuple[Balance, ...]
    outcome: Outcome
    cell: tuple[int, int] | None = None
    p: float = float("nan")
    difference: Interval | None = None
    dz: Interval | None = None
    delta: Interval | None = None
    elsewhere: Mapping[str, Interval] = field(default_factory=dict)
    exploratory: int = 0
    layers: tuple[float, float] = (float("nan"), float("nan"))
    layer_by_kind: float = float("nan")

    @property
    def dropped(self) -> tuple[int, int]:
        """The facts of each kind without a match, which take no part."""
        return self.facts[0] - self.matched, self.facts[1] - self.matched


def match_facts(
    first: Float[np.ndarray, "fact covariate"], second: Float[np.ndarray, "other covariate"]
) -> tuple[Int[np.ndarray, " match"], Int[np.ndarray, " match"]]:
    """Rows of both groups matched one to one: as many as the caliper allows, and of those the nearest.

    Differences are in pooled standard deviations. Source: Rosenbaum 1989, JASA 84:1024-1032.
    """
    apart = np.abs(first[:, None] - second[None]) / _scale(first, second)
    allowed = (apart <= CALIPER).all(axis=-1)
    distance = np.sqrt((apart**2).mean(axis=-1))
    far = 1 + 2 * CALIPER * max(allowed.shape)  # one match more outweighs any sum of distances
    mine, theirs = optimize.linear_sum_assignment(np.where(allowed, distance, far))
    kept = allowed[mine, theirs]
    return mine[kept], theirs[kept]


def compare_kinds(
    first: KindFacts, second: KindFacts, structural: Bool[np.ndarray, "layer role"], seed: int
) -> Contrast:
    """The contrast of two kinds over matched facts. Want of facts never raises: the outcome says what is missing."""
    names = list(first.covariates)
    columns = [np.column_stack([group.covariates[name] for name in names]) for group in (first, second)]
    mine, theirs = match_facts(columns[0], columns[1])
    balance = tuple(_balance(names, columns, mine, theirs)) if len(mine) else ()
    known = Contrast(
        (first.kind, second.kind), (len(first.leans), len(second.leans)), len(mine), balance, "too-few-matched"
    )
    if len(mine) < FEWEST_MATCHED:
        return known
    if any(abs(each.after) > BALANCED for each in balance):
        return replace(known, outcome="not-balanced")
    pairs = _Matched(_taken(first, mine), _taken(second, theirs), structural, seed)
    return pairs.judged(known) if pairs.tested.any() else replace(known, outcome="no-common-place")


@dataclass(frozen=True)
class _Matched:
    """Two kinds, row by row matched."""

    first: KindFacts
    second: KindFacts
    structural: Bool[np.ndarray, "layer role"]
    seed: int

    @property
    def differences(self) -> Float[np.ndarray, "match layer role"]:
        return np.asarray(np.where(self.structural, np.nan, self.first.shares - self.second.shares))

    @property
    def tested(self) -> Bool[np.ndarray, "layer role"]:
        """Where enough matches have the place, and anything moves."""
        differences = self.differences
        enough = np.isfinite(differences).sum(axis=0) >= FEWEST_MATCHED
        return np.asarray(enough & (np.nan_to_num(np.abs(differences)).max(axis=0) > 0))

    @property
    def ties(self) -> tuple[list[int], list[str], list[str]]:
        """Rows of matches, repeated once for each fact that they lean on, with the match and the fact of each."""
        leans = [sorted(a | b) for a, b in zip(self.first.leans, self.second.leans, strict=True)]
        rows = [row for row, facts in enumerate(leans) for _ in facts]
        return rows, [f"match {row:05d}" for row in rows], [fact for facts in leans for fact in facts]

    def interval(self, values: Float[np.ndarray, " match"]) -> Interval:
        """The mean over matches with its interval."""
        rows, matches, partners = self.ties
        return cluster_bootstrap(values[rows], np.ones(len(rows)), matches, partners=partners, seed=self.seed).at()

    def judged(self, known: Contrast) -> Contrast:
        """The contrast where places can be tested."""
        rows, matches, partners = self.ties
        differences = np.where(self.tested, self.differences, np.nan)
        flips = sign_flip(differences[rows], matches, partners=partners, seed=self.seed)
        layer, role = (int(at) for at in np.unravel_index(np.abs(flips.statistic).argmax(), self.tested.shape))
        here = differences[:, layer, role]
        dz, delta = _sizes(here, self.first.shares[:, layer, role], self.second.shares[:, layer, role], self.seed)
        found = replace(
            known,
            cell=(layer, role),
            p=float(flips.p[layer, role]),
            difference=self.interval(here),
            dz=dz,
            delta=delta,
            elsewhere=dict(self._elsewhere(here, layer, role)),
            exploratory=int((stats.false_discovery_control(flips.p_single[self.tested]) <= LEVEL).sum()),
            layers=self._layers(role),
            layer_by_kind=self._layer_by_kind(role),
        )
        return replace(found, outcome=self._outcome(found, differences))

    def _elsewhere(self, here: Float[np.ndarray, " match"], layer: int, role: int) -> Iterator[tuple[str, Interval]]:
        """How much larger the difference is than in each reference that both kinds have."""
        for name in sorted(set(self.first.references) & set(self.second.references)):
            there = (self.first.references[name] - self.second.references[name])[:, layer, role]
            if np.isfinite(here - there).sum() >= FEWEST_MATCHED:
                yield name, self.interval(here - there)

    def _outcome(self, found: Contrast, differences: Float[np.ndarray, "match layer role"]) -> Outcome:
        if found.p > LEVEL:
            rows, matches, partners = self.ties
            cells = differences[rows][:, self.tested].T
            alike = all(equivalence(cell, matches, partners=partners, bound=ALIKE).p <= LEVEL for cell in cells)
            return "alike" if alike else "not-told-apart"
        if NEEDED not in found.elsewhere:
            return "no-reference"
        larger = [_clear(each, found.difference) for each in found.elsewhere.values()]
        return "differ" if all(larger) else "shown-elsewhere"

    def _layers(self, role: int) -> tuple[float, float]:
        a, b = (
            layer_effect(group.shares[:, :, role], _names(group), seed=self.seed, permutations=2000)
            for group in (self.first, self.second)
        )
        return a, b

    def _layer_by_kind(self, role: int) -> float:
        groups = (self.first, self.second)
        effects = np.concatenate([group.shares[:, :, role] for group in groups])
        kinds = [group.kind for group in groups for _ in group.leans]
        every = {name: np.concatenate([group.covariates[name] for group in groups]) for name in self.first.covariates}
        varying = {name: values for name, values in every.items() if np.ptp(values) > 0}
        try:
            model = mixed_model(effects, [name for group in groups for name in _names(group)], kinds, varying)
        except InputError:  # too few facts, or nothing varies: there is no model, and the field says so
            return float("nan")
        found = {term.name: term.p for term in model.terms}
        return found.get("layer:kind", float("nan")) if model.converged else float("nan")


def _sizes(
    differences: np.ndarray, first: np.ndarray, second: np.ndarray, seed: int
) -> tuple[Interval | None, Interval | None]:
    """Cohen dz of the matched differences and Cliff's delta of the groups; None where nothing varies."""
    try:
        dz = cohen_dz(differences, [f"match {row:05d}" for row in range(len(differences))], seed=seed)
        return dz, cliff_delta(first, second, seed=seed)
    except InputError:
        return None, None


def _clear(larger: Interval, difference: Interval | None) -> bool:
    """True where the difference exceeds a reference's, in its own direction."""
    return larger.low > 0 if difference is None or difference.estimate > 0 else larger.high < 0


def _names(group: KindFacts) -> list[str]:
    return [f"{group.kind} {row:05d}" for row in range(len(group.leans))]


def _taken(group: KindFacts, rows: Int[np.ndarray, " match"]) -> KindFacts:
    return KindFacts(
        group.kind,
        tuple(group.leans[row] for row in rows),
        {name: values[rows] for name, values in group.covariates.items()},
        group.shares[rows],
        {name: values[rows] for name, values in group.references.items()},
    )


def _balance(
    names: Sequence[str], columns: Sequence[np.ndarray], mine: np.ndarray, theirs: np.ndarray
) -> Iterator[Balance]:
    first, second = columns
    before = (first.mean(axis=0) - second.mean(axis=0)) / _scale(first, second)
    after = (first[mine].mean(axis=0) - second[theirs].mean(axis=0)) / _scale(first, second)
    for name, one, other in zip(names, before, after, strict=True):
        yield Balance(name, float(one), float(other))


def _scale(first: np.ndarray, second: np.ndarray) -> Float[np.ndarray, " covariate"]:
    """The pooled standard deviation of each covariate; 1 where neither group varies."""
    pooled = np.sqrt((first.var(axis=0) + second.var(axis=0)) / 2)
    return np.asarray(np.where(pooled > 0, pooled, 1.0))
