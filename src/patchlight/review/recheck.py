"""Rules held against another checkpoint: the findings behind them are measured again and compared by interval."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from sqlalchemy import Engine, insert, select, update

from patchlight.judge.statistics import cluster_bootstrap
from patchlight.pairs.align import align
from patchlight.pairs.screen import known_facts, screen
from patchlight.pairs.stored import pair_of
from patchlight.records import Interval, Pair, Site
from patchlight.review.people import require
from patchlight.review.queue import put_one
from patchlight.review.records import Evidence, Outcome, Person, Rule
from patchlight.review.rules import evidence_behind, set_state
from patchlight.store import review as tables
from patchlight.store.database import reading, writing
from patchlight.store.results import canonical_json
from patchlight.trace.sites import read_site
from patchlight.verify.controls import donor_from_another_fact

if TYPE_CHECKING:
    from patchlight.model.anatomy import Model

FEWEST = 5  # facts that the model must still know: under five there is no interval
SEED = 0
WORST: Sequence[Outcome] = ("failed", "stale", "held")


@dataclass(frozen=True)
class FindingCheck:
    """One finding measured again: shares of the gap on those of its held-out facts that the model knows.

    `now` and `recorded` have `recovery` and `damage`, each with estimate, low, high and n; `null` is the recovery from
    another fact's donor, None where the pairs offer none. `why` is a code: `as-recorded`, `weaker`, `stronger`,
    `touches-control`, `knows-too-few`.
    """

    candidate: str
    site: str
    outcome: Outcome
    why: str
    facts: int
    recorded: Mapping[str, Mapping[str, float | None]]
    now: Mapping[str, Mapping[str, float | None]]
    null: Mapping[str, float | None] | None


@dataclass(frozen=True)
class RuleCheck:
    """What a re-check came to for one rule: the worst of its findings' outcomes."""

    rule: int
    model: str
    outcome: Outcome
    findings: tuple[FindingCheck, ...]
    at: float


def recheck(database: Engine, model: Model, digest: str, chosen: Sequence[Rule], *, by: Person) -> list[RuleCheck]:
    """The rules held against a model: everything is measured first, then written in one transaction.

    A rule whose finding failed is failed, one whose finding cannot be relied on is stale; what is not held is open
    again in the queue, with the new intervals in its evidence. A rule that is a draft keeps its state.
    """
    require(by, "recheck")
    evidence = {each.id: evidence_behind(database, each) for each in chosen}
    checks = [_checked(model, digest, each, evidence[each.id]) for each in chosen]
    with writing(database) as connection:
        for rule, check in zip(chosen, checks, strict=True):
            findings = canonical_json([asdict(each) for each in check.findings])
            row = {"rule": check.rule, "model": digest, "outcome": check.outcome, "findings": findings, "at": check.at}
            connection.execute(insert(tables.rechecks).values(row))
            connection.execute(update(tables.rules).where(tables.rules.c.id == rule.id).values(checked=check.at))
            told = "; ".join(f"{each.site}: {each.why}" for each in check.findings)
            unchanged = rule.state if check.outcome == "held" or rule.state == "draft" else check.outcome
            state = "failed" if rule.state == "failed" else unchanged
            set_state(connection, by.name, rule.id, state, f"re-check on {digest[:12]}: {told}")
            for before, finding in zip(evidence[rule.id], check.findings, strict=True):
                if finding.outcome != "held":
                    again = {**before.content, "recheck": {"model": digest, **asdict(finding)}}
                    put_one(connection, Evidence(again), by.name)
    return checks


def rechecks(database: Engine, rule: int) -> list[RuleCheck]:
    """What the re-checks of a rule came to, oldest first."""
    chosen = select(tables.rechecks).where(tables.rechecks.c.rule == rule).order_by(tables.rechecks.c.id)
    with reading(database) as connection:
        rows = connection.execute(chosen).all()
    return [
        RuleCheck(
            row.rule, row.model, row.outcome, tuple(FindingCheck(**each) for each in json.loads(row.findings)), row.at
        )
        for row in rows
    ]


def measure(model: Model, evidence: Evidence) -> FindingCheck:
    """A finding measured in a model as it was measured in the study, with the same pairs, site, metric and gates.

    It failed where the model knows fewer than five of its held-out facts, or where the new interval of recovery or of
    damage lies wholly below the recorded one. It is stale where the recovery's interval does not lie above that of
    another fact's donor, or either lies wholly above the recorded one. Else it held.
    """
    content = evidence.content
    recorded = {name: content[name] for name in ("recovery", "damage")}
    pairs, gaps = _known(model, content)
    known = len({pair.fact for pair in pairs})

    def told(outcome: Outcome, why: str, now: Mapping[str, Any], null: Interval | None) -> FindingCheck:
        kept = {name: _numbers(each) for name, each in now.items()}
        band = None if null is None else _numbers(null)
        return FindingCheck(evidence.candidate, content["site"], outcome, why, known, recorded, kept, band)

    if known < FEWEST:
        return told("failed", "knows-too-few", {}, None)

    def share(effects: np.ndarray) -> Interval:
        measured = np.isfinite(effects)
        kept = [pair for pair, known in zip(pairs, measured, strict=True) if known]
        facts, partners = [pair.fact for pair in kept], [pair.partner for pair in kept]
        return cluster_bootstrap(effects[measured], gaps[measured], facts, partners=partners, seed=SEED).at()

    now = {
        "recovery": share(moved(model, pairs, content, "denoise")),
        "damage": share(moved(model, pairs, content, "noise")),
    }
    null = _null(model, pairs, content)
    band = share(null) if np.isfinite(null).any() else None
    return told(*_outcome(recorded, now, band), now, band)


