"""What the questions of a study lacked, where the pairs that were swept cannot tell it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from patchlight.judge.evidence import FACTS_IN_EACH_HALF
from patchlight.judge.thresholds import THRESHOLDS
from patchlight.judge.verdict import Reason, Verdict
from patchlight.report.contents import KnownCount
from patchlight.study.results import CheckpointResults
from patchlight.study.view import KindView


def wanting(result: CheckpointResults, view: KindView, known: Sequence[KnownCount]) -> Verdict | None:
    """The verdict where a model had no chance: no question, one wording of each fact, or too few of its facts swept.

    A fact counts as known in two wordings, so that of a single wording nothing is known, whatever the model answers.
    """
    wordings = _wordings(result, view.kind)
    if wordings == 0:
        return _undetermined(view, Reason("no-question"))
    if wordings == 1:
        return _undetermined(view, Reason("one-template", {"templates": 1, "needed": THRESHOLDS.templates}))
    facts = set(view.facts)
    answered = sum(each.known for each in known if each.kind == view.kind and each.taught)
    if len(facts) < THRESHOLDS.known_facts <= answered:
        confirmation = len(facts & view.confirmation)
        halves = {"discovery": len(facts) - confirmation, "confirmation": confirmation}
        return _undetermined(view, Reason("too-few-facts", {**halves, "needed": FACTS_IN_EACH_HALF}))
    return None


def _undetermined(view: KindView, reason: Reason) -> Verdict:
    return Verdict(view.kind, "undetermined", "D", (reason,))


def _wordings(result: CheckpointResults, kind: str) -> int:
    """In how many wordings the fact with the most of them was asked."""
    asked: dict[str, set[str]] = defaultdict(set)
    table = result.asked.table("left_out")
    left_out = zip(table.fact, table.kind, table.template, strict=True)
    swept = ((row["fact"], row["kind"], row["template"]) for row in result.asked.meta["pairs"])
    for fact, its_kind, template in (*left_out, *swept):
        if its_kind == kind:
            asked[fact].add(template)
    return max(map(len, asked.values()), default=0)
