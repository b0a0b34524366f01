"""Looking beside acting: what parts write towards the answer, against what exchanging them brings back.

Both at the last word and over all facts of a kind; nothing is chosen by it, so that no half is held out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from patchlight.judge.statistics import cluster_bootstrap
from patchlight.report.within import Observed
from patchlight.run.units import Unit, Workplace
from patchlight.store.results import Artifact, Result
from patchlight.study.results import Checkpoint, Question, SweepResult
from patchlight.study.spec import Study
from patchlight.study.stages import SWEEPS, pair_rows, run_on, seed_of
from patchlight.study.view import CONTRIBUTIONS, KindView

OBSERVING = (*SWEEPS, "study/observation.py")


def observation_units(study: Study, checkpoint: Checkpoint, questions: Sequence[Question]) -> list[tuple[str, Unit]]:
    """The kinds of knowledge of a checkpoint, each with its unit; none where the study does not ask for it."""
    if not study.spec.sweep.observation:
        return []
    kinds = dict.fromkeys(question.pair.kind for question in questions)
    return [(kind, _unit(study, checkpoint, kind, [q for q in questions if q.pair.kind == kind])) for kind in kinds]


def _unit(study: Study, checkpoint: Checkpoint, kind: str, questions: Sequence[Question]) -> Unit:
    pairs = [question.pair for question in questions]

    def work(_: Workplace) -> Result:
        from patchlight.trace.observe import attribute, logit_lens

        found, lens = attribute(checkpoint.model, pairs), logit_lens(checkpoint.model, pairs)
        written = found.by_component(checkpoint.model.n_layers)
        tensors = {
            "looked": written[:, 0] - written[:, 1],
            "lens": lens[:, 0] - lens[:, 1],
            "gaps": found.metric[:, 0] - found.metric[:, 1],
        }
        return Result({"error": found.error}, {"observed": tensors})

    inputs = {"model": checkpoint.digest, **run_on(study), "pairs": pair_rows(pairs)}
    return Unit("observation", f"{checkpoint.key}: looking without exchanging, {kind}", inputs, work, OBSERVING)


def observed_of(
    study: Study, questions: Sequence[Question], sweeps: Sequence[SweepResult], done: Mapping[str, Artifact]
) -> Mapping[str, Observed]:
    """By kind of knowledge, what was seen beside what the sweeps of attention and MLP brought back at the last word."""
    return {kind: _observed(study, kind, questions, sweeps, artifact) for kind, artifact in done.items()}


def _observed(
    study: Study, kind: str, questions: Sequence[Question], sweeps: Sequence[SweepResult], artifact: Artifact
) -> Observed:
    rows = np.array([question.pair.kind == kind for question in questions], dtype=bool)
    mine = tuple(question for question in questions if question.pair.kind == kind)
    view = KindView(study, kind, mine, tuple(sweep.of(rows) for sweep in sweeps))
    tensors, facts = artifact.tensors("observed"), [pair.fact for pair in view.pairs]
    acted = np.full(tensors["looked"].shape, np.nan)
    for sweep in view.sweeps:
        if sweep.component in CONTRIBUTIONS and sweep.direction == "denoise" and not sweep.null:
            by_role = view.by_role(view.effects(sweep))
            acted[:, CONTRIBUTIONS.index(sweep.component)] = by_role[:, :, view.roles.index("last")]
    shares, lens = (
        cluster_bootstrap(
            values,
            tensors["gaps"],
            facts,
            seed=seed_of(study, "observation", kind),
            resamples=study.spec.statistics.resamples,
            confidence=study.spec.statistics.confidence,
            partners=[pair.partner for pair in view.pairs],
        )
        for values in (np.stack([tensors["looked"], acted], axis=3), tensors["lens"])
    )
    return Observed(CONTRIBUTIONS, shares, lens, artifact.meta["error"], len(set(facts)), len(facts))
