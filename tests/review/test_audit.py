from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text, update

from patchlight.errors import InputError
from patchlight.review.audit import BEGINNING, Entry, append, entries, head, verify
from patchlight.review.decisions import decide
from patchlight.review.queue import put
from patchlight.store.database import writing
from patchlight.store.review import audit, decisions, open_review
from tests.review.conftest import Join, filled, made_evidence

ROWS = 1_000


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, list[Entry]]:
    """A database with 1,000 entries, from which the guards against changes are taken: an attacker can do that."""
    engine = open_review(tmp_path_factory.mktemp("chain"))
    with writing(engine) as connection:
        for number in range(ROWS):
            append(connection, f"person {number % 7}", "note", f"subject {number}", {"n": number})
        for act in ("update", "delete"):
            connection.execute(text(f"DROP TRIGGER audit_no_{act}"))
    return engine, entries(engine)


def _rewrite(engine: Engine, rows: list[Entry]) -> None:
    with writing(engine) as connection:
        connection.execute(audit.delete())
        connection.execute(audit.insert(), [asdict(row) for row in rows])


def test_an_untouched_chain_is_whole(chain: tuple[Engine, list[Entry]]) -> None:
    engine, rows = chain
    _rewrite(engine, rows)
    assert rows[0].previous == BEGINNING and len(rows) == ROWS
    assert verify(engine, head(engine)) == []
    assert verify(engine, f"{rows[500].number}:{rows[500].hash}") == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_deletion_or_exchange_is_named(chain: tuple[Engine, list[Entry]], data: st.DataObject) -> None:
    engine, rows = chain
    known = f"{rows[-1].number}:{rows[-1].hash}"
    at = data.draw(st.integers(0, ROWS - 2))
    act = data.draw(st.sampled_from(["change", "repair", "delete", "cut", "exchange"]))
    touched = list(rows)
    if act == "delete":
        del touched[at]
    elif act == "cut":
        touched = touched[: at + 1]
    elif act == "exchange":
        other = data.draw(st.integers(0, ROWS - 1).filter(lambda place: place != at))
        numbers = touched[at].number, touched[other].number
        touched[at], touched[other] = (
            Entry(**{**asdict(rows[place]), "number": number})
            for place, number in zip((other, at), numbers, strict=True)
        )
    else:
        field = data.draw(st.sampled_from(["at", "who", "action", "subject", "content", "previous"]))
        value = 1.5 if field == "at" else '{"n": -1}' if field == "content" else "x" * 64
        changed = Entry(**{**asdict(rows[at]), field: value})
        repaired = Entry(**{**asdict(changed), "hash": changed.true_hash})
        touched[at] = repaired if act == "repair" else changed
    _rewrite(engine, touched)
    named = {fault.number for fault in verify(engine, known)}
    expected = {"cut": ROWS, "repair": rows[at].number + 1}.get(act, rows[at].number)
    assert expected in named
    assert all(number in named for number in ([numbers[1]] if act == "exchange" else []))


def test_a_chain_written_anew_is_found_by_a_known_head_alone(chain: tuple[Engine, list[Entry]]) -> None:
    engine, rows = chain
    _rewrite(engine, rows[:990])
    with writing(engine) as connection:
        for number in range(10):
            append(connection, "a forger", "note", f"subject {number}", {})
    assert verify(engine) == []
    assert [fault.code for fault in verify(engine, f"{ROWS}:{rows[-1].hash}")] == ["other-head"]
    with pytest.raises(InputError, match="review-head"):
        verify(engine, "not a head")


def test_a_decision_that_is_not_as_it_was_recorded_is_named(tmp_path: Path, join: Join) -> None:
    database = open_review(tmp_path)
    made = made_evidence()
    put(database, [made], by="a test")
    kept = decide(database, join(database, "reviewer"), filled(database, made.candidate))
    with writing(database) as connection:
        connection.execute(text("DROP TRIGGER decisions_no_update"))
        connection.execute(update(decisions).values(word="reject"))
    [fault] = verify(database)
    assert (fault.code, str(kept.number) in fault.what) == ("decision-changed", True)
    database.dispose()
