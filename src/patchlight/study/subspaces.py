"""How few directions of a kind's strongest place bring the answer back: one unit for each kind and site.

Directions are found on the discovery facts and patched on those held out for confirmation, beside their controls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from patchlight.records import Pair
from patchlight.report.within import SubspaceResult, SubspaceRow
from patchlight.run.units import Unit, Workplace
from patchlight.store.results import Artifact, Result
from patchlight.study.paths import strongest
from patchlight.study.results import Checkpoint, Question, SweepResult
from patchlight.study.spec import Study
from patchlight.study.stages import SWEEPS, pair_rows, run_on, seed_of
from patchlight.study.sweeping import Subspaces
from patchlight.study.view import KindView

if TYPE_CHECKING:
    from patchlight.model.anatomy import Model
    from patchlight.trace.directions import Subspace

WITHIN = (*SWEEPS, "study/subspaces.py")
UNREAD = ("q", "k", "v")  # by any weight: nothing to audit
Part = tuple[SubspaceRow, np.ndarray]


def subspace_units(
    study: Study, checkpoint: Checkpoint, questions: Sequence[Question], sweeps: Sequence[SweepResult]
) -> list[tuple[str, Unit]]:
    """The kinds of knowledge of a checkpoint, each with a unit for each of its sites.

    None where the study does not ask for it, and for kinds without facts in both halves or places to rank.
    """
    wanted, found = study.spec.sweep.subspaces, []
    if wanted is None:
        return []
    for kind in dict.fromkeys(question.pair.kind for question in questions):
        rows = np.array([question.pair.kind == kind for question in questions], dtype=bool)
        mine = tuple(question for question in questions if question.pair.kind == kind)
        view = KindView(study, kind, mine, tuple(sweep.of(rows) for sweep in sweeps))
        sites = list(wanted.sites) or [str(site) for site in strongest(view)[:1]]
        halves = {half: [pair for pair in view.pairs if pair.half == half] for half in ("discovery", "confirmation")}
        if all(halves.values()):
            found += [(kind, _unit(study, checkpoint, kind, halves, site, wanted)) for site in sites]
    return found


def _unit(
    study: Study,
    checkpoint: Checkpoint,
    kind: str,
    halves: Mapping[str, Sequence[Pair]],
    site: str,
    wanted: Subspaces,
) -> Unit:
    held_out, seed = halves["confirmation"], seed_of(study, "subspaces", kind, site)

    def work(_: Workplace) -> Result:
        from patchlight.trace.subspace import patch_subspaces

        model = checkpoint.model
        whole = patch_subspaces(model, held_out, site, ())
        parts = [(SubspaceRow("whole", 0, "whole"), whole.whole - whole.corrupted)]
        readable, width = _measure(model, halves, site, wanted, seed, parts)
        meta = {
            "site": site,
            "readable": readable,
            "width": width,
            "rows": [[row.method, row.dimensions, row.control, row.dormant] for row, _ in parts],
            "facts": [pair.fact for pair in held_out],
            "partners": [pair.partner for pair in held_out],
        }
        effects = np.stack([effect for _, effect in parts], axis=1)
        return Result(meta, {"effects": {"effects": effects, "gaps": whole.clean - whole.corrupted}})

    inputs = {
        "model": checkpoint.digest,
        **run_on(study),
        "site": site,
        "asked": wanted.model_dump(mode="json"),
        "pairs": {half: pair_rows(pairs) for half, pairs in halves.items()},
        "seed": seed,
    }
    return Unit("subspaces", f"{checkpoint.key}: directions within {site}, {kind}", inputs, work, WITHIN)


def _measure(
    model: Model,
    halves: Mapping[str, Sequence[Pair]],
    site: str,
    wanted: Subspaces,
    seed: int,
    parts: list[Part],
) -> tuple[int, int]:
    """Adds every subspace with its controls to `parts`; how many directions are read, and the site's width."""
    from patchlight.model.load import random_init
    from patchlight.trace.das import Training
    from patchlight.trace.directions import by_chance
    from patchlight.trace.illusion import audit
    from patchlight.trace.sites import read_site
    from patchlight.trace.subspace import find_subspaces

    discovery, held_out = halves["discovery"], halves["confirmation"]
    training = Training(epochs=wanted.epochs, seed=seed)

    def find(model: Model, *, shuffled: bool = False) -> tuple[Subspace, ...]:
        methods, sizes = wanted.methods, wanted.dimensions
        return find_subspaces(
            model, discovery, site, methods=methods, dimensions=sizes, shuffled=shuffled, training=training
        )

    found = find(model)
    width, readable, flags = found[0].basis.shape[1], 0, [False] * len(found)
    audited: list[Part] = []
    if read_site(site).component not in UNREAD:
        split = audit(model, held_out, site, found)
        readable, flags = split.readable, split.dormant.tolist()
        for number, part in ((1, "row"), (2, "null")):
            rows = (SubspaceRow(each.method, each.dimensions, part) for each in found)
            audited += zip(rows, split.effects[:, :, number].T, strict=True)
    parts += _patched(model, held_out, site, found, "", flags)
    parts += audited
    parts += _patched(model, held_out, site, find(model, shuffled=True), "shuffled")
    by_size = [by_chance(width, size, seed) for size in wanted.dimensions]
    parts += _patched(model, held_out, site, by_size, "random")
    fresh = random_init(model, seed)
    parts += _patched(fresh, held_out, site, find(fresh), "random-init")
    return readable, width


def _patched(
    model: Model,
    pairs: Sequence[Pair],
    site: str,
    subspaces: Sequence[Subspace],
    control: str,
    dormant: Sequence[bool] | None = None,
) -> list[Part]:
    from patchlight.trace.subspace import patch_subspaces

    found = patch_subspaces(model, pairs, site, subspaces)
    flags = dormant or [False] * len(subspaces)
    rows = [
        SubspaceRow(each.method, each.dimensions, control, flag) for each, flag in zip(subspaces, flags, strict=True)
    ]
    return list(zip(rows, (found.values - found.corrupted[:, None]).T, strict=True))


def subspaces_of(study: Study, done: Iterable[tuple[str, Artifact]]) -> Mapping[str, tuple[SubspaceResult, ...]]:
    """By kind of knowledge, the subspaces of each site with intervals over the facts held out."""
    found: dict[str, tuple[SubspaceResult, ...]] = {}
    for kind, artifact in done:
        found[kind] = (*found.get(kind, ()), _result(study, kind, artifact))
    return found


def _result(study: Study, kind: str, artifact: Artifact) -> SubspaceResult:
    from patchlight.judge.statistics import cluster_bootstrap
    from patchlight.trace.sites import read_site

    tensors, meta, statistics = artifact.tensors("effects"), artifact.meta, study.spec.statistics
    effect = cluster_bootstrap(
        tensors["effects"],
        tensors["gaps"],
        meta["facts"],
        seed=seed_of(study, "subspace intervals", kind),
        resamples=statistics.resamples,
        confidence=statistics.confidence,
        partners=meta["partners"],
    )
    rows = tuple(SubspaceRow(*row) for row in meta["rows"])
    counted = len(set(meta["facts"])), len(meta["facts"])
    return SubspaceResult(read_site(meta["site"]), meta["width"], meta["readable"], rows, effect, *counted)
