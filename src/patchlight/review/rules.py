"""Operating rules, made of accepted findings: where they hold, what follows, who answers for them, until when."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine, Row, insert, select, update

from patchlight.errors import InputError
from patchlight.review import audit
from patchlight.review.people import require
from patchlight.review.queue import read_evidence, read_item
from patchlight.review.records import ACTIONS, Action, Evidence, Person, Rule, RuleState
from patchlight.store import review as tables
from patchlight.store.database import reading, writing
from patchlight.store.results import canonical_json

DAY = 86_400.0


def draft_rule(
    database: Engine,
    person: Person,
    *,
    candidates: Sequence[str],
    statement: str,
    action: Action,
    owner: str,
    expires: float,
    recheck_days: int = 30,
) -> Rule:
    """A draft over findings that reviewers have accepted, all of one kind, domain and model, which are its scope.

    Raises InputError `review-not-accepted`, `review-rule-scope` for findings that differ in scope, `review-rule` for
    what is missing or already over.
    """
    require(person, "draft rule")
    _check(candidates, statement, action, owner, expires, recheck_days)
    with writing(database) as connection:
        findings = [_accepted(connection, candidate) for candidate in candidates]
        row: dict[str, Any] = {
            "state": "draft",
            "action": action,
            "statement": statement.strip(),
            "scope": canonical_json(_scope(findings)),
            "owner": owner.strip(),
            "expires": expires,
            "recheck_days": recheck_days,
            "checked": time.time(),
            "made": time.time(),
            "why": "",
        }
        number = connection.scalar(insert(tables.rules).values(row).returning(tables.rules.c.id)) or 0
        links = [{"rule": number, "candidate": each.candidate, "evidence": each.hash} for each in findings]
        connection.execute(insert(tables.rule_findings), links)
        told = {**row, "findings": [each.hash for each in findings]}
        audit.append(connection, person.name, "rule.drafted", f"rule {number}", told)
        return read_rule(connection, number)


def activate(database: Engine, lead: Person, number: int) -> Rule:
    """The rule, active from now on: a draft, or one that went stale and whose findings are accepted as they are now.

    Raises InputError `review-rule-state`, `review-not-accepted`, and `review-rule` where it is past its expiry.
    """
    require(lead, "activate rule")
    with writing(database) as connection:
        found = read_rule(connection, number)
        if found.state not in {"draft", "stale"}:
            raise InputError("review-rule-state", f"a rule that is {found.state} does not become active")
        if found.expires <= time.time():
            raise InputError("review-rule", "this rule is past its expiry", fix="make a new one")
        for candidate, _ in found.findings:
            _accepted(connection, candidate)
        connection.execute(update(tables.rules).where(tables.rules.c.id == number).values(checked=time.time()))
        return set_state(connection, lead.name, number, "active", "")


def expire(database: Engine, now: float | None = None) -> list[Rule]:
    """The active rules that have just become stale: past their expiry, or too long without a re-check."""
    moment = time.time() if now is None else now
    with writing(database) as connection:
        late = [(each, _late(each, moment)) for each in _rules(connection, "active")]
        return [set_state(connection, "the clock", each.id, "stale", why) for each, why in late if why]


def rules(database: Engine, state: RuleState | None = None) -> list[Rule]:
    """All rules, or those in one state, oldest first."""
    with reading(database) as connection:
        return _rules(connection, state)


def rule(database: Engine, number: int) -> Rule:
    """One rule. Raises InputError `review-no-rule`."""
    with reading(database) as connection:
        return read_rule(connection, number)


def evidence_behind(database: Engine, chosen: Rule) -> list[Evidence]:
    """The evidence on which the rule's findings were accepted."""
    with reading(database) as connection:
        return [read_evidence(connection, digest) for _, digest in chosen.findings]


def read_rule(connection: Connection, number: int) -> Rule:
    """One rule, inside a transaction."""
    row = connection.execute(select(tables.rules).where(tables.rules.c.id == number)).first()
    if row is None:
        raise InputError("review-no-rule", f"there is no rule {number}")
    return _rule(connection, row)


def set_state(connection: Connection, who: str, number: int, state: RuleState, why: str) -> Rule:
    """The rule in another state, with the reason, inside a transaction."""
    connection.execute(update(tables.rules).where(tables.rules.c.id == number).values(state=state, why=why))
    audit.append(connection, who, f"rule.{state}", f"rule {number}", {"why": why})
    return read_rule(connection, number)


def _check(
    candidates: Sequence[str], statement: str, action: str, owner: str, expires: float, recheck_days: int
) -> None:
    problems = [
        (not candidates, "a rule stands on one finding or more"),
        (len(set(candidates)) < len(candidates), "a finding is named twice"),
        (not statement.strip(), "a statement is needed"),
        (action not in ACTIONS, f"the action is one of {', '.join(ACTIONS)}"),
        (not owner.strip(), "somebody must own it"),
        (expires <= time.time(), "the expiry is past"),
        (recheck_days < 1, "a re-check is due after a day or more"),
    ]
    wrong = [what for bad, what in problems if bad]
    if wrong:
        raise InputError("review-rule", "; ".join(wrong), fix="fill the form and send it again")


def _accepted(connection: Connection, candidate: str) -> Evidence:
    found = read_item(connection, candidate)
    if found.standing != "accepted":
        what = f"{found.site} ({found.kind}) is not accepted: {found.standing}"
        raise InputError("review-not-accepted", what, where=candidate, fix="a rule stands on accepted findings alone")
    return read_evidence(connection, found.evidence)


def _scope(findings: Sequence[Evidence]) -> dict[str, Any]:
    scopes = {tuple(each.content[name] for name in ("domain", "kind", "model")) for each in findings}
    if len(scopes) > 1:
        what = "the findings of a rule are of one domain, kind of knowledge and model"
        raise InputError("review-rule-scope", what, fix="make a rule for each")
    domain, kind, model = scopes.pop()
    facts = sorted({pair["fact"] for each in findings for pair in each.content["pairs"]})
    return {"domain": domain, "kind": kind, "model": model, "facts": facts}


def _late(each: Rule, now: float) -> str:
    if each.expires <= now:
        return "past its expiry"
    return "too long without a re-check" if each.checked + each.recheck_days * DAY <= now else ""


def _rules(connection: Connection, state: RuleState | None) -> list[Rule]:
    chosen = select(tables.rules).order_by(tables.rules.c.id)
    if state is not None:
        chosen = chosen.where(tables.rules.c.state == state)
    return [_rule(connection, row) for row in connection.execute(chosen).all()]


def _rule(connection: Connection, row: Row[Any]) -> Rule:
    of_rule = tables.rule_findings.c.rule == row.id
    findings = connection.execute(select(tables.rule_findings).where(of_rule)).all()
    held = select(tables.rechecks.c.model).where(tables.rechecks.c.rule == row.id, tables.rechecks.c.outcome == "held")
    scope = json.loads(row.scope)
    own = {name: getattr(row, name) for name in Rule.__dataclass_fields__ if name in row._mapping}
    return Rule(
        **own,
        domain=scope["domain"],
        kind=scope["kind"],
        facts=tuple(scope["facts"]),
        findings=tuple((each.candidate, each.evidence) for each in findings),
        models=tuple(dict.fromkeys([scope["model"], *connection.scalars(held)])),
    )
