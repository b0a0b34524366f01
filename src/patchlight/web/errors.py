"""What the workbench answers when it does not do what was asked: always a code, a sentence and what to do."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException

from patchlight.errors import PatchlightError
from patchlight.review.records import StaleForm
from patchlight.web.access import SignInNeeded
from patchlight.web.render import as_json, page

STATUS = {"review-not-allowed": 403, "web-form": 403, "web-too-many-tries": 429}
DATA = (".json", ".csv")


def explain_errors(app: FastAPI) -> None:
    """The app answers every error of ours by a page, or by JSON where data was asked for."""
    app.add_exception_handler(SignInNeeded, _ask_to_sign_in)
    app.add_exception_handler(PatchlightError, _refused)
    app.add_exception_handler(RequestValidationError, _not_filled)
    app.add_exception_handler(HTTPException, _no_such_page)


def status_of(error: PatchlightError) -> int:
    """The HTTP status that an error of ours comes to."""
    if isinstance(error, StaleForm):
        return 409
    if error.code in STATUS:
        return STATUS[error.code]
    if "-no-" in error.code:
        return 404
    return 400 if error.exit_code == 3 else 503


async def _ask_to_sign_in(request: Request, _error: Exception) -> Response:
    if request.url.path.endswith(DATA):
        return _told(request, 401, "web-sign-in", "sign in first")
    return RedirectResponse("/sign-in", 303)


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, PatchlightError):
        raise error
    if isinstance(error, StaleForm):
        return page(request, "stale.html.jinja", 409, error=error)
    return _told(request, status_of(error), error.code, error.what, error.fix)


async def _not_filled(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    wrong = "; ".join(f"{each['loc'][-1]}: {each['msg']}" for each in error.errors())
    return _told(request, 400, "web-fields", wrong, "fill the form and send it again")


async def _no_such_page(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return _told(request, error.status_code, "web-no-page", error.detail)


def _told(request: Request, status: int, code: str, what: str, fix: str = "") -> Response:
    if request.url.path.endswith(DATA):
        return as_json({"error": {"code": code, "what": what, "fix": fix}}, status)
    return page(request, "error.html.jinja", status, code=code, what=what, fix=fix)
