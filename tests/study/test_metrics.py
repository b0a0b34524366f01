"""A study that asks for several metrics: the first gates and is the unit's map, the others lie beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from patchlight import load_model, sweeps
from patchlight.packs.read import read_pack
from patchlight.pairs.answers import METRICS
from patchlight.run.units import Unit
from patchlight.store.results import Artifact
from patchlight.study import stages
from patchlight.study.questions import questions_of
from patchlight.study.spec import read_study
from patchlight.study.sweeping import Metric


def test_the_names_in_a_study_are_the_metrics_that_there_are() -> None:
    assert Metric.__args__ == tuple(METRICS)


@pytest.mark.parametrize(("written", "metrics"), [("kl", ("kl",)), ("[prob, rank]", ("prob", "rank"))])
def test_one_metric_or_several_are_written(study: Path, written: str, metrics: tuple[str, ...]) -> None:
    study.write_text(study.read_text().replace("sweep: {", f"sweep: {{metric: {written}, "))
    spec = read_study(study).spec
    assert spec.sweep.metrics == metrics
    assert spec.gap_floor == METRICS[metrics[0]].floor


def test_the_first_metric_gates_and_the_others_are_stored_beside_it(
    study: Path, stored: Callable[[Unit], Artifact]
) -> None:
    study.write_text(study.read_text().replace("sweep: {", "sweep: {metric: [logprob_diff, kl], "))
    read = read_study(study)
    checkpoint = stages.loaded_checkpoint(read)
    assert checkpoint is not None
    asked = stored(stages.questions_unit(read, read_pack(read.pack_source), checkpoint))
    questions = questions_of(asked)[:3]
    [unit] = [
        unit
        for what, unit in stages.sweep_units(read, checkpoint, questions, {})
        if (what.component, what.direction, what.null) == ("mlp_out", "denoise", "")
    ]
    tensors = stored(unit).tensors("effects")
    pairs = [question.pair for question in questions]
    effects = sweeps(load_model(study.parent / "model"), pairs, metrics=("logprob_diff", "kl"), component="mlp_out")
    np.testing.assert_array_equal(tensors["values"], effects["logprob_diff"].values)
    np.testing.assert_allclose([question.clean for question in questions], effects["logprob_diff"].clean, rtol=1e-5)
    np.testing.assert_array_equal(tensors["kl"], effects["kl"].values)
    np.testing.assert_array_equal(tensors["kl.clean"], effects["kl"].clean)
    np.testing.assert_array_equal(tensors["kl.corrupted"], effects["kl"].corrupted)
