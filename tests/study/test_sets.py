"""A study's sets: what comes back from the store is what was measured, on the discovery facts, with its nulls."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from patchlight.errors import InputError
from patchlight.packs.read import read_pack
from patchlight.records import Site
from patchlight.run.units import Unit, Workplace
from patchlight.store.files import FileStore
from patchlight.store.results import Artifact, keep, opened
from patchlight.study import stages
from patchlight.study.questions import questions_of
from patchlight.study.results import Checkpoint, Question
from patchlight.study.sets import sets_of, sets_units
from patchlight.study.spec import Study, read_study
from patchlight.study.split import split_unit
from patchlight.study.sweeping import Sets
from patchlight.study.view import comparable
from patchlight.trace.patch import patch
from patchlight.trace.sufficient import SetEvidence, SetNull

Stored = Callable[[Unit], Artifact]
Asked = tuple[Study, Checkpoint, list[Question]]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    folder = tmp_path_factory.mktemp("sets")
    files = FileStore(folder / "files")

    def kept(unit: Unit) -> Artifact:
        manifest = keep(files, unit.work(Workplace(folder, lambda *_: None)))
        return opened(files, manifest, hashlib.sha256(manifest.encode()).hexdigest())

    return kept


@pytest.fixture(scope="module")
def asked(new_study: Callable[[], Path], stored: Stored) -> Asked:
    read = read_study(new_study())
    checkpoint = stages.loaded_checkpoint(read)
    assert checkpoint is not None
    unit = stages.questions_unit(read, read_pack(read.pack_source), checkpoint)
    return read, checkpoint, questions_of(stored(unit))


@pytest.fixture(scope="module")
def found(asked: Asked, stored: Stored) -> SetEvidence:
    unit = dict(sets_units(*asked))["associative"]
    return sets_of([("associative", stored(unit))])["associative"]


def test_sets_read_back_are_what_patching_their_sites_together_gives(asked: Asked, found: SetEvidence) -> None:
    _, checkpoint, questions = asked
    pairs = [question.pair for question in questions if question.pair.kind == "associative"]
    in_discovery = np.array([pair.half == "discovery" for pair in pairs])
    assert {each.grown.by for each in found.sets} == {"denoise", "noise", "both"}
    for each in found.sets:
        direct = patch(checkpoint.model, pairs, [each.grown.sites])
        np.testing.assert_allclose(each.denoise.joint, direct.values[:, 0] - direct.corrupted, atol=5e-5)
        noised = patch(checkpoint.model, pairs, [each.grown.sites], direction="noise")
        np.testing.assert_allclose(each.noise.joint, noised.clean - noised.values[:, 0], atol=5e-5)
        share = {"denoise": each.denoise, "noise": each.noise}.get(each.grown.by)
        if share is not None:
            reached = share.joint[in_discovery].mean() / share.gaps[in_discovery].mean() >= each.grown.share - 1e-4
            assert reached == each.grown.reached
        assert not direct.structural.any()
    assert found.eligible + len(found.wiring) == 2 * 3 * len({site.position for site in found.windows.sites})


def test_the_growth_is_read_off_in_every_pair_and_windows_on_the_discovery_facts(found: SetEvidence) -> None:
    for curve in found.curves:
        assert curve.effects.shape == (len(found.gaps), len(curve.sizes))
        assert curve.sizes[-1] == len(curve.sites)
        assert np.isfinite(curve.effects).all()
    measured = np.isfinite(found.windows.joint).all(axis=1)
    assert 0 < measured.sum() < len(found.gaps)
    assert (np.isfinite(found.windows.alone).all(axis=1) == measured).all()


def test_every_null_is_beside_every_set(found: SetEvidence) -> None:
    for each in found.sets:
        assert set(each.nulls) == {"another-fact", "random-donor", "random-init"}  # no other relation in this kind
        assert set(each.damage_nulls) == {"random-donor", "random-init"}
        assert (each.nulls["random-init"].gaps > 0).all()
        assert np.isfinite(each.nulls["another-fact"].effects).any()


def test_a_null_with_donors_for_too_few_facts_held_out_for_an_interval_is_not_compared_with(
    asked: Asked, found: SetEvidence
) -> None:
    pairs = [question.pair for question in asked[2] if question.pair.kind == "associative"]
    facts, held_out = [pair.fact for pair in pairs], {pair.fact for pair in pairs if pair.half == "confirmation"}
    names = {name for each in comparable(found, facts, held_out).sets for name in each.nulls}
    assert {"random-donor", "random-init"} <= names
    for given, expected in ((4, False), (5, True)):
        few = sorted(held_out)[:given]
        effects = np.array([1.0 if pair.fact in few or pair.half == "discovery" else np.nan for pair in pairs])
        sets = [
            dataclasses.replace(each, nulls={**each.nulls, "permuted": SetNull(effects, found.gaps)})
            for each in found.sets
        ]
        kept = comparable(dataclasses.replace(found, sets=tuple(sets)), facts, held_out)
        assert all(("permuted" in each.nulls) == expected for each in kept.sets)
        assert all({"random-donor", "random-init"} <= each.nulls.keys() for each in kept.sets)


def test_what_passes_on_the_word_or_comes_back_by_wiring_is_not_chosen(found: SetEvidence) -> None:
    assert Site("mlp_out", 0, None, "subject_last") in found.wiring
    chosen = {site for each in found.sets for site in each.grown.sites}
    assert not chosen & set(found.wiring)


def test_the_split_is_written_down_under_the_study(asked: Asked, stored: Stored) -> None:
    study, _, questions = asked
    kept = stored(split_unit(*asked)).meta
    assert kept["study"] == study.spec.digest
    for kind, halves in kept["split"].items():
        pairs = [question.pair for question in questions if question.pair.kind == kind]
        assert {pair.fact: pair.half for pair in pairs} == {fact: half for half in halves for fact in halves[half]}


def test_a_kind_with_too_few_facts_and_a_study_without_sets_have_no_unit(asked: Asked, study: Path) -> None:
    read, checkpoint, questions = asked
    few = [question for question in questions if question.pair.fact < "fox"]
    assert sets_units(read, checkpoint, few) == []
    for sweep in ("sets: false, ", "components: [resid_pre], "):
        study.write_text(study.read_text().replace("sweep: {", "sweep: {" + sweep))
        assert sets_units(read_study(study), checkpoint, questions) == []
        study.write_text(study.read_text().replace(sweep, ""))


def test_the_switch_is_a_word_or_settings(study: Path) -> None:
    text = study.read_text()
    for written, expected in (
        ("true", Sets()),
        ("false", None),
        ("{share: [0.7], largest: 0.1}", Sets(share=(0.7,), largest=0.1)),
    ):
        study.write_text(text.replace("sweep: {", f"sweep: {{sets: {written}, "))
        assert read_study(study).spec.sweep.sets == expected
    study.write_text(text.replace("sweep: {", "sweep: {sets: {shares: [0.7]}, "))
    with pytest.raises(InputError, match="share"):
        read_study(study)
