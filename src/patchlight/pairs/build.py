"""Facts into pairs: one clean and one corrupted prompt for each question, or the reason why not.

The corrupted prompt names the subject of a partner, another fact of the same relation: what is wrong for the
clean prompt is right for the corrupted one (symmetric token replacement).
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from patchlight.packs.problem import Language
from patchlight.packs.spec import Pack, Template
from patchlight.pairs.align import AlignmentRefused, align, common_tokens, encode, refuse_leak
from patchlight.pairs.alternatives import Unscored, widened
from patchlight.records import Fact, Pair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


NO_PARTNER = "no partner with another answer"


@dataclass(frozen=True)
class Refusal:
    """A question that became no pair; `reason` is stable and can be counted, `detail` is for people."""

    fact: str
    template: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Built:
    """The pairs of a pack, the questions that became none, and the further answers that cannot be scored."""

    pairs: list[Pair]
    refused: list[Refusal]
    unscored: list[Unscored] = field(default_factory=list)  # further answers that pairs do without

    def counts(self) -> dict[str, int]:
        """Refused questions by reason."""
        return dict(Counter(refusal.reason for refusal in self.refused).most_common())


def build_pairs(
    pack: Pack,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    language: Language = "en",
    templates_per_fact: int | None = None,
    halves: Mapping[str, str] | None = None,
) -> Built:
    """The pairs of a pack for one tokenizer; the same seed gives the same pairs.

    Every fact meets every template of its relation, or `templates_per_fact` of them in turn. A partner has
    the same number of tokens in the template, the same condition and another answer; a fact keeps its partner from
    template to template where it can, and partners serve about equally often. With `halves` (from `pairs.halves`) a
    partner is of the same half. A question without a partner, and a fact that cannot be said in the language, are
    refused with the reason. Further right answers and distractors go with a pair where they can be scored.
    """
    by_relation: dict[str, list[Fact]] = defaultdict(list)
    for fact in pack.facts(language):
        by_relation[fact.relation].append(fact)
    unscored: list[Unscored] = []
    outcomes: list[Pair | Refusal] = [_unsaid(entry.id, language) for entry in pack.unsaid(language)]
    for relation, facts in by_relation.items():
        templates = pack.templates(relation, language)
        dealt = _Dealt(halves or {})
        per_fact = len(templates) if templates_per_fact is None else templates_per_fact
        for number, template in enumerate(templates):
            asked = [fact for turn, fact in enumerate(facts) if in_turn(turn, number, len(templates), per_fact)]
            order = random.Random(f"{seed} {template.id}")
            maker = _Maker(tokenizer, template, facts, language, order, dealt)
            outcomes.extend(maker.ask(asked))
            unscored.extend(maker.unscored)
    return Built(
        pairs=[outcome for outcome in outcomes if isinstance(outcome, Pair)],
        refused=[outcome for outcome in outcomes if isinstance(outcome, Refusal)],
        unscored=unscored,
    )


def contrasts(fact: Fact, other: Fact) -> bool:
    """True where the best answer of each is wrong for the other."""
    return other.answers[0] not in fact.answers and fact.answers[0] not in other.answers


def in_turn(fact: int, template: int, templates: int, per_fact: int) -> bool:
    """True where a relation's fact of this number is asked in the template of that number."""
    return (template - fact) % templates < per_fact


def _unsaid(fact: str, language: str) -> Refusal:
    return Refusal(fact, "", "not said in this language", f"no template or no name in {language!r}")


@dataclass(frozen=True)
class _Dealt:
    """The halves of a relation's facts, each fact's partner so far, and how many facts a partner serves."""

    halves: Mapping[str, str]
    partner: dict[str, str] = field(default_factory=dict)
    served: Counter[str] = field(default_factory=Counter)

    def serve(self, fact: str, partner: str) -> None:
        """Remembers who serves whom; a fact that keeps its partner is counted once."""
        if self.partner.get(fact) != partner:
            self.partner[fact] = partner
            self.served[partner] += 1

    def half(self, fact: str) -> str:
        """The half of a fact; empty where nothing was split."""
        return self.halves.get(fact, "")


