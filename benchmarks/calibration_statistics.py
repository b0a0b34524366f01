"""How often the statistics are wrong when nothing is there, how often intervals cover, and how long a map takes.

    python benchmarks/calibration_statistics.py [--data-sets 1000] [--only-sets]

Takes about four minutes on two cores, and as long for the sets (--only-sets: these alone).
Facts lean on partners as pairs do: a partner's own quality counts `weight` times
the fact's. Every rate is printed with its 95 % binomial interval (Clopper-Pearson).
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from patchlight.judge.evidence import ComponentMap, Evidence, find_candidates, ranked_map
from patchlight.judge.significance import sign_flip
from patchlight.judge.statistics import cluster_bootstrap
from patchlight.judge.verdict import judge
from patchlight.records import Site
from patchlight.trace.joint import Together
from patchlight.trace.sufficient import SetEvidence, find_sets

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

WEIGHTS = (0.0, 0.5, 1.0)

DISTRIBUTIONS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda random, shape: random.normal(0.3, 0.5, shape), 0.3),
    "two groups": (lambda random, shape: random.binomial(1, 0.3, shape) + random.normal(0, 0.1, shape), 0.3),
    "exponential": (lambda random, shape: random.exponential(0.5, shape), 0.5),
    "heavy tails (t3)": (lambda random, shape: random.standard_t(3, shape), 0.0),
    "log-normal 0.8": (lambda random, shape: random.lognormal(0, 0.8, shape), float(np.exp(0.32))),
}

# effect minus control where the donor does not matter: alike in both arms, so symmetric about zero
NULLS: dict[str, Draw] = {
    "normal": lambda random, shape: random.normal(0, 1, shape) - random.normal(0, 1, shape),
    "heavy tails": lambda random, shape: random.standard_t(3, shape) - random.standard_t(3, shape),
    "skewed, equal in both arms": lambda random, shape: random.exponential(1, shape) - random.exponential(1, shape),
}


def names(n: int, pairs_each: int = 1) -> tuple[str, ...]:
    """Fact names, one a pair."""
    return tuple(f"fact-{i:04d}" for i in range(n) for _ in range(pairs_each))


def rate(count: int, total: int) -> str:
    """A rate with its binomial interval, in percent."""
    interval = stats.binomtest(count, total).proportion_ci(0.95)
    return f"{count / total:6.1%} ({interval.low:.1%} to {interval.high:.1%})"


def ring(random: np.random.Generator, facts: int) -> np.ndarray:
    """Everyone's partner: each fact serves once, nobody mutually."""
    order = random.permutation(facts)
    partner = np.empty(facts, dtype=int)
    partner[order] = np.roll(order, -1)
    return partner


def leaning(draw: Draw, random: np.random.Generator, partner: np.ndarray, cells: int, weight: float) -> np.ndarray:
    """Effects `[fact, cell]` in which the partner's quality counts `weight` times the fact's."""
    quality = draw(random, (len(partner), cells))
    return quality + weight * quality[partner]


def coverage(data_sets: int) -> None:
    """Coverage of the 95 % intervals by number of facts and weight of the partner."""
    print(f"\nCoverage of the 95 % intervals ({4 * data_sets} data sets each)")
    for name, (draw, mean) in DISTRIBUTIONS.items():
        for n in (5, 10, 20, 30, 40, 80, 160):
            for weight in WEIGHTS:
                random = np.random.default_rng(n)
                partner, expected = ring(random, n), (1 + weight) * mean
                effects = leaning(draw, random, partner, 4 * data_sets, weight)
                partners = [names(n)[index] for index in partner]
                result = cluster_bootstrap(effects, np.ones(n), names(n), partners=partners, seed=1, resamples=2000)
                covered = int(((result.low <= expected) & (expected <= result.high)).sum())
                print(f"  {name:16s} {n:4d} facts  partner x {weight:.1f}  {rate(covered, 4 * data_sets)}", flush=True)


