"""What to add for each reason that keeps a verdict from saying more: its numbers, needed minus present."""

from __future__ import annotations

from patchlight.judge.reasons import REASONS, Number, Reason

SUPPORTING = frozenset(
    {"set-gives-back", "set-takes-away", "set-is-small", "joint-gives-back", "joint-takes-away", "no-small-set",
     "set-beats-nulls", "and-like", "or-like"}
)  # fmt: skip
"""Reasons that speak for a verdict: nothing has to be added."""

WANTING = tuple(code for code in REASONS if code not in SUPPORTING)
"""Reasons of what is missing: each has words for what to add."""


def wanted(reason: Reason) -> dict[str, Number]:
    """The numbers that the advice for a reason is filled with: its own, and how many more are needed.

    Facts are dealt to the halves in turn, so that a half lacking three facts asks for six more in the pack.
    """
    numbers = dict(reason.numbers)
    if reason.code == "too-few-facts":
        lacks = {half: _more(numbers, half) for half in ("discovery", "confirmation")}
        more = {f"{half}_more": count for half, count in lacks.items()}
        return {**numbers, **more, "more": 2 * max(lacks.values())}
    present = {"knows-too-few": "known", "one-template": "templates", "few-facts-for-intervals": "facts"}
    if reason.code in present:
        return {**numbers, "more": _more(numbers, present[reason.code])}
    return numbers


def _more(numbers: dict[str, Number], present: str) -> int:
    return max(0, int(numbers["needed"]) - int(numbers[present]))
