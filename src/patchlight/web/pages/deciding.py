"""Where decision forms are sent; the pages that show them are the evidence page and the queue."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import Depends, Form
from fastapi.responses import RedirectResponse, Response

from patchlight.errors import InputError
from patchlight.review import decisions, queue
from patchlight.review.records import WORDS, Draft, Person
from patchlight.web.access import Database, Number, Who, allow, new_router
from patchlight.web.deciding import USUAL_REASON

router = new_router()


def filled(
    candidate: str,
    word: Annotated[str, Form()],
    evidence: Annotated[str, Form()],
    form: Annotated[str, Form()],
    confidence: Annotated[Number, Form()],
    reason: Annotated[str, Form()] = "",
    text: Annotated[str, Form()] = "",
    previous: Annotated[Number | None, Form()] = None,
    missing: Annotated[list[str] | None, Form()] = None,
) -> Draft:
    """The draft that a form comes to; controls count with "needs more" alone, where they may be ticked beforehand."""
    known = next((each for each in WORDS if each == word), None)
    if known is None:
        raise InputError("review-draft", f"the word is one of {', '.join(WORDS)}", fix="use the form of the page")
    return Draft(
        candidate=candidate,
        word=known,
        reason=reason or USUAL_REASON[known],
        confidence=confidence,
        evidence=evidence,
        form=form,
        text=text.replace("\r\n", "\n").strip(),
        previous=previous,
        missing=tuple(missing or ()) if known == "needs more" else (),
    )


Filled = Annotated[Draft, Depends(filled)]


@router.post("/candidates/{candidate}/decision", dependencies=[allow("decide")])
def decide(database: Database, who: Who, draft: Filled, study: Annotated[str, Form()] = "") -> Response:
    """The decision is kept; the browser is sent to the next candidate, or to the queue where none waits."""
    decisions.decide(database, who, draft)
    return to_next(database, who, study)


@router.post("/candidates/{candidate}/adjudication", dependencies=[allow("adjudicate")])
def adjudicate(database: Database, who: Who, draft: Filled) -> Response:
    """The lead's word is kept; back to what is still disputed."""
    decisions.adjudicate(database, who, draft)
    return RedirectResponse("/queue?standing=disputed", 303)


@router.post("/decisions/undo", dependencies=[allow("decide")])
def undo(database: Database, who: Who, number: Annotated[Number, Form()]) -> Response:
    """The person's last decision is taken back; back to its candidate."""
    taken = decisions.undo(database, who, number)
    return RedirectResponse(f"/candidates/{taken.candidate}", 303)


@router.post("/queue/next", dependencies=[allow("decide")])
def next_candidate(database: Database, who: Who, study: Annotated[str, Form()] = "") -> Response:
    """The next candidate is held for this person, and shown."""
    return to_next(database, who, study)


@router.post("/candidates/{candidate}/priority", dependencies=[allow("prioritise")])
def prioritise(database: Database, who: Who, candidate: str, priority: Annotated[Number, Form()]) -> Response:
    """The candidate comes earlier or later in everybody's queue."""
    queue.set_priority(database, who, candidate, priority)
    return RedirectResponse("/queue", 303)


def to_next(database: Database, who: Person, study: str) -> Response:
    """To the next candidate, of one study or of all (""); to the queue, which says so, where none waits."""
    held = queue.reserve_next(database, who, study_id=study or None)
    asked = f"?{urlencode({'study': study})}" if study else ""
    return RedirectResponse(f"/candidates/{held.item.id}{asked}" if held else f"/queue{asked}", 303)
