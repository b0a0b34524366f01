"""What a study may say of its pairs: what is swapped, and whether distractors have to be beaten."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from patchlight.packs.read import read_pack
from patchlight.run.units import Unit
from patchlight.store.results import Artifact
from patchlight.study.questions import questions_of
from patchlight.study.spec import read_study
from patchlight.study.stages import loaded_checkpoint, questions_unit


@pytest.fixture
def asked(study: Path, stored: Callable[[Unit], Artifact]) -> Callable[[str], Artifact]:
    """Asks the study's questions with one more setting of its pairs."""

    def ask(setting: str) -> Artifact:
        study.write_text(re.sub("max_per_kind: 24[^}]*}", f"max_per_kind: 24, {setting}}}", study.read_text()))
        read = read_study(study)
        checkpoint = loaded_checkpoint(read)
        assert checkpoint is not None
        return stored(questions_unit(read, read_pack(read.pack_source), checkpoint))

    return ask


def test_another_thing_is_asked_of_the_same_subject(asked: Callable[[str], Artifact]) -> None:
    pairs = [question.pair for question in questions_of(asked("swap: object_class"))]
    assert {pair.kind for pair in pairs} == {"definitional", "associative"}
    for pair in pairs:
        subject, relation = pair.fact.split("-")
        assert pair.partner == f"{subject}-{ {'colour': 'home', 'home': 'colour'}[relation] }"
        assert subject in pair.clean and subject in pair.corrupted
    halves = {fact: pair.half for pair in pairs for fact in (pair.fact, pair.partner)}
    assert all(halves[pair.fact] == pair.half for pair in pairs)
    assert set(halves.values()) == {"discovery", "confirmation"}


def test_a_pack_without_conditions_has_no_twin_by_condition(asked: Callable[[str], Artifact]) -> None:
    found = asked("swap: condition")
    assert questions_of(found) == []
    assert set(found.table("left_out").reason) == {"no twin by condition"}


def test_what_the_model_says_rather_than_the_answer_counts_only_as_a_distractor(
    study: Path, asked: Callable[[str], Artifact]
) -> None:
    """A pack that calls the red animals blue: some pairs pass between blue and green, though the model says red."""
    pack = study.parent / "pack.yaml"
    text = pack.read_text().replace("answers: [red]", "answers: [blue], distractors: [red]")
    pack.unlink()  # it is a link to the pack of all tests
    pack.write_text(text)
    among = {_key(row) for row in asked("distractors: false").meta["pairs"]}
    after = asked("distractors: true")
    left_out = after.table("left_out")
    distracted = {_key(row) for _, row in left_out[left_out.reason == "a distractor is likelier"].iterrows()}
    assert distracted
    assert {_key(row) for row in after.meta["pairs"]} == among - distracted


def _key(row: Any) -> tuple[str, str]:
    return row["fact"], row["template"]
