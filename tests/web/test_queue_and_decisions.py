"""The queue and what people decide in it, as their browsers see it."""

from __future__ import annotations

from fastapi import FastAPI

from patchlight.review.queue import item, put
from tests.review.conftest import made_evidence
from tests.web.conftest import SignedIn


def test_the_list_shows_each_candidate_and_not_which_is_a_decoy(signed_in: SignedIn, candidates: list[str]) -> None:
    browser = signed_in("reviewer")
    page, data = browser.get("/queue"), browser.get("/queue.json").json()
    table = browser.get("/queue.csv").text.splitlines()
    assert all(f"/candidates/{each}" in page.text for each in candidates)
    assert {each["id"] for each in data["candidates"]} == set(candidates)
    assert len(table) == 4
    assert "decoy" not in page.text + str(data) + "".join(table)


def test_next_holds_a_candidate_and_one_decision_goes_on_to_the_next(
    app: FastAPI, signed_in: SignedIn, candidates: list[str]
) -> None:
    browser = signed_in("reviewer")
    seen = [browser.submit("/queue/next").headers["location"].removeprefix("/candidates/")]
    for _ in range(3):
        seen.append(browser.decide(seen[-1]).headers["location"].removeprefix("/candidates/"))
    assert sorted(seen[:3]) == sorted(candidates)
    assert seen[3] == "/queue"
    assert [item(app.state.database, each).decided for each in candidates] == [1, 1, 1]


def test_an_unchosen_reason_is_the_usual_one_and_ticked_controls_count_only_where_more_is_needed(
    signed_in: SignedIn, candidates: list[str]
) -> None:
    browser = signed_in("reviewer")
    browser.decide(candidates[0], "reject", missing=["permuted"])
    browser.decide(candidates[1], "needs more", missing=["permuted", "random-init"])
    wanted = browser.get("/queue.json").json()["wanted"]
    assert {(each["candidate"], each["control"]) for each in wanted} == {
        (candidates[1], "permuted"),
        (candidates[1], "random-init"),
    }


def test_the_last_decision_is_taken_back_and_an_older_form_takes_nothing_back(
    app: FastAPI, signed_in: SignedIn, candidates: list[str]
) -> None:
    browser = signed_in("reviewer")
    browser.decide(candidates[0])
    number = browser.get("/queue").text.partition('name="number" value="')[2].partition('"')[0]
    browser.decide(candidates[1])
    assert browser.submit("/decisions/undo", number=number).status_code == 400
    taken = browser.submit("/decisions/undo", number=int(number) + 1)
    assert taken.headers["location"] == f"/candidates/{candidates[1]}"
    assert [item(app.state.database, each).decided for each in candidates] == [1, 0, 0]


def test_a_form_on_older_evidence_is_answered_409_with_both_versions(
    app: FastAPI, signed_in: SignedIn, candidates: list[str]
) -> None:
    browser = signed_in("reviewer")
    old = browser.shown(candidates[0])
    put(app.state.database, [made_evidence(0, recovery={"estimate": 0.1})], by="test")
    answer = browser.decide(candidates[0], "reject", **old, text="as I saw it")
    now = item(app.state.database, candidates[0]).evidence
    assert answer.status_code == 409
    assert "as I saw it" in answer.text
    assert str(old["evidence"]) in answer.text
    assert now in answer.text
    assert item(app.state.database, candidates[0]).decided == 0


def test_a_form_over_an_own_newer_decision_is_answered_409(signed_in: SignedIn, candidates: list[str]) -> None:
    browser = signed_in("reviewer")
    old = browser.shown(candidates[0])
    browser.decide(candidates[0], text="the first one")
    answer = browser.decide(candidates[0], "reject", **old, text="the second one")
    assert answer.status_code == 409
    assert "the first one" in answer.text
    assert "the second one" in answer.text


def test_a_form_sent_twice_is_one_decision(app: FastAPI, signed_in: SignedIn, candidates: list[str]) -> None:
    browser = signed_in("reviewer")
    fields = browser.shown(candidates[0])
    answers = [browser.decide(candidates[0], **fields) for _ in range(2)]
    assert [each.status_code for each in answers] == [303, 303]
    assert item(app.state.database, candidates[0]).decided == 1


def test_two_reviewers_who_disagree_are_adjudicated_by_a_lead(
    app: FastAPI, signed_in: SignedIn, candidates: list[str]
) -> None:
    one, other, lead = signed_in("reviewer"), signed_in("reviewer"), signed_in("lead")
    one.decide(candidates[0], "accept")
    other.decide(candidates[0], "reject")
    assert item(app.state.database, candidates[0]).standing == "disputed"
    fields = lead.shown(candidates[0]) | {"word": "accept"}
    assert other.post(f"/candidates/{candidates[0]}/adjudication", data=fields).status_code == 403
    assert lead.post(f"/candidates/{candidates[0]}/adjudication", data=fields).status_code == 303
    assert item(app.state.database, candidates[0]).standing == "accepted"


def test_a_lead_puts_a_candidate_first(signed_in: SignedIn, candidates: list[str]) -> None:
    lead = signed_in("lead")
    lead.submit(f"/candidates/{candidates[2]}/priority", priority=5)
    assert lead.get("/queue.json").json()["candidates"][0]["id"] == candidates[2]


def test_who_asks_for_the_next_again_gets_the_one_held_and_others_another(
    signed_in: SignedIn, candidates: list[str]
) -> None:
    browser, *others = (signed_in("reviewer") for _ in range(4))
    held = browser.submit("/queue/next").headers["location"]
    assert browser.submit("/queue/next").headers["location"] == held
    given = [other.submit("/queue/next").headers["location"] for other in others]
    assert given.count(held) <= 1
