"""The further answers of a question, as a reader is told of them."""

from __future__ import annotations

from patchlight.pairs.answers import counts_sets
from patchlight.report.contents import Example
from patchlight.report.svg import readable
from patchlight.report.texts import Texts

SIDES = ("also_correct", "also_wrong", "distractors")


def further_answers(example: Example, texts: Texts) -> list[tuple[str, str]]:
    """What the answers are, and all of them in a row: further right ones, those of the other prompt, distractors."""
    sides = ((side, getattr(example, side)) for side in SIDES)
    comma = texts("question.comma")
    return [(texts(f"question.{side}"), comma.join(map(readable, answers))) for side, answers in sides if answers]


def counting(metric: str, texts: Texts) -> str:
    """Whether the metric counts further answers."""
    return texts("question.counted" if counts_sets([metric]) else "question.best_alone")
