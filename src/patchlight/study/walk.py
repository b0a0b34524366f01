"""The walk of a study through the rooms: texts, training, questions, identities, sweeps, findings, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from patchlight.errors import GateFailed, InputError, Place, UnitsFailed
from patchlight.packs.read import read_pack
from patchlight.packs.spec import Pack
from patchlight.packs.yaml_source import suggestion
from patchlight.records import MODEL_NULLS
from patchlight.report.contents import DirectEffects, Narrowing, ReportContents
from patchlight.report.reached import Reached
from patchlight.report.replay import Replay
from patchlight.report.timed import Timed
from patchlight.report.within import Observed, SubspaceResult
from patchlight.run.progress import Progress
from patchlight.run.units import Failure, Ran, Unit, run_units
from patchlight.store.ledger import Ledger
from patchlight.store.results import Artifact
from patchlight.study import stages
from patchlight.study.across import with_across
from patchlight.study.mentions import mentions_of, mentions_unit
from patchlight.study.nulls import applying, null_models
from patchlight.study.questions import questions_of
from patchlight.study.results import Checkpoint, CheckpointResults, FurtherMetric, Question, SweepResult
from patchlight.study.robustness import robustness_of, robustness_units
from patchlight.study.screening import narrowings_of, screening_units
from patchlight.study.sets import sets_of, sets_units
from patchlight.study.spec import Study
from patchlight.study.split import split_unit
from patchlight.trace.sufficient import SetEvidence
from patchlight.verify.agreement import Robustness

Key = tuple[str, str, str]  # component, direction, null map


@dataclass(frozen=True)
class Walked:
    """What a walk came to: where the report lies, what is in it, and the units that failed on the way."""

    report: Path
    contents: ReportContents
    computed: int
    failures: tuple[Failure, ...]
    results: tuple[CheckpointResults, ...]


@dataclass
class Walk:
    """One study on its way through one workspace; with `stored_only` nothing is computed that is not there."""

    study: Study
    ledger: Ledger
    progress: Progress
    stored_only: bool = False
    computed: int = 0
    failures: tuple[Failure, ...] = ()

    def run(self, units: Sequence[Unit]) -> Ran:
        """The results of these units; what failed is remembered."""
        if self.stored_only:
            return self._stored(units)
        ran = run_units(self.ledger, units, self.progress, study=self.study.spec.digest)
        self.computed += ran.computed
        self.failures += ran.failures
        return ran

    def one(self, unit: Unit) -> Artifact:
        """The result of a unit that the rest of the study cannot do without.

        Raises UnitsFailed where it failed.
        """
        ran = self.run([unit])
        if ran.failures:
            raise UnitsFailed(
                "study-unit-failed",
                f"{unit.label}: {ran.failures[0].reason}",
                fix="what is done is kept; mend the cause and run the study again",
            )
        return ran.artifacts[unit.hash]

    def _stored(self, units: Sequence[Unit]) -> Ran:
        found = {unit.hash: self.ledger.result(unit.hash) for unit in units}
        missing = [unit.label for unit in units if found[unit.hash] is None]
        if missing:
            raise InputError(
                "study-not-finished",
                f"{len(missing)} units of this stage are not computed yet, the first is '{missing[0]}'",
                where=str(self.study.file),
                fix=f"patchlight run {self.study.file}",
            )
        return Ran({key: artifact for key, artifact in found.items() if artifact is not None}, (), 0)


def walk(study: Study, ledger: Ledger, progress: Progress, command: str, *, stored_only: bool = False) -> Walked:
    """The report of a study, after everything that was missing has been computed.

    Raises GateFailed where an identity of a model does not hold, UnitsFailed where a stage cannot go on, and
    InputError for a study, pack, corpus or model that cannot be used.
    """
    from patchlight.review.audit import head_of_workspace
    from patchlight.study.findings import contents_of
    from patchlight.study.publish import publish

    pack = read_pack(study.pack_source)
    require_relations(study, pack)
    here = Walk(study, ledger, progress, stored_only)
    checkpoints = _checkpoints(here, pack)
    models = null_models(study, checkpoints)
    results = []
    for checkpoint in checkpoints:
        result = _checkpoint_results(here, pack, checkpoint, models)
        results.append(with_across(study, checkpoints[0], result, here.run))
        if checkpoint.training is not None:  # the model before training is wanted by the others, too
            checkpoint.let_go()
    mentions = _mentions(here, pack)
    results = [replace(result, mentions=mentions) for result in results]
    begun = next(row.begun for row in ledger.studies() if row.hash == study.spec.digest)
    contents = contents_of(study, pack, results, command, begun)
    contents = replace(contents, replay=_replay(here, contents, results), chain_head=head_of_workspace(ledger.folder))
    report = publish(contents, results, ledger.folder / "reports" / study.spec.id)
    return Walked(report, contents, here.computed, here.failures, tuple(results))


def require_relations(study: Study, pack: Pack) -> None:
    """Raises InputError for a relation that the study names and the pack does not have."""
    known = [relation.id for relation in pack.file.relations]
    for name in study.spec.pairs.relations:
        if name not in known:
            raise InputError(
                "study-unknown-relation",
                f"the pack {pack.id!r} has no relation {name!r}",
                where=Place(study.file),
                fix=suggestion(name, known) or f"its relations are: {', '.join(known)}",
            )


def _checkpoints(here: Walk, pack: Pack) -> list[Checkpoint]:
    """The models under study: as loaded, and as each configuration left them."""
    study = here.study
    base = stages.loaded_checkpoint(study)
    if not study.spec.training:
        return [base] if base else []
    texts = here.one(stages.texts_unit(study, pack))
    trained = [
        stages.trained_checkpoint(study, key, here.one(stages.training_unit(study, key, texts, base)))
        for key in study.spec.training
    ]
    return [base, *trained] if base and study.spec.before else trained


def _checkpoint_results(
    here: Walk, pack: Pack, checkpoint: Checkpoint, models: Mapping[str, Checkpoint]
) -> CheckpointResults:
    asked = here.one(stages.questions_unit(here.study, pack, checkpoint))
    questions = questions_of(asked)
    if not questions:
        return CheckpointResults(checkpoint, asked, None, (), (), 0, 0)
    identities = here.one(stages.identities_unit(here.study, checkpoint, [question.pair for question in questions]))
    _require_identities(identities, checkpoint)
    split = split_unit(here.study, checkpoint, questions)
    here.one(split)
    # First, so that a component which the model cannot give is refused before the long work.
    narrowings = _narrowings(here, checkpoint, questions)
    units = stages.sweep_units(here.study, checkpoint, questions, models)
    ran = here.run([unit for _, unit in units])
    sweeps = joined(units, ran.artifacts, len(questions))
    return CheckpointResults(
        checkpoint,
        asked,
        identities,
        tuple(questions),
        sweeps,
        len(ran.failures),
        len(units),
        _robustness(here, checkpoint, questions),
        narrowings,
        applying(checkpoint, models),
        directs=_directs(here, checkpoint, questions, sweeps),
        subspaces=_subspaces(here, checkpoint, questions, sweeps),
        observed=_observed(here, checkpoint, questions, sweeps),
        timed=_timed(here, checkpoint, questions),
        reached=_reached(here, checkpoint, questions, sweeps),
        sets=_sets(here, checkpoint, questions),
        split=split.hash,
    )


def _mentions(here: Walk, pack: Pack) -> Mapping[str, int]:
    """By fact: the training texts that name its answer; empty for a study without training."""
    if here.study.spec.corpus is None:
        return {}
    texts = here.one(stages.texts_unit(here.study, pack))
    return mentions_of(here.one(mentions_unit(here.study, pack, texts)))


def _sets(here: Walk, checkpoint: Checkpoint, questions: Sequence[Question]) -> Mapping[str, SetEvidence]:
    units = sets_units(here.study, checkpoint, questions)
    artifacts = here.run([unit for _, unit in units]).artifacts
    return sets_of((kind, artifacts[unit.hash]) for kind, unit in units if unit.hash in artifacts)


def _narrowings(here: Walk, checkpoint: Checkpoint, questions: Sequence[Question]) -> Mapping[str, Narrowing]:
    units = screening_units(here.study, checkpoint, questions)
    artifacts = here.run([unit for _, unit in units]).artifacts
    return narrowings_of((kind, artifacts[unit.hash]) for kind, unit in units if unit.hash in artifacts)


def _robustness(
    here: Walk, checkpoint: Checkpoint, questions: Sequence[Question]
) -> Mapping[str, tuple[Robustness, ...]]:
    units = robustness_units(here.study, checkpoint, questions)
    artifacts = here.run([unit for _, unit in units]).artifacts
    return robustness_of(
        here.study, [(choice, artifacts[unit.hash]) for choice, unit in units if unit.hash in artifacts]
    )


def _replay(here: Walk, contents: ReportContents, results: Sequence[CheckpointResults]) -> Replay | None:
    """A published protocol replayed on the study's models and further ones, where the study asks for it."""
    if here.study.spec.published is None:
        return None
    from patchlight.study.published import published_models, published_units
    from patchlight.study.replay import replay_of

    done = {}
    for checkpoint in published_models(here.study, [result.checkpoint for result in results]):
        units = published_units(here.study, checkpoint)
        artifacts = here.run([unit for _, unit in units]).artifacts
        done[checkpoint.key] = [(asked, artifacts[unit.hash]) for asked, unit in units if unit.hash in artifacts]
    return replay_of(here.study, contents, results, done)


