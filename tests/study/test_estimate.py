"""What an estimate counts is what a run then records; what it does not know, it gives as a range."""

from __future__ import annotations

import hashlib
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from patchlight.cli.main import execute
from patchlight.errors import InputError
from patchlight.model.load import random_init
from patchlight.packs.read import read_pack
from patchlight.report.estimate import Estimate, Machine, Span, StageRow, last_estimate, write_estimate
from patchlight.run.progress import Progress
from patchlight.run.units import Unit
from patchlight.store.ledger import Ledger
from patchlight.store.results import Artifact
from patchlight.study import stages
from patchlight.study.estimate.expected import expected
from patchlight.study.estimate.pace import Late, deadline
from patchlight.study.estimate.prices import read_prices
from patchlight.study.estimate.rehearsal import set_runs, set_runs_measured
from patchlight.study.estimate.risks import risks_of
from patchlight.study.estimate.schooling import schooling_trial
from patchlight.study.estimate.survey import Survey
from patchlight.study.estimate.whole import estimate
from patchlight.study.questions import questions_of
from patchlight.study.spec import read_study
from patchlight.study.sweeping import Sets
from patchlight.trace.mediation import RUNS

EVERYTHING = (
    "sweep: {pairs_per_unit: 8, components: [attn_out, mlp_out], metric: [logit_diff, prob], direct: true,"
    " windows: {positions: 2}, corruptions: [zero], repair: true, routes: true, observation: true,"
    " screening: {audit: 6}, sets: false}"
)
TRAINED = """\
patchlight: study/1
id: taught
title: {en: Taught}
pack: epilepsy
corpus: {compose: {documents: 60}, validation: 0.2}
model: {new_gpt2: {layers: 2, width: 16, heads: 2, context: 64, vocabulary: 700}}
pairs: {relations: [drug_class, drug_channel]}
training:
  I: {learning_rate: 1.0e-3, max_epochs: 2, patience: 9, batch_size: 8, accumulation: 2, block_length: 64}
  II: {learning_rate: 1.0e-3, max_epochs: 9, patience: 2, batch_size: 8, block_length: 64, evaluate_every: 3}
"""


def estimated(file: Path, workspace: Path, **settings: float) -> Estimate:
    return estimate(read_study(file), workspace, progress=Progress(), **{"seconds": 0.0, **settings})


def rows(found: Estimate) -> dict[str, StageRow]:
    return {row.stage: row for row in found.stages}


@pytest.fixture(scope="module")
def everything(new_study: Callable[[], Path]) -> tuple[Path, Estimate]:
    """A study of nearly all stages, estimated before it was run, and run."""
    file = new_study()
    file.write_text(file.read_text(encoding="utf-8").replace("sweep: {pairs_per_unit: 8}", EVERYTHING))
    before = estimated(file, file.parent / "workspace")
    assert not (file.parent / "workspace").exists()
    assert execute(["run", str(file), "--workspace", str(file.parent / "workspace")]) == 0
    return file, before


def test_the_counted_units_and_patched_runs_are_those_that_a_run_records(everything: tuple[Path, Estimate]) -> None:
    """The model answers everything, so that the high end is what comes."""
    file, before = everything
    counted = rows(before)
    with Ledger(file.parent / "workspace", create=False) as ledger:
        units = ledger.units(read_study(file).spec.digest)
        done = {unit.hash: ledger.result(unit.hash) for unit in units}
    stages_of_run = Counter(unit.stage for unit in units)
    sweeps = {stage: row.units.high for stage, row in counted.items() if stage in ("sweep", "controls")}
    others = {stage: row.units.high for stage, row in counted.items() if stage not in (*sweeps, "judging")}
    assert {**others, "sweep": sum(sweeps.values())} == stages_of_run
    recorded: Counter[str] = Counter()
    for unit in units:
        artifact = done[unit.hash]
        assert artifact is not None
        if unit.stage == "sweep":
            # A null map has its name in the label: "base: mlp_out denoise permuted 1-8".
            row = "controls" if len(unit.label.split()) == 5 else "sweep"
            recorded[row] += int(np.isfinite(artifact.tensors("effects")["values"]).sum())
        elif unit.stage == "direct":
            pairs, sites, _ = artifact.tensors("effects")["parts"].shape
            recorded["direct"] += pairs * sites * len(RUNS)
    assert {stage: counted[stage].runs for stage in recorded} == {
        stage: Span(0, count) for stage, count in recorded.items()
    }


