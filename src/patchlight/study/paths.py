"""What a kind's strongest places say to the answer themselves, and what others make of it: one unit for each kind.

The places are chosen on the discovery facts and measured on those held out for confirmation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from patchlight.records import Pair, Site
from patchlight.report.contents import PARTS, DirectEffects
from patchlight.run.units import Unit, Workplace
from patchlight.store.results import Artifact, Result
from patchlight.study.results import Checkpoint, Question, SweepResult
from patchlight.study.spec import Study
from patchlight.study.stages import SWEEPS, pair_rows, run_on, seed_of
from patchlight.study.view import CONTRIBUTIONS, KindView

PATHS = (*SWEEPS, "study/paths.py")
PLACES = 5  # of each kind


def paths_units(
    study: Study, checkpoint: Checkpoint, questions: Sequence[Question], sweeps: Sequence[SweepResult]
) -> list[tuple[str, Unit]]:
    """The kinds of knowledge of a checkpoint, each with its unit.

    None where the study does not ask for it, and for kinds without facts held out or places to rank.
    """
    if not study.spec.sweep.direct:
        return []
    found = []
    for kind in dict.fromkeys(question.pair.kind for question in questions):
        rows = np.array([question.pair.kind == kind for question in questions], dtype=bool)
        mine = tuple(question for question in questions if question.pair.kind == kind)
        view = KindView(study, kind, mine, tuple(sweep.of(rows) for sweep in sweeps))
        sites, pairs = strongest(view), [pair for pair in view.pairs if pair.half == "confirmation"]
        if sites and pairs:
            found.append((kind, _unit(study, checkpoint, kind, pairs, sites)))
    return found


def strongest(view: KindView) -> list[Site]:
    """The places with the largest mean recovery over the discovery facts, among what writes into the stream.

    Only roles that every pair has, and no place that restores everything by construction.
    """
    discovery = np.array([pair.half == "discovery" for pair in view.pairs], dtype=bool)
    shared = [all(role in question.roles for question in view.questions) for role in view.roles]
    ranked: list[tuple[float, Site]] = []
    for sweep in view.sweeps:
        if sweep.component not in CONTRIBUTIONS or sweep.control or sweep.direction != "denoise":
            continue
        mean = view.by_role(view.effects(sweep))[discovery].mean(axis=0) / view.gaps[discovery].mean()
        for layer, role in np.argwhere(np.isfinite(mean) & ~view.structural(sweep) & np.array(shared)):
            ranked.append((float(mean[layer, role]), Site(sweep.component, int(layer), None, view.roles[role])))
    return [site for _, site in sorted(ranked, key=lambda each: -each[0])[:PLACES]]


def _unit(study: Study, checkpoint: Checkpoint, kind: str, pairs: Sequence[Pair], sites: Sequence[Site]) -> Unit:
    spec = study.spec.sweep

    def work(workplace: Workplace) -> Result:
        from patchlight.trace.mediation import effects

        found = effects(
            checkpoint.model,
            pairs,
            sites,
            metric=spec.metrics[0],
            memory=spec.memory,
            on_progress=workplace.on_progress,
        )
        parts = np.stack([found.effect(part) for part in PARTS], axis=2)
        meta = {
            "identity_error": found.identity_error,
            "facts": [pair.fact for pair in pairs],
            "partners": [pair.partner for pair in pairs],
        }
        return Result(
            meta | {"sites": [str(site) for site in sites]},
            {"effects": {"parts": parts, "gaps": found.clean - found.corrupted}},
        )

    inputs = {
        "kind": kind,
        "model": checkpoint.digest,
        **run_on(study),
        "metric": spec.metrics[0],
        "memory": spec.memory,
        "pairs": pair_rows(pairs),
        "sites": [str(site) for site in sites],
    }
    return Unit("direct", f"{checkpoint.key}: direct and indirect effects, {kind}", inputs, work, PATHS)


def directs_of(study: Study, done: Iterable[tuple[str, Artifact]]) -> Mapping[str, DirectEffects]:
    """By kind of knowledge, the parts of the effects with intervals over the facts held out."""
    return {kind: _direct(study, kind, artifact) for kind, artifact in done}


def _direct(study: Study, kind: str, artifact: Artifact) -> DirectEffects:
    from patchlight.judge.statistics import cluster_bootstrap
    from patchlight.trace.sites import read_site

    tensors, facts, statistics = artifact.tensors("effects"), artifact.meta["facts"], study.spec.statistics
    parts = cluster_bootstrap(
        tensors["parts"],
        tensors["gaps"],
        facts,
        seed=seed_of(study, "direct", kind),
        resamples=statistics.resamples,
        confidence=statistics.confidence,
        partners=artifact.meta["partners"],
    )
    sites = tuple(read_site(name) for name in artifact.meta["sites"])
    return DirectEffects(sites, parts, len(set(facts)), len(facts), artifact.meta["identity_error"])