def _directs(
    here: Walk, checkpoint: Checkpoint, questions: Sequence[Question], sweeps: Sequence[SweepResult]
) -> Mapping[str, DirectEffects]:
    from patchlight.study.paths import directs_of, paths_units

    units = paths_units(here.study, checkpoint, questions, sweeps)
    artifacts = here.run([unit for _, unit in units]).artifacts
    return directs_of(here.study, [(kind, artifacts[unit.hash]) for kind, unit in units if unit.hash in artifacts])


def _subspaces(
    here: Walk, checkpoint: Checkpoint, questions: Sequence[Question], sweeps: Sequence[SweepResult]
) -> Mapping[str, tuple[SubspaceResult, ...]]:
    from patchlight.study.subspaces import subspace_units, subspaces_of

    units = subspace_units(here.study, checkpoint, questions, sweeps)
    artifacts = here.run([unit for _, unit in units]).artifacts
    return subspaces_of(here.study, [(kind, artifacts[unit.hash]) for kind, unit in units if unit.hash in artifacts])


def _observed(
    here: Walk, checkpoint: Checkpoint, questions: Sequence[Question], sweeps: Sequence[SweepResult]
) -> Mapping[str, Observed]:
    from patchlight.study.observation import observation_units, observed_of

    units = observation_units(here.study, checkpoint, questions)
    artifacts = here.run([unit for _, unit in units]).artifacts
    done = {kind: artifacts[unit.hash] for kind, unit in units if unit.hash in artifacts}
    return observed_of(here.study, questions, sweeps, done)


