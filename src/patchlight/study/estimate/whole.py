"""What a study will take, before it is run: its own units counted, a minute of trials, and everything as ranges."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from patchlight.packs.read import read_pack
from patchlight.report.estimate import Estimate, Machine, Money, Review, Source, Span, StageRow
from patchlight.run.progress import Progress
from patchlight.store.ledger import DATABASE, Ledger
from patchlight.study.estimate.needs import candidates_of, disk_of, free_memory, judging_work, maps_of, memory_of
from patchlight.study.estimate.pace import (
    Late,
    Rate,
    Trial,
    deadline,
    rate_for,
    rates_of_done,
    rates_of_trials,
    tried,
    unit_trial,
    watched,
)
from patchlight.study.estimate.plan import Planned
from patchlight.study.estimate.prices import MINUTES, REVIEWERS, Prices
from patchlight.study.estimate.rehearsal import set_runs_measured
from patchlight.study.estimate.risks import risks_of
from patchlight.study.estimate.schooling import schooling_trial
from patchlight.study.estimate.survey import Part, Survey
from patchlight.study.spec import Study
from patchlight.study.sweeping import Sets
from patchlight.study.walk import require_relations

SECONDS = 60.0  # of trials, at most
ASKING = 0.4  # of them: what asking the model its questions may take
JUDGING = Span(2.0, 10.0)  # verdicts and reports take so many times as long as their maps ...
OF_KIND = Span(3.0, 20.0)  # ... and so many seconds for each kind beside: measured 6, and 17 on a busy machine
STAGES = ("texts", "training", "questions", "identities", "split", "screening", "sweep", "controls", "robustness",
          "direct", "subspaces", "observation", "steps", "windows", "repair", "routes", "sets", "across", "mentions",
          "published", "judging")  # fmt: skip
UNTRIED = ("texts", "split", "across")  # made here, or nothing, or in need of a trained model


def estimate(
    study: Study, workspace: Path, *, seconds: float = SECONDS, prices: Prices | None = None, progress: Progress
) -> Estimate:
    """What the study will take from here on in this workspace, where it may have begun; nothing in there changes.

    `seconds` bounds the trials; with 0 nothing is tried, and times come from units that are done, if any are.
    Raises InputError for a study, pack, corpus or model that cannot be used.
    """
    pack = read_pack(study.pack_source)
    require_relations(study, pack)
    with tempfile.TemporaryDirectory() as scratch, _opened(workspace) as ledger:
        survey = Survey(study, pack, ledger, Path(scratch))
        memory, free = memory_of(survey), free_memory(study)
        clock = _Clock(seconds if memory.low <= free else 0.0)
        if clock.left:
            survey.read()  # reading the model is not trying it
        with clock.running():
            _ask(survey, clock.left * ASKING, progress)
        parts = survey.parts()
        planned = _once([*survey.before(), *(each for part in parts for each in part.planned), *survey.after()])
        with clock.running():
            rates = _rates(survey, parts, planned, clock.left, progress)
        machine = Machine(os.cpu_count() or 1, study.spec.model.device, free, float(_free_disk(workspace)), clock.used)
        stages = (*_rows(survey, parts, planned, rates), _judging_row(study, parts, rates))
        disk = disk_of(survey, parts)
        review = _review(candidates_of(survey, parts, workspace), prices)
        found = Estimate(
            study=study.spec.id,
            hash=study.spec.digest,
            title={str(language): text for language, text in study.spec.title.items()},
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            stages=stages,
            memory=memory,
            disk=disk,
            review=review,
            money=None,
            risks=risks_of(survey, parts, memory, disk, machine),
            machine=machine,
        )
        return found if prices is None else replace(found, money=_money(prices, found.seconds, review))


def _once(planned: Sequence[Planned]) -> list[Planned]:
    """Every unit where it comes first: a null map by the model before fine-tuning is that model's own sweep."""
    found: dict[str, Planned] = {}
    for each in planned:
        found.setdefault(each.unit.hash, each)
    return list(found.values())


