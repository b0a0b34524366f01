"""The queue: which candidates there are and how they stand; never their evidence, never which are decoys."""

from __future__ import annotations

from collections import Counter
from typing import get_args

from fastapi import Request

from patchlight.errors import InputError
from patchlight.review import queue
from patchlight.review.people import may
from patchlight.review.records import Standing
from patchlight.web.access import Database, Who, new_router
from patchlight.web.deciding import last_to_undo
from patchlight.web.render import Page, plain, view

router = new_router()
STANDINGS: tuple[Standing, ...] = get_args(Standing)
ON_A_PAGE = 100


@view(router, "/queue", "read")
def waiting(
    request: Request, database: Database, who: Who, study: str = "", standing: str = "", start: int = 0
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
        "last": last_to_undo(database, who) if may(who, "decide") else None,
    }
    rows = [plain(each) for each in found]
    return Page("queue.html.jinja", {"counts": counts, "candidates": rows, "wanted": asked_for}, rows, context)