def family_wise_error(data_sets: int) -> None:
    """How often a map of nothing shows a cell at the 5 % level, and whether single p-values are uniform."""
    print(f"\nMaps of nothing (12 layers x 5 roles x 2 components, {data_sets} data sets): a cell passes 5 %")
    for name, draw in NULLS.items():
        for n in (8, 20, 40):
            for weight in (None, *WEIGHTS):
                false, singles = 0, []
                for seed in range(data_sets):
                    random = np.random.default_rng([seed, n])
                    partner = ring(random, n)
                    effects = leaning(draw, random, partner, 120, weight or 0.0)
                    partners = [] if weight is None else [names(n)[index] for index in partner]
                    result = sign_flip(effects, names(n), partners=partners, seed=seed, flips=1000)
                    false += bool((result.p <= 0.05).any())
                    singles.append(result.p_single[0])
                uniform = stats.kstest(singles, "uniform").pvalue
                below = np.mean(np.array(singles) <= 0.05)
                leans = "no partner   " if weight is None else f"partner x {weight:.1f}"
                print(
                    f"  {name:27s} {n:3d} facts  {leans}  {rate(false, data_sets)}"
                    f"  single p: {below:.1%} below 0.05, uniform: p = {uniform:.2f}",
                    flush=True,
                )


def null_evidence(draw: Draw, seed: int, facts: int, weight: float) -> Evidence:
    """Two components in which neither direction carries anything and the control is like the rest.

    Facts of even number are for discovery, the others for confirmation; partners come from the same half.
    """
    random = np.random.default_rng([seed, facts])
    templates, layers, roles = 3, 12, 5
    partner = np.empty(facts, dtype=int)
    for half in (0, 1):
        partner[half::2] = 2 * ring(random, len(partner[half::2])) + half

    def effects() -> np.ndarray:
        cells = leaning(draw, random, partner, layers * roles, weight)
        return np.repeat(cells.reshape(facts, layers, roles), templates, axis=0)

    still = np.zeros((layers, roles), dtype=bool)
    parts = {
        name: ComponentMap(effects(), effects(), still, nulls={"another-fact": effects()})
        for name in ("attn_out", "mlp_out")
    }
    asked = names(facts, templates)
    return Evidence(
        kind="null",
        roles=("subject_first", "subject_mid", "subject_last", "relation", "last"),
        components=parts,
        gaps=random.uniform(2, 5, len(asked)),
        facts=asked,
        templates=tuple(f"template-{i % templates}" for i in range(len(asked))),
        confirmation=frozenset(asked[templates :: 2 * templates]),
        facts_asked=facts,
        partners=tuple(names(facts)[index] for index in np.repeat(partner, templates)),
    )


def false_localisation(data_sets: int) -> None:
    """How often the whole rule confirms a site, or says localised or distributed, where nothing is."""
    print(f"\nThe whole rule on nothing ({data_sets} data sets): a site is confirmed; a verdict is not 'undetermined'")
    for name, draw in NULLS.items():
        for n in (16, 40):
            for weight in WEIGHTS:
                confirmed = confident = 0
                for seed in range(data_sets):
                    evidence = null_evidence(draw, seed, n, weight)
                    found = find_candidates(ranked_map(evidence), evidence, seed)
                    confirmed += any(candidate.confirmed for candidate in found)
                    confident += bool(found) and judge(evidence, seed=seed).word != "undetermined"
                print(
                    f"  {name:27s} {n:3d} facts  partner x {weight:.1f}  {rate(confirmed, data_sets)}"
                    f"  {rate(confident, data_sets)}",
                    flush=True,
                )


