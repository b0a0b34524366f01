from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, text
from sqlalchemy.exc import DBAPIError

from patchlight.errors import InputError
from patchlight.review import queue
from patchlight.review.agreement import agreement_of, decoy_rates
from patchlight.review.audit import entries, verify
from patchlight.review.decisions import adjudicate, decide, history, standing_decisions, undo
from patchlight.review.queue import evidence_of, item, items, put, reserve_next, set_priority, wanted
from patchlight.review.records import Person, StaleForm
from patchlight.store import review as tables
from patchlight.store.database import writing
from patchlight.store.review import open_review
from tests.review.conftest import Join, filled, made_evidence


def _crowd(database: Engine, size: int) -> list[Person]:
    rows = [
        {"name": f"crowd {number}", "role": "reviewer", "password": "", "active": True, "created": 0.0}
        for number in range(size)
    ]
    with writing(database) as connection:
        ids = [connection.scalar(insert(tables.people).values(row).returning(tables.people.c.id)) for row in rows]
    return [Person(number, row["name"], "reviewer", True, 0.0) for number, row in zip(ids, rows, strict=True)]


def _queued(database: Engine, count: int = 1) -> list[str]:
    made = [made_evidence(number) for number in range(count)]
    assert put(database, made, by="a test") == count
    return [each.candidate for each in made]


def test_two_blind_reviewers_settle_a_candidate(either: Engine, join: Join) -> None:
    [candidate] = _queued(either)
    one, two, viewer = (join(either, role) for role in ("reviewer", "lead", "viewer"))
    first = decide(either, one, filled(either, candidate))
    assert history(either, candidate, two) == []
    assert history(either, candidate, one) == [first]
    assert item(either, candidate).standing == "open"
    decide(either, two, filled(either, candidate))
    assert [each.person for each in history(either, candidate, two)] == [one.id, two.id]
    assert item(either, candidate).standing == "accepted"
    with pytest.raises(InputError, match="review-not-allowed"):
        decide(either, viewer, filled(either, candidate))
    assert verify(either) == []


def test_a_lead_has_the_last_word_where_they_disagree(database: Engine, join: Join) -> None:
    [candidate] = _queued(database)
    one, two, lead = (join(database, role) for role in ("reviewer", "reviewer", "lead"))
    decide(database, one, filled(database, candidate))
    with pytest.raises(InputError, match="review-not-disputed"):
        adjudicate(database, lead, filled(database, candidate, "reject"))
    decide(database, two, filled(database, candidate, "reject"))
    assert item(database, candidate).standing == "disputed"
    adjudicate(database, lead, filled(database, candidate, "reject"))
    assert item(database, candidate).standing == "rejected"
    assert agreement_of(database).raw.estimate == 0


def test_200_decisions_of_the_same_moment_are_all_kept(either: Engine) -> None:
    [candidate] = _queued(either)
    crowd, drafts = _crowd(either, 200), []
    drafts = [filled(either, candidate, "accept" if n % 2 else "reject") for n in range(200)]
    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(lambda pair: decide(either, *pair), zip(crowd, drafts, strict=True)))
    assert len({each.number for each in kept}) == 200
    assert {each.form for each in standing_decisions(either, candidate)} == {each.form for each in drafts}
    assert item(either, candidate).decided == 200
    assert verify(either) == []


def test_of_two_forms_of_one_person_the_stale_one_gets_both_versions(either: Engine, join: Join) -> None:
    [candidate] = _queued(either)
    person = join(either, "reviewer")
    mine, other = filled(either, candidate), filled(either, candidate, "reject")
    kept = decide(either, person, mine)
    assert decide(either, person, mine) == kept  # the same form, sent twice
    with pytest.raises(StaleForm) as stale:
        decide(either, person, other)
    assert (stale.value.sent, stale.value.stored) == (other, kept)
    changed = decide(either, person, filled(either, candidate, "reject", previous=kept.number))
    assert standing_decisions(either, candidate) == [changed]


def test_new_evidence_makes_earlier_forms_and_decisions_stale(database: Engine, join: Join) -> None:
    [candidate] = _queued(database)
    person = join(database, "reviewer")
    form = filled(database, candidate)
    decide(database, person, filled(database, candidate, "needs more"))
    assert [each.control for each in wanted(database, "animals")] == ["permuted"]
    assert item(database, candidate).standing == "needs more"
    assert reserve_next(database, person) is None
    again = made_evidence(0, nulls={"permuted": {"estimate": 0.0}})
    assert (put(database, [again], by="a test"), put(database, [again], by="a test")) == (1, 0)
    assert (wanted(database), item(database, candidate).standing) == ([], "open")
    with pytest.raises(StaleForm) as stale:
        decide(database, person, form)
    assert stale.value.evidence == again.hash
    assert reserve_next(database, person).item.id == candidate


def test_no_decision_changes_a_number(database: Engine, join: Join) -> None:
    [candidate] = _queued(database)
    before = evidence_of(database, candidate)
    decide(database, join(database, "reviewer"), filled(database, candidate, "reject"))
    assert evidence_of(database, candidate) == before
    for act in ("UPDATE evidence SET content = ''", "UPDATE decisions SET word = 'accept'", "DELETE FROM audit"):
        with pytest.raises(DBAPIError, match="append-only"), writing(database) as connection:
            connection.execute(text(act))


