"""Behind a kind's strongest places: which parts make up for their loss, and which read them. A unit for each kind.

Places are chosen on the discovery facts, and so are the readers; both are measured on the facts held out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from patchlight.records import Site
from patchlight.report.reached import Reached, RepairResult, RoutesResult
from patchlight.run.units import Unit, Workplace
from patchlight.store.results import Artifact, Result
from patchlight.study.intervals import unit_intervals
from patchlight.study.paths import strongest
from patchlight.study.results import Checkpoint, Question, SweepResult
from patchlight.study.spec import Study
from patchlight.study.stages import SWEEPS, pair_rows, run_on
from patchlight.study.view import KindView

REACHED = (*SWEEPS, "study/paths.py", "study/reached.py")
SENDERS, READERS = 3, 5  # of each kind; of each sender
COMPENSATING = 3  # of each place
Halves = Mapping[str, Sequence[Question]]


def reached_units(
    study: Study, checkpoint: Checkpoint, questions: Sequence[Question], sweeps: Sequence[SweepResult]
) -> list[tuple[str, Unit]]:
    """The kinds of knowledge with their units.

    None where the study does not ask for it, and for kinds without facts in both halves or places to rank.
    """
    found = []
    for kind in dict.fromkeys(question.pair.kind for question in questions):
        rows = np.array([question.pair.kind == kind for question in questions], dtype=bool)
        mine = tuple(question for question in questions if question.pair.kind == kind)
        sites = strongest(KindView(study, kind, mine, tuple(sweep.of(rows) for sweep in sweeps)))
        halves = {half: [each for each in mine if each.pair.half == half] for half in ("discovery", "confirmation")}
        if sites and all(halves.values()):
            found += [(kind, unit) for unit in _units(study, checkpoint, kind, halves, sites)]
    return found


def reached_of(study: Study, done: Iterable[tuple[str, Artifact]]) -> Mapping[str, Reached]:
    """By kind of knowledge, what was measured, with intervals over the facts held out."""
    found: dict[str, Reached] = {}
    for kind, artifact in done:
        of_kind = found.get(kind, Reached())
        if "readers" in artifact.meta:
            found[kind] = replace(of_kind, routes=_routes(study, kind, artifact))
        else:
            found[kind] = replace(of_kind, repair=_repair(study, kind, artifact))
    return found


def _units(study: Study, checkpoint: Checkpoint, kind: str, halves: Halves, sites: Sequence[Site]) -> Iterator[Unit]:
    spec = study.spec.sweep
    inputs = {
        "model": checkpoint.digest,
        **run_on(study),
        "metric": spec.metrics[0],
        "memory": spec.memory,
        "pairs": {half: pair_rows([each.pair for each in questions]) for half, questions in halves.items()},
        "sites": [str(site) for site in sites],
    }

    def repair(workplace: Workplace) -> Result:
        return _knocked_out(study, checkpoint, halves["confirmation"], sites, workplace)

    def routes(workplace: Workplace) -> Result:
        return _followed(study, checkpoint, halves, sites[:SENDERS], workplace)

    if spec.repair:
        yield Unit("repair", f"{checkpoint.key}: self-repair, {kind}", inputs, repair, REACHED)
    if spec.routes:
        yield Unit("routes", f"{checkpoint.key}: who reads the places, {kind}", inputs, routes, REACHED)


def _knocked_out(
    study: Study, checkpoint: Checkpoint, questions: Sequence[Question], sites: Sequence[Site], workplace: Workplace
) -> Result:
    """Losses predicted and measured `[pair, site, LOSSES]`, and what each later place costs more `[pair, backup]`."""
    from patchlight.trace.repair import backups, self_repair

    model, memory, pairs = checkpoint.model, study.spec.sweep.memory, [question.pair for question in questions]
    found = self_repair(model, pairs, sites, on_progress=workplace.on_progress, memory=memory)
    behind = {site: [other for other in sites if _behind(other, site)] for site in sites}
    more = [backups(model, pairs, site, others, memory=memory) for site, others in behind.items() if others]
    meta = {
        "sites": [str(site) for site in sites],
        "compensating": [
            [(str(part), change) for part, change in found.compensating(number, COMPENSATING)]
            for number in range(len(sites))
        ],
        "backups": [(str(site), str(other)) for site, others in behind.items() for other in others],
    }
    tensors = {
        # Losses are effects turned round; what came back stays as it is, loss predicted minus loss measured.
        "losses": np.stack([-found.predicted, -found.measured, found.repaired], axis=2),
        "more": np.concatenate([np.zeros((len(pairs), 0)), *more], axis=1),
        "gaps": _gaps(questions),
    }
    return Result({**_about(questions), **meta}, {"effects": tensors})


def _behind(other: Site, site: Site) -> bool:
    """Whether a place is computed after another: in a later layer, or as the MLP of a layer whose attention this is."""
    return (other.layer, other.component == "mlp_out") > (site.layer, site.component == "mlp_out")


def _followed(
    study: Study, checkpoint: Checkpoint, halves: Halves, senders: Sequence[Site], workplace: Workplace
) -> Result:
    """What each sender carries to its readers, `[pair, sender, reader]`; they are the strongest on the other half."""
    from patchlight.trace.paths import paths

    model, spec = checkpoint.model, study.spec.sweep
    receivers = ["q", "k", "v", "mlp_out", "logits"]
    follow = partial(paths, model, metric=spec.metrics[0], memory=spec.memory)
    discovery, held_out = ([question.pair for question in halves[half]] for half in ("discovery", "confirmation"))
    tried = follow(discovery, senders=senders, receivers=receivers, on_progress=workplace.on_progress)
    gap = (tried.clean - tried.corrupted).mean()
    mean = (tried.values - tried.corrupted[:, None, None]).mean(axis=0) / gap
    order = np.argsort(-np.nan_to_num(mean, nan=-np.inf), axis=1, kind="stable")[:, :READERS]
    readers = [[tried.names[index] for index in row] for row in order]
    moved = np.full((len(held_out), len(senders), order.shape[1]), np.nan)
    for number, (sender, names) in enumerate(zip(senders, readers, strict=True)):
        found = follow(held_out, senders=[sender], receivers=names)
        moved[:, number] = found.values[:, 0] - found.corrupted[:, None]
    meta = {"sites": [str(site) for site in senders], "readers": readers}
    questions = halves["confirmation"]
    return Result({**_about(questions), **meta}, {"effects": {"moved": moved, "gaps": _gaps(questions)}})


def _about(questions: Sequence[Question]) -> dict[str, list[str]]:
    return {
        "facts": [question.pair.fact for question in questions],
        "partners": [question.pair.partner for question in questions],
    }


def _gaps(questions: Sequence[Question]) -> np.ndarray:
    return np.array([question.clean - question.corrupted for question in questions])


def _repair(study: Study, kind: str, artifact: Artifact) -> RepairResult:
    from patchlight.trace.sites import read_site

    tensors, meta = artifact.tensors("effects"), artifact.meta
    more, gap = unit_intervals(study, kind, tensors["more"], artifact, use="reached"), tensors["gaps"].mean()
    return RepairResult(
        tuple(read_site(name) for name in meta["sites"]),
        unit_intervals(study, kind, tensors["losses"], artifact, use="reached"),
        tuple(tuple((read_site(part), change / gap) for part, change in parts) for parts in meta["compensating"]),
        tuple(
            (read_site(site), read_site(other), more.at(number)) for number, (site, other) in enumerate(meta["backups"])
        ),
        len(set(meta["facts"])),
        len(meta["facts"]),
    )


def _routes(study: Study, kind: str, artifact: Artifact) -> RoutesResult:
    from patchlight.trace.sites import read_site

    meta = artifact.meta
    return RoutesResult(
        tuple(read_site(name) for name in meta["sites"]),
        tuple(tuple(read_site(name) for name in names) for names in meta["readers"]),
        unit_intervals(study, kind, artifact.tensors("effects")["moved"], artifact, use="reached"),
        len(set(meta["facts"])),
        len(meta["facts"]),
    )