class _Clock:
    """The seconds that trials may take, and those that they took."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.used = seconds, 0.0

    @property
    def left(self) -> float:
        return max(0.0, self.seconds - self.used)

    @contextmanager
    def running(self) -> Iterator[None]:
        start = perf_counter()
        yield
        self.used += min(self.left, perf_counter() - start)


@contextmanager
def _opened(workspace: Path) -> Iterator[Ledger | None]:
    """The ledger of a workspace; None where there is none, and none is made."""
    if not (workspace / DATABASE).is_file():
        yield None
        return
    with Ledger(workspace, create=False) as ledger:
        yield ledger


def _ask(survey: Survey, seconds: float, progress: Progress) -> None:
    """A loaded model is asked its questions, where they are answered in time: what takes part is then known."""
    base = survey.base
    if not seconds or base is None or base not in survey.checkpoints or survey.kept(survey.asking(base)):
        return
    unit = survey.asking(base)
    with progress.stage("questions", 1), progress.unit(unit.label) as on_progress:
        try:
            with deadline(seconds):
                survey.make(unit, on_progress)
        except Late:
            progress.note(f"{unit.label}: not answered in {seconds:.0f} s, so that it is not known which take part")


def _rates(
    survey: Survey, parts: Sequence[Part], planned: Sequence[Planned], seconds: float, progress: Progress
) -> dict[str, Rate]:
    """By family: of units that are done, else of trials, those of most work first."""
    rates = rates_of_done(planned, survey.done)
    made = {each.family: [survey.taken[each.unit.hash] / each.amounts[1]] for each in planned
            if each.unit.hash in survey.taken}  # fmt: skip
    rates = rates_of_trials(made) | rates
    if not seconds:
        return rates
    waiting = [each for each in planned if each.family not in rates and each.unit.hash not in survey.done]
    trials = _trials(survey, parts, waiting)
    whole = {"judging", *(each.family for each in waiting if each.work != "runs")}
    with progress.stage("estimate", len(trials) + len(trials.keys() - whole)):
        return rates | rates_of_trials(tried(trials, seconds, progress.unit, whole))


def _trials(survey: Survey, parts: Sequence[Part], planned: Sequence[Planned]) -> dict[str, Trial]:
    """By family, a trial of one unit of the middle size, those of most work first."""
    waiting: dict[str, list[Planned]] = {}
    for each in planned:
        if each.stage not in UNTRIED:
            waiting.setdefault(each.family, []).append(each)
    trials: dict[str, Trial] = {}
    schoolings = {each.planned.family: each for each in survey.schoolings}
    for family, units in waiting.items():
        # A null map by other donors runs the model itself, one of another model has to make that first.
        first = [each for each in units if each.unit.inputs.get("control")] or units
        middle = sorted(first, key=lambda each: each.amounts[1])[len(first) // 2]
        if family in schoolings:
            texts = survey.written("train"), survey.written("validation")
            model = survey.read()
            trials[family] = schooling_trial(survey.study, schoolings[family], model, *texts, survey.scratch)
        elif middle.stage == "sets":
            trials[family] = _sets_trial(survey, middle)
        else:
            trials[family] = unit_trial(middle, survey.scratch)
    if asked := next((part for part in parts if part.questions), None):
        trials["judging"] = watched(judging_work(survey, asked))
    order = sorted(trials, key=lambda family: -sum(each.amounts[1] for each in waiting.get(family, [])))
    return {family: trials[family] for family in order}


def _sets_trial(survey: Survey, planned: Planned) -> Trial:
    """Sets really grown, until the time is over."""
    from patchlight.model.load import random_init
    from patchlight.records import Pair

    inputs, memory = planned.unit.inputs, int(survey.study.spec.sweep.memory)
    pairs, components = [Pair(**row) for row in inputs["pairs"]], tuple(inputs["components"])
    model = survey.read()
    random = random_init(model, int(inputs["seed"]))
    settings = components, str(inputs["metric"]), memory, int(inputs["seed"]), Sets(**inputs["settings"])

    def work(report: Callable[[float], None]) -> None:
        set_runs_measured(model, random, pairs, *settings, report)

    return watched(work)


def _rows(
    survey: Survey, parts: Sequence[Part], planned: Sequence[Planned], rates: Mapping[str, Rate]
) -> Iterator[StageRow]:
    """A row for each stage that has units, in the order of a run."""
    sure = {each.unit.hash for part in parts if part.certain for each in part.planned}
    unsure = {each.unit.hash for part in parts if not part.certain for each in part.planned} - sure
    for stage in STAGES:
        units = [each for each in planned if each.stage == stage]
        if units:
            yield _row(stage, units, survey, unsure, rates)


def _row(stage: str, units: Sequence[Planned], survey: Survey, unsure: set[str], rates: Mapping[str, Rate]) -> StageRow:
    done = sum(each.unit.hash in survey.done for each in units)
    sure = [each for each in units if each.unit.hash not in unsure]
    amounts = Span(sum(each.amounts[0] for each in sure), sum(each.amounts[1] for each in units))
    seconds, sources = Span(0.0, 0.0), set()
    for each in units:
        if each.unit.hash in survey.done:
            continue
        rate = Rate(0.0, 0.0, "measured", 0) if each.stage == "split" else rate_for(each, rates)
        if rate is None:
            sources.add("unknown")
            continue
        low = 0.0 if each.unit.hash in unsure else each.amounts[0] * rate.low
        seconds += Span(low, each.amounts[1] * rate.high)
        sources.add(rate.source)
    weakest: Source = next((name for name in ("unknown", "borrowed", "measured") if name in sources), "done")
    return StageRow(
        stage,
        Span(len(sure), len(units)),
        done,
        amounts if units[0].work == "runs" else None,
        amounts if units[0].work == "steps" else None,
        None if weakest == "unknown" else seconds,
        weakest,
    )


def _judging_row(study: Study, parts: Sequence[Part], rates: Mapping[str, Rate]) -> StageRow:
    """Verdicts and the report, which are made anew by every run."""
    (kinds, maps), rate = maps_of(study, parts), rates.get("judging")
    if rate is None:
        return StageRow("judging", Span(1, 1), 0, None, None, None, "unknown")
    low, high = kinds.low * OF_KIND.low, kinds.high * OF_KIND.high
    seconds = Span(low + maps.low * rate.low * JUDGING.low, high + maps.high * rate.high * JUDGING.high)
    return StageRow("judging", Span(1, 1), 0, None, None, seconds, "borrowed")


def _review(candidates: Span, prices: Prices | None) -> Review:
    if prices is None:
        return Review(candidates, MINUTES, REVIEWERS, assumed=True)
    return Review(candidates, prices.minutes_per_candidate, prices.reviewers, assumed=False)


def _money(prices: Prices, seconds: Span | None, review: Review) -> Money:
    machine = None if seconds is None else seconds.times(prices.machine_per_hour / 3600)
    return Money(prices.currency, machine, review.hours.times(prices.reviewer_per_hour))


def _free_disk(workspace: Path) -> int:
    """Of the folder that is there, the workspace or the nearest one above it."""
    there = next(each for each in (workspace.resolve(), *workspace.resolve().parents) if each.exists())
    return shutil.disk_usage(there).free