def test_postgres_refuses_to_change_the_past_too(either: Engine, join: Join) -> None:
    [candidate] = _queued(either)
    decide(either, join(either, "reviewer"), filled(either, candidate))
    with pytest.raises(DBAPIError, match="append-only"), writing(either) as connection:
        connection.execute(text("DELETE FROM decisions"))


def test_undo_takes_back_the_last_decision_once(database: Engine, join: Join) -> None:
    first, second = _queued(database, 2)
    person = join(database, "reviewer")
    decide(database, person, filled(database, first))
    kept = decide(database, person, filled(database, second))
    assert undo(database, person).undoes == kept.number
    assert standing_decisions(database, second) == []
    assert len(standing_decisions(database, first)) == 1
    assert reserve_next(database, person).item.id == second
    with pytest.raises(InputError, match="review-nothing-to-undo"):
        undo(database, person)
    assert [each.action for each in entries(database)][-3:] == ["decision.review", "decision.review", "decision.undo"]


def test_two_hold_a_candidate_and_a_third_gets_it_when_time_is_over(
    either: Engine, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    [candidate] = _queued(either)
    one, two, three = (join(either, "reviewer") for _ in range(3))
    assert reserve_next(either, one).item.id == reserve_next(either, two).item.id == candidate
    assert reserve_next(either, three) is None
    assert reserve_next(either, one).item.id == candidate
    monkeypatch.setattr(queue, "RESERVED_SECONDS", -1.0)
    reserve_next(either, one)  # held, and over at once
    assert reserve_next(either, three).item.id == candidate


def test_everyone_walks_in_an_order_of_their_own_behind_what_is_urgent(database: Engine, join: Join) -> None:
    candidates = _queued(database, 12)
    people = [join(database, "reviewer") for _ in range(4)]
    set_priority(database, join(database, "lead"), candidates[7], 1)
    orders = []
    for person in people:
        order = []
        while (held := reserve_next(database, person)) is not None and len(order) < 6:
            order.append(held.item.id)
            decide(database, person, filled(database, held.item.id, "unsure"))
        orders.append(tuple(order))
    assert orders[0][0] == orders[1][0] == candidates[7]
    assert len(set(orders)) > 1


def test_decoys_look_like_the_others_and_give_the_false_accept_rate(database: Engine, join: Join) -> None:
    made = [made_evidence(number) for number in range(4)]
    put(database, made, by="a test", decoys={each.candidate for each in made[:2]})
    strict, lax = join(database, "reviewer"), join(database, "reviewer")
    for each in made:
        decide(database, strict, filled(database, each.candidate, "reject"))
        decide(database, lax, filled(database, each.candidate))
    rates = {name: (each.estimate, each.n) for name, each in decoy_rates(database).items()}
    assert rates == {"": (0.5, 4), strict.name: (0.0, 2), lax.name: (1.0, 2)}
    assert "decoy" not in str(items(database)[0]) and "decoy" not in evidence_of(database, made[0].candidate).content
    assert all("decoy" not in each.content for each in entries(database))


@pytest.mark.parametrize(
    "change", [{"word": "maybe"}, {"reason": " "}, {"confidence": 6}, {"missing": ("permuted",)}, {"form": ""}]
)
def test_a_form_that_is_not_filled_is_refused(database: Engine, join: Join, change: dict[str, object]) -> None:
    [candidate] = _queued(database)
    with pytest.raises(InputError, match="review-draft"):
        decide(database, join(database, "reviewer"), filled(database, candidate, **change))


CLIENT = """
import sys, uuid
from pathlib import Path
from patchlight.review.decisions import decide
from patchlight.review.people import person
from patchlight.review.queue import item, items
from patchlight.review.records import Draft
from patchlight.store.review import open_review
database = open_review(Path(sys.argv[1]))
someone = person(database, int(sys.argv[2]))
previous = None
while True:
    for each in items(database):
        form = uuid.uuid4().hex
        draft = Draft(each.id, "accept", "other", 3, each.evidence, form, previous=(previous or {}).get(each.id))
        made = decide(database, someone, draft)
        previous = {**(previous or {}), each.id: made.number}
        print(form, flush=True)
"""


def test_a_killed_process_loses_no_acknowledged_decision(tmp_path: Path) -> None:
    database = open_review(tmp_path)
    [candidate] = _queued(database)
    acknowledged: list[str] = []
    for person in _crowd(database, 3):
        with subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(tmp_path), str(person.id)], stdout=subprocess.PIPE, text=True
        ) as client:
            acknowledged += [client.stdout.readline().strip() for _ in range(20)]
            time.sleep(0.02)
            os.kill(client.pid, signal.SIGKILL)
            acknowledged += client.stdout.read().split()
    with database.begin() as connection:
        kept = [row.form for row in connection.execute(tables.decisions.select())]
    assert len(acknowledged) >= 60
    assert set(acknowledged) <= set(kept) and len(kept) == len(set(kept))
    assert verify(database) == []
    assert item(database, candidate).decided == 3
    database.dispose()


def test_neither_the_order_of_the_audit_nor_the_time_of_queueing_tells_which_are_decoys(database: Engine) -> None:
    evidence = [made_evidence(number) for number in range(12)]
    put(database, evidence, by="test", decoys={each.candidate for each in evidence[9:]})
    queued = [each.subject for each in entries(database) if each.action == "candidate.queued"]
    by_time = [each.id for each in sorted(items(database), key=lambda each: each.added)]
    assert queued == by_time == sorted(each.candidate for each in evidence)
