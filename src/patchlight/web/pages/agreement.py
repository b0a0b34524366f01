"""How far reviewers agree, and how often they accept what is known to be null; for leads, who do not judge by it."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import Request

from patchlight.records import Interval
from patchlight.review.agreement import agreement_of, decoy_rates
from patchlight.web.access import Database, new_router
from patchlight.web.render import Page, plain, view

router = new_router()
STATISTICS = ("raw", "kappa", "ac1")


@view(router, "/agreement", "adjudicate")
def agreement(request: Request, database: Database, study: str = "") -> Page:
    """Raw agreement, Cohen's kappa, Gwet's AC1; the false-accept rate on decoys of each reviewer and pooled ("")."""
    found, rates = agreement_of(database, study or None), decoy_rates(database, study or None)
    agreed = {name: getattr(found, name) for name in STATISTICS}
    rows = [_row("agreement", name, each) for name, each in agreed.items()]
    rows += [_row("false accept on decoys", name or "pooled", each) for name, each in rates.items()]
    data = {"study": study, "agreement": found, "decoys": rates}
    return Page("agreement.html.jinja", data, rows, {"agreed": agreed, "rates": rates, "study": study})


def _row(what: str, name: str, interval: Interval) -> dict[str, object]:
    return {"what": what, "name": name, **plain(asdict(interval))}