class _Maker:
    """Makes the pairs of one template."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        facts: Sequence[Fact],
        language: Language,
        order: random.Random,
        dealt: _Dealt,
    ) -> None:
        self.tokenizer, self.template, self.facts, self.dealt = tokenizer, template, facts, dealt
        self.space = " " if language == "en" else ""
        self.rank = {fact.id: order.random() for fact in facts}
        self.lengths = {fact.id: len(encode(tokenizer, template.fill(fact.subject, fact.condition))) for fact in facts}
        self.answers = {fact.id: self._answer_ids(fact) for fact in facts}
        self.unscored: list[Unscored] = []

    def ask(self, facts: Sequence[Fact]) -> Iterator[Pair | Refusal]:
        """A pair or a refusal for each fact, in the given order; partners are dealt in the seed's order."""
        dealt = {fact.id: self._question(fact) for fact in sorted(facts, key=lambda fact: self.rank[fact.id])}
        return (dealt[fact.id] for fact in facts)

    def _question(self, fact: Fact) -> Pair | Refusal:
        partners = [other for other in self.facts if other.condition == fact.condition and contrasts(fact, other)]
        if not partners:
            under = f" under {fact.condition!r}" if fact.condition else ""
            detail = f"every fact of the relation {fact.relation!r}{under} has this answer"
            return self._refuse(fact, NO_PARTNER, detail)
        equal = [other for other in partners if self.lengths[other.id] == self.lengths[fact.id]]
        if not equal:
            length = self.lengths[fact.id]
            detail = f"{fact.subject!r} makes the question {length} tokens long; no fact with another answer does"
            return self._refuse(fact, "no partner of equal token count", detail)
        near = [other for other in equal if self.dealt.half(other.id) == self.dealt.half(fact.id)]
        if not near:
            detail = f"the facts that could be exchanged for {fact.subject!r} are all in the other half"
            return self._refuse(fact, "no partner in its half", detail)
        return self._first_that_fits(fact, sorted(near, key=lambda other: self._preference(fact, other)))

    def _first_that_fits(self, fact: Fact, partners: Sequence[Fact]) -> Pair | Refusal:
        refusals: list[AlignmentRefused] = []
        for partner in partners:
            pair = self._pair(fact, partner)
            try:
                refuse_leak(self.tokenizer, pair, align(self.tokenizer, pair))
            except AlignmentRefused as refused:
                refusals.append(refused)
                continue
            self.dealt.serve(fact.id, partner.id)
            wider, unscored = widened(self.tokenizer, pair, fact, partner, self.space)
            self.unscored += unscored
            return wider
        reason, _ = Counter(refused.reason for refused in refusals).most_common(1)[0]
        detail = next(refused.what for refused in refusals if refused.reason == reason)
        return self._refuse(fact, reason, detail)

    def _preference(self, fact: Fact, partner: Fact) -> tuple[int, bool, bool, int, bool, bool, float]:
        """Smaller is better: answers that part, at their first token; taught, kept, served least, not mutual.

        Then answers of equal length, and the seed's order. Each further fact that a question leans on ties it to more
        of the others, so a partner is kept. Mutual partners would measure one gap twice: that of A against B is that
        of B against A.
        """
        mine, other = self.answers[fact.id], self.answers[partner.id]
        common = common_tokens(mine, other)
        alike = (common > 0) + (common == min(len(mine), len(other)))
        new = self.dealt.partner.get(fact.id) != partner.id
        mutual = self.dealt.partner.get(partner.id) == fact.id
        unequal = len(mine) != len(other)
        served = self.dealt.served[partner.id]
        return alike, not partner.taught, new, served, mutual, unequal, self.rank[partner.id]

    def _pair(self, fact: Fact, partner: Fact) -> Pair:
        return Pair(
            clean=self.template.fill(fact.subject, fact.condition),
            corrupted=self.template.fill(partner.subject, partner.condition),
            correct=self.space + fact.answers[0],
            wrong=self.space + partner.answers[0],
            subject=fact.subject,
            corrupted_subject=partner.subject,
            fact=fact.id,
            kind=fact.kind,
            relation=fact.relation,
            template=self.template.id,
            taught=fact.taught,
            partner=partner.id,
            half=self.dealt.half(fact.id),
        )

    def _answer_ids(self, fact: Fact) -> tuple[int, ...]:
        prompt = self.template.fill(fact.subject, fact.condition)
        return encode(self.tokenizer, prompt + self.space + fact.answers[0])[self.lengths[fact.id] :]

    def _refuse(self, fact: Fact, reason: str, detail: str) -> Refusal:
        return Refusal(fact.id, self.template.id, reason, detail)
