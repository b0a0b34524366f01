"""The evidence page as browsers get it: its order, who sees what and when, and its data."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from fastapi import FastAPI

from patchlight.review.queue import put
from tests.web.conftest import Browser, SignedIn
from tests.web.sample import full_evidence


@pytest.fixture
def candidate(app: FastAPI) -> str:
    evidence = full_evidence()
    put(app.state.database, [evidence], by="test")
    return evidence.candidate


def decided(browser: Browser, candidate: str, word: str = "accept", text: str = "") -> None:
    page = browser.get(f"/candidates/{candidate}").text.partition('class="decision"')[2]
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))
    sent = {**fields, "word": word, "confidence": 4, "text": text}
    assert browser.post(f"/candidates/{candidate}/decision", data=sent).status_code == 303


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_sections_come_in_the_order_that_fights_over_trust(
    signed_in: SignedIn, candidate: str, language: str
) -> None:
    page = signed_in("reviewer").get(f"/candidates/{candidate}?lang={language}").text
    sections = ["question", "effect", "map", "parts", "stability", "against", "decision", "history"]
    assert re.findall(r'<section aria-labelledby="(\w+)">', page) == sections
    first_map = page.index("<rect") if "<rect" in page else page.index("<svg")
    assert page.index('class="brief"') < first_map
    assert "style=" not in page
    assert "<script" not in page


def test_others_decisions_are_shown_after_the_own_one(signed_in: SignedIn, candidate: str) -> None:
    one, other = signed_in("reviewer", "Ada"), signed_in("reviewer", "Ben")
    decided(one, candidate, text="as clear as day")
    for answer in (other.get(f"/candidates/{candidate}"), other.get(f"/candidates/{candidate}.json")):
        assert "Ada" not in answer.text
        assert "as clear as day" not in answer.text
    decided(other, candidate, "reject")
    assert "as clear as day" in other.get(f"/candidates/{candidate}").text
    told = other.get(f"/candidates/{candidate}.json").json()["decisions"]
    assert [(each["name"], each["word"]) for each in told] == [("Ada", "accept"), ("Ben", "reject")]
    assert all("form" not in each for each in told)


def test_in_judge_first_mode_the_machines_word_comes_after_the_own_decision(
    app: FastAPI, signed_in: SignedIn, candidate: str
) -> None:
    app.state.judge_first = True
    reviewer, viewer = signed_in("reviewer"), signed_in("viewer")
    before, data = reviewer.get(f"/candidates/{candidate}"), reviewer.get(f"/candidates/{candidate}.json").json()
    assert "Undetermined" not in before.text
    assert "verdict" not in data["evidence"]
    assert "Undetermined" in viewer.get(f"/candidates/{candidate}").text
    decided(reviewer, candidate)
    assert "Undetermined" in reviewer.get(f"/candidates/{candidate}").text
    assert "verdict" in reviewer.get(f"/candidates/{candidate}.json").json()["evidence"]


def test_who_may_not_decide_reads_and_finds_no_form(signed_in: SignedIn, candidate: str) -> None:
    page = signed_in("viewer").get(f"/candidates/{candidate}").text
    assert 'class="decision"' not in page
    assert "Your role may read this page" in page


def test_the_data_of_the_page_is_json_and_csv(signed_in: SignedIn, candidate: str) -> None:
    browser = signed_in("reviewer")
    data = json.loads(browser.get(f"/candidates/{candidate}.json").text)
    assert data["evidence"]["recovery"]["estimate"] == 0.75
    rows = list(csv.DictReader(io.StringIO(browser.get(f"/candidates/{candidate}.csv").text)))
    effect = next(row for row in rows if row["what"] == "this place" and row["direction"] == "denoise")
    assert float(effect["low"]) == 0.6


def test_what_evidence_says_is_text_and_never_markup(app: FastAPI, signed_in: SignedIn) -> None:
    evil = "<script>alert(1)</script>"
    evidence = full_evidence(checkpoint=evil, kind=evil)
    evidence.content["pairs"][0]["clean"] = evidence.content["examples"][0]["clean"] = evil
    evidence.content["examples"][0]["words"][0] = evil
    put(app.state.database, [evidence], by="test")
    page = signed_in("reviewer").get(f"/candidates/{evidence.candidate}").text
    assert evil not in page
    assert "&lt;script&gt;" in page


def test_an_unknown_candidate_is_not_found(signed_in: SignedIn) -> None:
    assert signed_in("viewer").get("/candidates/0123456789abcdef").status_code == 404
