"""The style sheet, from our own origin, and the address that says whether the server is up."""

from __future__ import annotations

from importlib.resources import files

from fastapi.responses import Response

from patchlight.web.access import ANYONE, allow, new_router

router = new_router()
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><path fill="#542788" d="M0 0h16v16H0z"/>'
    '<path fill="#fdb863" d="M6 6h8v8H6z"/></svg>'
)


@router.get("/static/workbench.css", dependencies=[allow(ANYONE)])
def style() -> Response:
    """The style of the report, and what pages have beside it."""
    of_report = files("patchlight.report").joinpath("templates", "report.css").read_text(encoding="utf-8")
    own = files("patchlight.web").joinpath("static", "workbench.css").read_text(encoding="utf-8")
    return Response(of_report + own, headers={"Cache-Control": "private, max-age=300"}, media_type="text/css")


@router.get("/static/icon.svg", dependencies=[allow(ANYONE)])
def icon() -> Response:
    """What a browser shows beside the title; without it every browser asks for one that is not there."""
    return Response(ICON, headers={"Cache-Control": "private, max-age=86400"}, media_type="image/svg+xml")
