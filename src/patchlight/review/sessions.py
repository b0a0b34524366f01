"""Who is signed in: sessions that are kept in the database, so that signing out, or shutting out, ends them at once."""

from __future__ import annotations

import hashlib
import secrets
import time

from sqlalchemy import Engine, delete, insert, select

from patchlight.review.people import person
from patchlight.review.records import Person
from patchlight.store import review as tables
from patchlight.store.database import reading, writing

SESSION_SECONDS = 12 * 3600.0


def begin(database: Engine, who: Person) -> str:
    """A new secret, with which its holder is that person for twelve hours; sessions that are over are cleared away."""
    token = secrets.token_urlsafe(32)
    now = time.time()
    with writing(database) as connection:
        connection.execute(delete(tables.sessions).where(tables.sessions.c.expires <= now))
        row = {"token": _digest(token), "person": who.id, "expires": now + SESSION_SECONDS}
        connection.execute(insert(tables.sessions).values(row))
    return token


def holder(database: Engine, token: str) -> Person | None:
    """The active person whose session this is; None where it is unknown, over, or the person was shut out."""
    this = (tables.sessions.c.token == _digest(token)) & (tables.sessions.c.expires > time.time())
    with reading(database) as connection:
        number = connection.scalar(select(tables.sessions.c.person).where(this))
    found = person(database, number) if number is not None else None
    return found if found and found.active else None


def end(database: Engine, token: str) -> None:
    """The session is over."""
    with writing(database) as connection:
        connection.execute(delete(tables.sessions).where(tables.sessions.c.token == _digest(token)))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