@dataclass(frozen=True)
class NullBench:
    """Sets whose effect is the sum of what their sites do alone, `[pair, site]`: chance alone."""

    direction: str
    gaps: np.ndarray
    alone: np.ndarray
    column: dict[Site, int]

    def effects(self, sets: Sequence[Together]) -> np.ndarray:
        """The joint effects."""
        sums = [self.alone[:, [index for site in sites for index in self.columns(site)]].sum(axis=1) for sites in sets]
        return np.array(sums).reshape(len(sets), len(self.gaps)).T

    def columns(self, site: Site) -> list[int]:
        """The columns of a site; a window of layers has several."""
        layers = [site.layer] if isinstance(site.layer, int) else list(site.layer or ())
        return [self.column[replace(site, layer=layer)] for layer in layers]

    def structural(self, sets: Sequence[Together]) -> np.ndarray:
        """All attention outputs at the last word are a cut."""
        last = {site for site in self.column if site.component == "attn_out" and site.position == "last"}
        return np.array([last <= set(sites) for sites in sets], dtype=bool)

    def of(self, rows: np.ndarray) -> NullBench:
        """Some of the pairs."""
        return replace(self, gaps=self.gaps[rows], alone=self.alone[rows])


def null_sets(evidence: Evidence) -> SetEvidence:
    """The sets that grow on such maps, as large as in a study."""
    parts = evidence.components.items()
    places = [(name, layer, role) for name, part in parts for layer in range(12) for role in evidence.roles]
    sites = tuple(Site(name, layer, None, role) for name, layer, role in places)

    def bench(direction: str, maps: Sequence[np.ndarray]) -> NullBench:
        alone = np.concatenate([each.reshape(len(evidence.gaps), -1) for each in maps], axis=1)
        return NullBench(direction, evidence.gaps, alone, {site: index for index, site in enumerate(sites)})

    every = {
        "denoise": bench("denoise", [part.recovery for _, part in parts]),
        "noise": bench("noise", [part.damage for _, part in parts]),
    }
    donor = bench("denoise", [part.nulls["another-fact"] for _, part in parts])
    return find_sets(
        {name: each.of(~evidence.held_out) for name, each in every.items()},
        every,
        ~evidence.held_out,
        sites,
        shares=(0.8, 0.9),
        largest=len(sites) // 5,
        nulls={"another-fact": lambda chosen: (donor.effects(chosen), donor.gaps)},
    )


def false_verdicts(data_sets: int) -> None:
    """How often the whole rule, sets grown and confirmed, says localised or distributed where nothing is."""
    print(f"\nThe whole rule with sets grown on nothing ({data_sets} data sets, 40 facts, partner x 0.5)")
    for name, draw in NULLS.items():
        words, reached = [], 0
        for seed in range(data_sets):
            evidence = null_evidence(draw, seed, 40, 0.5)
            evidence = replace(evidence, sets=null_sets(evidence))
            reached += any(each.grown.reached for each in evidence.sets.sets)
            words.append(judge(evidence, seed=seed).word)
        print(f"  {name:27s} a set reached its share on the discovery facts {reached / data_sets:6.1%}")
        for word in ("localised", "distributed"):
            print(f"  {name:27s} {word:12s} {rate(words.count(word), data_sets)}", flush=True)


def speed() -> None:
    """Seconds for the intervals and the test of one large map."""
    random = np.random.default_rng(0)
    partners = [names(200)[index] for index in np.repeat(ring(random, 200), 3)]
    effects, gaps = random.normal(0.3, 1, (600, 12, 32, 3)), random.uniform(1, 4, 600)
    began = time.perf_counter()
    cluster_bootstrap(effects, gaps, names(200, 3), partners=partners, seed=0)
    between = time.perf_counter()
    sign_flip(effects, names(200, 3), partners=partners, seed=0)
    after = time.perf_counter()
    print(f"\n12 x 32 x 3 cells, 200 facts, 10,000 resamples: intervals {between - began:.1f} s, ", end="")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"max-T {after - between:.1f} s, at most {memory:.0f} MiB held")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data-sets", type=int, default=1000)
    arguments.add_argument("--only-sets", action="store_true")
    chosen = arguments.parse_args()
    if chosen.only_sets:
        false_verdicts(chosen.data_sets)
        raise SystemExit
    speed()
    coverage(chosen.data_sets)
    family_wise_error(chosen.data_sets)
    false_localisation(chosen.data_sets)
    false_verdicts(chosen.data_sets)
