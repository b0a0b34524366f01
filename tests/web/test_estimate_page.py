"""The page of an estimate: what was stored, or what the run has planned; nothing is measured for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI

from patchlight.report.estimate import Estimate, Machine, Money, Review, Risk, Span, StageRow, write_estimate
from patchlight.store.ledger import Ledger
from tests.web.conftest import SignedIn

STUDY = "5" * 64


def made(**changes: object) -> Estimate:
    """An estimate with every kind of content."""
    content = {
        "study": "crows",
        "hash": STUDY,
        "title": {"en": "Where are the <crows>?", "ja": "カラスはどこに"},
        "made": "2026-01-02 03:04 UTC",
        "stages": (
            StageRow("training", Span(2, 2), 1, None, Span(10, 90), Span(60, 600), "measured"),
            StageRow("sweep", Span(0, 36), 0, Span(0, 123456), None, Span(0, 4321), "borrowed"),
            StageRow("published", Span(3, 3), 0, None, None, None, "unknown"),
        ),
        "memory": Span(2**30, 2**31),
        "disk": Span(2**20, 2**24),
        "review": Review(Span(0, 120), 1.0, 2, assumed=True),
        "money": Money("EUR", Span(1.25, 2.5), Span(0, 240)),
        "risks": (
            Risk("too-few-facts", {"discovery": 6, "confirmation": 6, "needed": 8}, "definitional"),
            Risk("refused", {"count": 3, "total": 72, "reason": "no partner of equal token count"}),
        ),
        "machine": Machine(2, "cpu", 2**34, 2**37, 55.0),
    }
    return Estimate(**{**content, **changes})  # type: ignore[arg-type]


@pytest.fixture
def workspace(app: FastAPI) -> Path:
    """The workspace with a study of three planned units."""
    folder = Path(app.state.workspace)
    with Ledger(folder) as ledger, ledger.driving():
        ledger.begin_study(STUDY, "Where are the crows?", "", str(folder / "crows.yaml"), "crows")
        ledger.plan(STUDY, [(letter * 64, "sweep", f"unit {letter}") for letter in "abc"])
    return folder


def test_a_stored_estimate_is_shown_in_both_languages_and_as_json_and_csv(signed_in: SignedIn, workspace: Path) -> None:
    write_estimate(made(), workspace)
    browser = signed_in("viewer")
    page = browser.get("/studies/crows/estimate?lang=en").text
    assert page.index("Work and time") < page.index("Cost and people") < page.index("Risks") < page.index("sweeps")
    for words in ("123,456", "1.2–2.5 EUR", "0.0–4.0 hours", "about 4 more", "no other fact of equal length"):
        assert words in page
    assert "published protocol" in page
    assert "<code>patchlight pack preview</code>" in page
    assert "<crows>" not in page
    japanese = browser.get("/studies/crows/estimate?lang=ja").text
    assert "カラスはどこに" in japanese
    assert "入れ替えの測定" in japanese
    data = browser.get("/studies/crows/estimate.json").json()
    assert data["estimate"]["totals"]["seconds"] == {"low": 60, "high": 4921}
    assert data["estimate"]["totals"]["unknown"] == ["published"]
    table = browser.get("/studies/crows/estimate.csv").text.splitlines()
    assert table[0].startswith("stage,done,source,units_low")
    assert len(table) == 4
    assert 'href="/studies/crows/estimate"' in browser.get("/studies/crows").text


def test_without_an_estimate_the_page_counts_what_the_run_has_planned(signed_in: SignedIn, workspace: Path) -> None:
    browser = signed_in("viewer")
    page = browser.get("/studies/crows/estimate?lang=en").text
    assert "No estimate of this study is stored" in page
    assert "patchlight estimate" in page
    data = browser.get("/studies/crows/estimate.json").json()
    assert data == {"study": "crows", "estimate": None, "planned": [{"name": "sweep", "done": 0, "planned": 3}]}


def test_an_estimate_of_a_study_that_was_never_begun_is_listed(signed_in: SignedIn, workspace: Path) -> None:
    write_estimate(made(study="ravens"), workspace)
    browser = signed_in("viewer")
    assert 'href="/studies/ravens/estimate"' in browser.get("/studies").text
    assert browser.get("/studies/ravens/estimate").status_code == 200


@pytest.mark.parametrize("study", ["nothing", "..", "%2e%2e%2fcrows", ".crows", "crows%00"])
def test_no_other_file_is_read(signed_in: SignedIn, workspace: Path, study: str) -> None:
    write_estimate(made(), workspace)
    assert signed_in("viewer").get(f"/studies/{study}/estimate").status_code in (400, 403, 404)


def test_an_estimate_of_another_version_is_none(signed_in: SignedIn, workspace: Path) -> None:
    file = write_estimate(made(version=0), workspace)
    assert file.is_file()
    assert "No estimate" in signed_in("viewer").get("/studies/crows/estimate?lang=en").text


def test_who_is_not_signed_in_sees_nothing(app: FastAPI, workspace: Path) -> None:
    from tests.web.conftest import Browser

    assert Browser(app).get("/studies/crows/estimate").status_code in (303, 401)
