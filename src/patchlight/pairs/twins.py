"""Corrupted twins that keep the subject: another condition, or another class of object asked for.

Beside the subject swap of `build`, they tell what a model does with the rest of a question: with the condition under
which a fact holds (`condition`), and with the relation that says what kind of thing is asked for (`object_class`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from patchlight.packs.problem import Language
from patchlight.packs.spec import Pack, Template
from patchlight.pairs.align import AlignmentRefused, align, refuse_leak
from patchlight.pairs.alternatives import Unscored, widened
from patchlight.pairs.build import Built, Refusal, contrasts, in_turn
from patchlight.records import Fact, Pair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Swap = Literal["condition", "object_class"]


def build_twins(
    pack: Pack,
    tokenizer: PreTrainedTokenizerBase,
    swap: Swap,
    *,
    language: Language = "en",
    templates_per_fact: int | None = None,
    halves: Mapping[str, str] | None = None,
) -> Built:
    """Pairs whose corrupted prompt has the same subject, for every fact and template that allows one.

    `condition`: the same question under another condition, where another answer is right. `object_class`: a question
    of equal length that asks another relation of the subject, e.g. its language instead of its capital. Twins serve
    about equally often. With `halves` (from `pairs.halves`) a twin's fact is of the same half. `templates_per_fact` is
    that of `build_pairs`. Questions without a twin are refused with the reason.
    """
    facts, halves = pack.facts(language), halves or {}
    served: Counter[str] = Counter()
    turns: Counter[str] = Counter()
    by_id, space = {fact.id: fact for fact in facts}, " " if language == "en" else ""
    unscored: list[Unscored] = []
    outcomes: list[Pair | Refusal] = []
    for fact in facts:
        for template in _asked_in(pack, fact, turns, language, templates_per_fact):
            twins = list(_twins(pack, facts, fact, template, swap, language))
            near = [twin for twin in twins if halves.get(twin.partner) == halves.get(fact.id)]
            near.sort(key=lambda twin: served[_name(twin)])
            if twins and not near:
                detail = f"all that could be asked of {fact.subject!r} instead is in the other half"
                outcomes.append(Refusal(fact.id, template.id, "no partner in its half", detail))
                continue
            outcome = _first_that_fits(tokenizer, fact, template, near, swap)
            if isinstance(outcome, Pair):
                served[_name(outcome)] += 1
                outcome, lost = widened(tokenizer, outcome, fact, by_id[outcome.partner], space)
                unscored += lost
            outcomes.append(outcome)
    return Built(
        pairs=[replace(each, half=halves.get(each.fact, "")) for each in outcomes if isinstance(each, Pair)],
        refused=[each for each in outcomes if isinstance(each, Refusal)],
        unscored=unscored,
    )


def _asked_in(pack: Pack, fact: Fact, turns: Counter[str], language: Language, per_fact: int | None) -> list[Template]:
    """The templates that this fact is asked in; `turns` counts the facts of each relation so far."""
    templates, turn = pack.templates(fact.relation, language), turns[fact.relation]
    turns[fact.relation] += 1
    most = len(templates) if per_fact is None else per_fact
    return [each for number, each in enumerate(templates) if in_turn(turn, number, len(templates), most)]


def _name(pair: Pair) -> str:
    return f"{pair.corrupted} {pair.wrong}"


def _twins(
    pack: Pack, facts: Sequence[Fact], fact: Fact, template: Template, swap: Swap, language: Language
) -> Iterator[Pair]:
    others = [other for other in facts if other.subject == fact.subject and contrasts(fact, other)]
    for other in others:
        if swap == "condition" and other.relation == fact.relation:
            yield _pair(fact, other, template, template, language, (fact.condition, other.condition))
        elif swap == "object_class" and other.relation != fact.relation and other.condition == fact.condition:
            for asked in pack.templates(other.relation, language):
                yield _pair(fact, other, template, asked, language, ("", ""))


def _pair(
    fact: Fact, other: Fact, template: Template, asked: Template, language: Language, differing: tuple[str, str]
) -> Pair:
    space = " " if language == "en" else ""
    return Pair(
        clean=template.fill(fact.subject, fact.condition),
        corrupted=asked.fill(other.subject, other.condition),
        correct=space + fact.answers[0],
        wrong=space + other.answers[0],
        subject=differing[0],
        corrupted_subject=differing[1],
        fact=fact.id,
        kind=fact.kind,
        relation=fact.relation,
        template=template.id,
        taught=fact.taught,
        partner=other.id,
    )


def _first_that_fits(
    tokenizer: PreTrainedTokenizerBase, fact: Fact, template: Template, twins: Sequence[Pair], swap: Swap
) -> Pair | Refusal:
    refusals: list[AlignmentRefused] = []
    for twin in twins:
        try:
            refuse_leak(tokenizer, twin, align(tokenizer, twin))
        except AlignmentRefused as refused:
            refusals.append(refused)
            continue
        return twin
    if not refusals:
        detail = f"nothing else is asked of {fact.subject!r} with another answer"
        return Refusal(fact.id, template.id, f"no twin by {swap.replace('_', ' ')}", detail)
    reason, _ = Counter(refused.reason for refused in refusals).most_common(1)[0]
    what = next(refused.what for refused in refusals if refused.reason == reason)
    return Refusal(fact.id, template.id, reason, what)
