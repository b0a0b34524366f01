"""The queue: which candidates wait for whose judgement, in an order of each reviewer's own, decoys among them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Row, delete, func, insert, select, update

from patchlight.errors import InputError
from patchlight.review import audit
from patchlight.review.people import require
from patchlight.review.records import Evidence, Item, Person, Reservation, Standing, Wanted
from patchlight.store import review as tables
from patchlight.store.database import reading, writing
from patchlight.store.results import canonical_json

REVIEWERS = 2  # each candidate is judged by two people who do not see one another's judgement
RESERVED_SECONDS = 15 * 60.0
UNDONE = select(tables.decisions.c.undoes).where(tables.decisions.c.undoes.is_not(None))


class _Waiting(NamedTuple):
    id: str
    priority: int
    mine: bool


def put(database: Engine, evidence: Iterable[Evidence], *, by: str, decoys: Collection[str] = ()) -> int:
    """How many candidates are new, or have new evidence and so are open again; those that are as before stay.

    `decoys` names the candidates (ids) that are known to be null. It is part of no record that reviewers see, and the
    order of the rows and of their audit entries does not tell them either.
    """
    changed = 0
    with writing(database) as connection:
        for each in sorted(evidence, key=lambda each: each.candidate):
            changed += put_one(connection, each, by, decoy=each.candidate in decoys)
    return changed


def items(
    database: Engine,
    *,
    study_id: str | None = None,
    standing: Standing | None = None,
    limit: int | None = None,
    offset: int = 0,
) -> list[Item]:
    """Candidates, the most urgent first, then in an order that says nothing; no evidence is read."""
    chosen = select(tables.candidates).order_by(tables.candidates.c.priority.desc(), tables.candidates.c.id)
    for column, wanted_value in (("study_id", study_id), ("standing", standing)):
        if wanted_value is not None:
            chosen = chosen.where(tables.candidates.c[column] == wanted_value)
    with reading(database) as connection:
        return [_item(row) for row in connection.execute(chosen.limit(limit).offset(offset))]


def counts(database: Engine, study_id: str | None = None) -> dict[Standing, int]:
    """How many candidates there are of each standing that occurs."""
    chosen = select(tables.candidates.c.standing, func.count()).group_by(tables.candidates.c.standing)
    if study_id is not None:
        chosen = chosen.where(tables.candidates.c.study_id == study_id)
    with reading(database) as connection:
        return {row[0]: int(row[1]) for row in connection.execute(chosen)}


def item(database: Engine, candidate: str) -> Item:
    """One candidate. Raises InputError `review-no-candidate`."""
    with reading(database) as connection:
        return read_item(connection, candidate)


def evidence_of(database: Engine, candidate: str) -> Evidence:
    """The evidence to be judged now. Raises InputError `review-no-candidate`."""
    with reading(database) as connection:
        return read_evidence(connection, read_item(connection, candidate).evidence)


def stored_evidence(database: Engine, digest: str) -> Evidence:
    """The evidence with that hash, of today or of earlier."""
    with reading(database) as connection:
        return read_evidence(connection, digest)


def reserve_next(database: Engine, person: Person, *, study_id: str | None = None) -> Reservation | None:
    """The next candidate for this person, held for 15 minutes; None where nothing waits.

    It is one that the person holds already; else the most urgent that the person has not judged and for which fewer
    than two have judged or hold it. Equals come in an order of each person's own.
    """
    require(person, "decide")
    now = time.time()
    with writing(database) as connection:
        connection.execute(delete(tables.reservations).where(tables.reservations.c.until <= now))
        waiting = _waiting(connection, person.id, study_id)
        if not waiting:
            return None
        first = min(waiting, key=lambda row: (not row.mine, -row.priority, _lot(person.id, row.id)))
        until = now + RESERVED_SECONDS
        own = (tables.reservations.c.candidate == first.id) & (tables.reservations.c.person == person.id)
        connection.execute(delete(tables.reservations).where(own))
        connection.execute(insert(tables.reservations).values(candidate=first.id, person=person.id, until=until))
        return Reservation(read_item(connection, first.id), until)


def release(database: Engine, person: Person, candidate: str) -> None:
    """The person no longer holds the candidate."""
    with writing(database) as connection:
        drop_reservation(connection, person.id, candidate)


def set_priority(database: Engine, lead: Person, candidate: str, priority: int) -> Item:
    """The candidate with another priority; higher comes first, 0 is usual."""
    require(lead, "prioritise")
    with writing(database) as connection:
        read_item(connection, candidate)
        this = tables.candidates.c.id == candidate
        connection.execute(update(tables.candidates).where(this).values(priority=priority))
        audit.append(connection, lead.name, "candidate.priority", candidate, {"priority": priority})
        return read_item(connection, candidate)


def wanted(database: Engine, study_id: str | None = None) -> list[Wanted]:
    """The controls that standing "needs more" decisions on the current evidence ask for: units to be run."""
    with reading(database) as connection:
        rows = connection.execute(
            select(tables.decisions, tables.candidates.c.study_id)
            .join(tables.candidates, tables.candidates.c.id == tables.decisions.c.candidate)
            .where(tables.decisions.c.evidence == tables.candidates.c.evidence)
            .where(tables.decisions.c.word == "needs more", tables.decisions.c.number.not_in(UNDONE))
            .order_by(tables.decisions.c.number)
        ).all()
    return [
        Wanted(row.candidate, row.study_id, control, row.number, row.at)
        for row in rows
        if study_id in (None, row.study_id)
        for control in json.loads(row.missing)
    ]


def read_item(connection: Connection, candidate: str) -> Item:
    """One candidate, inside a transaction."""
    row = connection.execute(select(tables.candidates).where(tables.candidates.c.id == candidate)).first()
    if row is None:
        raise InputError("review-no-candidate", f"there is no candidate {candidate!r}", fix="see the queue")
    return _item(row)


def read_evidence(connection: Connection, digest: str) -> Evidence:
    """Stored evidence, inside a transaction. Raises InputError `review-evidence-damaged` where it has changed."""
    content = connection.scalar(select(tables.evidence.c.content).where(tables.evidence.c.hash == digest))
    if content is None or hashlib.sha256(content.encode()).hexdigest() != digest:
        what = f"the evidence {digest[:12]} is missing or is not as it was written"
        raise InputError("review-evidence-damaged", what, fix="restore the database from a copy")
    return Evidence(json.loads(content))


def drop_reservation(connection: Connection, person: int, candidate: str) -> None:
    """Nobody's hold but this person's is touched."""
    own = (tables.reservations.c.candidate == candidate) & (tables.reservations.c.person == person)
    connection.execute(delete(tables.reservations).where(own))


def put_one(connection: Connection, each: Evidence, by: str, *, decoy: bool = False) -> int:
    """As `put`, of one candidate inside a transaction: 1 where it is new or open again, 0 where all is as before."""
    this = tables.candidates.c.id == each.candidate
    known = connection.scalar(select(tables.candidates.c.evidence).where(this))
    if known == each.hash:
        return 0
    if connection.scalar(select(tables.evidence.c.hash).where(tables.evidence.c.hash == each.hash)) is None:
        kept = {"hash": each.hash, "candidate": each.candidate, "content": canonical_json(each.content)}
        connection.execute(insert(tables.evidence).values(**kept, made=time.time()))
    state: Mapping[str, Any] = {"evidence": each.hash, "standing": "open", "decided": 0}
    if known is None:
        named = {name: each.content[name] for name in ("study_id", "checkpoint", "model", "kind", "site")}
        row = {"id": each.candidate, **named, "decoy": decoy, "priority": 0, "added": time.time()}
        connection.execute(insert(tables.candidates).values(**row, **state))
    else:
        connection.execute(update(tables.candidates).where(this).values(state))
    audit.append(connection, by, "candidate.queued", each.candidate, {"evidence": each.hash, "before": known})
    return 1


def _waiting(connection: Connection, person: int, study_id: str | None) -> list[_Waiting]:
    """Candidates that this person may be given, with whether the person holds them already."""
    chosen = tables.candidates.c.standing == "open"
    if study_id is not None:
        chosen &= tables.candidates.c.study_id == study_id
    holders: dict[str, set[int]] = {}
    for row in connection.execute(select(tables.reservations)):
        holders.setdefault(row.candidate, set()).add(row.person)
    judged = _judged_by(connection, person)
    columns = (tables.candidates.c[name] for name in ("id", "priority", "decided"))
    return [
        _Waiting(row.id, row.priority, person in holders.get(row.id, ()))
        for row in connection.execute(select(*columns).where(chosen))
        if row.id not in judged
        if row.decided + len(holders.get(row.id, set()) - {person}) < REVIEWERS
    ]


def _judged_by(connection: Connection, person: int) -> set[str]:
    """Candidates on whose current evidence a decision of this person stands."""
    standing = (
        select(tables.decisions.c.candidate)
        .join(tables.candidates, tables.candidates.c.id == tables.decisions.c.candidate)
        .where(tables.decisions.c.person == person, tables.decisions.c.purpose == "review")
        .where(tables.decisions.c.evidence == tables.candidates.c.evidence)
        .where(tables.decisions.c.number.not_in(UNDONE))
    )
    return set(connection.scalars(standing))


def _lot(person: int, candidate: str) -> str:
    return hashlib.sha256(f"{person}/{candidate}".encode()).hexdigest()


def _item(row: Row[Any]) -> Item:
    return Item(**{name: getattr(row, name) for name in Item.__dataclass_fields__})
