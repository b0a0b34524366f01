from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from patchlight.errors import InputError, PatchlightError
from patchlight.model.load import load_model, random_init
from patchlight.report.replay import PublishedTable
from patchlight.run.progress import Progress
from patchlight.store.ledger import Ledger
from patchlight.study.published import published_models, published_units
from patchlight.study.replay import published_of
from patchlight.study.results import Checkpoint
from patchlight.study.spec import Study, read_study
from patchlight.study.walk import walk
from tests.conftest import ANSWERS, SUBJECTS, TEMPLATES, write_study

RANDOM = 7
HEAD, FIRST = "output-head", "first-feed-forward"


def animals(leading: str = "", *, kind: str = "definitional", limit: int = 8) -> list[dict[str, object]]:
    """Questions about the colours that the small model was taught; `leading` stands before both prompts."""
    found, colours = [], ANSWERS["colour"]
    for number, subject in enumerate(SUBJECTS[:limit]):
        right, wrong = colours[number % 3], colours[(number + 1) % 3]
        prompt = leading + TEMPLATES["colour"][0]
        others = [each for at, each in enumerate(SUBJECTS) if at % 3 == (number + 1) % 3]
        found.append(
            {
                "kind": kind,
                "fact": subject,
                "clean": prompt.format(subject=subject),
                "corrupted": [prompt.format(subject=other) for other in others],
                "answer": right,
                "scored": f" {right}",
                "against": f" {wrong}",
            }
        )
    return found


@pytest.fixture
def study_of(taught: Path, tmp_path: Path):
    """A study of the taught model that replays these questions."""

    def study(questions: list[dict[str, object]], **section: object) -> Study:
        file = tmp_path / "study.yaml"
        file = file if file.exists() else write_study(taught, tmp_path)
        content = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
        content["published"] = {"questions": questions, "random_models": RANDOM, **section}
        file.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
        return read_study(file)

    return study


@pytest.fixture
def tables_of(stored, study_of, taught: Path):
    """The tables of the replay on the taught model, or on another in its place."""

    def tables(questions: list[dict[str, object]], model=None) -> tuple[PublishedTable, ...]:
        study = study_of(questions)
        checkpoint = Checkpoint("base", "digest", lambda: model or load_model(taught / "model"))
        done = [(asked, stored(unit)) for asked, unit in published_units(study, checkpoint)]
        return published_of(study, {"en": "taught"}, done)

    return tables


def words(table: PublishedTable) -> dict[str, str]:
    return {row.module: row.weighed.word for row in table.rows}


def test_knowledge_that_was_really_taught_is_supported_and_the_head_still_an_identity(tables_of) -> None:
    (table,) = tables_of(animals())
    found = words(table)
    assert found["lm_head"] == "identity"
    assert "supported" in found.values(), [(row.module, row.weighed) for row in table.rows]
    assert set(found.values()) <= {"identity", "supported", "rival explanation"}


def test_one_question_of_the_same_model_is_not_supported(tables_of) -> None:
    (table,) = tables_of(animals(limit=1))
    assert "supported" not in words(table).values()


def test_an_answer_in_the_prompt_is_a_rival_explanation(tables_of) -> None:
    (table,) = tables_of(animals("red blue green. "))
    codes = {reason.code for row in table.rows for reason in row.weighed.reasons if row.role != HEAD}
    assert "answer-in-prompt" in codes
    assert "supported" not in words(table).values()


def test_a_model_that_was_taught_nothing_shows_the_same_hundred_percent(tables_of, taught: Path) -> None:
    untaught = random_init(load_model(taught / "model"), seed=5)
    (table,) = tables_of(animals(limit=6), untaught)
    head = next(row for row in table.rows if row.role == HEAD)
    assert head.weighed.recovery.estimate == pytest.approx(1, abs=1e-4)
    assert head.random == pytest.approx((1, 1, 1), abs=1e-3)
    assert {row.weighed.word for row in table.rows if row.role != HEAD} == {"no valid denominator"}


