"""What the pages of rules, re-checks, agreement, audit and people do, as browsers see it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from patchlight.report.texts import LANGUAGES
from patchlight.review.audit import head
from patchlight.review.people import people
from patchlight.review.queue import put
from patchlight.web.app import all_routers
from patchlight.web.texts import require_texts
from tests.review.conftest import made_evidence
from tests.web.conftest import Browser, SignedIn

FIELDS = {"statement": "A person checks these.", "action": "require human check", "owner": "Dr Sato"}


def accepted(app: FastAPI, one: Browser, other: Browser, number: int = 0) -> str:
    evidence = made_evidence(number, pairs=[{"fact": "cat"}])
    put(app.state.database, [evidence], by="test")
    for browser in (one, other):
        browser.decide(evidence.candidate)
    return evidence.candidate


def test_a_rule_is_drafted_from_an_accepted_finding_and_activated_by_a_lead(app: FastAPI, signed_in: SignedIn) -> None:
    lead, other, engineer = signed_in("lead"), signed_in("reviewer"), signed_in("engineer")
    finding = accepted(app, lead, other)
    fields = {**FIELDS, "candidate": finding, "expires": "2999-01-31", "recheck_days": 30}
    drafted = engineer.submit("/rules", "/rules/new", **fields)
    assert drafted.headers["location"] == "/rules/1"
    assert engineer.submit("/rules/1/activate", "/rules").status_code == 403
    assert lead.submit("/rules/1/activate", "/rules/1").status_code == 303
    [rule] = lead.get("/rules.json?state=active").json()
    assert (rule["facts"], rule["owner"], rule["findings"][0][0]) == (["cat"], "Dr Sato", finding)
    assert "Dr Sato" in lead.get("/rules/1?lang=ja").text


@pytest.mark.parametrize(
    "wrong", [{"expires": "soon"}, {"expires": "2001-01-01"}, {"action": "delete"}, {"owner": " "}]
)
def test_a_rule_that_is_not_filled_properly_is_not_kept(
    app: FastAPI, signed_in: SignedIn, wrong: dict[str, str]
) -> None:
    lead, other = signed_in("lead"), signed_in("reviewer")
    fields = {**FIELDS, "candidate": accepted(app, lead, other), "expires": "2999-01-31", "recheck_days": 30, **wrong}
    assert lead.submit("/rules", "/rules/new", **fields).status_code == 400
    assert lead.get("/rules.json").json() == []


def test_agreement_and_false_accepts_are_those_of_the_decisions(
    app: FastAPI, signed_in: SignedIn, candidates: list[str]
) -> None:
    lead, other = signed_in("lead", "Lea"), signed_in("reviewer", "Ren")
    for candidate in candidates:
        lead.decide(candidate, "accept")
    for candidate, word in zip(candidates, ("accept", "accept", "reject"), strict=True):
        other.decide(candidate, word)
    data = lead.get("/agreement.json").json()
    assert data["agreement"]["raw"]["estimate"] == pytest.approx(2 / 3)
    rates = {name: (each["estimate"], each["n"]) for name, each in data["decoys"].items()}
    assert rates == {"": (0.5, 2), "Lea": (1.0, 1), "Ren": (0.0, 1)}
    assert "Cohen" in lead.get("/agreement").text


def test_the_audit_page_shows_no_decision_s_content_and_finds_a_changed_entry(
    app: FastAPI, signed_in: SignedIn, candidates: list[str]
) -> None:
    one, other = signed_in("reviewer"), signed_in("reviewer")
    one.decide(candidates[0], "reject", text="a private reason")
    kept = head(app.state.database)
    shown = other.get("/audit").text + other.get("/audit.json").text + other.get("/audit.csv").text
    assert kept in shown
    assert "a private reason" not in shown
    assert not re.search(r"\breject\b", shown)
    assert other.get(f"/audit.json?check=yes&head={kept}").json()["faults"] == []
    with app.state.database.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER audit_no_update")
        connection.exec_driver_sql("UPDATE audit SET who = 'somebody else' WHERE number = 2")
    codes = {each["code"] for each in other.get("/audit.json?check=yes").json()["faults"]}
    assert "changed" in codes


def test_an_admin_invites_changes_and_shuts_out(app: FastAPI, signed_in: SignedIn) -> None:
    admin = signed_in("admin")
    page = admin.submit("/people/invitations", "/people", role="reviewer").text
    path = re.search(r"http://127\.0\.0\.1(/join/[\w-]+)", page)
    assert path
    fields = {"token": path[1].removeprefix("/join/"), "name": "Ren", "password": "a long password"}
    newcomer = Browser(app)
    assert newcomer.submit("/join", path[1], **fields, again="another password").status_code == 400
    assert newcomer.submit("/join", path[1], **fields, again="a long password").status_code == 303
    ren = people(app.state.database)[-1]
    assert (ren.name, ren.role) == ("Ren", "reviewer")
    admin.submit(f"/people/{ren.id}", "/people", role="lead", active="yes")
    assert newcomer.get("/agreement").status_code == 200
    admin.submit(f"/people/{ren.id}", "/people", role="lead")
    assert newcomer.get("/agreement").status_code == 303


def test_every_page_is_also_json_and_csv_and_every_page_is_in_both_languages(
    app: FastAPI, signed_in: SignedIn, candidates: list[str]
) -> None:
    lead = signed_in("lead")
    for path in ("/queue", "/rules", "/rules/new", "/rechecks", "/agreement", "/audit"):
        pages = {language: lead.get(f"{path}?lang={language}") for language in LANGUAGES}
        assert all(f'<html lang="{language}"' in page.text for language, page in pages.items())
        assert pages["en"].text != pages["ja"].text
        assert lead.get(f"{path}.json").headers["content-type"] == "application/json"
        assert lead.get(f"{path}.csv").headers["content-type"].startswith("text/csv")


def test_the_language_of_an_address_is_remembered(signed_in: SignedIn) -> None:
    browser = signed_in("viewer")
    browser.get("/queue?lang=ja")
    assert '<html lang="ja"' in browser.get("/rules").text


def test_every_page_has_its_data_under_the_same_address() -> None:
    paths = {route.path for router in all_routers() for route in router.routes if isinstance(route, APIRoute)}
    for path in paths:
        if path.endswith(".json"):
            assert {path.removesuffix(".json"), path.removesuffix(".json") + ".csv"} <= paths


def test_a_text_that_a_template_uses_and_no_language_has_is_an_error_at_the_start() -> None:
    with pytest.raises(ValueError, match=r"page\.nowhere"):
        require_texts({"x.html.jinja": '{{ t("page.nowhere") }}'})


def test_a_refusal_is_said_in_the_form_that_was_asked_for(app: FastAPI, signed_in: SignedIn) -> None:
    viewer = signed_in("viewer")
    assert viewer.get("/people.json").json()["error"]["code"] == "review-not-allowed"
    assert "review-not-allowed" in viewer.get("/people").text
    assert Browser(app).get("/queue.csv").status_code == 401


def test_a_model_that_is_not_there_is_refused_before_anything_starts(tmp_path: Path, signed_in: SignedIn) -> None:
    lead = signed_in("lead")
    assert lead.submit("/rechecks", "/rechecks", model="../elsewhere").status_code == 400
    assert lead.get("/rechecks.json").json()["jobs"] == []


def test_controls_are_run_only_for_a_study_of_which_a_reviewer_asks_for_them(
    signed_in: SignedIn, candidates: list[str]
) -> None:
    engineer, reviewer = signed_in("engineer"), signed_in("reviewer")
    assert engineer.submit("/queue/more", study="animals").status_code == 404
    assert engineer.submit("/queue/more", study="--help").status_code == 404
    reviewer.decide(candidates[0], "needs more", missing=["permuted"])
    assert 'action="/queue/more"' in engineer.get("/queue").text
    assert 'action="/queue/more"' not in reviewer.get("/queue").text