def _timed(here: Walk, checkpoint: Checkpoint, questions: Sequence[Question]) -> Mapping[str, Timed]:
    from patchlight.study.timed import timed_of, timed_units

    units = timed_units(here.study, checkpoint, questions)
    artifacts = here.run([unit for _, unit in units]).artifacts
    return timed_of(here.study, [(kind, artifacts[unit.hash]) for kind, unit in units if unit.hash in artifacts])


def _reached(
    here: Walk, checkpoint: Checkpoint, questions: Sequence[Question], sweeps: Sequence[SweepResult]
) -> Mapping[str, Reached]:
    from patchlight.study.reached import reached_of, reached_units

    units = reached_units(here.study, checkpoint, questions, sweeps)
    artifacts = here.run([unit for _, unit in units]).artifacts
    return reached_of(here.study, [(kind, artifacts[unit.hash]) for kind, unit in units if unit.hash in artifacts])


def _require_identities(identities: Artifact, checkpoint: Checkpoint) -> None:
    table = identities.table("identities")
    broken = table[~table.held]
    if len(broken):
        first = broken.iloc[0]
        raise GateFailed(
            "identity-broken",
            f"{checkpoint.key}: the identity '{first['name']}' fails: error {first.error:.2e}, limit {first.limit:.0e}",
            fix="nothing was measured; `patchlight doctor --model` shows every identity of this model",
        )


def joined(
    units: Sequence[tuple[stages.Asked, Unit]], artifacts: Mapping[str, Artifact], pairs: int
) -> tuple[SweepResult, ...]:
    """The sweeps with their units put together; pairs of a failed unit are NaN."""
    parts: dict[Key, list[tuple[range, dict[str, np.ndarray]]]] = {}
    for asked, unit in units:
        artifact = artifacts.get(unit.hash)
        if artifact is not None:
            key = (asked.component, asked.direction, asked.null)
            parts.setdefault(key, []).append((asked.pairs, artifact.tensors("effects")))
    return tuple(_stacked(key, of_sweep, pairs) for key, of_sweep in parts.items())


def _stacked(key: Key, parts: Sequence[tuple[range, dict[str, np.ndarray]]], pairs: int) -> SweepResult:
    layers = parts[0][1]["values"].shape[1]
    length = max(tensors["values"].shape[2] for _, tensors in parts)
    whole = {
        name: np.full((pairs, layers, length)[: tensor.ndim], False if tensor.dtype == bool else np.nan)
        for name, tensor in parts[0][1].items()
    }
    for chunk, tensors in parts:
        for name, tensor in tensors.items():
            part = slice(chunk.start, chunk.stop), slice(None), slice(tensor.shape[-1])
            whole[name][part[: tensor.ndim]] = tensor
    names = [name for name in whole if f"{name}.clean" in whole]
    further = {name: FurtherMetric(whole[name], whole[f"{name}.clean"], whole[f"{name}.corrupted"]) for name in names}
    runs = (whole["clean"], whole["corrupted"]) if key[2] in MODEL_NULLS else ()
    return SweepResult(*key, whole["values"], whole["structural"], further, *runs)