def test_what_is_done_is_neither_counted_again_nor_paid_again(everything: tuple[Path, Estimate]) -> None:
    file, _ = everything
    after = estimated(file, file.parent / "workspace")
    for row in after.stages:
        if row.stage != "judging":
            assert row.units == Span(row.done, row.done)
            assert (row.seconds, row.source) == (Span(0, 0), "done")
    assert "answers-unknown" not in {risk.code for risk in after.risks}
    reported = estimated(file, file.parent / "workspace").review.candidates
    assert reported.low == reported.high


def test_an_estimate_leaves_the_workspace_as_it_is(everything: tuple[Path, Estimate]) -> None:
    file, _ = everything
    workspace = file.parent / "workspace"

    def content() -> dict[str, str]:
        files = [each for each in workspace.rglob("*") if each.is_file() and not each.name.endswith(("-wal", "-shm"))]
        return {str(each): hashlib.sha256(each.read_bytes()).hexdigest() for each in files}

    before = content()
    found = estimated(file, workspace, seconds=2.0)
    assert content() == before
    write_estimate(found, workspace)
    assert last_estimate(workspace, "animals") == found
    assert set(content()) - set(before) == {str(workspace / "estimates" / "animals.json")}
    assert last_estimate(workspace, "../estimates/animals") is None


def test_trials_say_which_questions_take_part_and_how_long_each_stage_takes(study: Path) -> None:
    unmeasured = estimated(study, study.parent / "workspace")
    assert unmeasured.seconds is None
    assert rows(unmeasured)["sweep"].units.low == 0
    assert "answers-unknown" in {risk.code for risk in unmeasured.risks}
    found = estimated(study, study.parent / "workspace", seconds=30.0)
    assert rows(found)["sweep"].units == Span(36, 36)
    assert rows(found)["sweep"].runs == Span(*[rows(unmeasured)["sweep"].runs.high] * 2)  # type: ignore[union-attr]
    assert {rows(found)[stage].source for stage in ("sweep", "controls", "sets", "identities")} == {"measured"}
    assert found.seconds is not None
    assert 0 < found.seconds.low < found.seconds.high
    assert not found.unknown
    assert 0 < found.machine.calibrated <= 30


def test_the_runs_of_sets_lie_between_the_shortest_and_the_longest_course(study: Path) -> None:
    read = read_study(study)
    checkpoint = stages.loaded_checkpoint(read)
    assert checkpoint is not None
    pack = read_pack(read.pack_source)
    questions = expected(read, pack, checkpoint.model).questions
    pairs = [question.pair for question in questions if question.pair.kind == "associative"]
    asked = pairs, ("attn_out", "mlp_out"), "logit_diff"
    least, most = set_runs(checkpoint.model, *asked, 3, Sets())
    said: list[int] = []
    real = set_runs_measured(
        checkpoint.model, random_init(checkpoint.model, 3), *asked, 1 << 30, 3, Sets(), said.append
    )
    assert least <= real <= most
    assert said == sorted(said)
    assert said[-1] == real


def test_what_could_be_asked_is_what_is_asked(study: Path, stored: Callable[[Unit], Artifact]) -> None:
    pack = study.parent / "pack.yaml"
    text = pack.read_text(encoding="utf-8").replace("  lynx: {en: lynx}", "  lynx: {en: lynx and owl}")
    pack.unlink()
    pack.write_text(text, encoding="utf-8")
    read = read_study(study)
    checkpoint = stages.loaded_checkpoint(read)
    assert checkpoint is not None
    told = expected(read, read_pack(pack), checkpoint.model)
    artifact = stored(stages.questions_unit(read, read_pack(pack), checkpoint))
    left_out = artifact.table("left_out")
    never_run = left_out[left_out.clean_metric.isna()]
    assert told.refused == dict(Counter(never_run.reason))
    assert sum(told.refused.values()) > 0
    assert told.asked == len(artifact.meta["pairs"]) + len(left_out) - len(never_run) - sum(
        not row["swept"] for row in artifact.meta["pairs"]
    )
    assert {each.pair for each in questions_of(artifact)} <= {each.pair for each in told.questions}


