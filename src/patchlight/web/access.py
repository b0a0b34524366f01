"""Who may open which page: sessions, forms that only our own pages can send, hosts, and headers that bind the browser.

Every route says who may, `dependencies=[allow("read")]`, with an act of `review.people.PERMISSIONS` or `ANYONE`; the
app does not start with a route that does not say. What a page may use of the request, as typed parameters: `Database`,
`Workspace`, `Who`, `Number`.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.params import Depends as Declared
from fastapi.routing import APIRoute, APIRouter
from pydantic import Field
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from patchlight.errors import InputError
from patchlight.review.people import PERMISSIONS, require
from patchlight.review.records import Person
from patchlight.review.sessions import SESSION_SECONDS, holder

ANYONE = "anyone"
SESSION = "patchlight_session"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
LARGEST_FORM = 64 * 1024
SAFE_METHODS = frozenset({"GET", "HEAD"})
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; "
        "base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # "no-referrer" would make browsers send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class SignInNeeded(Exception):
    """Nobody is signed in."""


@dataclass(frozen=True)
class Allow:
    """Lets a request through where its person may do `act`; sets `request.state.person` (None: nobody) and `.csrf`."""

    act: str

    async def __call__(self, request: Request) -> None:
        """Raises SignInNeeded, InputError `review-not-allowed`, or `web-form` for a form not made by our own page."""
        if "\0" in request.url.path or "%00" in request.url.query:
            raise InputError("web-form", "an address holds no NUL characters")
        token = request.cookies.get(SESSION, "")
        database = request.app.state.database
        request.state.person = await run_in_threadpool(holder, database, token) if token else None
        request.state.csrf = form_token(token)
        if self.act != ANYONE:
            if request.state.person is None:
                raise SignInNeeded
            require(request.state.person, self.act)
        if request.method not in SAFE_METHODS:
            await _require_own_form(request)


def allow(act: str) -> Any:
    """What a route declares: who may do `act` may open it. `ANYONE` needs no sign-in."""
    if act != ANYONE and act not in PERMISSIONS:
        raise ValueError(f"nobody may {act!r}: it is not in PERMISSIONS")
    return Depends(Allow(act))


def new_router() -> APIRouter:
    """A router for the pages of an area; it refuses bodies over 64 KiB."""
    return APIRouter(max_body_size=LARGEST_FORM)


def require_declared(routes: Iterable[Any]) -> None:
    """Raises ValueError for a route that does not say who may open it."""
    for route in routes:
        if not isinstance(route, APIRoute) or act_of(route) is None:
            raise ValueError(f"{getattr(route, 'path', route)} does not say who may open it: use allow(...)")


def act_of(route: APIRoute) -> str | None:
    """The act that a route declares."""
    declared = [each.dependency for each in route.dependencies if isinstance(each, Declared)]
    return next((each.act for each in declared if isinstance(each, Allow)), None)


def form_token(session: str) -> str:
    """The secret that our own forms carry in one session; another site's page cannot read it."""
    return hmac.digest(session.encode(), b"patchlight form", hashlib.sha256).hex() if session else ""


def give_session(request: Request, response: Response, token: str) -> None:
    """The browser holds this session from now on; no script and no other site can use it."""
    response.set_cookie(
        SESSION,
        token,
        max_age=int(SESSION_SECONDS),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https" or (request.app.state.origin or "").startswith("https:"),
    )


def stranger_session() -> str:
    """A session of nobody: it only binds the sign-in form to the browser it was shown in."""
    return "nobody." + secrets.token_urlsafe(24)


async def _require_own_form(request: Request) -> None:
    form = await request.form()
    if any("\0" in str(value) for _, value in form.multi_items()):
        raise InputError("web-form", "a form holds no NUL characters")
    sent = form.get("csrf")
    if not request.state.csrf or not isinstance(sent, str) or not hmac.compare_digest(sent.encode(), _csrf(request)):
        raise InputError("web-form", "this form was not made in your session", fix="open the page again and send it")


def _csrf(request: Request) -> bytes:
    return str(request.state.csrf).encode()


async def _database(request: Request) -> Engine:
    found: Engine = request.app.state.database
    return found


async def _workspace(request: Request) -> Path:
    found: Path = request.app.state.workspace
    return found


async def _who(request: Request) -> Person:
    found: Person = request.state.person
    return found


Number = Annotated[int, Field(ge=-(2**31), lt=2**31)]
"""A number in an address or a form: one that every database takes."""
Database = Annotated[Engine, Depends(_database)]
Workspace = Annotated[Path, Depends(_workspace)]
Who = Annotated[Person, Depends(_who)]


class Wall:
    """Around the app: refuses foreign hosts and origins, and adds the headers that bind the browser."""

    def __init__(self, app: ASGIApp, origin: str | None) -> None:
        self.app, self.origin = app, origin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def send_bound(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        why = self._refusal(scope["method"], Headers(scope=scope))
        answer = PlainTextResponse(why, 403 if "origin" in why else 421) if why else self.app
        await answer(scope, receive, send_bound)

    def _refusal(self, method: str, headers: Headers) -> str:
        host = headers.get("host", "")
        if not self._is_ours(host):
            return "this host is not served here\n"
        origin = headers.get("origin")
        own = self.origin or f"http://{host}"
        if method not in SAFE_METHODS and origin != own:
            return "a form of another origin is not taken\n"
        return ""

    def _is_ours(self, host: str) -> bool:
        if self.origin is not None:
            return host == urlsplit(self.origin).netloc
        try:
            return urlsplit(f"//{host}").hostname in LOOPBACK and "@" not in host
        except ValueError:
            return False
