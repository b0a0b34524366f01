"""Direct and indirect effects in a study: which places, over which facts, and what is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from patchlight.packs.read import read_pack
from patchlight.records import Site
from patchlight.report.contents import PARTS
from patchlight.run.units import Unit
from patchlight.store.results import Artifact
from patchlight.study import stages
from patchlight.study.paths import directs_of, paths_units
from patchlight.study.questions import questions_of
from patchlight.study.results import SweepResult
from patchlight.study.spec import read_study
from patchlight.trace.mediation import effects


@pytest.fixture
def asked(study: Path, stored: Callable[[Unit], Artifact]):
    """A study that splits effects, its model and questions, and a map with two strong places of each kind."""
    study.write_text(study.read_text().replace("sweep: {", "sweep: {direct: true, "))
    read = read_study(study)
    checkpoint = stages.loaded_checkpoint(read)
    questions = questions_of(stored(stages.questions_unit(read, read_pack(read.pack_source), checkpoint)))
    length = max(len(question.roles) for question in questions)
    values = np.full((len(questions), 3, length), np.nan)
    for row, question in enumerate(questions):
        values[row, :, : len(question.roles)] = question.corrupted
        gap = question.clean - question.corrupted
        values[row, 1, question.roles.index("last")] += 0.6 * gap
        values[row, 0, question.roles.index("subject_last")] += 0.3 * gap
    marked = np.zeros(values.shape, dtype=bool)
    marked[:, 2] = True  # by construction: never chosen
    return read, checkpoint, questions, (SweepResult("mlp_out", "denoise", "", values, marked),)


def test_the_strongest_places_of_the_discovery_facts_are_split_over_those_held_out(asked, stored) -> None:
    study, checkpoint, questions, _ = asked
    units = dict(paths_units(*asked))
    assert set(units) == {question.pair.kind for question in questions}
    kind = next(iter(units))
    found = directs_of(study, [(kind, stored(units[kind]))])[kind]
    assert found.sites[:2] == (Site("mlp_out", 1, None, "last"), Site("mlp_out", 0, None, "subject_last"))
    mine = [question.pair for question in questions if question.pair.kind == kind]
    pairs = [pair for pair in mine if pair.half == "confirmation"]
    assert 0 < len(pairs) < len(mine)
    assert (found.facts, found.pairs) == (len({pair.fact for pair in pairs}), len(pairs))
    directly = effects(checkpoint.model, pairs, found.sites)
    gap = (directly.clean - directly.corrupted).sum()
    for number, part in enumerate(PARTS):
        shares = directly.effect(part).sum(axis=0) / gap
        np.testing.assert_allclose(found.parts.estimate[:, number], shares, atol=1e-6)
    # Only the last position is read: a place in front of it has no direct path.
    np.testing.assert_allclose(found.parts.estimate[1, 1], 0, atol=1e-6)
    assert found.identity_error < 1e-4


def test_nothing_is_split_where_it_is_not_asked_for_or_no_place_can_be_ranked(asked) -> None:
    study, checkpoint, questions, (sweep,) = asked
    assert paths_units(study, checkpoint, questions, ()) == []
    quiet = study.spec.model_copy(update={"sweep": study.spec.sweep.model_copy(update={"direct": False})})
    assert paths_units(type(study)(quiet, study.file), checkpoint, questions, (sweep,)) == []
