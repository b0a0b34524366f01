"""The audit chain: every review event with the hash of the one before it, so that no past can be changed unseen."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, insert, inspect, select

from patchlight.errors import InputError
from patchlight.store.database import open_database, reading
from patchlight.store.results import canonical_json
from patchlight.store.review import DATABASE, audit, decisions

BEGINNING = "0" * 64  # stands before the first entry


@dataclass(frozen=True)
class Entry:
    """One event: who did what to which subject; `hash` is over all other fields, `previous` among them."""

    number: int
    at: float
    who: str
    action: str
    subject: str
    content: str
    previous: str
    hash: str

    @property
    def true_hash(self) -> str:
        """The hash that these fields must have."""
        fields = {name: value for name, value in asdict(self).items() if name != "hash"}
        return hashlib.sha256(canonical_json(fields).encode()).hexdigest()

    @property
    def details(self) -> dict[str, Any]:
        """The content, read."""
        read: dict[str, Any] = json.loads(self.content)
        return read


@dataclass(frozen=True)
class Fault:
    """Something in the chain that is not as it was written: the number of the entry, a code, and a sentence.

    Codes: `changed`, `missing`, `broken-link`, `truncated`, `other-head`, `decision-changed`, `decision-missing`,
    `decision-unrecorded`.
    """

    number: int
    code: str
    what: str


def append(connection: Connection, who: str, action: str, subject: str, content: Mapping[str, Any]) -> Entry:
    """The new last entry; `connection` is in the `writing` transaction of what it tells of."""
    last = connection.execute(select(audit.c.number, audit.c.hash).order_by(audit.c.number.desc()).limit(1)).first()
    number, previous = (last.number + 1, last.hash) if last else (1, BEGINNING)
    open_entry = Entry(number, time.time(), who, action, subject, canonical_json(content), previous, "")
    values = {**asdict(open_entry), "hash": open_entry.true_hash}
    connection.execute(insert(audit).values(values))
    return Entry(**values)


def head(database: Engine) -> str:
    """`NUMBER:HASH` of the last entry, to be kept elsewhere: with it even a cut end is found. Empty: no entry yet."""
    chosen = select(audit.c.number, audit.c.hash).order_by(audit.c.number.desc()).limit(1)
    with reading(database) as connection:
        last = connection.execute(chosen).first()
    return f"{last.number}:{last.hash}" if last else ""


def head_of_workspace(folder: Path) -> str:
    """The head of the chain that a workspace keeps itself; empty where nobody has reviewed anything there."""
    database = open_database(folder / DATABASE)
    try:
        return head(database) if inspect(database).has_table(audit.name) else ""
    finally:
        database.dispose()


def head_of_copy(file: Path) -> str:
    """The head of the chain in a backup, which is only read."""
    database = create_engine(f"sqlite:///file:{quote(str(file.resolve()))}?mode=ro&uri=true")
    try:
        return head(database) if inspect(database).has_table(audit.name) else ""
    finally:
        database.dispose()


def entries(database: Engine, *, after: int = 0, limit: int | None = None) -> list[Entry]:
    """Entries with a number above `after`, in their order, `limit` of them at most."""
    chosen = select(audit).where(audit.c.number > after).order_by(audit.c.number).limit(limit)
    with reading(database) as connection:
        return [Entry(**row._mapping) for row in connection.execute(chosen)]


def verify(database: Engine, known_head: str | None = None) -> list[Fault]:
    """Everything that is not as it was written, in the chain and in the decisions it tells of; empty: all is whole.

    A chain that was cut, or written anew from some entry on, is whole in itself: only `known_head`, kept elsewhere
    (every report prints one), finds it. Raises InputError `review-head` for one that cannot be read.
    """
    chain = entries(database)
    with reading(database) as connection:
        kept = {row.number: dict(row._mapping) for row in connection.execute(select(decisions))}
    found = [*_faults(chain), *_head_faults(chain, known_head), *_decision_faults(chain, kept)]
    return sorted(found, key=lambda fault: fault.number)


def _faults(chain: list[Entry]) -> list[Fault]:
    changed = [
        Fault(each.number, "changed", f"entry {each.number} ({each.action}) is not as it was written")
        for each in chain
        if each.hash != each.true_hash
    ]
    numbers = [0, *(each.number for each in chain)]
    missing = [
        Fault(number, "missing", f"entry {number} is missing")
        for before, after in pairwise(numbers)
        for number in range(before + 1, after)
    ]
    hashes = {each.number: each.hash for each in chain} | {0: BEGINNING}
    broken = [
        Fault(each.number, "broken-link", f"entry {each.number} does not follow entry {each.number - 1} as it is now")
        for each in chain
        if hashes.get(each.number - 1, each.previous) != each.previous
    ]
    return [*changed, *missing, *broken]


def _head_faults(chain: list[Entry], known_head: str | None) -> list[Fault]:
    if not known_head:
        return []
    number_text, _, digest = known_head.partition(":")
    if not number_text.isdecimal() or len(digest) != 64:
        raise InputError(
            "review-head", f"{known_head!r} is no chain head", fix="give NUMBER:HASH as a report prints it"
        )
    number = int(number_text)
    last = chain[-1].number if chain else 0
    if number > last:
        return [Fault(number, "truncated", f"the chain ends at entry {last}; it once reached entry {number}")]
    stands = next((each.hash for each in chain if each.number == number), digest)
    if stands != digest:
        return [Fault(number, "other-head", f"entry {number} is another than the known head says")]
    return []


def _decision_faults(chain: list[Entry], kept: Mapping[int, Mapping[str, Any]]) -> list[Fault]:
    """Decisions are checked against the entries that were written with them."""
    told = {int(each.details["number"]): each for each in chain if each.action.startswith("decision.")}
    found = []
    for number, entry in told.items():
        if number not in kept:
            found.append(Fault(entry.number, "decision-missing", f"decision {number} is missing"))
        elif canonical_json(dict(kept[number])) != entry.content:
            found.append(Fault(entry.number, "decision-changed", f"decision {number} is not as it was recorded"))
    last = chain[-1].number if chain else 0
    unrecorded = sorted(set(kept) - set(told))
    return found + [
        Fault(last, "decision-unrecorded", f"decision {number} is in no audit entry") for number in unrecorded
    ]
