"""A study's screening: what it is asked, what it gives back from the store, and what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from transformers import GPTJConfig, GPTJForCausalLM

from patchlight import load_model
from patchlight.errors import InputError
from patchlight.packs.read import read_pack
from patchlight.run.units import Unit
from patchlight.store.results import Artifact
from patchlight.study import stages
from patchlight.study.questions import questions_of
from patchlight.study.results import Checkpoint, Question
from patchlight.study.screening import narrowings_of, screening_units
from patchlight.study.spec import Study, read_study
from patchlight.trace.screening import screen_sites

Stored = Callable[[Unit], Artifact]
SWEEP = "sweep: {screening: {components: [mlp_out, head_out], candidates: 0.2, audit: 5, threshold: 0.2}, "


@pytest.fixture
def asked(study: Path, stored: Stored) -> tuple[Study, Checkpoint, list[Question]]:
    """A study that screens, its model, and the questions that the model answers."""
    study.write_text(study.read_text().replace("sweep: {", SWEEP))
    read = read_study(study)
    checkpoint = stages.loaded_checkpoint(read)
    assert checkpoint is not None
    unit = stages.questions_unit(read, read_pack(read.pack_source), checkpoint)
    return read, checkpoint, questions_of(stored(unit))


def units(asked: tuple[Study, Checkpoint, Sequence[Question]]) -> dict[str, Unit]:
    return dict(screening_units(*asked))


def test_the_discovery_facts_of_a_kind_are_screened_and_read_back_as_they_were(asked, stored: Stored) -> None:
    study, checkpoint, questions = asked
    unit = units(asked)["associative"]
    found = narrowings_of([("associative", stored(unit))])["associative"]
    of_kind = [question.pair for question in questions if question.pair.kind == "associative"]
    pairs = [pair for pair in of_kind if pair.half == "discovery"]
    facts = {half: {pair.fact for pair in of_kind if pair.half == half} for half in ("discovery", "confirmation")}
    assert len(facts["discovery"]) == len(facts["confirmation"]) == 6
    assert all(pair.partner in facts[pair.half] for pair in of_kind)
    directly = screen_sites(
        checkpoint.model, pairs, components=("mlp_out", "head_out"), candidates=0.2, audit=5, threshold=0.2,
        seed=stages.seed_of(study, "screening", "associative"),
    )  # fmt: skip
    assert found.left_out == 0
    assert found.screening.figures() == directly.figures()
    assert found.screening.sites == directly.sites
    np.testing.assert_array_equal(found.screening.exact, directly.exact)
    np.testing.assert_array_equal(found.screening.estimate, directly.estimate)


def test_answers_that_begin_alike_are_left_out_and_counted(asked, stored: Stored) -> None:
    study, checkpoint, questions = asked
    of_kind = [question for question in questions if question.pair.kind == "definitional"]
    discovery = {question.pair.fact for question in of_kind if question.pair.half == "discovery"}

    def alike(question: Question) -> Question:
        return dataclasses.replace(
            question, pair=dataclasses.replace(question.pair, correct=" red fox", wrong=" red owl")
        )

    one = min(discovery)
    some = [alike(question) if question.pair.fact == one else question for question in of_kind]
    found = narrowings_of([("definitional", stored(units((study, checkpoint, some))["definitional"]))])
    assert found["definitional"].left_out == sum(question.pair.fact == one for question in of_kind) > 0
    assert found["definitional"].screening.facts == len(discovery) - 1
    every = [alike(question) for question in of_kind]
    assert narrowings_of([("", stored(units((study, checkpoint, every))["definitional"]))]) == {}


def test_a_component_that_the_model_does_not_have_is_refused(asked, stored: Stored, tmp_path: Path) -> None:
    study, checkpoint, questions = asked
    tokenizer = checkpoint.model.tokenizer
    config = GPTJConfig(vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, rotary_dim=4)
    GPTJForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    study.file.write_text(study.file.read_text().replace("[mlp_out, head_out]", "[resid_mid]"))
    parallel = Checkpoint("base", "gptj", lambda: load_model(tmp_path))
    with pytest.raises(InputError) as refused:
        stored(units((read_study(study.file), parallel, questions))["definitional"])
    assert refused.value.code == "model-no-component"
    assert "choose another component" in str(refused.value)


def test_a_unit_goes_by_its_settings_and_its_discovery_pairs(asked) -> None:
    study, checkpoint, questions = asked
    plain = units(asked)["definitional"].hash
    study.file.write_text(study.file.read_text().replace("audit: 5", "audit: 6"))
    assert units((read_study(study.file), checkpoint, questions))["definitional"].hash != plain
    without = dataclasses.replace(study, spec=study.spec.model_copy(update={"sweep": type(study.spec.sweep)()}))
    assert units((without, checkpoint, questions)) == {}
