"""Effects by token of the answer, and windows, in a study: which pairs, which shares, and what is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from patchlight import sweep_steps, sweep_windows
from patchlight.errors import InputError
from patchlight.packs.read import read_pack
from patchlight.run.units import Unit
from patchlight.store.results import Artifact
from patchlight.study import stages
from patchlight.study.questions import questions_of
from patchlight.study.spec import read_study
from patchlight.study.timed import timed_of, timed_units

ASKED = "sweep: {components: [mlp_out], steps: true, windows: {layers: 2, positions: 2}, "


def longer(question):
    """The question with a second word behind both answers, so that they have several tokens."""
    pair = dataclasses.replace(
        question.pair, correct=question.pair.correct + " fox", wrong=question.pair.wrong + " owl"
    )
    return dataclasses.replace(question, pair=pair, answer_tokens=2)


@pytest.fixture
def asked(study: Path, stored: Callable[[Unit], Artifact]):
    """A study that asks for both, its model, and questions of which one in three has an answer of one token."""
    study.write_text(study.read_text().replace("sweep: {", ASKED))
    read = read_study(study)
    checkpoint = stages.loaded_checkpoint(read)
    questions = questions_of(stored(stages.questions_unit(read, read_pack(read.pack_source), checkpoint)))
    return read, checkpoint, [longer(each) if number % 3 else each for number, each in enumerate(questions)]


def test_each_token_has_its_part_of_the_whole_answers_gap(asked, stored) -> None:
    study, checkpoint, questions = asked
    units = timed_units(*asked)
    kind = units[0][0]
    (found,) = timed_of(study, [(kind, stored(units[0][1]))])[kind].steps
    mine = [each for each in questions if each.pair.kind == kind]
    several = [each.pair for each in mine if each.answer_tokens > 1]
    assert (found.component, found.single, found.pairs + found.left_out) == (
        "mlp_out", len(mine) - len(several), len(several),
    )  # fmt: skip
    measured = sweep_steps(checkpoint.model, several, component="mlp_out")
    kept = measured.gaps >= 0.5
    gap = measured.gaps[kept].sum()
    np.testing.assert_allclose(found.gap.estimate.sum(), 1, rtol=1e-4)
    assert found.places == measured.places
    last = found.places.index("last")
    expected = measured.moved()[kept][:, :, last].sum(axis=0) / gap
    np.testing.assert_allclose(found.effect.estimate[:, last], expected, rtol=1e-3, atol=1e-5)
    assert np.isnan(found.effect.estimate[:, found.places.index("answer_1"), 0]).all()


def test_a_window_stands_beside_the_sum_of_its_places(asked, stored) -> None:
    study, checkpoint, questions = asked
    kind, unit = next((kind, unit) for kind, unit in timed_units(*asked) if unit.stage == "windows")
    (found,) = timed_of(study, [(kind, stored(unit))])[kind].windows
    mine = [each for each in questions if each.pair.kind == kind]
    measured = sweep_windows(checkpoint.model, [each.pair for each in mine], layers=2, positions=2)
    gaps = measured.joint.clean - measured.joint.corrupted
    role = found.roles.index("before")
    at = [[at for at, name in enumerate(each.roles) if name == "before"] for each in mine]
    rows = [row for row, positions in enumerate(at) if positions]
    for number, shares in enumerate((measured.recovery(-np.inf), measured.sum_of_singles(-np.inf))):
        moved = sum(shares[row][:, at[row]].mean(axis=1) * gaps[row] for row in rows)
        expected = moved / gaps[rows].sum()
        np.testing.assert_allclose(found.shares.estimate[:, role, number], expected, rtol=1e-3, atol=1e-5)
    assert np.isnan(found.shares.estimate[:, found.roles.index("last")]).all()  # nothing follows the last word
    assert (found.layers, found.positions, found.shares.estimate.shape[0]) == (2, 2, 2)


def test_nothing_is_done_where_it_is_not_asked_for_or_every_answer_is_one_token(asked) -> None:
    study, checkpoint, questions = asked
    single = [each for each in questions if each.answer_tokens == 1]
    assert [unit.stage for _, unit in timed_units(study, checkpoint, single)] == ["windows"] * 2
    quiet = study.spec.sweep.model_copy(update={"steps": False, "windows": None})
    study = dataclasses.replace(study, spec=study.spec.model_copy(update={"sweep": quiet}))
    assert timed_units(study, checkpoint, questions) == []


def test_a_window_of_one_place_is_refused(study: Path) -> None:
    study.write_text(study.read_text().replace("sweep: {", "sweep: {windows: {layers: 1, positions: 1}, "))
    with pytest.raises(InputError, match="a single place"):
        read_study(study)
