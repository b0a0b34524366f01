"""What reviewers see and leave behind, as frozen records."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from patchlight.errors import InputError
from patchlight.store.results import canonical_json

Role = Literal["viewer", "reviewer", "lead", "engineer", "admin"]
ROLES: tuple[Role, ...] = ("viewer", "reviewer", "lead", "engineer", "admin")
Word = Literal["accept", "reject", "unsure", "needs more"]
WORDS: tuple[Word, ...] = ("accept", "reject", "unsure", "needs more")
Standing = Literal["open", "disputed", "accepted", "rejected", "unsure", "needs more"]
Action = Literal["watch", "require human check", "allow edit trial", "block edit"]
ACTIONS: tuple[Action, ...] = ("watch", "require human check", "allow edit trial", "block edit")
RuleState = Literal["draft", "active", "stale", "failed"]
Outcome = Literal["held", "stale", "failed"]
REASONS = (
    "above-every-control",
    "touches-control",
    "directions-disagree",
    "unstable",
    "wording-not-knowledge",
    "too-few-facts",
    "controls-missing",
    "other",
)
"""Codes of why somebody decided as they did; a domain pack may add its own."""


@dataclass(frozen=True)
class Person:
    """Somebody who may sign in; a password is never in this record."""

    id: int
    name: str
    role: Role
    active: bool
    created: float


@dataclass(frozen=True)
class Evidence:
    """All that a reviewer judges a candidate by, as JSON; `study.reviewing.evidence_of` says which keys it has."""

    content: Mapping[str, Any]

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON: equal exactly where all the evidence is equal."""
        return hashlib.sha256(canonical_json(self.content).encode()).hexdigest()

    @cached_property
    def candidate(self) -> str:
        """The candidate's id: the same place for the same kind of knowledge in the same model and study."""
        named = [self.content[name] for name in ("study_id", "checkpoint", "model", "kind", "site")]
        return hashlib.sha256(canonical_json(named).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Item:
    """A candidate in the queue. Whether it is a decoy is not in it: reviewers must not know.

    `evidence` is the hash of what is to be judged now; decisions on earlier evidence no longer count. `decided` counts
    the reviewers who have judged it.
    """

    id: str
    study_id: str
    checkpoint: str
    model: str
    kind: str
    site: str
    priority: int
    evidence: str
    standing: Standing
    decided: int
    added: float


@dataclass(frozen=True)
class Reservation:
    """A candidate that one person holds until a moment; then it is given to others again."""

    item: Item
    until: float


@dataclass(frozen=True)
class Draft:
    """A filled form.

    `evidence` is the hash that the form showed, `previous` the number of the person's own standing decision that it
    showed (None: none). `form` is a name made once for each form shown: sent twice, it is one decision. `missing` names
    the controls that "needs more" asks for. `confidence` is from 1 to 5.
    """

    candidate: str
    word: Word
    reason: str
    confidence: int
    evidence: str
    form: str
    text: str = ""
    previous: int | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decision:
    """A decision as it was kept. `purpose` is "review", "adjudication" or "undo"; an undo takes `undoes` back."""

    number: int
    candidate: str
    person: int
    name: str
    purpose: str
    word: Word
    reason: str
    text: str
    confidence: int
    evidence: str
    form: str
    missing: tuple[str, ...]
    undoes: int | None
    at: float


class StaleForm(InputError):
    """A form was filled on evidence, or on an own decision, that has changed since; a web page answers 409.

    `sent` is the form; `stored` the person's own standing decision (None: none), `evidence` the hash to be judged now.
    """

    def __init__(self, sent: Draft, stored: Decision | None, evidence: str) -> None:
        changed = "the evidence" if sent.evidence != evidence else "your own decision"
        super().__init__(
            "review-stale-form",
            f"{changed} has changed since this form was shown",
            fix="look at both versions and decide again; nothing was recorded",
        )
        self.sent, self.stored, self.evidence = sent, stored, evidence


@dataclass(frozen=True)
class Wanted:
    """A control that a "needs more" asks for and the current evidence does not have yet."""

    candidate: str
    study_id: str
    control: str
    decision: int
    at: float


@dataclass(frozen=True)
class Rule:
    """An operating rule: in these models, answers about these facts come through these findings, and so do this.

    `findings` are (candidate, evidence hash). `models` are the hashes of the model it was made for and of those on
    which a re-check has held since. `recheck_days` is the longest time between two re-checks, `checked` the
    last of them.
    """

    id: int
    statement: str
    action: Action
    state: RuleState
    domain: str
    kind: str
    facts: tuple[str, ...]
    findings: tuple[tuple[str, str], ...]
    models: tuple[str, ...]
    owner: str
    expires: float
    recheck_days: int
    checked: float
    made: float
    why: str = ""
