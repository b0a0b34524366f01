"""Decisions: added, never changed; each says who, when, why and on which evidence. None of them changes a number."""

from __future__ import annotations

import json
import time
from typing import Any

from sqlalchemy import Connection, Engine, Row, Select, insert, select, update

from patchlight.errors import InputError
from patchlight.review import audit
from patchlight.review.people import may, require
from patchlight.review.queue import REVIEWERS, UNDONE, drop_reservation, read_item
from patchlight.review.records import WORDS, Decision, Draft, Item, Person, StaleForm, Standing
from patchlight.store import review as tables
from patchlight.store.database import reading, writing
from patchlight.store.results import canonical_json

AGREED: dict[str, Standing] = {
    "accept": "accepted",
    "reject": "rejected",
    "unsure": "unsure",
    "needs more": "needs more",
}
LONGEST_TEXT = 4_000


def decide(database: Engine, person: Person, draft: Draft) -> Decision:
    """The decision, on disk when this returns; the same form sent again gives the same decision.

    No reservation is needed: whoever judges at the same moment as others is kept beside them. Raises `StaleForm` where
    the evidence, or the person's own decision, is another than the form showed; InputError `review-draft` for a form
    that is not filled properly, `review-not-allowed`, `review-no-candidate`.
    """
    require(person, "decide")
    _check(draft)
    with writing(database) as connection:
        again = _of_form(connection, person, draft)
        if again is not None:
            return again
        found, own = read_item(connection, draft.candidate), _own(connection, person.id, draft.candidate)
        if draft.evidence != found.evidence or draft.previous != (own.number if own else None):
            raise StaleForm(draft, own, found.evidence)
        drop_reservation(connection, person.id, draft.candidate)
        return _add(connection, person, draft, "review")


def undo(database: Engine, person: Person, number: int | None = None) -> Decision:
    """The taking back of the person's last decision, which must be the last thing that the person decided.

    Raises InputError `review-nothing-to-undo` where there is none, where it has been taken back already, or where it is
    not the one with that `number`.
    """
    require(person, "decide")
    with writing(database) as connection:
        taken = _last(connection, person)
        if taken is None or taken.purpose != "review":
            what = "there is no decision to take back"
            raise InputError("review-nothing-to-undo", what, fix="decide on the candidate again instead")
        if number not in (None, taken.number):
            what = f"decision {number} is no longer your last one"
            raise InputError("review-nothing-to-undo", what, fix="decide on the candidate again instead")
        draft = Draft(
            taken.candidate, taken.word, "undo", taken.confidence, taken.evidence, form=f"undo of {taken.number}"
        )
        return _add(connection, person, draft, "undo", undoes=taken.number)


def last_decision(database: Engine, person: Person) -> Decision | None:
    """The last thing that the person decided, an undo too; None where there is nothing."""
    with reading(database) as connection:
        return _last(connection, person)


def own_decision(database: Engine, person: Person, candidate: str) -> Decision | None:
    """The person's own review that stands on a candidate's current evidence."""
    with reading(database) as connection:
        return _own(connection, person.id, candidate)


def adjudicate(database: Engine, lead: Person, draft: Draft) -> Decision:
    """A lead's word on a candidate about which its reviewers disagree; it stands until the evidence changes.

    Raises as `decide` does (`previous` is not looked at), and InputError `review-not-disputed`.
    """
    require(lead, "adjudicate")
    _check(draft)
    with writing(database) as connection:
        again = _of_form(connection, lead, draft)
        if again is not None:
            return again
        found = read_item(connection, draft.candidate)
        if draft.evidence != found.evidence:
            raise StaleForm(draft, None, found.evidence)
        if found.standing not in {"disputed", "unsure"}:
            raise InputError("review-not-disputed", f"the reviewers do not disagree: {found.standing}")
        return _add(connection, lead, draft, "adjudication")


def history(database: Engine, candidate: str, viewer: Person) -> list[Decision]:
    """What the viewer may see of a candidate's decisions, oldest first, all evidence and undone ones among them.

    Who may decide sees the others' only when the own decision on the current evidence stands, or none is open.
    """
    with reading(database) as connection:
        found = read_item(connection, candidate)
        every = _all(connection, candidate)
        blind = may(viewer, "decide") and found.standing == "open" and _own(connection, viewer.id, candidate) is None
    return [each for each in every if each.person == viewer.id or not blind]


def standing_decisions(database: Engine, candidate: str) -> list[Decision]:
    """The reviews and the adjudication that stand on the current evidence, oldest first."""
    with reading(database) as connection:
        return _standing(connection, read_item(connection, candidate))


