"""What the decision form shows; `_decision_form.html.jinja` draws it as `form` wherever a page includes it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from patchlight.records import NULLS
from patchlight.review.decisions import last_decision, own_decision
from patchlight.review.people import may
from patchlight.review.queue import evidence_of, item
from patchlight.review.records import REASONS, Decision, Item, Person, Word

USUAL_REASON: dict[Word, str] = {
    "accept": "above-every-control",
    "reject": "touches-control",
    "unsure": "too-few-facts",
    "needs more": "controls-missing",
}
"""The reason that a word stands for where none is chosen, so that one key can decide; the form says so."""
KEYS: dict[Word, str] = {"accept": "a", "reject": "r", "unsure": "u", "needs more": "m"}


@dataclass(frozen=True)
class DecisionForm:
    """A form that is shown once.

    `own` is the person's decision that stands, `last` what the person decided last and may take back (None: nothing),
    `missing` the controls that the evidence lacks; `adjudicates`: the word is a lead's on a disagreement.
    """

    item: Item
    name: str
    own: Decision | None
    last: Decision | None
    missing: tuple[str, ...]
    adjudicates: bool
    words: tuple[tuple[Word, str], ...] = tuple(KEYS.items())
    usual: tuple[tuple[Word, str], ...] = tuple(USUAL_REASON.items())
    reasons: tuple[str, ...] = REASONS
    controls: tuple[str, ...] = NULLS


def decision_form(database: Engine, person: Person, candidate: str) -> DecisionForm | None:
    """The form for a person and a candidate; None where the person may not decide."""
    if not may(person, "decide"):
        return None
    found = item(database, candidate)
    return DecisionForm(
        item=found,
        name=secrets.token_urlsafe(16),
        own=own_decision(database, person, candidate),
        last=last_to_undo(database, person),
        missing=tuple(evidence_of(database, candidate).content.get("nulls_absent", {})),
        adjudicates=may(person, "adjudicate") and found.standing in {"disputed", "unsure"},
    )


def last_to_undo(database: Engine, person: Person) -> Decision | None:
    """The person's last decision, where it can be taken back."""
    last = last_decision(database, person)
    return last if last is not None and last.purpose == "review" else None


def may_see_verdict(state: Any, database: Engine, person: Person, candidate: str) -> bool:
    """Whether a page may show what the machine says: in judge-first mode not before the person's own decision.

    `state` is `request.app.state`.
    """
    return not (
        state.judge_first
        and may(person, "decide")
        and item(database, candidate).standing == "open"
        and own_decision(database, person, candidate) is None
    )
