"""The pages of studies: what a workspace holds, how far a run is, and what of it may be downloaded."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from fastapi import FastAPI
from sqlalchemy import update

from patchlight.review.queue import put
from patchlight.store.database import open_database, units, writing
from patchlight.store.ledger import DATABASE, Ledger
from patchlight.store.results import Result
from patchlight.study.spec import read_study
from patchlight.web import runs
from patchlight.web.jobs import Jobs
from tests.web.conftest import SignedIn
from tests.web.sample import full_evidence

STUDY = "5" * 64
UNITS = [(letter * 64, "sweep", f"unit {letter}") for letter in "abcd"]
SUMMARY: dict[str, Any] = {
    "study": STUDY,
    "title": {"en": "Where are the crows?", "ja": "カラスはどこに"},
    "date": "2026-01-02",
    "unknown": ["replication", "edits"],
    "checkpoints": [
        {
            "name": "Before fine-tuning",
            "names": {"en": "Before fine-tuning", "ja": "微調整前"},
            "places": {"tested": 40, "passed": 3},
            "checks": {"made": 9, "failed": 0},
            "kinds": [
                {
                    "kind": "definitional",
                    "pairs": 24,
                    "facts": 12,
                    "verdict": "localised",
                    "grade": "C",
                    "candidates": 4,
                    "confirmed": 2,
                    "reasons": [["set-is-small", {"size": 1, "eligible": 10, "limit": 1}]],
                    "why_not_stronger": [["not-replicated", {}]],
                }
            ],
        }
    ],
}


@pytest.fixture
def workspace(app: FastAPI) -> Path:
    """The workspace with a study of four units, two of them done in the last twenty seconds."""
    folder = Path(app.state.workspace)
    with Ledger(folder) as ledger, ledger.driving():
        ledger.begin_study(STUDY, "Where are the crows?", "", str(folder / "crows.yaml"), "crows")
        ledger.plan(STUDY, UNITS)
        for unit, _, _ in UNITS[:2]:
            ledger.record(unit, Result({"value": 1.0}), 0.5)
    return folder


@pytest.fixture
def reported(workspace: Path) -> Path:
    """The workspace with a report of that study."""
    folder = workspace / "reports" / "crows"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(SUMMARY), encoding="utf-8")
    (folder / "report.html").write_text("<p>the report</p>", encoding="utf-8")
    (folder / "secret.txt").write_text("not published", encoding="utf-8")
    return workspace


@pytest.mark.usefixtures("reported")
def test_a_study_shows_its_verdict_first_and_why_it_is_not_stronger(signed_in: SignedIn) -> None:
    browser = signed_in("viewer")
    page, japanese = browser.get("/studies/crows").text, browser.get("/studies/crows?lang=ja").text
    assert (
        page.index("Localised")
        < page.index("not repeated")
        < page.index("a small set has at most")
        < page.index("40 places")
    )
    assert "カラスはどこに" in japanese
    assert "局在" in japanese
    data = browser.get("/studies/crows.json").json()
    assert data["overview"]["verdicts"][0]["confirmed"] == 2
    assert data["overview"]["passed"] == 3
    assert "局在" in browser.get("/studies").text
    assert browser.get("/studies.json").json()[0]["verdicts"][0]["verdict"] == "localised"


@pytest.mark.usefixtures("reported")
def test_only_what_a_study_publishes_is_served(signed_in: SignedIn) -> None:
    browser = signed_in("viewer")
    report = browser.get("/studies/crows/report/report.html")
    assert report.text == "<p>the report</p>"
    assert "script-src" not in report.headers["content-security-policy"]
    assert "default-src 'none'" in report.headers["content-security-policy"]
    assert browser.get("/studies/crows/report/summary.json").json()["study"] == STUDY
    for name in ("secret.txt", "intervals.csv", "..%2f..%2fpatchlight.sqlite", "%2e%2e/summary.json"):
        assert browser.get(f"/studies/crows/report/{name}").status_code == 404
    for study in ("nothing", "..", "%2e%2e%2freports%2fcrows"):
        assert browser.get(f"/studies/{study}/report/report.html").status_code == 404


@pytest.mark.usefixtures("reported")
def test_in_judge_first_mode_a_study_hides_its_verdict_from_who_has_to_judge(app: FastAPI, signed_in: SignedIn) -> None:
    app.state.judge_first = True
    put(app.state.database, [full_evidence(study_id="crows")], by="test")
    reviewer, engineer = signed_in("reviewer"), signed_in("engineer")
    for path in ("/studies", "/studies/crows", "/studies.json", "/studies/crows.json", "/studies/crows.csv"):
        assert "ocalised" not in reviewer.get(path).text
        assert "ocalised" in engineer.get(path).text
    assert reviewer.get("/studies/crows/report/report.html").status_code == 400
    assert reviewer.get("/studies/crows/report/summary.json").status_code == 400


def test_a_run_shows_its_units_stage_by_stage(signed_in: SignedIn, workspace: Path) -> None:
    browser = signed_in("engineer")
    page = browser.get("/studies/crows/run").text
    assert "2 of 4 units done" in page
    assert "Paused" in page
    data = browser.get("/studies/crows/run.json").json()
    assert data["stages"] == [{"name": "sweep", "done": 2, "planned": 4}]
    assert str(workspace) not in json.dumps(data)
    assert browser.get("/studies/crows/run.csv").text.count("sweep") == 4
    assert browser.get("/studies/nothing/run").status_code == 404


def test_a_run_that_works_has_a_rate_and_a_range_of_time_left(workspace: Path) -> None:
    now = time.time()
    engine = open_database(workspace / DATABASE)
    with writing(engine) as connection:
        for unit, seconds in ((UNITS[0][0], 20.0), (UNITS[1][0], 10.0)):
            connection.execute(update(units).where(units.c.hash == unit).values(finished=now - seconds))
    engine.dispose()
    with Ledger(workspace) as ledger, ledger.driving():
        row = runs.study_named(ledger, "crows")
        rate, left = runs.pace(ledger.units(row.hash), now - 30.0, now)
    assert rate == pytest.approx(2 / 30, rel=0.01)
    assert left is not None
    assert left[0] < 2 * 10 < left[1]


def test_the_lease_says_who_works(workspace: Path) -> None:
    with Ledger(workspace) as ledger:
        row = runs.study_named(ledger, "crows")
        assert runs.run_of(ledger, row, Jobs()).state == "paused"
        with ledger.driving():
            assert runs.run_of(ledger, row, Jobs()).state == "running"
            held = ledger.driver()
            assert held is not None
            assert (held.pid, held.host) == (os.getpid(), socket.gethostname())
        assert ledger.driver() is None


def test_a_follower_reloads_only_while_something_runs(signed_in: SignedIn, workspace: Path) -> None:
    browser = signed_in("engineer")
    assert 'http-equiv="refresh"' not in browser.get("/studies/crows/run?follow=1").text
    with Ledger(workspace) as ledger, ledger.driving():
        assert 'http-equiv="refresh"' in browser.get("/studies/crows/run?follow=1").text
        assert 'http-equiv="refresh"' not in browser.get("/studies/crows/run").text


def test_only_who_may_run_starts_and_pauses(signed_in: SignedIn, workspace: Path) -> None:
    reviewer, engineer = signed_in("reviewer"), signed_in("engineer")
    for act in ("start", "pause"):
        assert reviewer.submit(f"/studies/crows/run/{act}").status_code == 403
    assert engineer.submit("/studies/crows/run/pause", "/studies/crows/run").status_code == 404
    with Ledger(workspace) as ledger, ledger.driving():
        assert engineer.submit("/studies/crows/run/start", "/studies/crows/run").status_code == 503


@pytest.mark.slow
def test_a_run_is_started_paused_and_goes_on(app: FastAPI, signed_in: SignedIn, study: Path) -> None:
    """The real study of the taught model, by its own process."""
    folder = Path(app.state.workspace)
    with Ledger(folder) as ledger, ledger.driving():
        ledger.begin_study(read_study(study).spec.digest, "Animals", study.read_text(), str(study), "animals")
    browser = signed_in("engineer")
    assert browser.submit("/studies/animals/run/start", "/studies/animals/run").status_code == 303
    begun = _until(browser, lambda run: run["state"] == "running" and run["done"] >= 2)
    assert browser.submit("/studies/animals/run/pause", "/studies/animals/run").status_code == 303
    paused = _until(browser, lambda run: run["state"] == "paused")
    assert begun["done"] <= paused["done"] < 100
    with Ledger(folder) as ledger:
        assert ledger.driver() is None
    [job] = app.state.jobs.listed()
    assert job.code == 130
    assert not psutil.pid_exists(job.process.pid)
    browser.submit("/studies/animals/run/start", "/studies/animals/run")
    again = _until(browser, lambda run: run["state"] == "running" and run["done"] > paused["done"])
    assert again["done"] > paused["done"]
    app.state.jobs.end()


def _until(browser: Any, reached: Any) -> dict[str, Any]:
    for _ in range(400):
        run: dict[str, Any] = browser.get("/studies/animals/run.json").json()
        if reached(run):
            return run
        time.sleep(0.1)
    raise TimeoutError(run)