def _check(draft: Draft) -> None:
    problems = [
        (draft.word not in WORDS, f"the word is one of {', '.join(WORDS)}"),
        (not draft.reason.strip(), "a reason code is needed"),
        (draft.confidence not in range(1, 6), "the confidence is from 1 to 5"),
        (len(draft.text) > LONGEST_TEXT, f"the text has at most {LONGEST_TEXT} characters"),
        (not draft.form, "a form has a name"),
        ((draft.word == "needs more") != bool(draft.missing), '"needs more", and it alone, names what is missing'),
    ]
    wrong = [what for bad, what in problems if bad]
    if wrong:
        raise InputError("review-draft", "; ".join(wrong), fix="fill the form and send it again")


def _add(connection: Connection, person: Person, draft: Draft, purpose: str, undoes: int | None = None) -> Decision:
    row: dict[str, Any] = {
        **{name: getattr(draft, name) for name in ("candidate", "word", "reason", "text", "confidence", "evidence")},
        "form": draft.form,
        "missing": canonical_json(list(draft.missing)),
        "person": person.id,
        "purpose": purpose,
        "undoes": undoes,
        "at": time.time(),
    }
    number = connection.scalar(insert(tables.decisions).values(row).returning(tables.decisions.c.number))
    audit.append(connection, person.name, f"decision.{purpose}", draft.candidate, {"number": number, **row})
    _settle(connection, draft.candidate)
    return Decision(**{**row, "number": int(number or 0), "name": person.name, "missing": draft.missing})


def _settle(connection: Connection, candidate: str) -> None:
    """The candidate's standing is what its decisions come to."""
    standing = _standing(connection, read_item(connection, candidate))
    reviews = [each for each in standing if each.purpose == "review"]
    values = {"standing": _word_of(standing, reviews), "decided": len(reviews)}
    connection.execute(update(tables.candidates).where(tables.candidates.c.id == candidate).values(values))


def _word_of(standing: list[Decision], reviews: list[Decision]) -> Standing:
    adjudicated = [each.word for each in standing if each.purpose == "adjudication"]
    words = {each.word for each in reviews}
    if adjudicated:
        return AGREED[adjudicated[-1]]
    if "needs more" in words:
        return "needs more"
    if len(reviews) < REVIEWERS:
        return "open"
    return AGREED[words.pop()] if len(words) == 1 else "disputed"


def _standing(connection: Connection, found: Item) -> list[Decision]:
    """Of each person the last review on the current evidence that was not taken back, and the adjudications."""
    last: dict[tuple[int, str], Decision] = {}
    taken_back = set(connection.scalars(UNDONE.where(tables.decisions.c.candidate == found.id)))
    for each in _all(connection, found.id):
        if each.evidence == found.evidence and each.purpose != "undo" and each.number not in taken_back:
            last[(each.person, each.purpose)] = each
    return sorted(last.values(), key=lambda each: each.number)


def _last(connection: Connection, person: Person) -> Decision | None:
    of_person = _named().where(tables.decisions.c.person == person.id)
    row = connection.execute(of_person.order_by(tables.decisions.c.number.desc()).limit(1)).first()
    return _decision(row) if row is not None else None


def _own(connection: Connection, person: int, candidate: str) -> Decision | None:
    standing = _standing(connection, read_item(connection, candidate))
    return next((each for each in standing if (each.person, each.purpose) == (person, "review")), None)


def _of_form(connection: Connection, person: Person, draft: Draft) -> Decision | None:
    """The decision that this form has become already. Raises InputError where it was another person's, or differs."""
    row = connection.execute(_named().where(tables.decisions.c.form == draft.form)).first()
    if row is None:
        return None
    kept = _decision(row)
    if (kept.person, kept.candidate, kept.word, kept.text) != (person.id, draft.candidate, draft.word, draft.text):
        raise InputError("review-form-used", "this form was sent before, and said something else", fix="open it again")
    return kept


def _all(connection: Connection, candidate: str) -> list[Decision]:
    chosen = _named().where(tables.decisions.c.candidate == candidate).order_by(tables.decisions.c.number)
    return [_decision(row) for row in connection.execute(chosen)]


def _named() -> Select[Any]:
    """Decisions with the names of those who made them."""
    return select(tables.decisions, tables.people.c.name).join(tables.people)


def _decision(row: Row[Any]) -> Decision:
    return Decision(**{**row._mapping, "missing": tuple(json.loads(row.missing))})
