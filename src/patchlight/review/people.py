"""Who may sign in, as what, and what each role may do; passwords are kept as argon2id."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping
from typing import Any, get_args

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Connection, Engine, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from patchlight.errors import InputError
from patchlight.review import audit
from patchlight.review.records import Person, Role
from patchlight.store import review as tables
from patchlight.store.database import reading, writing

PERMISSIONS: Mapping[str, frozenset[Role]] = {
    "read": frozenset(get_args(Role)),
    "decide": frozenset({"reviewer", "lead"}),
    "adjudicate": frozenset({"lead"}),
    "prioritise": frozenset({"lead"}),
    "queue": frozenset({"lead", "engineer"}),
    "draft rule": frozenset({"lead", "engineer"}),
    "activate rule": frozenset({"lead"}),
    "run": frozenset({"lead", "engineer"}),
    "recheck": frozenset({"lead", "engineer"}),
    "people": frozenset({"admin"}),
}
"""What each role may do; what is not here nobody may."""

INVITATION_SECONDS = 24 * 3600.0
SHORTEST_PASSWORD = 12
LONGEST_PASSWORD = 1024  # argon2 would hash a book; a request must not keep the server busy
_hasher = PasswordHasher()
# Verified where nobody has the name, so that a wrong name takes as long as a wrong password.
_NOBODY = _hasher.hash(secrets.token_hex())


def may(person: Person, act: str) -> bool:
    """Whether somebody may do a thing; nobody may do what is not in `PERMISSIONS`, and nobody who is not active."""
    return person.active and person.role in PERMISSIONS.get(act, frozenset())


def require(person: Person, act: str) -> None:
    """Raises InputError `review-not-allowed` where somebody may not do a thing."""
    if not may(person, act):
        allowed = ", ".join(sorted(PERMISSIONS.get(act, frozenset()))) or "nobody"
        what = f"{person.name}, as {person.role}, may not do this: {act}"
        raise InputError("review-not-allowed", what, fix=f"ask somebody who may: {allowed}")


def first_token(database: Engine) -> str | None:
    """A one-time token for the first person, who becomes admin; None where there is somebody already."""
    with writing(database) as connection:
        if connection.scalar(select(func.count()).select_from(tables.people)):
            return None
        return _invitation(connection, "the machine", "admin")


def invite(database: Engine, by: Person, role: Role) -> str:
    """A one-time token with which somebody becomes a person of that role within a day."""
    require(by, "people")
    with writing(database) as connection:
        return _invitation(connection, by.name, role)


def accept(database: Engine, token: str, name: str, password: str) -> Person:
    """The person that a token's holder becomes; the token is used up.

    Raises InputError `review-invitation` for a token that is unknown, used or too old, `review-password` for a password
    under 12 characters or over 1,024, `review-name` for an empty name or one that is taken.
    """
    name = name.strip()
    if not 1 <= len(name) <= 80:
        raise InputError("review-name", "a name has 1 to 80 characters")
    hashed = hash_password(password)
    with writing(database) as connection:
        role = _use(connection, token)
        values = {"name": name, "role": role, "password": hashed, "active": True, "created": time.time()}
        try:
            number = connection.scalar(insert(tables.people).values(values).returning(tables.people.c.id))
        except IntegrityError as error:
            raise InputError("review-name", f"the name {name!r} is taken", fix="choose another") from error
        audit.append(connection, name, "person.joined", f"person {number}", {"name": name, "role": role})
        return _read(connection, int(number or 0))


def hash_password(password: str) -> str:
    """The argon2id hash of a password. Raises InputError `review-password` where it is too short or too long."""
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        what = f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters"
        raise InputError("review-password", what, fix="a sentence is easy to keep in mind")
    return _hasher.hash(password)


def sign_in(database: Engine, name: str, password: str) -> Person | None:
    """The active person with this name and password, or None; a wrong name takes as long as a wrong password."""
    with reading(database) as connection:
        row = connection.execute(select(tables.people).where(tables.people.c.name == name.strip())).first()
    try:
        _hasher.verify(row.password if row else _NOBODY, password[: LONGEST_PASSWORD + 1])
    except (VerificationError, InvalidHashError):
        return None
    return _person(row) if row and row.active else None


def change_password(database: Engine, who: Person, password: str) -> None:
    """The person has another password, and every session of the person is over. Raises InputError `review-password`."""
    hashed = hash_password(password)
    with writing(database) as connection:
        connection.execute(update(tables.people).where(tables.people.c.id == who.id).values(password=hashed))
        connection.execute(delete(tables.sessions).where(tables.sessions.c.person == who.id))
        audit.append(connection, who.name, "person.password", f"person {who.id}", {})


def person(database: Engine, number: int) -> Person | None:
    """The person with this id, active or not; None where there is none."""
    with reading(database) as connection:
        row = connection.execute(select(tables.people).where(tables.people.c.id == number)).first()
    return _person(row) if row else None


def people(database: Engine) -> list[Person]:
    """Everybody, in the order of joining."""
    with reading(database) as connection:
        return [_person(row) for row in connection.execute(select(tables.people).order_by(tables.people.c.id))]


def change(
    database: Engine, by: Person, number: int, *, role: Role | None = None, active: bool | None = None
) -> Person:
    """The person with another role, or shut out, or let in again.

    Raises InputError `review-last-admin` where nobody who may do this would be left.
    """
    require(by, "people")
    wanted = {name: value for name, value in (("role", role), ("active", active)) if value is not None}
    with writing(database) as connection:
        connection.execute(update(tables.people).where(tables.people.c.id == number).values(wanted))
        left = select(func.count()).where(tables.people.c.role == "admin", tables.people.c.active)
        if not connection.scalar(left):
            raise InputError("review-last-admin", "the last admin must stay", fix="make somebody else admin first")
        audit.append(connection, by.name, "person.changed", f"person {number}", wanted)
        return _read(connection, number)


def _invitation(connection: Connection, who: str, role: Role) -> str:
    token = secrets.token_urlsafe(32)
    values = {"token": _digest(token), "role": role, "expires": time.time() + INVITATION_SECONDS}
    connection.execute(insert(tables.invitations).values(values))
    audit.append(connection, who, "person.invited", role, {"role": role})
    return token


def _use(connection: Connection, token: str) -> str:
    """The role of an invitation that is used up by this."""
    open_ones = tables.invitations.c.used.is_(None) & (tables.invitations.c.expires > time.time())
    this = (tables.invitations.c.token == _digest(token)) & open_ones
    used = update(tables.invitations).where(this).values(used=time.time()).returning(tables.invitations.c.role)
    role: str | None = connection.scalar(used)
    if role is None:
        what = "this link is unknown, used or too old"
        raise InputError("review-invitation", what, fix="ask an admin for a new one")
    if role == "admin" and _is_for_the_first(connection):
        # Every start of the server prints a link for the first person; once there is one, the others are void.
        connection.execute(update(tables.invitations).where(open_ones).values(used=time.time()))
    return role


def _is_for_the_first(connection: Connection) -> bool:
    return not connection.scalar(select(func.count()).select_from(tables.people))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _read(connection: Connection, number: int) -> Person:
    row = connection.execute(select(tables.people).where(tables.people.c.id == number)).first()
    if row is None:
        raise InputError("review-no-person", f"there is no person {number}")
    return _person(row)


def _person(row: Row[Any]) -> Person:
    return Person(**{name: getattr(row, name) for name in Person.__dataclass_fields__})
