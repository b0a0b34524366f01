"""What a study will take: its last stored estimate, or as much as its run has planned; nothing is measured here."""

from __future__ import annotations

from pathlib import Path

from fastapi import Request

from patchlight.report import estimate as told
from patchlight.report.texts import read_texts
from patchlight.store.ledger import Ledger
from patchlight.web import runs
from patchlight.web.access import Workspace, new_router
from patchlight.web.render import Page, language_of, plain, view

router = new_router()


@view(router, "/studies/{study}/estimate", "read")
def study_estimate(request: Request, study: str, workspace: Workspace) -> Page:
    """Three points, stages, needs, risks and what all this rests on; without an estimate, the planned units."""
    found, words = told.last_estimate(workspace, study), read_texts(language_of(request))
    if found is None:
        return _planned(request, study, workspace)
    context = {
        "study": study,
        "found": found,
        "points": told.points(found, words),
        "stages": told.stages_table(found, words),
        "needs": told.needs(found, words),
        "risks": [told.risk_words(each, words) for each in found.risks],
        "basis": told.basis_words(found, words),
    }
    return Page("estimate.html.jinja", {"study": study, "estimate": told.as_json(found)}, told.rows(found), context)


def _planned(request: Request, study: str, workspace: Path) -> Page:
    """The units that a run has planned, for a study that was begun and never estimated."""
    with Ledger(workspace) as ledger:
        run = runs.run_of(ledger, runs.study_named(ledger, study), request.app.state.jobs)
    rows = [plain(each) for each in run.stages]
    data = {"study": study, "estimate": None, "planned": rows}
    return Page("estimate.html.jinja", data, rows, {"study": study, "found": None, "run": run})
