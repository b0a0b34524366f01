"""The further answers of a pair: those of its facts that can be scored beside the best, and why the others cannot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from patchlight.pairs.align import AlignmentRefused, align, refuse_leak
from patchlight.records import Fact, Pair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RIGHT_FOR_BOTH = "right for both prompts"
Side = Literal["also_correct", "also_wrong", "distractors"]


@dataclass(frozen=True)
class Unscored:
    """A further answer that a question does without; `reason` is stable and can be counted, `detail` is for people."""

    fact: str
    template: str
    answer: str
    reason: str
    detail: str = ""


def widened(
    tokenizer: PreTrainedTokenizerBase, pair: Pair, fact: Fact, partner: Fact, space: str
) -> tuple[Pair, list[Unscored]]:
    """The pair with the further answers of its fact, those of its partner, and the fact's distractors.

    Left out is what is right for both prompts, what stands in one of them, what the tokenizer merges with the prompt,
    and what begins as a whole answer of the other side does, so that no token would tell them apart.
    """
    unscored: list[Unscored] = []
    for side, word in _further(fact, partner):
        try:
            pair = _with(tokenizer, pair, side, space + word, both=word in fact.answers and word in partner.answers)
        except AlignmentRefused as refused:
            unscored.append(Unscored(pair.fact, pair.template, word, refused.reason, refused.what))
    return pair, unscored


def _further(fact: Fact, partner: Fact) -> Iterator[tuple[Side, str]]:
    yield from (("also_correct", word) for word in fact.answers[1:])
    yield from (("also_wrong", word) for word in partner.answers[1:] if word not in fact.answers)
    yield from (("distractors", word) for word in fact.distractors if word not in partner.answers)


def _with(tokenizer: PreTrainedTokenizerBase, pair: Pair, side: Side, answer: str, *, both: bool) -> Pair:
    """The pair with one more answer. Raises AlignmentRefused where it cannot be scored."""
    if both:
        raise AlignmentRefused(RIGHT_FOR_BOTH, f"{answer.strip()!r} is right after both prompts", pair=pair)
    more: dict[str, Any] = {side: (*getattr(pair, side), answer)}
    wider = replace(pair, **more)
    refuse_leak(tokenizer, wider, align(tokenizer, wider))
    return wider
