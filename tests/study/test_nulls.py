"""The null maps of a study: which are made, by what, from which model, and what is said of those that are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from patchlight.errors import InputError
from patchlight.model.load import random_init
from patchlight.packs.read import read_pack
from patchlight.records import NULLS
from patchlight.run.units import Unit
from patchlight.store.results import Artifact
from patchlight.study import stages
from patchlight.study.nulls import absent, null_models, pooled
from patchlight.study.questions import questions_of
from patchlight.study.results import Checkpoint, Question, SweepResult
from patchlight.study.spec import Study, read_study
from patchlight.study.view import KindView
from patchlight.trace.random_donor import RandomDonor
from patchlight.trace.sweep import sweep
from patchlight.verify.controls import donor_from_another_fact, donor_from_permuted_pairs

Kept = Callable[[Unit], Artifact]
FACTS = [f"fact-{number}" for number in range(20)]
HELD_OUT = frozenset(FACTS[:10])


def with_controls(study: Path, controls: str = "all") -> Study:
    """The study with all its pairs in one unit, and these null maps."""
    text = study.read_text(encoding="utf-8").replace("pairs_per_unit: 8", "pairs_per_unit: 48")
    study.write_text(f"{text}controls: {controls}\n", encoding="utf-8")
    return read_study(study)


def loaded(study: Study) -> Checkpoint:
    checkpoint = stages.loaded_checkpoint(study)
    assert checkpoint is not None
    return checkpoint


def asked(study: Study, checkpoint: Checkpoint, kept: Kept) -> list[Question]:
    return questions_of(kept(stages.questions_unit(study, read_pack(study.pack_source), checkpoint)))


def planned(study: Study, checkpoint: Checkpoint, questions: list[Question]) -> dict[tuple[str, str, str], Unit]:
    units = stages.sweep_units(study, checkpoint, questions, null_models(study, [checkpoint]))
    return {(what.component, what.direction, what.null): unit for what, unit in units}


def test_every_map_has_the_nulls_that_say_something_in_its_direction(study: Path, stored: Kept) -> None:
    read = with_controls(study)
    checkpoint = loaded(read)
    units = stages.sweep_units(read, checkpoint, asked(read, checkpoint, stored), null_models(read, [checkpoint]))
    made = Counter((what.direction, what.null) for what, _ in units)
    denoised = ["", "another-fact", "permuted", "random-donor", "random-init"]
    assert list(made) == [
        *(("denoise", name) for name in denoised),
        *(("noise", name) for name in ("", "random-donor", "random-init")),
    ]
    assert len(set(made.values())) == 1


@pytest.mark.parametrize(
    ("controls", "names"),
    [("none", set()), ("permuted", {"permuted"}), ("[random-init, before]", {"random-init"}), ("all", set(NULLS[:4]))],
)
def test_a_study_chooses_its_nulls(controls: str, names: set[str], study: Path, stored: Kept) -> None:
    read = with_controls(study, controls)
    checkpoint = loaded(read)
    assert {null for _, _, null in planned(read, checkpoint, asked(read, checkpoint, stored))} == {"", *names}


def test_an_unknown_null_is_refused_where_it_is_written(study: Path) -> None:
    with pytest.raises(InputError, match=r"study\.yaml:\d+"):
        with_controls(study, "[another-fact, shuffled]")


def test_each_null_is_the_sweep_that_it_says_it_is(study: Path, stored: Kept) -> None:
    read = with_controls(study)
    checkpoint = loaded(read)
    questions = asked(read, checkpoint, stored)
    units, pairs, model = planned(read, checkpoint, questions), [each.pair for each in questions], checkpoint.model
    seed, direction = stages.seed_of(read, "control"), "denoise"
    chosen = {
        "another-fact": donor_from_another_fact(pairs, model.tokenizer, seed).prompts,
        "permuted": donor_from_permuted_pairs(pairs, model.tokenizer, seed).prompts,
    }
    for name, prompts in chosen.items():
        values = stored(units["mlp_out", direction, name]).tensors("effects")["values"]
        have = [index for index, prompt in enumerate(prompts) if prompt is not None]
        assert have
        expected = sweep(model, [pairs[i] for i in have], component="mlp_out", donors=[prompts[i] for i in have])
        np.testing.assert_allclose(values[have][..., : expected.values.shape[2]], expected.values, atol=5e-5)
        assert np.isnan(np.delete(values, have, axis=0)).all()
    for way in ("denoise", "noise"):
        pushed = stored(units["attn_out", way, "random-donor"]).tensors("effects")["values"]
        expected = sweep(model, pairs, component="attn_out", direction=way, donors=RandomDonor(seed))
        np.testing.assert_allclose(pushed, expected.values, atol=5e-5)
        nothing = stored(units["attn_out", way, "random-init"]).tensors("effects")
        untrained = random_init(model, stages.seed_of(read, "random init"))
        expected = sweep(untrained, pairs, component="attn_out", direction=way)
        np.testing.assert_allclose(nothing["values"], expected.values, atol=5e-5)
        np.testing.assert_allclose(nothing["clean"], expected.clean, atol=5e-5)
        assert np.abs(expected.clean - [question.clean for question in questions]).min() > 1e-3


def test_the_model_before_fine_tuning_is_asked_the_same_pairs_and_what_is_done_is_not_done_again(
    study: Path, stored: Kept
) -> None:
    read = with_controls(study, "[before]")
    base = loaded(read)
    questions = asked(read, base, stored)
    tuned = replace(base, key="I", digest="another", training=Artifact({}, "", {}, None))  # type: ignore[arg-type]
    models = null_models(read, [base, tuned])
    assert not any(what.null for what, _ in stages.sweep_units(read, base, questions, models))
    before = {
        (what.component, what.direction): unit.hash
        for what, unit in stages.sweep_units(read, tuned, questions, models)
        if what.null == "before"
    }
    own = {
        (what.component, what.direction): unit.hash for what, unit in stages.sweep_units(read, base, questions, models)
    }
    assert before == own


def test_gaps_of_random_sign_are_turned_and_pooled() -> None:
    """What gives back a share of every gap has that share, although its mean effect is nothing."""
    random = np.random.default_rng(0)
    gaps = random.normal(0, 0.1, 400)
    gaps[7], gaps[8] = 0.0, np.nan
    null = pooled(0.4 * gaps[:, None, None] + random.normal(0, 0.02, (400, 2, 3)), gaps)
    assert np.isnan(null.effects[[7, 8]]).all()
    share = np.nansum(null.effects, axis=0) / np.delete(null.gaps, [7, 8]).sum()
    np.testing.assert_allclose(share, 0.4, atol=0.05)
    assert abs(np.nanmean(null.effects * np.sign(gaps)[:, None, None])) < 0.01


def test_a_random_model_gives_back_by_attention_alone_what_the_last_word_needs(study: Path, stored: Kept) -> None:
    """Only attention brings the subject to the last word: in any model its layers share the whole gap, about."""
    read = with_controls(study)
    checkpoint = loaded(read)
    questions = asked(read, checkpoint, stored)
    units = planned(read, checkpoint, questions)
    last = np.array([len(question.words) - 1 for question in questions])
    tensors = stored(units["attn_out", "denoise", "random-init"]).tensors("effects")
    effects = tensors["values"][np.arange(len(last)), :, last] - tensors["corrupted"][:, None]
    null = pooled(effects, tensors["clean"] - tensors["corrupted"])
    assert null.effects.sum() / null.gaps.sum() == pytest.approx(1, abs=0.1)


def test_the_band_of_a_random_model_is_a_share_of_its_own_gaps(study: Path, stored: Kept) -> None:
    read = with_controls(study)
    checkpoint = loaded(read)
    questions = asked(read, checkpoint, stored)
    shape = (len(questions), 3, max(len(each.words) for each in questions))
    nowhere, sign = np.zeros(shape, dtype=bool), np.where(np.arange(len(questions)) % 2, 1.0, -1.0)

    def everywhere(values: np.ndarray) -> np.ndarray:
        return np.broadcast_to(values[:, None, None], shape)

    clean = np.array([each.clean for each in questions])
    effect = SweepResult("mlp_out", "denoise", "", everywhere(clean), nowhere)
    runs = 5 + 0.03 * sign, np.full(len(questions), 5.0)
    wiring = SweepResult("mlp_out", "denoise", "random-init", everywhere(5 + 0.015 * sign), nowhere, {}, *runs)
    shown = KindView(read, "any", tuple(questions), (effect, wiring)).effect_map(effect)
    here = np.isfinite(shown.effect.estimate)
    np.testing.assert_allclose(shown.effect.estimate[here], 1.0)
    np.testing.assert_allclose(shown.nulls["random-init"].estimate[here], 0.5)


def test_a_null_without_donors_is_missing_with_its_reason() -> None:
    def swept(null: str, facts: int) -> SweepResult:
        values = np.full((20, 2, 3), np.nan)
        values[:facts] = 0.0
        return SweepResult("mlp_out", "denoise", null, values, np.zeros(values.shape, dtype=bool))

    sweeps = [swept("", 20), swept("another-fact", 20), swept("permuted", 0), swept("random-donor", 17)]
    found = absent(NULLS[:4], ("another-fact", "permuted", "random-donor"), sweeps, FACTS, HELD_OUT)
    assert found == {"permuted": "no-donor", "random-donor": "few-donors", "random-init": "off"}
