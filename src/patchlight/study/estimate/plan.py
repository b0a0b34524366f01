"""What a study will run, unit by unit, counted from its own units before any of them has run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from patchlight.pairs.align import align
from patchlight.records import Pair
from patchlight.run.units import Unit
from patchlight.study import stages
from patchlight.study.across import WEIGHTS, across_units
from patchlight.study.estimate.rehearsal import continuations, set_runs
from patchlight.study.nulls import donors_of
from patchlight.study.observation import observation_units
from patchlight.study.paths import paths_units
from patchlight.study.reached import reached_units
from patchlight.study.results import Checkpoint, Question, SweepResult
from patchlight.study.robustness import robustness_units
from patchlight.study.screening import screening_units
from patchlight.study.sets import sets_units
from patchlight.study.spec import Study
from patchlight.study.split import split_unit
from patchlight.study.stages import seed_of
from patchlight.study.subspaces import subspace_units
from patchlight.study.sweeping import Sets
from patchlight.study.timed import timed_units
from patchlight.study.view import CONTRIBUTIONS
from patchlight.trace.cells import Grid, columns_of, sites_of
from patchlight.trace.corruptions import TOKEN
from patchlight.trace.mediation import RUNS
from patchlight.trace.sweep import Settings, work_on

if TYPE_CHECKING:
    from patchlight.model.anatomy import Model

Amounts = tuple[int, int]  # at least, at most


@dataclass(frozen=True)
class Planned:
    """A unit that a run will plan, or would (where it is not yet known whether).

    `family` is what its rate is shared with, and `amounts` what its time goes by, at least and at most: patched runs,
    the steps of a training, or what else it works through.
    """

    stage: str
    family: str
    unit: Unit
    amounts: Amounts
    work: Literal["runs", "steps", "other"]


@dataclass(frozen=True)
class Subject:
    """A checkpoint with its questions, the models of its null maps, and the form of its model.

    `sweeps` are those that were made; None where they are still to come, and nobody can say which places are strong.
    """

    study: Study
    checkpoint: Checkpoint
    questions: Sequence[Question]
    models: Mapping[str, Checkpoint]
    model: Model
    sweeps: Sequence[SweepResult] | None = None

    @property
    def pairs(self) -> list[Pair]:
        """The pair of each question."""
        return [question.pair for question in self.questions]

    def kind(self, kind: str) -> list[Pair]:
        """The pairs of a kind of knowledge."""
        return [pair for pair in self.pairs if pair.kind == kind]


def checkpoint_plan(subject: Subject, base: Checkpoint | None) -> list[Planned]:
    """The units of a checkpoint behind its questions, in the order of a run; none where no question is left."""
    if not subject.questions:
        return []
    study, checkpoint, questions = subject.study, subject.checkpoint, subject.questions
    count = len(questions)
    sweeps = stand_in(subject) if subject.sweeps is None else subject.sweeps
    identities, split = (
        stages.identities_unit(study, checkpoint, subject.pairs),
        split_unit(study, checkpoint, questions),
    )
    found = [other("identities", identities, 1), other("split", split, 1)]
    found += _screening(subject)
    found += _sweeps(subject)
    found += _robustness(subject)
    found += _direct(subject, sweeps)
    found += [other("subspaces", each, count) for _, each in subspace_units(study, checkpoint, questions, sweeps)]
    found += [other("observation", each, count) for _, each in observation_units(study, checkpoint, questions)]
    found += _timed(subject)
    found += [other(each.stage, each, count) for _, each in reached_units(study, checkpoint, questions, sweeps)]
    found += _sets(subject)
    if base is not None and checkpoint.training is not None:
        found += _across(subject, base)
    return found


def stand_in(subject: Subject) -> list[SweepResult]:
    """Sweeps of what writes into the stream, as if they had been made: places are ranked, by chance."""
    length = max(len(question.words) for question in subject.questions)
    shape = (len(subject.questions), subject.model.n_layers, length)
    random = np.random.default_rng(0)
    wanted = [name for name in CONTRIBUTIONS if name in subject.study.spec.sweep.components]
    return [
        SweepResult(name, "denoise", "", random.uniform(-0.5, 0.5, shape), np.zeros(shape, dtype=bool))
        for name in wanted
    ]


def cell_runs(
    model: Model, pairs: Sequence[Pair], component: str, metrics: Sequence[str], *, positions: str = "each",
    layers: int = 1, span: int = 1,
) -> list[int]:  # fmt: skip
    """The patched runs of each pair in a sweep, as the sweep itself counts them."""
    alignments = [align(model.tokenizer, pair) for pair in pairs]
    cells = Grid(sites_of(model, component, layers, None), columns_of(alignments, positions), span)
    work = work_on(model, pairs, cells, Settings("denoise", tuple(metrics), TOKEN, "exact", 1 << 30))
    return [work.count(index) for index in range(len(pairs))]


def other(stage: str, unit: Unit, amount: int, family: str = "") -> Planned:
    """A unit whose time goes by something else than patched runs."""
    return Planned(stage, family or stage, unit, (amount, amount), "other")


def _runs(stage: str, family: str, unit: Unit, runs: int | Amounts) -> Planned:
    return Planned(stage, family, unit, (runs, runs) if isinstance(runs, int) else runs, "runs")


def _sweeps(subject: Subject) -> Iterator[Planned]:
    """The sweeps with their null maps: a pair without a donor is not run."""
    study, model, pairs = subject.study, subject.model, subject.pairs
    metrics, seed = study.spec.sweep.metrics, seed_of(study, "control")

    @cache
    def counts(component: str, null: str) -> list[int]:
        donors = donors_of(null, pairs, model.tokenizer, seed)
        runs = cell_runs(model, pairs, component, metrics[:1] if null else metrics)
        given = [each is not None for each in donors] if isinstance(donors, tuple) else [True] * len(pairs)
        return [count if has else 0 for count, has in zip(runs, given, strict=True)]

    for asked, unit in stages.sweep_units(study, subject.checkpoint, subject.questions, subject.models):
        runs = sum(counts(asked.component, asked.null)[index] for index in asked.pairs)
        stage = "controls" if asked.null else "sweep"
        yield _runs(stage, f"{stage} {asked.component}", unit, runs)


def _robustness(subject: Subject) -> Iterator[Planned]:
    """The same cells once for each corruption; one whose pair has no partner to be taken from is counted, too."""
    from patchlight.pairs.answers import METRICS

    metrics = subject.study.spec.sweep.metrics
    read = tuple(dict.fromkeys((*metrics, METRICS[metrics[0]].knows)))
    for choice, unit in robustness_units(subject.study, subject.checkpoint, subject.questions):
        pairs = subject.kind(choice.kind)
        runs = sum(cell_runs(subject.model, pairs, choice.component, read))
        least = 0 if choice.corruption == "resample" else runs
        yield _runs("robustness", f"sweep {choice.component}", unit, (least, runs))


def _screening(subject: Subject) -> Iterator[Planned]:
    """Sites with fewest and with most tokens: which of them are patched exactly is decided by their estimates."""
    spec = subject.study.spec.sweep.screening
    for kind, unit in screening_units(subject.study, subject.checkpoint, subject.questions):
        pairs = [pair for pair in subject.kind(kind) if pair.half == "discovery"]
        alignments = [align(subject.model.tokenizer, pair) for pair in pairs]
        tokens = [sum(each.roles.count(role) for each in alignments) for role in columns_of(alignments, "roles")]
        of_site: list[int] = []
        for component in spec.components if spec else ():
            places = int(np.prod(sites_of(subject.model, component, 1, None).axes))
            of_site += tokens * places
        most = int(np.ceil(spec.candidates * len(of_site))) + spec.audit if spec else 0
        least = min(spec.audit, len(of_site)) if spec else 0
        ordered = sorted(of_site)
        yield _runs("screening", "screening", unit, (sum(ordered[:least]), sum(ordered[::-1][:most])))


def _direct(subject: Subject, sweeps: Sequence[SweepResult]) -> Iterator[Planned]:
    metric = subject.study.spec.sweep.metrics[0]
    for kind, unit in paths_units(subject.study, subject.checkpoint, subject.questions, sweeps):
        pairs = [pair for pair in subject.kind(kind) if pair.half == "confirmation"]
        runs = len(unit.inputs["sites"]) * len(RUNS) * int(continuations(subject.model, pairs, metric).sum())
        yield _runs("direct", "direct", unit, runs)


def _timed(subject: Subject) -> Iterator[Planned]:
    spec, model = subject.study.spec.sweep, subject.model
    for _, unit in timed_units(subject.study, subject.checkpoint, subject.questions):
        pairs, component = [Pair(**row) for row in unit.inputs["pairs"]], str(unit.inputs["component"])
        if unit.stage == "windows" and spec.windows:
            layers, span = spec.windows.layers, spec.windows.positions
            together = cell_runs(model, pairs, component, spec.metrics[:1], layers=layers, span=span)
            runs = sum(together) + sum(cell_runs(model, pairs, component, spec.metrics[:1]))
        else:
            alignments = [align(model.tokenizer, pair) for pair in pairs]
            places = len(columns_of(alignments, "roles")) + max(len(each.correct_ids) for each in alignments) - 1
            runs = len(pairs) * model.n_layers * places
        yield _runs(unit.stage, f"{unit.stage} {component}", unit, runs)


def _sets(subject: Subject) -> Iterator[Planned]:
    study = subject.study
    for kind, unit in sets_units(study, subject.checkpoint, subject.questions):
        pairs, spec = subject.kind(kind), Sets(**unit.inputs["settings"])
        components, seed = tuple(unit.inputs["components"]), int(unit.inputs["seed"])
        runs = set_runs(subject.model, pairs, components, study.spec.sweep.metrics[0], seed, spec)
        yield _runs("sets", "sets", unit, runs)


def _across(subject: Subject, base: Checkpoint) -> Iterator[Planned]:
    from patchlight.model.modules import weight_modules
    from patchlight.verify.controls import donor_from_another_fact

    study, model, pairs = subject.study, subject.model, subject.pairs
    if study.spec.sweep.across is None:
        return
    metric, seed = study.spec.sweep.metrics[0], seed_of(study, "across", subject.checkpoint.key)
    every = donor_from_another_fact(pairs, model.tokenizer, seed).prompts
    for asked, unit in across_units(study, base, subject.checkpoint, pairs):
        if asked.what == WEIGHTS:
            runs = (len(weight_modules(model)) + 1) * int(continuations(model, pairs, metric).sum())
        else:
            chosen = [pair for pair, donor in zip(pairs, every, strict=True) if donor or not asked.control]
            runs = sum(cell_runs(model, chosen, asked.what, (metric,), positions="roles"))
        yield _runs("across", f"across {asked.what}", unit, runs)
