"""Who may sign in, as what; one-time links for new people."""

from __future__ import annotations

from typing import Annotated

from fastapi import Form, Request
from fastapi.responses import RedirectResponse, Response

from patchlight.errors import InputError
from patchlight.review import people
from patchlight.review.records import ROLES, Role
from patchlight.web.access import Database, Number, Who, allow, new_router
from patchlight.web.render import Page, page, plain, view

router = new_router()


@view(router, "/people", "people")
def everybody(request: Request, database: Database) -> Page:
    """Everybody, in the order of joining."""
    rows = [plain(each) for each in people.people(database)]
    return Page("people.html.jinja", rows, rows, {"roles": ROLES})


@router.post("/people/invitations", dependencies=[allow("people")])
def invite(request: Request, database: Database, who: Who, role: Annotated[str, Form()]) -> Response:
    """A one-time link, shown once and kept nowhere."""
    token = people.invite(database, who, _role(role))
    base = request.app.state.origin or f"{request.url.scheme}://{request.headers['host']}"
    return page(request, "invited.html.jinja", link=f"{base}/join/{token}", role=role)


@router.post("/people/{number}", dependencies=[allow("people")])
def change(
    database: Database, who: Who, number: Number, role: Annotated[str, Form()], active: Annotated[str, Form()] = ""
) -> Response:
    """The person has another role, or is shut out, or let in again."""
    people.change(database, who, number, role=_role(role), active=active == "yes")
    return RedirectResponse("/people", 303)


def _role(name: str) -> Role:
    found = next((each for each in ROLES if each == name), None)
    if found is None:
        raise InputError("web-no-role", f"a role is one of {', '.join(ROLES)}")
    return found
