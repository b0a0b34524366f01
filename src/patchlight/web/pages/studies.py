"""Studies: the list, one study with its verdict first, what it has published, and its run with start and pause."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import FileResponse, RedirectResponse, Response

from patchlight.errors import InputError
from patchlight.report.estimate import estimated
from patchlight.report.texts import read_texts
from patchlight.review import audit, queue
from patchlight.review.people import may
from patchlight.store.ledger import Ledger
from patchlight.web import runs
from patchlight.web.access import Database, Who, Workspace, allow, new_router
from patchlight.web.jobs import Jobs
from patchlight.web.overview import overview, published, summary_of
from patchlight.web.render import Page, language_of, plain, view

router = new_router()
FOLLOWED_SECONDS = 5
# A report is a page that stands alone, with its style inside and a policy of its own in it that names the style's hash.
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@view(router, "/studies", "read")
def studies(request: Request, database: Database, workspace: Workspace, who: Who) -> Page:
    """The studies of the workspace, the one begun last first, with their verdicts and what waits for a person."""
    with Ledger(workspace) as ledger:
        found = [runs.run_of(ledger, row, _jobs(request)) for row in runs.latest(ledger)]
    rows = [_listed(request, database, workspace, who, run) for run in found]
    waiting = [each for each in estimated(workspace) if each not in {row["study"] for row in rows}]
    return Page("studies.html.jinja", rows, rows, {"estimated": waiting})


@view(router, "/studies/{study}", "read")
def study_overview(request: Request, study: str, database: Database, workspace: Workspace, who: Who) -> Page:
    """The verdict first, why it is not stronger, counts, three points; the report in both languages."""
    with Ledger(workspace) as ledger:
        run = runs.run_of(ledger, runs.study_named(ledger, study), _jobs(request))
    hidden = _hidden(request, database, who, study)
    found = overview(workspace, study, read_texts(language_of(request)))
    waiting = queue.counts(database, study)
    shown = None if found is None else plain(found) | ({"verdicts": [], "files": []} if hidden else {})
    data = {"study": study, "run": _progress(run), "overview": shown, "candidates": waiting, "hidden": hidden}
    context = {"run": run, "found": found, "hidden": hidden, "waiting": waiting, "head": audit.head(database)}
    return Page("study.html.jinja", data, shown["verdicts"] if shown else [], context)


@view(router, "/studies/{study}/run", "read")
def study_run(request: Request, study: str, workspace: Workspace, follow: int = 0) -> Page:
    """How far the run is, at which rate, and how long it may still take; `follow` loads the page again by itself."""
    with Ledger(workspace) as ledger:
        row = runs.study_named(ledger, study)
        run = runs.run_of(ledger, row, _jobs(request))
        units = [plain(unit) for unit in ledger.units(row.hash)]
    context = {"run": run, "follow": bool(follow), "seconds": FOLLOWED_SECONDS}
    context["output"] = runs.output(_jobs(request), study)
    return Page("run.html.jinja", _progress(run), units, context)


@router.post("/studies/{study}/run/start", dependencies=[allow("run")])
def start(request: Request, study: str, workspace: Workspace, who: Who) -> Response:
    """The study runs, or goes on; back to its progress."""
    with Ledger(workspace) as ledger:
        runs.start(ledger, runs.study_named(ledger, study), _jobs(request), who.name)
    return RedirectResponse(f"/studies/{study}/run?follow=1", 303)


@router.post("/studies/{study}/run/pause", dependencies=[allow("run")])
def pause(request: Request, study: str, workspace: Workspace) -> Response:
    """The run ends after what it has finished; back to its progress."""
    with Ledger(workspace) as ledger:
        runs.pause(ledger, runs.study_named(ledger, study), _jobs(request))
    return RedirectResponse(f"/studies/{study}/run", 303)


@router.get("/studies/{study}/report/{name}", dependencies=[allow("read")])
def report(request: Request, study: str, name: str, database: Database, workspace: Workspace, who: Who) -> Response:
    """The report in one language, or a table that lies beside it."""
    with Ledger(workspace) as ledger:
        row = runs.study_named(ledger, study)
    if _hidden(request, database, who, study):
        what = "the report holds the machine's word, and candidates of this study wait for your judgement"
        raise InputError("web-judge-first", what, fix="judge the candidates first")
    file = published(workspace, row.id, name)
    if file is None:
        raise InputError("web-no-file", f"this study has published no {name!r}", fix="see the page of the study")
    if name.endswith(".html"):
        return FileResponse(file, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})
    return FileResponse(file, filename=f"{row.id}-{name}")


def _jobs(request: Request) -> Jobs:
    found: Jobs = request.app.state.jobs
    return found


def _listed(request: Request, database: Database, workspace: Workspace, who: Who, run: runs.Run) -> dict[str, Any]:
    study = run.study.id
    summary = None if _hidden(request, database, who, study) else summary_of(workspace, study)
    kinds = [
        (point["name"], kind) for point in (summary or {"checkpoints": []})["checkpoints"] for kind in point["kinds"]
    ]
    verdicts = [
        {"checkpoint": name, **{key: kind[key] for key in ("kind", "verdict", "grade")}} for name, kind in kinds
    ]
    waiting = queue.counts(database, study)
    return {**_progress(run), "verdicts": verdicts, "open": waiting.get("open", 0), "candidates": sum(waiting.values())}


def _progress(run: runs.Run) -> dict[str, Any]:
    """A run as data; the YAML, and where it lies on the server's disk, are not told."""
    named = {"study": run.study.id, "title": run.study.title, "begun": run.study.begun}
    return {**named, **{name: value for name, value in plain(run).items() if name != "study"}}


def _hidden(request: Request, database: Database, who: Who, study: str) -> bool:
    """Whether the machine's words on a study are hidden: in judge-first mode, from reviewers while any is open."""
    return bool(request.app.state.judge_first and may(who, "decide") and queue.counts(database, study).get("open", 0))
