"""Subspaces and observation in a study: which facts, which controls, and what the page says of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from patchlight.packs.read import read_pack
from patchlight.run.units import Unit
from patchlight.store.results import Artifact
from patchlight.study import stages
from patchlight.study.observation import observation_units, observed_of
from patchlight.study.questions import questions_of
from patchlight.study.results import SweepResult
from patchlight.study.spec import read_study
from patchlight.study.subspaces import subspace_units, subspaces_of
from patchlight.trace.observe import attribute
from patchlight.trace.patch import patch

ASKED = "sweep: {observation: true, subspaces: {methods: [pca, das], dimensions: [1, 2], epochs: 2}, "


@pytest.fixture
def asked(study: Path, stored: Callable[[Unit], Artifact]):
    """A study that asks for both, its model and questions, and a map whose strongest place is known."""
    study.write_text(study.read_text().replace("sweep: {", ASKED))
    read = read_study(study)
    checkpoint = stages.loaded_checkpoint(read)
    questions = questions_of(stored(stages.questions_unit(read, read_pack(read.pack_source), checkpoint)))
    values = np.full((len(questions), 3, max(len(question.roles) for question in questions)), np.nan)
    for row, question in enumerate(questions):
        values[row, :, : len(question.roles)] = question.corrupted
        values[row, 1, question.roles.index("last")] += 0.6 * (question.clean - question.corrupted)
    return read, checkpoint, questions, (SweepResult("mlp_out", "denoise", "", values, np.zeros(values.shape, bool)),)


def test_directions_of_the_strongest_place_are_judged_on_facts_held_out(asked, stored) -> None:
    study, checkpoint, questions, _ = asked
    kind, unit = subspace_units(*asked)[0]
    (found,) = subspaces_of(study, [(kind, stored(unit))])[kind]
    pairs = [q.pair for q in questions if q.pair.kind == kind and q.pair.half == "confirmation"]
    assert (str(found.site), found.pairs, found.width) == ("blocks.1.mlp_out@last", len(pairs), checkpoint.model.width)
    controls = [row.control for row in found.rows]
    assert {name: controls.count(name) for name in set(controls)} == {
        "whole": 1, "": 4, "row": 4, "null": 4, "shuffled": 4, "random": 2, "random-init": 4,
    }  # fmt: skip
    whole = patch(checkpoint.model, pairs, [str(found.site)])
    expected = (whole.values[:, 0] - whole.corrupted).sum() / (whole.clean - whole.corrupted).sum()
    assert found.effect.estimate[0] == pytest.approx(expected, rel=1e-4)


def test_looking_stands_beside_acting(asked, stored) -> None:
    study, checkpoint, questions, sweeps = asked
    kind, unit = observation_units(study, checkpoint, questions)[0]
    found = observed_of(study, questions, sweeps, {kind: stored(unit)})[kind]
    pairs = [question.pair for question in questions if question.pair.kind == kind]
    seen = attribute(checkpoint.model, pairs)
    written = seen.by_component(checkpoint.model.n_layers)
    gap = (seen.metric[:, 0] - seen.metric[:, 1]).sum()
    np.testing.assert_allclose(
        found.shares.estimate[:, :, 0], (written[:, 0] - written[:, 1]).sum(0) / gap, rtol=1e-4, atol=1e-6
    )
    assert found.shares.estimate[1, 1, 1] == pytest.approx(0.6, rel=1e-3)  # of mlp_out, as the sweep has it
    assert np.isnan(found.shares.estimate[0, :, 1]).all()  # attention was not swept
    assert found.lens.estimate[-1] == pytest.approx(1)


def test_nothing_is_done_where_it_is_not_asked_for(asked) -> None:
    study, checkpoint, questions, sweeps = asked
    quiet = study.spec.sweep.model_copy(update={"subspaces": None, "observation": False})
    study = dataclasses.replace(study, spec=study.spec.model_copy(update={"sweep": quiet}))
    assert subspace_units(study, checkpoint, questions, sweeps) == observation_units(study, checkpoint, questions) == []
