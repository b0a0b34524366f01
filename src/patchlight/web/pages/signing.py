"""Signing in and out, and the page of a one-time link, where somebody chooses a name and a password."""

from __future__ import annotations

from typing import Annotated

from fastapi import Form, Request
from fastapi.responses import RedirectResponse, Response

from patchlight.errors import InputError
from patchlight.review import people, sessions
from patchlight.review.records import Person
from patchlight.web.access import (
    ANYONE,
    SESSION,
    Database,
    Who,
    allow,
    form_token,
    give_session,
    new_router,
    stranger_session,
)
from patchlight.web.render import page

router = new_router()


@router.get("/", dependencies=[allow(ANYONE)])
def home(request: Request) -> Response:
    """The first page of whoever is signed in."""
    return RedirectResponse("/studies" if request.state.person else "/sign-in", 303)


@router.get("/sign-in", dependencies=[allow(ANYONE)])
def sign_in_form(request: Request) -> Response:
    """The form, bound to this browser."""
    return _bound_form(request, "sign_in.html.jinja")


@router.post("/sign-in", dependencies=[allow(ANYONE)])
def sign_in(
    request: Request, database: Database, name: Annotated[str, Form()], password: Annotated[str, Form()]
) -> Response:
    """A new session; after some wrong tries there is a wait."""
    address = request.client.host if request.client else ""
    with request.app.state.tries.one(name, address) as right:
        found = people.sign_in(database, name, password)
        if found is None:
            return _bound_form(request, "sign_in.html.jinja", 401, wrong=True)
        right()
    return _signed_in(request, database, found)


@router.post("/sign-out", dependencies=[allow(ANYONE)])
def sign_out(request: Request, database: Database) -> Response:
    """The session is over, here and in the database."""
    sessions.end(database, request.cookies.get(SESSION, ""))
    response = RedirectResponse("/sign-in", 303)
    response.delete_cookie(SESSION, httponly=True, samesite="strict")
    return response


@router.get("/join/{token}", dependencies=[allow(ANYONE)])
def join_form(request: Request, token: str) -> Response:
    """The form behind a one-time link; it does not use the link up."""
    return _bound_form(request, "join.html.jinja", token=token)


@router.post("/join", dependencies=[allow(ANYONE)])
def join(
    request: Request,
    database: Database,
    token: Annotated[str, Form()],
    name: Annotated[str, Form()],
    password: Annotated[str, Form()],
    again: Annotated[str, Form()],
) -> Response:
    """The new person, signed in."""
    _require_same(password, again)
    with request.app.state.tries.turn:
        found = people.accept(database, token, name, password)
    return _signed_in(request, database, found)


@router.get("/password", dependencies=[allow("read")])
def password_form(request: Request) -> Response:
    """The form for another password."""
    return page(request, "password.html.jinja", wrong=False)


@router.post("/password", dependencies=[allow("read")])
def change_password(
    request: Request,
    database: Database,
    who: Who,
    old: Annotated[str, Form()],
    password: Annotated[str, Form()],
    again: Annotated[str, Form()],
) -> Response:
    """The person has another password; every other session of the person is over."""
    _require_same(password, again)
    address = request.client.host if request.client else ""
    with request.app.state.tries.one(who.name, address) as right:
        if people.sign_in(database, who.name, old) is None:
            return page(request, "password.html.jinja", 401, wrong=True)
        right()
        people.change_password(database, who, password)
    return _signed_in(request, database, who)


def _require_same(password: str, again: str) -> None:
    if password != again:
        raise InputError("review-password", "the two passwords differ", fix="go back and type both again")


def _bound_form(request: Request, template: str, status: int = 200, **context: object) -> Response:
    token = request.cookies.get(SESSION) or stranger_session()
    request.state.csrf = form_token(token)
    response = page(request, template, status, **{"wrong": False, **context})
    give_session(request, response, token)
    return response


def _signed_in(request: Request, database: Database, found: Person) -> Response:
    sessions.end(database, request.cookies.get(SESSION, ""))
    response = RedirectResponse("/", 303)
    give_session(request, response, sessions.begin(database, found))
    return response