def test_a_training_is_counted_in_the_steps_that_it_takes(
    study: Path, stored: Callable[[Unit], Artifact], tmp_path: Path
) -> None:
    study.write_text(TRAINED, encoding="utf-8")
    found = rows(estimated(study, study.parent / "workspace"))
    read = read_study(study)
    pack = read_pack(read.pack_source)
    texts, taken = stored(stages.texts_unit(read, pack)), []
    for key in ("I", "II"):
        taken.append(stored(stages.training_unit(read, key, texts, None)).meta)
        shutil.rmtree(tmp_path / "training")
    least = taken[0]["steps"] + 9  # II may stop after three evaluations, three steps apart
    training = found["training"]
    assert training.steps is not None
    assert training.steps.low == least
    assert not taken[0]["stopped_early"]
    assert training.steps.low <= sum(each["steps"] for each in taken) <= training.steps.high
    survey = Survey(read, pack, None, tmp_path)
    texts_of = survey.written("train"), survey.written("validation")
    step = schooling_trial(read, survey.schoolings[0], survey.read(), *texts_of, tmp_path)(200.0)
    assert step is not None
    assert step > 0
    assert found["sweep"].units.low == 0 < found["sweep"].units.high
    assert found["questions"].units == Span(2, 2)


def test_prices_are_read_with_their_place_and_multiply_hours(study: Path, tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text("patchlight: prices/1\ncurrency: EUR\nmachine_per_hour: 2\nreviewer_per_hour: 60\n")
    prices = read_prices(file)
    found = estimate(read_study(study), study.parent / "workspace", seconds=6.0, prices=prices, progress=Progress())
    assert found.money is not None
    assert found.seconds is not None
    assert found.money.machine == pytest.approx(found.seconds.times(2 / 3600))
    assert found.money.reviewers == found.review.hours.times(60)
    assert found.review.hours.high == pytest.approx(found.review.candidates.high * 2 / 60)
    assert estimated(study, study.parent / "workspace").money is None
    file.write_text("patchlight: prices/1\ncurrency: EUR\nmachine_per_hour: 2\nreviewer_per_hour: 6\nreviewer: 3\n")
    with pytest.raises(InputError) as refused:
        read_prices(file)
    assert refused.value.code == "prices-unknown-key"
    assert str(refused.value.where).endswith("prices.yaml:5:1")
    assert "reviewers" in refused.value.fix


def test_what_is_wanting_is_said_before_the_run(study: Path, tmp_path: Path) -> None:
    usual = {(risk.code, risk.kind) for risk in estimated(study, tmp_path).risks}
    assert ("too-few-facts", "definitional") in usual  # six in each half, eight are needed
    assert ("answers-unknown", "") in usual
    text = study.read_text(encoding="utf-8").replace("max_per_kind: 24", "max_per_kind: 24, relations: [colour]")
    study.write_text(
        text.replace("seed: 7", "seed: 7\ncontrols: [permuted]").replace("per_unit: 8", "per_unit: 8, sets: false")
    )
    found = estimated(study, tmp_path).risks
    assert {"one-kind", "nulls-missing", "sets-not-measured"} <= {risk.code for risk in found}
    [missing] = [risk for risk in found if risk.code == "nulls-missing"]
    assert missing.numbers["nulls"] == "another-fact, random-donor, random-init"


def test_a_machine_that_is_too_small_is_named_first(study: Path, tmp_path: Path) -> None:
    read = read_study(study)
    survey = Survey(read, read_pack(read.pack_source), None, tmp_path)
    small = Machine(2, "cpu", memory=2**30, disk=2**40, calibrated=0)
    first, *others = risks_of(survey, survey.parts(), Span(2 * 2**30, 3 * 2**30), Span(0, 2**20), small)
    assert (first.code, first.numbers["free"]) == ("memory-short", 1.0)
    assert not any(risk.code.startswith("disk") for risk in others)
    [tight, *_] = risks_of(survey, survey.parts(), Span(2**20, 2**31), Span(0, 2**20), small)
    assert tight.code == "memory-tight"


def test_time_that_is_over_ends_work_and_leaves_the_timers_of_others() -> None:
    others, _ = signal.getitimer(signal.ITIMER_REAL)
    start = time.monotonic()
    with pytest.raises(Late), deadline(0.05):
        while time.monotonic() < start + 60:
            torch.nn.functional.pad(torch.zeros(1), (1, 1))
            torch.nn.functional.normalize(torch.zeros(9), dim=0)
    with deadline(5):
        pass
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    assert (left > 0) == (others > 0)
