"""Operating rules: the list, one rule, drafting one from accepted findings; and the re-checks of rules."""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

from fastapi import Form, Request
from fastapi.responses import RedirectResponse, Response

from patchlight.errors import InputError
from patchlight.review import queue, rules
from patchlight.review.recheck import RuleCheck, rechecks
from patchlight.review.records import ACTIONS, RuleState
from patchlight.web.access import Database, Number, Who, Workspace, allow, new_router
from patchlight.web.jobs import review_place
from patchlight.web.render import Page, plain, view

router = new_router()
STATES: tuple[RuleState, ...] = get_args(RuleState)
MOST_FINDINGS = 200  # to choose from on one page
PACKAGED = re.compile(r"package:\w{1,60}")


@view(router, "/rules", "read")
def all_rules(request: Request, database: Database, state: str = "") -> Page:
    """All rules, or those in one state; those that are late have become stale."""
    rules.expire(database)
    wanted = next((each for each in STATES if each == state), None)
    if state and wanted is None:
        raise InputError("web-no-state", f"a state is one of {', '.join(STATES)}")
    found = rules.rules(database, wanted)
    rows = [plain(each) for each in found]
    return Page("rules.html.jinja", rows, rows, {"rules": found, "states": STATES, "state": state})


@view(router, "/rules/new", "draft rule")
def rule_form(request: Request, database: Database, study: str = "") -> Page:
    """The accepted findings that a rule can stand on, of one study or all."""
    accepted = queue.items(database, study_id=study or None, standing="accepted", limit=MOST_FINDINGS)
    tomorrow = time.strftime("%Y-%m-%d", time.gmtime(time.time() + rules.DAY))
    rows = [plain(each) for each in accepted]
    return Page("rule_form.html.jinja", rows, rows, {"accepted": accepted, "actions": ACTIONS, "tomorrow": tomorrow})


@view(router, "/rules/{number}", "read")
def one_rule(request: Request, database: Database, number: Number) -> Page:
    """One rule, what it stands on, and what its re-checks came to."""
    found, checks = rules.rule(database, number), rechecks(database, number)
    sites = {candidate: queue.item(database, candidate).site for candidate, _ in found.findings}
    context = {"rule": found, "checks": list(reversed(checks)), "sites": sites}
    return Page("rule.html.jinja", {"rule": found, "rechecks": checks}, _check_rows(number, checks), context)


@router.post("/rules", dependencies=[allow("draft rule")])
def draft(
    database: Database,
    who: Who,
    statement: Annotated[str, Form()],
    action: Annotated[str, Form()],
    owner: Annotated[str, Form()],
    expires: Annotated[str, Form()],
    recheck_days: Annotated[Number, Form()],
    candidate: Annotated[list[str] | None, Form()] = None,
) -> Response:
    """The draft of a rule over accepted findings."""
    chosen = next((each for each in ACTIONS if each == action), None)
    if chosen is None:
        raise InputError("review-rule", f"the action is one of {', '.join(ACTIONS)}")
    made = rules.draft_rule(
        database,
        who,
        candidates=candidate or [],
        statement=statement,
        action=chosen,
        owner=owner,
        expires=_end_of(expires),
        recheck_days=recheck_days,
    )
    return RedirectResponse(f"/rules/{made.id}", 303)


@router.post("/rules/{number}/activate", dependencies=[allow("activate rule")])
def activate(database: Database, who: Who, number: Number) -> Response:
    """The rule is active from now on."""
    rules.activate(database, who, number)
    return RedirectResponse(f"/rules/{number}", 303)


@view(router, "/rechecks", "read")
def all_rechecks(request: Request, database: Database) -> Page:
    """What all re-checks came to, newest first, and those that run."""
    checks = {each.id: rechecks(database, each.id) for each in rules.rules(database)}
    rows = sorted(
        (row for number, found in checks.items() for row in _check_rows(number, found)), key=_at, reverse=True
    )
    running = [each.shown for each in request.app.state.jobs.listed("recheck")]
    return Page("rechecks.html.jinja", {"rechecks": checks, "jobs": running}, rows, {"jobs": running})


@router.post("/rechecks", dependencies=[allow("recheck")])
def start_recheck(request: Request, workspace: Workspace, who: Who, model: Annotated[str, Form()]) -> Response:
    """The active rules are held against another model, in a process of its own."""
    place, environment = review_place(workspace, request.app.state.database_url)
    arguments = ["recheck", "--model", model_name(workspace, model), *place]
    request.app.state.jobs.start("recheck", who.name, arguments, environment)
    return RedirectResponse("/rechecks", 303)


def model_name(workspace: Path, name: str) -> str:
    """A model that may be started from a page: `package:NAME`, or a folder inside the workspace by its relative path.

    Raises InputError `web-model` for anything else; who has the machine's command line may use any model there.
    """
    if PACKAGED.fullmatch(name):
        return name
    inside = workspace.resolve()
    try:
        folder = (inside / name).resolve()
        is_inside = folder.is_relative_to(inside) and folder != inside and folder.is_dir()
    except (OSError, ValueError):
        is_inside = False
    if not is_inside:
        what = "this is no model folder inside the workspace, and not package:NAME"
        raise InputError(
            "web-model", what, fix="copy the model into the workspace, or use `patchlight recheck --model`"
        )
    return str(folder)


def _end_of(day: str) -> float:
    try:
        return calendar.timegm(time.strptime(day, "%Y-%m-%d")) + rules.DAY
    except ValueError as error:
        raise InputError("review-rule", f"{day!r} is no date", fix="write it like 2027-03-31") from error


def _check_rows(number: int, checks: Sequence[RuleCheck]) -> list[dict[str, Any]]:
    """A row for each finding of each re-check."""
    return [
        {
            "rule": number,
            "at": check.at,
            "model": check.model,
            "outcome": check.outcome,
            **{name: getattr(finding, name) for name in ("candidate", "site", "why", "facts")},
            "finding_outcome": finding.outcome,
        }
        for check in checks
        for finding in check.findings
    ]


def _at(row: dict[str, Any]) -> float:
    return float(row["at"])
