"""The reasons of a verdict as sentences, and what to add so that it can say more."""

from __future__ import annotations

import re
from collections.abc import Mapping

from patchlight.judge.reasons import Number, Reason
from patchlight.judge.remedies import WANTING, wanted
from patchlight.judge.verdict import Verdict
from patchlight.records import Site
from patchlight.report.texts import LANGUAGES, Texts, read_texts, site_words

BEFORE_ANY_PLACE = ("knows-too-few", "gap-unclear", "no-question", "too-few-facts", "one-template", "nothing-swept",
                    "units-failed", "no-control")  # fmt: skip


def looked_for(verdict: Verdict) -> bool:
    """Whether candidates were looked for; where the evidence lacks one of these, none could be."""
    return not any(each.code in BEFORE_ANY_PLACE for each in verdict.reasons)


def reason_words(reason: Reason, texts: Texts) -> str:
    """A reason as a sentence."""
    return texts(f"reason.{reason.code}", **_named(reason.numbers, texts))


def advice_words(reason: Reason, texts: Texts) -> str:
    """What to add where this is the reason; empty for a reason that speaks for the verdict."""
    return texts(f"add.{reason.code}", **_named(wanted(reason), texts)) if reason.code in WANTING else ""


def advice(verdict: Verdict) -> list[dict[str, str]]:
    """What to add for a stronger verdict, by the code of the reason, in every language."""
    reasons = [each for each in (*verdict.reasons, *verdict.why_not_stronger) if each.code in WANTING]
    return [
        {"code": each.code, **{name: advice_words(each, read_texts(name)) for name in LANGUAGES}} for each in reasons
    ]


def _named(numbers: Mapping[str, Number], texts: Texts) -> dict[str, Number]:
    """The numbers with the words of this language for places, null maps and sources."""
    named = dict(numbers)
    found = re.fullmatch(r"blocks\.(\d+)\.(\w+)@(\w+)", str(named.get("site", "")))
    if found:
        named["site"] = site_words(Site(found[2], int(found[1]), None, found[3]), texts)
    for name in {"null", "nulls"} & set(named):
        named[name] = texts("page.comma").join(texts.word("null", null) for null in str(named[name]).split(", "))
    if "source" in named:
        named["source"] = texts(f"stability_source.{named['source']}")
    return named
