"""How the sites of a study are narrowed: one unit for each kind of knowledge, on its discovery facts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from patchlight.report.contents import Narrowing
from patchlight.run.units import Unit, Workplace
from patchlight.store.results import Artifact, Result
from patchlight.study.results import Checkpoint, Question
from patchlight.study.spec import Study
from patchlight.study.stages import SWEEPS, pair_rows, run_on, seed_of

ARRAYS = ("estimate", "exact", "audited")
SCREENING = (*SWEEPS, "study/screening.py")


def screening_units(study: Study, checkpoint: Checkpoint, questions: Sequence[Question]) -> list[tuple[str, Unit]]:
    """The kinds of knowledge of a checkpoint, each with its unit; none where the study does not ask for a screening."""
    spec = study.spec.sweep.screening
    kinds = dict.fromkeys(question.pair.kind for question in questions)
    return [(kind, _unit(study, checkpoint, questions, kind, spec.model_dump())) for kind in kinds] if spec else []


def _unit(
    study: Study, checkpoint: Checkpoint, questions: Sequence[Question], kind: str, settings: Mapping[str, Any]
) -> Unit:
    seed, direction, floor = seed_of(study, "screening", kind), study.spec.sweep.directions[0], study.spec.gap_floor
    of_kind = [question.pair for question in questions if question.pair.kind == kind]
    pairs = [pair for pair in of_kind if pair.half == "discovery"]

    def work(workplace: Workplace) -> Result:
        from patchlight.pairs.align import align
        from patchlight.trace.screening import screen_sites

        model = checkpoint.model
        # A screen reads one position: answers that share their first tokens are told apart only after it.
        read = [pair for pair in pairs if not align(model.tokenizer, pair).parting]
        if not read:
            return Result({"left_out": len(pairs)})
        found = screen_sites(
            model,
            read,
            **settings,
            direction=direction,
            floor=floor,
            seed=seed,
            memory=study.spec.sweep.memory,
            on_progress=workplace.on_progress,
        )
        names = [field.name for field in dataclasses.fields(found) if field.name not in ("sites", *ARRAYS)]
        meta = {
            "left_out": len(pairs) - len(read),
            "sites": [str(site) for site in found.sites],
            "figures": {name: getattr(found, name) for name in names},
        }
        return Result(meta, {"effects": {name: getattr(found, name) for name in ARRAYS}})

    inputs = {
        "kind": kind,
        "model": checkpoint.digest,
        **run_on(study),
        "direction": direction,
        "settings": settings,
        "floor": floor,
        "memory": study.spec.sweep.memory,
        "pairs": pair_rows(pairs),
        "seed": seed,
    }
    return Unit("screening", f"{checkpoint.key}: screening {direction}, {kind}", inputs, work, SCREENING)


def narrowings_of(done: Iterable[tuple[str, Artifact]]) -> Mapping[str, Narrowing]:
    """By kind of knowledge, how its sites were narrowed; without the kinds of which no pair could be screened."""
    return {kind: _narrowing(artifact) for kind, artifact in done if "effects" in artifact.parts}


def _narrowing(artifact: Artifact) -> Narrowing:
    from patchlight.trace.screening import Screening
    from patchlight.trace.sites import read_site

    sites = tuple(read_site(name) for name in artifact.meta["sites"])
    rest: dict[str, Any] = {**artifact.tensors("effects"), **artifact.meta["figures"]}
    return Narrowing(Screening(sites, **rest), artifact.meta["left_out"])