def moved(
    model: Model,
    pairs: Sequence[Pair],
    content: Mapping[str, Any],
    direction: str,
    donors: Sequence[str | None] | None = None,
) -> Float[np.ndarray, " pair"]:
    """What a patch of the finding's site moves of the metric, the mean over the positions of its role, one at a time.

    The sites of a set are patched together. NaN for a pair that lacks the one role, or a donor.
    """
    sites = [read_site(each) for each in content["site"].split(" + ")]
    if len(sites) > 1:
        return _moved_together(model, pairs, sites, content["metric"], direction, donors)
    return _moved_alone(model, pairs, content, direction, donors)


def _moved_together(
    model: Model,
    pairs: Sequence[Pair],
    sites: Sequence[Site],
    metric: str,
    direction: str,
    donors: Sequence[str | None] | None,
) -> Float[np.ndarray, " pair"]:
    from patchlight.trace.joint import Bench

    rows = [index for index in range(len(pairs)) if donors is None or donors[index] is not None]
    given = None if donors is None else [str(donors[row]) for row in rows]
    effects, components = np.full(len(pairs), np.nan), {site.component for site in sites}
    if rows:
        mine = [pairs[row] for row in rows]
        bench = Bench(model, mine, components, direction=direction, metric=metric, donors=given)
        effects[rows] = bench.effects([tuple(sites)])[:, 0]
    return effects


def _moved_alone(
    model: Model, pairs: Sequence[Pair], content: Mapping[str, Any], direction: str, donors: Sequence[str | None] | None
) -> Float[np.ndarray, " pair"]:
    from patchlight.trace.patch import patch

    layouts: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        roles = align(model.tokenizer, pair).roles
        if donors is None or donors[index] is not None:
            layouts[tuple(at for at, role in enumerate(roles) if role == content["role"])].append(index)
    effects = np.full(len(pairs), np.nan)
    for positions, rows in layouts.items():
        if positions:
            sites = [Site(content["component"], content["layer"], None, at) for at in positions]
            mine = [pairs[row] for row in rows]
            given = None if donors is None else [str(donors[row]) for row in rows]
            found = patch(model, mine, sites, direction=direction, metric=content["metric"], donors=given)
            away = (
                found.values - found.corrupted[:, None]
                if direction == "denoise"
                else found.clean[:, None] - found.values
            )
            effects[rows] = away.mean(axis=1)
    return effects


def pairs_in(content: Mapping[str, Any], *, held_out: bool = True) -> list[Pair]:
    """The pairs of a finding's held-out facts, or of the others."""
    rows = [row for row in content["pairs"] if row["held_out"] == held_out]
    return [pair_of(row) for row in rows]


def _known(model: Model, content: Mapping[str, Any]) -> tuple[list[Pair], Float[np.ndarray, " pair"]]:
    """The held-out pairs that pass the study's gates in this model, of facts known in two wordings, and their gaps."""
    screened = screen(model, pairs_in(content), metrics=[content["metric"]], floor=content["gap_floor"])
    known = known_facts(screened)
    kept = [index for index, pair in enumerate(screened.kept) if pair.fact in known]
    return [screened.kept[index] for index in kept], (screened.clean - screened.corrupted)[kept]


def _null(model: Model, pairs: Sequence[Pair], content: Mapping[str, Any]) -> Float[np.ndarray, " pair"]:
    donors = donor_from_another_fact(pairs, model.tokenizer, SEED).prompts
    return moved(model, pairs, content, "denoise", donors)


def _outcome(recorded: Mapping[str, Any], now: Mapping[str, Interval], null: Interval | None) -> tuple[Outcome, str]:
    if any(now[name].high < recorded[name]["low"] for name in now):
        return "failed", "weaker"
    if null is not None and not now["recovery"].low > null.high:
        return "stale", "touches-control"
    if any(now[name].low > recorded[name]["high"] for name in now):
        return "stale", "stronger"
    return "held", "as-recorded"


def _checked(model: Model, digest: str, rule: Rule, evidence: Sequence[Evidence]) -> RuleCheck:
    findings = tuple(measure(model, each) for each in evidence)
    worst = min((each.outcome for each in findings), key=WORST.index)
    return RuleCheck(rule.id, digest, worst, findings, time.time())


def _numbers(interval: Interval) -> dict[str, float | None]:
    values = {name: getattr(interval, name) for name in ("estimate", "low", "high", "n")}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