def test_rows_are_the_first_feed_forward_layer_the_names_that_matrices_print_and_the_head(tables_of) -> None:
    (table,) = tables_of(animals(limit=1))
    assert [row.role for row in table.rows] == [FIRST, "matrices", "matrices", "matrices", "matrices", HEAD]
    assert table.reached == {"Linear": (1, 1), "Conv1D": (12, 4)}
    for row in table.rows[1:-1]:
        assert row.modules == 3
        assert ".2." in row.module
        assert row.lowest <= row.weighed.recovery.estimate <= row.highest
    assert [row.published for row in (table.rows[0], table.rows[1], table.rows[-1])] == [0.56, 0.136, 1.0]


def test_each_kind_of_question_has_a_table_of_its_own(tables_of) -> None:
    tables = tables_of([*animals(limit=2), *animals(kind="associative", limit=1)])
    assert [(table.kind, len(table.questions)) for table in tables] == [("definitional", 2), ("associative", 1)]


def test_the_first_corrupted_prompt_of_the_same_length_is_taken(tables_of) -> None:
    (question,) = animals(limit=1)
    longer = f"{question['clean']} really and truly"
    (table,) = tables_of([{**question, "corrupted": [longer, question["corrupted"][0]]}])
    assert table.questions[0].corrupted == question["corrupted"][0]


def test_prompts_that_never_fit_are_refused_with_their_lengths(study_of, stored, taught: Path) -> None:
    (question,) = animals(limit=1)
    study = study_of([{**question, "corrupted": "The"}])
    checkpoint = Checkpoint("base", "digest", lambda: load_model(taught / "model"))
    with pytest.raises(InputError) as caught:
        stored(published_units(study, checkpoint)[0][1])
    assert caught.value.code == "study-published-lengths"


def test_a_further_model_is_loaded_and_one_that_is_not_there_is_refused_clearly(study_of, taught: Path) -> None:
    own = Checkpoint("base", "digest", lambda: load_model(taught / "model"))
    study = study_of(animals(limit=1), models=[str(taught / "model")])
    first, second = published_models(study, [own])
    assert first is own
    assert second.key == "model"
    assert np.isfinite(second.model.n_layers)
    with pytest.raises(PatchlightError) as caught:
        published_models(study_of(animals(limit=1), models=["./nowhere"]), [own])
    assert caught.value.fix


def test_units_depend_on_model_question_and_seed_alone(study_of) -> None:
    study = study_of(animals(limit=2))
    units = [unit for _, unit in published_units(study, Checkpoint("base", "digest", lambda: None))]
    assert len({unit.hash for unit in units}) == 2 + RANDOM
    other = dataclasses.replace(Checkpoint("base", "digest", lambda: None), key="II")
    assert [unit.hash for _, unit in published_units(study, other)] == [unit.hash for unit in units]


def test_a_study_without_the_section_replays_nothing(taught: Path, tmp_path: Path) -> None:
    study = read_study(write_study(taught, tmp_path))
    own = Checkpoint("base", "digest", lambda: None)
    assert published_models(study, [own]) == []
    assert published_units(study, own) == []


def test_a_walk_ends_with_the_replay_in_the_report_and_runs_again_from_what_is_stored(study_of, tmp_path: Path) -> None:
    study = study_of(animals(limit=1))
    small = {"pairs": study.spec.pairs.model_copy(update={"max_per_kind": 4})}
    study = Study(study.spec.model_copy(update=small), study.file)
    with Ledger(tmp_path / "workspace") as ledger, ledger.driving():
        ledger.begin_study(study.spec.digest, "animals", "", str(study.file), study.spec.id)
        first = walk(study, ledger, Progress(), "patchlight run")
        again = walk(study, ledger, Progress(), "patchlight run", stored_only=True)
    assert first.computed
    assert not again.computed
    assert [table.kind for table in again.contents.replay.tables] == ["definitional"]
    assert 'id="published"' in first.report.read_text(encoding="utf-8")
    table = pd.read_csv(first.report.parent / "published.csv")
    assert table[table.role == HEAD].word.tolist() == ["identity"]
    summary = json.loads((first.report.parent / "summary.json").read_text(encoding="utf-8"))
    assert [each["kind"] for each in summary["asked_properly"]] == ["definitional", "associative"]
