"""Facts for discovery and facts for confirmation, split before pairs are built so that no pair joins the halves.

A pair leans on two facts: its own, and the partner whose subject makes the corrupted prompt. Halves are independent
only where both come from the same one.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from patchlight.packs.problem import Language
from patchlight.packs.spec import Pack
from patchlight.pairs.align import encode
from patchlight.records import Fact

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HALVES = ("discovery", "confirmation")
FEWEST_TO_PART = 4  # of the facts that can be exchanged for one another; fewer would be left without partners


def deal_halves(
    pack: Pack,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    language: Language = "en",
    relations: Collection[str] = (),
    swap: str = "subject",
) -> dict[str, str]:
    """The half of every fact of these relations (of all, where none is named): `discovery` or `confirmation`.

    Facts that could be partners are dealt evenly, their answers too; three or fewer stay together. They are, by what is
    swapped: `subject`, those of one relation and condition with questions of equal token count; `condition`, those of
    one relation and subject; `object_class`, those of one subject and condition, whatever their kind. The halves of
    each kind are as equal as that allows, discovery the larger.
    """
    by_kind: dict[str, dict[tuple[str | int, ...], list[Fact]]] = defaultdict(lambda: defaultdict(list))
    for fact in pack.facts(language):
        if not relations or fact.relation in relations:
            question = pack.templates(fact.relation, language)[0].fill(fact.subject, fact.condition)
            exchangeable: dict[str, tuple[str | int, ...]] = {
                "subject": (fact.relation, fact.condition, len(encode(tokenizer, question))),
                "condition": (fact.relation, fact.subject),
                "object_class": (fact.subject, fact.condition),
            }
            kind = "" if swap == "object_class" else fact.kind  # a twin may be of another kind
            by_kind[kind][exchangeable[swap]].append(fact)
    halves: dict[str, str] = {}
    for kind, groups in by_kind.items():
        halves |= _deal(list(groups.values()), random.Random(f"{seed} {kind}"))
    return halves


def _deal(groups: Sequence[Sequence[Fact]], order: random.Random) -> dict[str, str]:
    """The halves of one kind: large groups first, the larger part of each to the half that is behind."""
    parts: tuple[list[Fact], list[Fact]] = ([], [])
    for group in sorted(groups, key=len, reverse=True):
        larger, smaller = _parted(group, order)
        behind = len(_taught(parts[1])) < len(_taught(parts[0]))
        parts[behind].extend(larger)
        parts[not behind].extend(smaller)
    return {fact.id: half for half, facts in zip(HALVES, parts, strict=True) for fact in facts}


def _parted(group: Sequence[Fact], order: random.Random) -> tuple[Sequence[Fact], Sequence[Fact]]:
    """A group dealt out one by one, equal answers after one another so that both parts get some of each."""
    rank = {answer: order.random() for answer in dict.fromkeys(fact.answers[0] for fact in group)}
    dealt = sorted(group, key=lambda fact: (not fact.taught, rank[fact.answers[0]], order.random()))
    if len(_taught(group)) < FEWEST_TO_PART:
        return dealt, []
    return dealt[::2], dealt[1::2]


def _taught(facts: Sequence[Fact]) -> list[Fact]:
    return [fact for fact in facts if fact.taught]
