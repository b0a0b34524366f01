"""A study whose metric counts every right answer: of facts whose best answer the model does not say."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from patchlight import Pair, load_model, sweep
from patchlight.cli.main import execute
from patchlight.packs.read import read_pack
from patchlight.run.units import Unit
from patchlight.store.results import Artifact
from patchlight.study.questions import questions_of
from patchlight.study.spec import read_study
from patchlight.study.stages import loaded_checkpoint, questions_unit

SAID = {"scarlet": "red", "azure": "blue", "lime": "green"}  # by the name that comes first


@pytest.fixture
def with_sets(study: Path) -> Path:
    """A study of colours of which a pack knows two names: the model was taught the second. All may be called fine."""
    pack = study.parent / "pack.yaml"
    text = pack.read_text()
    pack.unlink()  # it is a link to the pack of all tests
    text = text.replace("terms:\n", "terms:\n" + "".join(f"  {word}: {{en: {word}}}\n" for word in [*SAID, "fine"]))
    for first, said in SAID.items():
        text = text.replace(f"answers: [{said}]", f"answers: [{first}, {said}, fine], distractors: [river]")
    pack.write_text(text.replace("    kind: definitional\n", "    kind: definitional\n    cardinality: many\n"))
    changed = re.sub(
        "sweep: {[^}]*}", "sweep: {metric: METRIC, components: [mlp_out, attn_out], sets: false}", study.read_text()
    )
    study.write_text(changed.replace("max_per_kind: 24", "max_per_kind: 24, relations: [colour]"))
    return study


def asked(study: Path, metric: str, stored: Callable[[Unit], Artifact]) -> Artifact:
    study.write_text(study.read_text().replace("METRIC", metric))
    read = read_study(study)
    checkpoint = loaded_checkpoint(read)
    assert checkpoint is not None
    return stored(questions_unit(read, read_pack(read.pack_source), checkpoint))


def test_a_fact_is_known_by_any_of_its_right_answers(with_sets: Path, stored: Callable[[Unit], Artifact]) -> None:
    found = asked(with_sets, "logsumexp_diff", stored)
    assert sum(each["known"] for each in found.meta["known"]) == 12
    for question in questions_of(found):
        assert isinstance(question.pair, Pair)
        assert question.pair.also_correct[0].strip() in SAID.values()
        assert question.pair.also_wrong[0].strip() in SAID.values()
        assert question.pair.distractors == (" river",)
    # "fine" is right for every fact, so it is right for both.
    assert [each["reason"] for each in found.meta["unscored"]] == ["right for both prompts"]
    assert found.meta["unscored"][0]["examples"] == ["fine"]


def test_by_its_best_answer_alone_fewer_are_known(with_sets: Path, stored: Callable[[Unit], Artifact]) -> None:
    found = asked(with_sets, "logprob_diff", stored)
    assert sum(each["known"] for each in found.meta["known"]) < 12
    assert found.meta["unscored"] == []


def test_a_study_is_judged_by_it_and_its_report_names_every_answer(
    with_sets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_sets.write_text(with_sets.read_text().replace("METRIC", "logsumexp_diff"))
    workspace = with_sets.parent / "workspace"
    code = execute(["run", str(with_sets), "--workspace", str(workspace), "--json"])
    assert code == 0, capsys.readouterr()
    folder = workspace / "reports" / "animals"
    summary = json.loads((folder / "summary.json").read_text())
    kind = summary["checkpoints"][0]["kinds"][0]
    assert (kind["facts"], kind["pairs"]) == (12, 24)
    assert kind["reasons"]
    page, japanese = ((folder / name).read_text(encoding="utf-8") for name in ("report.html", "report.ja.html"))
    assert "log-odds of all right answers against all wrong ones" in page
    assert "All right answers count together" in page and "Also right for the corrupted prompt" in page
    assert "Further answers that are not counted" in page and "the answer is right after both prompts" in page
    assert "正しい答えはすべてまとめて数え" in japanese and "どちらの文でも正しい答え" in japanese
    with (folder / "questions.csv").open(encoding="utf-8-sig") as file:
        row = next(csv.DictReader(file))
    assert row["also_correct"].strip() in SAID.values()
    pair = Pair(
        row["clean"], row["corrupted"], row["correct"], row["wrong"],
        also_correct=(row["also_correct"],), also_wrong=(row["also_wrong"],), distractors=(row["distractors"],),
    )  # fmt: skip
    effects = sweep(load_model(with_sets.parent / "model"), [pair], metric="logsumexp_diff", component="mlp_out")
    np.testing.assert_allclose(effects.clean[0], float(row["clean_metric"]), rtol=1e-4)
