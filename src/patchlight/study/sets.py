"""What several sites of a study do together: one unit for each kind of knowledge, grown on its discovery facts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np

from patchlight.pairs.halves import HALVES
from patchlight.records import Pair, Site
from patchlight.run.units import Unit, Workplace
from patchlight.store.results import Artifact, Result
from patchlight.study.results import Checkpoint, Question
from patchlight.study.spec import Study
from patchlight.study.stages import SWEEPS, pair_rows, run_on, seed_of
from patchlight.study.sweeping import Sets
from patchlight.study.view import CONTRIBUTIONS
from patchlight.trace.joint import Together
from patchlight.trace.sites import read_site
from patchlight.trace.sufficient import (
    Curve,
    Grown,
    NullEffects,
    SetEffects,
    SetEvidence,
    SetNull,
    Windows,
    eligible_sites,
    find_sets,
)

if TYPE_CHECKING:
    from patchlight.model.anatomy import Model
    from patchlight.trace.joint import Bench, JointEffects
    from patchlight.verify.controls import Donors

FEWEST = 5  # facts in each half: with fewer there is no interval to show
WIRING = 0.5  # of its own gap: a site where a model with random weights brings back as much is not chosen
PARTS = ("joint", "singles", "left_out", "couples", "complement")
NULL_KINDS = ("nulls", "damage_nulls")
SETS = (*SWEEPS, "study/sets.py")


def sets_units(study: Study, checkpoint: Checkpoint, questions: Sequence[Question]) -> list[tuple[str, Unit]]:
    """The kinds of knowledge of a checkpoint, each with its unit; none where the study does not ask for sets.

    A kind without enough facts in both halves has no unit, as nothing could be confirmed.
    """
    spec, found = study.spec.sweep.sets, []
    components = tuple(name for name in CONTRIBUTIONS if name in study.spec.sweep.components)
    if spec is None or not components:
        return []
    for kind in dict.fromkeys(question.pair.kind for question in questions):
        pairs = [question.pair for question in questions if question.pair.kind == kind]
        if min(len({pair.fact for pair in pairs if pair.half == half}) for half in HALVES) >= FEWEST:
            found.append((kind, _unit(study, checkpoint, kind, pairs, components, spec)))
    return found


def _unit(
    study: Study,
    checkpoint: Checkpoint,
    kind: str,
    pairs: Sequence[Pair],
    components: tuple[str, ...],
    spec: Sets,
) -> Unit:
    seed, memory, metric = seed_of(study, "sets", kind), study.spec.sweep.memory, study.spec.sweep.metrics[0]
    in_discovery = np.array([pair.half == "discovery" for pair in pairs])

    def work(_: Workplace) -> Result:
        from patchlight.model.load import random_init

        random = random_init(checkpoint.model, seed)
        benches = SetBenches(checkpoint.model, random, pairs, components, metric, memory, seed)
        return _written(found_sets(benches, in_discovery, spec))

    inputs = {
        "kind": kind,
        "model": checkpoint.digest,
        **run_on(study),
        "components": components,
        "settings": spec.model_dump(),
        "metric": metric,
        "memory": memory,
        "pairs": pair_rows(pairs),
        "seed": seed,
    }
    return Unit("sets", f"{checkpoint.key}: several places together, {kind}", inputs, work, SETS)


class SetBenches:
    """The pairs of a kind on the benches that its sets are tried on; `random` is the model with random weights."""

    def __init__(
        self,
        model: Model,
        random: Model,
        pairs: Sequence[Pair],
        components: tuple[str, ...],
        metric: str,
        memory: int,
        seed: int,
    ) -> None:
        self.model, self.random, self.pairs, self.components = model, random, pairs, components
        self.metric, self.memory, self.seed = metric, memory, seed

    @cached_property
    def every(self) -> dict[str, Bench]:
        """All pairs, in both directions."""
        return self.both(np.ones(len(self.pairs), dtype=bool))

    def both(self, rows: np.ndarray) -> dict[str, Bench]:
        """Some of the pairs, in both directions."""
        pairs = list(compress(self.pairs, rows))
        return {direction: self._bench(self.model, pairs, direction=direction) for direction in ("denoise", "noise")}

    def sites(self) -> Together:
        """The sites that can change anything."""
        from patchlight.pairs.align import align

        alignments = [align(self.model.tokenizer, pair) for pair in self.pairs]
        return eligible_sites(alignments, self.components, self.model.n_layers)

    def embedding(self) -> Together:
        """The first feed-forward layer at the tokens that differ: it works as an extended embedding.

        It passes on which word was read, so that everything comes back there, whatever is asked about the word.
        """
        from patchlight.pairs.align import align

        alignments = [align(self.model.tokenizer, pair) for pair in self.pairs]
        return tuple(
            Site("mlp_out", 0, None, role)
            for role in {each.roles[position] for each in alignments for position in each.differing}
        )

    @cached_property
    def nulls(self) -> dict[str, NullEffects]:
        """What sets bring back with the donors of the null maps, and in a model with random weights."""
        from patchlight.verify.controls import donor_from_another_fact, donor_from_permuted_pairs

        made = {"another-fact": donor_from_another_fact, "permuted": donor_from_permuted_pairs}
        donors = {name: make(self.pairs, self.model.tokenizer, self.seed) for name, make in made.items()}
        usable = {name: each for name, each in donors.items() if each.missing < len(self.pairs)}
        by_chance = {"random-donor": self._random_donor("denoise"), "random-init": self.at_random()}
        return {name: self._of_donors(each) for name, each in usable.items()} | by_chance

    @cached_property
    def damage_nulls(self) -> dict[str, NullEffects]:
        """What sets take away for a push as large in any direction, and in a model with random weights.

        A donor that cannot bring the answer breaks a run as the usual donor does, and says nothing about damage.
        """
        return {"random-donor": self._random_donor("noise"), "random-init": self.at_random(direction="noise")}

    def at_random(self, rows: np.ndarray | None = None, direction: str = "denoise") -> NullEffects:
        """Effects in the model with random weights, turned where its gap is negative, beside the size of the gap."""
        pairs = self.pairs if rows is None else list(compress(self.pairs, rows))
        bench = self._bench(self.random, pairs, direction=direction)
        sign = np.where(bench.gaps < 0, -1.0, 1.0)
        gaps = np.maximum(np.abs(bench.gaps), np.finfo(np.float32).tiny)
        return lambda sets: (bench.effects(sets) * sign[:, None], gaps)

    def _random_donor(self, direction: str) -> NullEffects:
        from patchlight.trace.random_donor import RandomDonor

        bench = self._bench(self.model, self.pairs, direction=direction, donors=RandomDonor(self.seed))
        return lambda sets: (bench.effects(sets), bench.gaps)

    def _of_donors(self, donors: Donors) -> NullEffects:
        having = np.array([prompt is not None for prompt in donors.prompts])
        pairs = list(compress(self.pairs, having))
        bench = self._bench(self.model, pairs, donors=list(compress(donors.prompts, having)))

        def effects(sets: Sequence[Together]) -> tuple[np.ndarray, np.ndarray]:
            found, gaps = np.full((len(having), len(sets)), np.nan), np.ones(len(having))
            found[having], gaps[having] = bench.effects(sets), bench.gaps
            return found, gaps

        return effects

    def _bench(self, model: Model, pairs: Sequence[Pair], **settings: Any) -> Bench:
        from patchlight.trace.joint import Bench

        return Bench(model, pairs, self.components, metric=self.metric, memory=self.memory, **settings)


def found_sets(benches: SetBenches, in_discovery: np.ndarray, spec: Sets) -> SetEvidence:
    """The sets grown on the discovery pairs, from all sites that are not wiring, with their nulls."""
    sites, embedding = benches.sites(), benches.embedding()
    alone, gaps = benches.at_random(in_discovery)([(site,) for site in sites])
    wiring = (alone.sum(axis=0) / gaps.sum() >= WIRING) | np.array([each in embedding for each in sites])
    chosen = tuple(site for site, wired in zip(sites, wiring, strict=True) if not wired)
    return find_sets(
        benches.both(in_discovery),
        benches.every,
        in_discovery,
        chosen,
        shares=spec.share,
        largest=max(1, math.floor(spec.largest * len(chosen))),
        nulls=benches.nulls,
        damage_nulls=benches.damage_nulls,
        wiring=tuple(site for site, wired in zip(sites, wiring, strict=True) if wired),
    )


def _written(found: SetEvidence) -> Result:
    arrays: dict[str, np.ndarray] = {"gaps": found.gaps}
    arrays |= {f"windows.{name}": getattr(found.windows, name) for name in ("joint", "alone")}
    for each in found.curves:
        arrays[f"curve.{each.direction}"] = each.effects
    for index, of_set in enumerate(found.sets):
        for direction in ("denoise", "noise"):
            effects = getattr(of_set, direction)
            arrays |= {f"set.{index}.{direction}.{part}": getattr(effects, part) for part in (*PARTS, "gaps")}
        for kind in NULL_KINDS:
            for name, null in getattr(of_set, kind).items():
                arrays |= {f"set.{index}.{kind}.{name}.{part}": values for part, values in null._asdict().items()}
    meta = {
        "eligible": found.eligible,
        "cut": found.cut,
        "largest": found.largest,
        "wiring": _names(found.wiring),
        "windows": _names(found.windows.sites),
        "curves": [
            {"direction": c.direction, "sites": _names(c.sites), "stopped": c.stopped, "sizes": list(c.sizes)}
            for c in found.curves
        ],
        "sets": [
            {
                **each.grown._asdict(),
                "sites": _names(each.grown.sites),
                **{kind: list(getattr(each, kind)) for kind in NULL_KINDS},
            }
            for each in found.sets
        ],
    }
    return Result(meta, {"effects": arrays})


def sets_of(done: Iterable[tuple[str, Artifact]]) -> Mapping[str, SetEvidence]:
    """By kind of knowledge, its sets as they were measured."""
    return {kind: _read(artifact) for kind, artifact in done}


def _read(artifact: Artifact) -> SetEvidence:
    arrays, meta = artifact.tensors("effects"), artifact.meta
    return SetEvidence(
        meta["eligible"],
        meta["cut"],
        meta["largest"],
        arrays["gaps"],
        tuple(
            Curve(
                c["direction"], _sites(c["sites"]), c["stopped"], tuple(c["sizes"]), arrays[f"curve.{c['direction']}"]
            )
            for c in meta["curves"]
        ),
        tuple(_set(index, each, arrays) for index, each in enumerate(meta["sets"])),
        Windows(_sites(meta["windows"]), arrays["windows.joint"], arrays["windows.alone"]),
        _sites(meta["wiring"]),
    )


def _set(index: int, each: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> SetEffects:
    sites = _sites(each["sites"])

    def effects(direction: str) -> JointEffects:
        from patchlight.trace.joint import JointEffects

        parts = [arrays[f"set.{index}.{direction}.{part}"] for part in (*PARTS, "gaps")]
        return JointEffects(sites, direction, *parts)

    def nulls(kind: str) -> dict[str, SetNull]:
        return {
            name: SetNull(*(arrays[f"set.{index}.{kind}.{name}.{part}"] for part in SetNull._fields))
            for name in each[kind]
        }

    grown = Grown(each["by"], each["share"], each["reached"], sites)
    return SetEffects(grown, effects("denoise"), effects("noise"), *map(nulls, NULL_KINDS))


def _names(sites: Together) -> list[str]:
    return [str(site) for site in sites]


def _sites(names: Sequence[str]) -> Together:
    return tuple(read_site(name) for name in names)
