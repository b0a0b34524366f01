"""How often the statistics are wrong when nothing is there, how often intervals cover, and how long a map takes.

    python benchmarks/calibration_statistics.py [--data-sets 1000]

Takes about two minutes on two cores. Every rate is printed with its 95 % binomial interval (Clopper-Pearson).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from scipy import stats

from patchlight.judge.evidence import ComponentMap, Evidence, find_candidates, ranked_map
from patchlight.judge.significance import sign_flip
from patchlight.judge.statistics import cluster_bootstrap
from patchlight.judge.verdict import judge
from patchlight.verify.stability import split_facts

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

DISTRIBUTIONS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda random, shape: random.normal(0.3, 0.5, shape), 0.3),
    "two groups": (lambda random, shape: random.binomial(1, 0.3, shape) + random.normal(0, 0.1, shape), 0.3),
    "exponential": (lambda random, shape: random.exponential(0.5, shape), 0.5),
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


def coverage(data_sets: int) -> None:
    """Coverage of the 95 % intervals by number of facts."""
    print(f"\nCoverage of the 95 % intervals ({4 * data_sets} data sets each)")
    for name, (draw, mean) in DISTRIBUTIONS.items():
        for n in (5, 8, 12, 20, 40, 80, 160):
            effects = draw(np.random.default_rng(n), (n, 4 * data_sets))
            result = cluster_bootstrap(effects, np.ones(n), names(n), seed=1, resamples=4000)
            covered = int(((result.low <= mean) & (mean <= result.high)).sum())
            print(f"  {name:15s} {n:4d} facts  {rate(covered, 4 * data_sets)}")


def family_wise_error(data_sets: int) -> None:
    """How often a map of nothing shows a cell at the 5 % level, and whether single p-values are uniform."""
    print(f"\nMaps of nothing (12 layers x 5 roles x 2 components, {data_sets} data sets): a cell passes 5 %")
    for name, draw in NULLS.items():
        for n in (8, 20, 40):
            false, singles = 0, []
            for seed in range(data_sets):
                effects = draw(np.random.default_rng([seed, n]), (n, 120))
                result = sign_flip(effects, names(n), seed=seed, flips=2000)
                false += bool((result.p <= 0.05).any())
                singles.append(result.p_single[0])
            uniform = stats.kstest(singles, "uniform").pvalue
            print(f"  {name:27s} {n:3d} facts  {rate(false, data_sets)}  p-values uniform: p = {uniform:.2f}")


def null_evidence(draw: Draw, seed: int, facts: int) -> Evidence:
    """Two components in which neither direction carries anything and the control is like the rest."""
    random = np.random.default_rng([seed, facts])
    templates = 3
    shape = (facts, 12, 5)

    def effects() -> np.ndarray:
        return np.repeat(draw(random, shape), templates, axis=0)

    still = np.zeros(shape[1:], dtype=bool)
    parts = {name: ComponentMap(effects(), effects(), effects(), still) for name in ("attn_out", "mlp_out")}
    asked = names(facts, templates)
    return Evidence(
        kind="null",
        roles=("subject_first", "subject_mid", "subject_last", "relation", "last"),
        components=parts,
        gaps=random.uniform(2, 5, len(asked)),
        facts=asked,
        templates=tuple(f"template-{i % templates}" for i in range(len(asked))),
        confirmation=split_facts(asked, seed)[1],
        facts_asked=facts,
    )


def false_localisation(data_sets: int) -> None:
    """How often the whole rule confirms a site, or says localised or distributed, where nothing is."""
    print(f"\nThe whole rule on nothing ({data_sets} data sets): a site is confirmed; a verdict is not 'undetermined'")
    for name, draw in NULLS.items():
        for n in (16, 40):
            confirmed = confident = 0
            for seed in range(data_sets):
                evidence = null_evidence(draw, seed, n)
                found = find_candidates(ranked_map(evidence), evidence, seed)
                confirmed += any(candidate.confirmed for candidate in found)
                confident += bool(found) and judge(evidence, seed=seed).word != "undetermined"
            print(f"  {name:27s} {n:3d} facts  {rate(confirmed, data_sets)}  {rate(confident, data_sets)}")


def speed() -> None:
    """Seconds for the intervals and the test of one large map."""
    random = np.random.default_rng(0)
    effects, gaps = random.normal(0.3, 1, (600, 12, 32, 3)), random.uniform(1, 4, 600)
    began = time.perf_counter()
    cluster_bootstrap(effects, gaps, names(200, 3), seed=0)
    between = time.perf_counter()
    sign_flip(effects, names(200, 3), seed=0)
    after = time.perf_counter()
    print(f"\n12 x 32 x 3 cells, 200 facts, 10,000 resamples: intervals {between - began:.1f} s, ", end="")
    print(f"max-T {after - between:.1f} s")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data-sets", type=int, default=1000)
    chosen = arguments.parse_args()
    speed()
    coverage(chosen.data_sets)
    family_wise_error(chosen.data_sets)
    false_localisation(chosen.data_sets)
