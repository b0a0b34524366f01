"""Whether a place holds when something else is varied, and all that speaks against it: tables and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from patchlight.judge.evidence import Candidate
from patchlight.report.charts import interval_words, percent
from patchlight.report.robustness import correlation_words
from patchlight.report.tables import Table
from patchlight.report.texts import Texts
from patchlight.web.evidence_read import SET_MARK, Content, interval_of

NAMED_BAR = 0.8  # of the variations of one kind: the bar of `verify.stability`
MUCH_LESS = 0.5  # of the effect under the study's own choice
WORTH_COMPARING = 0.05  # of the gap
FEW_FACTS = 8  # held out: under them even full agreement of all facts is weak


def stability(content: Content, texts: Texts, t: Texts) -> tuple[tuple[Table, ...], tuple[str, ...]]:
    """Tables over chance and wording, corruptions, and metrics; and a sentence for each that was not measured."""
    found = [
        ("stability", _variations(content, texts, t)),
        ("corruptions", _choices(content, "robustness", texts, t)),
        ("metrics", _choices(content, "metrics", texts, t)),
    ]
    tables = tuple(table for _, table in found if table is not None)
    return tables, tuple(t(f"evidence.{name}_unmeasured") for name, table in found if table is None)


def against(content: Content, found: Candidate, texts: Texts, t: Texts) -> Iterator[str]:
    """Everything in the evidence that speaks against the place, a sentence each; what was not made among it."""
    yield from _controls_against(content, found, texts, t)
    if found.recovery.low > 0 >= found.damage.low:
        yield t("evidence.not_needed")
    if found.damage.low > 0 >= found.recovery.low:
        yield t("evidence.not_enough")
    if found.recovery.n < FEW_FACTS:
        yield t("evidence.few_facts", n=found.recovery.n)
    for each in _shares(content):
        if each["share"] < NAMED_BAR:
            source = texts(f"stability_source.{each['source']}")
            yield t("evidence.seldom_named", source=source, share=percent(each["share"]))
    for name in ("robustness", "metrics"):
        yield from _choices_against(content, name, texts, t)


def _controls_against(content: Content, found: Candidate, texts: Texts, t: Texts) -> Iterator[str]:
    for direction, interval, nulls in (
        ("denoise", found.recovery, found.nulls),
        ("noise", found.damage, found.damage_nulls),
    ):
        name = texts(f"direction.{direction}").capitalize()
        if not interval.low > 0:
            yield t("evidence.no_effect", direction=name, value=interval_words(interval, texts))
        for null, band in nulls.items():
            if not interval.low > band.high:
                value = interval_words(band, texts)
                yield t("evidence.null_reaches", direction=name, control=texts.word("null", null), value=value)
    for null, why in content["nulls_absent"].items():
        yield t("evidence.null_absent", control=texts.word("null", null), why=texts(f"null_absent.{why}"))


def _shares(content: Content) -> list[dict[str, Any]]:
    """How often this place is named, for each source of variation; empty where that was not asked."""
    found = content["stability"]
    alone = SET_MARK not in content["site"]  # a set is not named place by place
    variations = found["variations"] if found and alone else []
    return [{**each, "share": each["shares"].get(content["site"], 0.0)} for each in variations]


def _variations(content: Content, texts: Texts, t: Texts) -> Table | None:
    rows = [
        (
            texts(f"stability_source.{each['source']}"),
            percent(each["share"]),
            correlation_words(interval_of(each["jaccard"]), texts),
            texts("stability.stable" if each["stable"] else "stability.unstable"),
        )
        for each in _shares(content)
    ]
    names = ("varied", "named", "overlap", "reading")
    return _table(t("evidence.stability_table"), names, rows, t)


def _choices(content: Content, name: str, texts: Texts, t: Texts) -> Table | None:
    """A row for each choice and direction: the effect of this place under it, and how alike the whole maps are."""
    rows = [
        (
            t("evidence.choice", **_choice_words(cell, texts)),
            texts(f"direction.{made['direction']}"),
            percent(_effect(content, made, cell)),
            str(cell["facts"]),
            correlation_words(interval_of(cell["correlation"]), texts),
            texts(f"robustness.reading_{cell['reading']}" if at else "robustness.default"),
        )
        for made in content[name]
        for at, cell in enumerate(made["cells"])
    ]
    names = ("choice", "direction", "place", "facts", "correlation", "reading")
    return _table(t(f"evidence.{name}_table"), names, rows, t)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], t: Texts) -> Table | None:
    return Table(title, [t(f"evidence.{name}_column") for name in columns], rows) if rows else None


def _choices_against(content: Content, name: str, texts: Texts, t: Texts) -> Iterator[str]:
    for made in content[name]:
        default = _effect(content, made, made["cells"][0])
        for cell in made["cells"][1:]:
            effect = _effect(content, made, cell)
            if default >= WORTH_COMPARING and effect < MUCH_LESS * default:
                numbers = {"effect": percent(effect, 1), "usual": percent(default, 1)}
                direction = texts(f"direction.{made['direction']}").capitalize()
                choice = t("evidence.choice", **_choice_words(cell, texts))
                yield t("evidence.choice_less", choice=choice, direction=direction, **numbers)


def _choice_words(cell: Mapping[str, Any], texts: Texts) -> dict[str, str]:
    return {name: texts.word(name, cell[name]) for name in ("corruption", "metric")}


def _effect(content: Content, made: Mapping[str, Any], cell: Mapping[str, Any]) -> float:
    """The effect of this place under a choice; NaN where that choice does not have it."""
    if content["role"] not in made["roles"]:  # or a set of places, which was not measured otherwise
        return float("nan")
    value = cell["effect"][content["layer"]][made["roles"].index(content["role"])]
    return float("nan") if value is None else float(value)
