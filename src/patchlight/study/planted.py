"""Planted models put through the tool's own pipeline: weight patching, sets, nulls, and the judge of every study.

Each planted model was moved at every weight by chance after it was taught, as fine-tuning moves everything a little;
without that, the place that was taught would be the only one that differs, and finding it would be no test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from patchlight.judge.evidence import ComponentMap, Evidence
from patchlight.judge.verdict import Reason, Verdict, judge
from patchlight.model.planted.taught import Planted, never_taught, taught_at, taught_everywhere
from patchlight.pairs.screen import known_facts, screen
from patchlight.records import Pair, Site
from patchlight.trace.joint import Together
from patchlight.trace.sufficient import SetEvidence, find_sets
from patchlight.trace.weights import patch_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Bool, Float

    from patchlight.model.anatomy import Model

DRIFT = 0.02  # of the norm of each weight matrix
PARTS = ("attn", "mlp")
SHARES = (0.8, 0.9)  # what sets are grown to, as in a study
LARGEST = 0.5  # of the sites: a set grows no further
FLOOR = 0.5  # logits between the two models, as in a study
KIND, ROLE, NULL = "planted", "weights", "shuffled"


@dataclass(frozen=True)
class Case:
    """A planted model by name: its class (`a` one layer, `b` every layer, `c` never taught), seed and layer."""

    group: str
    seed: int
    layer: int = 0

    @property
    def label(self) -> str:
        """What people read."""
        where = f"layer {self.layer}" if self.group == "a" else {"b": "every layer", "c": "never taught"}[self.group]
        return f"planted model, {where}, seed {self.seed}"

    def planted(self) -> Planted:
        """The models before and after, the latter moved by chance at every weight."""
        if self.group == "a":
            made = taught_at(self.layer, seed=self.seed)
        else:
            made = (taught_everywhere if self.group == "b" else never_taught)(seed=self.seed)
        _drift(made.planted, self.seed)
        return made


@torch.no_grad()
def _drift(model: Model, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    for weight in model.hf.parameters():
        if weight.ndim == 2:
            moved = torch.randn(weight.shape, generator=random)
            weight.add_(moved * (DRIFT * weight.norm() / moved.norm()))


@dataclass(eq=False)
class WeightBench:
    """Pairs on which sets of modules are exchanged between two models; a site is a module of a block."""

    base: Model
    tuned: Model
    pairs: tuple[Pair, ...]
    direction: str
    delta: str = "learnt"
    done: dict[tuple[str, ...], Float[np.ndarray, " pair"]] = field(default_factory=dict)

    @cached_property
    def gaps(self) -> Float[np.ndarray, " pair"]:
        """The metric of the fine-tuned model minus that of the model before."""
        found = patch_weights(self.base, self.tuned, self.pairs, [])
        return np.asarray(found.tuned - found.base)

    def effects(self, sets: Sequence[Together]) -> Float[np.ndarray, "pair set"]:
        """What each set moves of the metric towards the model that gives."""
        named = [modules_of(sites) for sites in sets]
        self.done.setdefault((), np.zeros(len(self.pairs)))  # of one site, all but that one
        wanted = [names for names in dict.fromkeys(named) if names not in self.done]
        found = patch_weights(self.base, self.tuned, self.pairs, wanted, direction=self.direction, delta=self.delta)
        denoise = self.direction == "denoise"
        moved = found.values - found.base[:, None] if denoise else found.tuned[:, None] - found.values
        self.done.update(zip(wanted, moved.T, strict=True))
        return np.array([self.done[names] for names in named]).reshape(len(named), len(self.pairs)).T

    def structural(self, sets: Sequence[Together]) -> Bool[np.ndarray, " set"]:
        """Which sets are the modules of all blocks: they give the other model by construction."""
        every = self.base.n_layers * len(PARTS)
        return np.array([len(modules_of(sites)) == every for sites in sets], dtype=bool)


def modules_of(sites: Together) -> tuple[str, ...]:
    """The modules that the sites stand for; a window of layers stands for several."""
    return tuple(
        sorted(
            f"weights.blocks.{layer}.{site.component}"
            for site in sites
            for layer in ([site.layer] if isinstance(site.layer, int) else site.layer or ())
        )
    )


def verdict_on(planted: Planted, seed: int) -> Verdict:
    """The judge's verdict on what was taught, and the gate of every study before it: is there a gap over all facts?"""
    screened = screen(planted.planted, planted.pairs)
    gap = screened.knowledge[KIND].gap
    if gap is None or gap.low <= 0:
        known = len(known_facts(screened))
        return Verdict(KIND, "no knowledge to localise", "D", (Reason("gap-unclear", {"known": known}),))
    known_pairs = [pair for pair in screened.kept if pair.fact in known_facts(screened)]
    return judge(_evidence(planted, known_pairs), seed=seed)


