"""The audit chain: what was done, by whom, when; whether it is whole. What a decision said is not on this page."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from patchlight.review import audit
from patchlight.web.access import Database, Number, new_router
from patchlight.web.render import Page, view

router = new_router()
ON_A_PAGE = 100


@view(router, "/audit", "read")
def chain(request: Request, database: Database, before: Number | None = None, check: str = "", head: str = "") -> Page:
    """The entries before a number, newest first; with `check` also every fault, against a known `head` if one is given.

    Contents are left out: reviewers are blind to one another, and a decision's words are among them.
    """
    stands = audit.head(database)
    last = int(stands.partition(":")[0] or 0)
    end = last + 1 if before is None else max(1, min(before, last + 1))
    shown = [
        each
        for each in audit.entries(database, after=max(0, end - 1 - ON_A_PAGE), limit=ON_A_PAGE)
        if each.number < end
    ]
    rows: list[dict[str, Any]] = [
        {name: getattr(each, name) for name in ("number", "at", "who", "action", "subject", "hash")}
        for each in reversed(shown)
    ]
    faults = audit.verify(database, head.strip() or None) if check else None
    first = rows[-1]["number"] if rows else 1
    context = {"head": stands, "faults": faults, "known": head, "entries": rows, "first": first}
    return Page("audit.html.jinja", {"head": stands, "faults": faults, "entries": rows}, rows, context)
