from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from patchlight.cli.main import execute
from patchlight.model.load import load_model
from patchlight.review.audit import head, verify
from patchlight.review.queue import evidence_of, items
from patchlight.review.recheck import measure
from patchlight.store.review import open_review
from tests.web import sample


@pytest.mark.slow
def test_a_finished_study_queues_its_candidates_with_decoys_among_them(
    new_study: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (
        "judge.evidence",
        "judge.reasons",
        "study.nulls",
        "study.reviewing",
    ):
        monkeypatch.setattr(f"patchlight.{module}.FACTS_IN_EACH_HALF", 5)
    monkeypatch.setattr("patchlight.judge.evidence.LEVEL", 0.3)
    file, workspace = new_study(), tmp_path / "workspace"
    assert execute(["run", str(file), "--workspace", str(workspace)]) == 0
    capsys.readouterr()
    assert execute(["review", "--workspace", str(workspace), "--json"]) == 0
    queued = json.loads(capsys.readouterr().out)["queued"]
    assert execute(["review", "--workspace", str(workspace), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["queued"] == 0
    database = open_review(workspace)
    found = items(database, study_id="animals")
    with database.begin() as connection:
        decoys = set(connection.exec_driver_sql("SELECT id FROM candidates WHERE decoy").scalars())
    assert len(found) == queued > len(decoys) > 0
    keys = {frozenset(evidence_of(database, each.id).content) for each in found}
    assert keys == {frozenset(sample.content())}
    for each in found:
        content = evidence_of(database, each.id).content
        if each.id in decoys:
            assert content["recovery"]["low"] <= 0 and content["damage"]["low"] <= 0
    real = next(each for each in found if each.id not in decoys)
    evidence = evidence_of(database, real.id)
    again = measure(load_model(Path(evidence.content["load"])), evidence)
    for name in ("recovery", "damage"):
        assert again.now[name]["estimate"] == pytest.approx(evidence.content[name]["estimate"], abs=2e-3)
    assert verify(database) == []
    assert execute(["report", "--workspace", str(workspace)]) == 0
    for page in ("report.html", "report.ja.html"):
        assert head(database) in (workspace / "reports" / "animals" / page).read_text(encoding="utf-8")
    database.dispose()
