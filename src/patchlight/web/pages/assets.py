"""The style sheet, from our own origin, and the address that says whether the server is up."""

from __future__ import annotations

from importlib.resources import files

from fastapi.responses import Response

from patchlight.web.access import ANYONE, allow, new_router

router = new_router()


@router.get("/static/workbench.css", dependencies=[allow(ANYONE)])
def style() -> Response:
    """The style of the report, and what pages have beside it."""
    of_report = files("patchlight.report").joinpath("templates", "report.css").read_text(encoding="utf-8")
    own = files("patchlight.web").joinpath("static", "workbench.css").read_text(encoding="utf-8")
    return Response(of_report + own, headers={"Cache-Control": "private, max-age=300"}, media_type="text/css")