def _evidence(planted: Planted, known: Sequence[Pair]) -> Evidence:
    held_out = _halves(planted)
    inside = [pair for pair in known if (pair.fact in held_out) == (pair.corrupted_subject in held_out)]
    gaps = WeightBench(planted.base, planted.planted, tuple(inside), "denoise").gaps
    pairs = tuple(pair for pair, gap in zip(inside, gaps, strict=True) if gap >= FLOOR)
    in_discovery = np.array([pair.fact not in held_out for pair in pairs], dtype=bool)
    every = _benches(planted, pairs)
    sites = tuple(Site(part, layer, None, ROLE) for part in PARTS for layer in range(planted.base.n_layers))
    return Evidence(
        kind=KIND,
        roles=(ROLE,),
        components={part: _map(planted, pairs, part, every) for part in PARTS},
        gaps=every["denoise"].gaps,
        facts=tuple(pair.fact for pair in pairs),
        templates=tuple(pair.template for pair in pairs),
        confirmation=held_out,
        facts_asked=len({pair.fact for pair in planted.pairs}),
        partners=tuple(pair.corrupted_subject for pair in pairs),
        sets=_sets(planted, pairs, in_discovery, sites, every) if len({*in_discovery}) > 1 else None,
    )


def _halves(planted: Planted) -> frozenset[str]:
    """The facts held out: the second half. A partner is the next person, so few pairs join the halves; those go."""
    facts = list(dict.fromkeys(pair.fact for pair in planted.pairs))
    return frozenset(facts[len(facts) // 2 :])


def _benches(planted: Planted, pairs: Sequence[Pair]) -> Mapping[str, WeightBench]:
    return {
        direction: WeightBench(planted.base, planted.planted, tuple(pairs), direction)
        for direction in ("denoise", "noise")
    }


def _map(planted: Planted, pairs: tuple[Pair, ...], part: str, every: Mapping[str, WeightBench]) -> ComponentMap:
    sites = [(Site(part, layer, None, ROLE),) for layer in range(planted.base.n_layers)]

    def effects(bench: WeightBench) -> Float[np.ndarray, "pair layer role"]:
        return bench.effects(sites)[:, :, None]

    shuffled = {name: effects(replace(bench, delta=NULL, done={})) for name, bench in every.items()}
    return ComponentMap(
        effects(every["denoise"]),
        effects(every["noise"]),
        np.zeros((len(sites), 1), dtype=bool),
        {NULL: shuffled["denoise"]},
        {NULL: shuffled["noise"]},
    )


def _sets(
    planted: Planted,
    pairs: tuple[Pair, ...],
    in_discovery: Bool[np.ndarray, " pair"],
    sites: Together,
    every: Mapping[str, WeightBench],
) -> SetEvidence:
    discovery = _benches(planted, [pair for pair, chosen in zip(pairs, in_discovery, strict=True) if chosen])
    shuffled = replace(every["denoise"], delta=NULL, done={})
    return find_sets(
        discovery,
        every,
        in_discovery,
        sites,
        shares=SHARES,
        largest=int(LARGEST * len(sites)),
        nulls={NULL: lambda sets: (shuffled.effects(sets), every["denoise"].gaps)},
    )
