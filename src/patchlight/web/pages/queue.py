"""The queue: which candidates there are and how they stand; never their evidence, never which are decoys."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, get_args
from urllib.parse import urlencode

from fastapi import Form, Request
from fastapi.responses import RedirectResponse, Response

from patchlight.errors import InputError
from patchlight.review import queue
from patchlight.review.people import may
from patchlight.review.records import Standing
from patchlight.web.access import Database, Number, Who, Workspace, allow, new_router
from patchlight.web.deciding import last_to_undo
from patchlight.web.jobs import review_place
from patchlight.web.render import Page, plain, view

router = new_router()
STANDINGS: tuple[Standing, ...] = get_args(Standing)
ON_A_PAGE = 100


@view(router, "/queue", "read")
def waiting(
    request: Request,
    database: Database,
    who: Who,
    study: str = "",
    standing: str = "",
    start: Number = 0,
) -> Page:
    """A hundred candidates from `start` on, of one study or all, of one standing or all."""
    wanted = next((each for each in STANDINGS if each == standing), None)
    if standing and wanted is None:
        raise InputError("web-no-standing", f"a standing is one of {', '.join(STANDINGS)}")
    chosen = study or None
    found = queue.items(database, study_id=chosen, standing=wanted, limit=ON_A_PAGE, offset=max(0, start))
    counts = queue.counts(database, chosen)
    asked_for = queue.wanted(database, chosen)
    context = {
        "items": found,
        "counts": {each: counts.get(each, 0) for each in STANDINGS},
        "of_these": counts.get(wanted, 0) if wanted else sum(counts.values()),
        "start": max(0, start),
        "on_a_page": ON_A_PAGE,
        "study": study,
        "standing": standing,
        "wanted": Counter((each.study_id, each.control) for each in asked_for),
        "jobs": [each.shown for each in request.app.state.jobs.listed("more ")],
        "last": last_to_undo(database, who) if may(who, "decide") else None,
    }
    rows = [plain(each) for each in found]
    return Page("queue.html.jinja", {"counts": counts, "candidates": rows, "wanted": asked_for}, rows, context)


@router.post("/queue/more", dependencies=[allow("queue")])
def run_missing(
    request: Request, database: Database, workspace: Workspace, who: Who, study: Annotated[str, Form()]
) -> Response:
    """The controls that reviewers ask for are run, in a process of its own; then the candidates are queued again."""
    if not queue.wanted(database, study):
        raise InputError("web-no-study", "no reviewer asks for more controls of a study of this name")
    place, environment = review_place(workspace, request.app.state.database_url)
    request.app.state.jobs.start(f"more {study}", who.name, ["review", "--more", *place, "--", study], environment)
    return RedirectResponse(f"/queue?{urlencode({'study': study})}", 303)
