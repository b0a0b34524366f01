"""Self-repair and paths in a study: which places, which readers, over which facts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from patchlight import backups, paths, self_repair
from patchlight.errors import InputError
from patchlight.packs.read import read_pack
from patchlight.run.units import Unit
from patchlight.store.results import Artifact
from patchlight.study import stages
from patchlight.study.questions import questions_of
from patchlight.study.reached import reached_of, reached_units
from patchlight.study.results import SweepResult
from patchlight.study.spec import read_study


@pytest.fixture
def asked(study: Path, stored: Callable[[Unit], Artifact]):
    """A study that asks for both, its model and questions, and a map with two strong places."""
    study.write_text(study.read_text().replace("sweep: {", "sweep: {repair: true, routes: true, "))
    read = read_study(study)
    checkpoint = stages.loaded_checkpoint(read)
    questions = questions_of(stored(stages.questions_unit(read, read_pack(read.pack_source), checkpoint)))
    values = np.full((len(questions), 3, max(len(question.roles) for question in questions)), np.nan)
    for row, question in enumerate(questions):
        values[row, :, : len(question.roles)] = question.corrupted
        values[row, 0, question.roles.index("subject_last")] += 0.6 * (question.clean - question.corrupted)
        values[row, 1, question.roles.index("last")] += 0.3 * (question.clean - question.corrupted)
    structural = np.zeros(values.shape, bool)
    structural[:, 2] = True
    return read, checkpoint, questions, (SweepResult("mlp_out", "denoise", "", values, structural),)


def half(questions, kind: str, name: str):
    return [each.pair for each in questions if each.pair.kind == kind and each.pair.half == name]


def test_the_strongest_places_are_knocked_out_on_the_facts_held_out(asked, stored) -> None:
    study, checkpoint, questions, _ = asked
    kind, unit = next((kind, unit) for kind, unit in reached_units(*asked) if unit.stage == "repair")
    found = reached_of(study, [(kind, stored(unit))])[kind].repair
    assert list(map(str, found.sites[:2])) == ["blocks.0.mlp_out@subject_last", "blocks.1.mlp_out@last"]
    pairs = half(questions, kind, "confirmation")
    assert (found.pairs, found.facts) == (len(pairs), len({pair.fact for pair in pairs}))
    gap = sum(each.clean - each.corrupted for each in questions if each.pair in pairs)
    alone = self_repair(checkpoint.model, pairs, found.sites)
    for number, losses in enumerate((-alone.predicted, -alone.measured, alone.measured - alone.predicted)):
        expected = losses.sum(axis=0) / gap
        np.testing.assert_allclose(found.losses.estimate[:, number], expected, rtol=1e-3, atol=1e-5)
    # More lost than expected is nothing made up for.
    lost = found.losses.estimate
    np.testing.assert_allclose(lost[:, 2], lost[:, 0] - lost[:, 1], atol=1e-6)
    first, later, more = found.backups[0]
    assert (first, later) == (found.sites[0], found.sites[1])
    expected = backups(checkpoint.model, pairs, first, [later]).sum() / gap
    assert more.estimate == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert all(later.layer >= first.layer for first, later, _ in found.backups)


def test_readers_are_chosen_on_the_discovery_facts_and_measured_on_the_others(asked, stored) -> None:
    study, checkpoint, questions, _ = asked
    kind, unit = next((kind, unit) for kind, unit in reached_units(*asked) if unit.stage == "routes")
    found = reached_of(study, [(kind, stored(unit))])[kind].routes
    sender = str(found.senders[0])
    every = paths(
        checkpoint.model,
        half(questions, kind, "discovery"),
        senders=[sender],
        receivers=["q", "k", "v", "mlp_out", "logits"],
    )
    mean = np.nan_to_num((every.values[:, 0] - every.corrupted[:, None]).mean(axis=0), nan=-np.inf)
    assert [str(reader) for reader in found.readers[0]] == [every.names[at] for at in np.argsort(-mean)[:5]]
    held_out = paths(
        checkpoint.model,
        half(questions, kind, "confirmation"),
        senders=[sender],
        receivers=list(map(str, found.readers[0])),
    )
    shares = (held_out.values[:, 0] - held_out.corrupted[:, None]).sum(0) / (held_out.clean - held_out.corrupted).sum()
    np.testing.assert_allclose(found.shares.estimate[0], shares, rtol=1e-3, atol=1e-5)


def test_nothing_is_done_where_it_is_not_asked_for_or_no_place_can_be_ranked(asked) -> None:
    study, checkpoint, questions, sweeps = asked
    assert reached_units(study, checkpoint, questions, ()) == []
    quiet = study.spec.sweep.model_copy(update={"repair": False, "routes": False})
    study = dataclasses.replace(study, spec=study.spec.model_copy(update={"sweep": quiet}))
    assert reached_units(study, checkpoint, questions, sweeps) == []


def test_repair_without_logit_differences_is_refused(study: Path) -> None:
    study.write_text(study.read_text().replace("sweep: {", "sweep: {repair: true, metric: prob, "))
    with pytest.raises(InputError, match="`repair` reads the logit difference"):
        read_study(study)
