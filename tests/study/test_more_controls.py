from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from patchlight.cli.main import execute
from patchlight.review.decisions import decide
from patchlight.review.queue import evidence_of, item, items, wanted
from patchlight.store.database import reading
from patchlight.store.ledger import Ledger
from patchlight.store.review import open_review
from tests.review.conftest import Join, filled, join, quick_hashes  # noqa: F401  (fixtures)


@pytest.mark.slow
def test_controls_that_a_reviewer_asks_for_are_run_and_the_candidate_comes_back_with_them(
    new_study: Callable[[], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    join: Join,  # noqa: F811
) -> None:
    for module in ("judge.evidence", "judge.reasons", "study.nulls", "study.reviewing"):
        monkeypatch.setattr(f"patchlight.{module}.FACTS_IN_EACH_HALF", 5)
    monkeypatch.setattr("patchlight.judge.evidence.LEVEL", 0.3)
    file, workspace = new_study(), tmp_path / "workspace"
    text = file.read_text(encoding="utf-8").replace("resamples: 500", "resamples: 200")
    file.write_text(text + "controls: [permuted]\n", encoding="utf-8")
    where = ["--workspace", str(workspace)]
    assert execute(["run", str(file), *where]) == 0
    assert execute(["review", *where]) == 0
    assert execute(["review", "--more", *where]) == 3
    database = open_review(workspace)
    first = items(database)[0]
    before = evidence_of(database, first.id).content
    assert set(before["nulls"]) == {"permuted"}
    decide(database, join(database, "reviewer"), filled(database, first.id, "needs more", missing=("random-donor",)))
    assert item(database, first.id).standing == "needs more"
    computed = _done(workspace)
    assert execute(["review", "--more", *where]) == 0
    after = evidence_of(database, first.id).content
    assert set(after["nulls"]) == {"permuted", "random-donor"}
    assert after["recovery"] == before["recovery"]
    assert after["nulls"]["permuted"] == before["nulls"]["permuted"]
    places = [each for each in items(database) if " + " not in each.site]  # also one that is no candidate any more
    assert all("random-donor" in evidence_of(database, each.id).content["nulls"] for each in places)
    assert item(database, first.id).standing == "open"
    assert wanted(database) == []
    assert computed < _done(workspace)
    database.dispose()


def _done(workspace: Path) -> int:
    from sqlalchemy import func, select

    from patchlight.store.database import open_database, units

    with Ledger(workspace, create=False):
        engine = open_database(workspace / "patchlight.sqlite")
        with reading(engine) as connection:
            found = connection.scalar(select(func.count()).select_from(units).where(units.c.state == "done"))
        engine.dispose()
    return int(found or 0)
