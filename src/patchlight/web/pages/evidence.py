"""The evidence page of a candidate: what its place does, against the controls, before anybody decides."""

from __future__ import annotations

from fastapi import Request

from patchlight.review import decisions, queue
from patchlight.review.people import may
from patchlight.review.records import Decision
from patchlight.web.access import Database, Who, new_router
from patchlight.web.deciding import decision_form, may_see_verdict
from patchlight.web.evidence_numbers import COLUMNS, number_rows, shown_content
from patchlight.web.evidence_view import evidence_view
from patchlight.web.render import Page, language_of, plain, view
from patchlight.web.texts import web_texts

router = new_router()


@view(router, "/candidates/{candidate}", "read")
def evidence(request: Request, candidate: str, database: Database, who: Who) -> Page:
    """The evidence to be judged now, in the order that fights over-trust; others' decisions only after the own one.

    `may_see_verdict` says whether the machine's word is shown, in the page and in its data alike.
    """
    found, held = queue.item(database, candidate), queue.evidence_of(database, candidate)
    machine = may_see_verdict(request.app.state, database, who, candidate)
    language = language_of(request)
    earlier = decisions.history(database, candidate, who)
    form = decision_form(database, who, candidate)
    blind = may(who, "decide") and found.standing == "open" and (form is None or form.own is None)
    context = {
        "view": evidence_view(held.content, language, web_texts(language), machine=machine),
        "item": found,
        "evidence": held,
        "form": form,
        "blind": blind,
        "history": earlier,
    }
    data = {
        "candidate": found,
        "evidence": shown_content(held.content, machine=machine),
        "decisions": [_shown(each) for each in earlier],
    }
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in number_rows(held.content)]
    return Page("evidence.html.jinja", data, rows, context)


def _shown(decision: Decision) -> dict[str, object]:
    """A decision without what is a secret of its form."""
    return {name: value for name, value in plain(decision).items() if name != "form"}
