"""The style sheet and the icon, from our own origin."""

from __future__ import annotations

from importlib.resources import files

from fastapi.responses import Response

from patchlight.web.access import ANYONE, allow, new_router

router = new_router()
KEPT = {"Cache-Control": "private, max-age=300"}


@router.get("/static/workbench.css", dependencies=[allow(ANYONE)])
def style() -> Response:
    """The style of the report, and what pages have beside it."""
    of_report = files("patchlight.report").joinpath("templates", "report.css").read_text(encoding="utf-8")
    own = files("patchlight.web").joinpath("static", "workbench.css").read_text(encoding="utf-8")
    return Response(of_report + own, headers=KEPT, media_type="text/css")


@router.get("/static/icon.svg", dependencies=[allow(ANYONE)])
def icon() -> Response:
    """The picture that browsers show beside the title."""
    drawing = files("patchlight.web").joinpath("static", "icon.svg").read_bytes()
    return Response(drawing, headers=KEPT, media_type="image/svg+xml")
