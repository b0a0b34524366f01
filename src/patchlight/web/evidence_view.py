"""What the evidence page shows, from the evidence alone: no request, no database. Its sections come in a fixed order.

The order fights over-trust: the question, the effect against the controls, and only then maps and details.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from patchlight.judge.evidence import Candidate
from patchlight.judge.verdict import Reason
from patchlight.records import Interval
from patchlight.report.answers import counting, further_answers
from patchlight.report.band import effect_and_controls
from patchlight.report.build import marked
from patchlight.report.charts import percent
from patchlight.report.contents import Example
from patchlight.report.reasons import reason_words
from patchlight.report.svg import Drawing, readable
from patchlight.report.tables import Table
from patchlight.report.texts import Texts, read_texts, site_words
from patchlight.web import evidence_checks, evidence_maps
from patchlight.web.evidence_read import Content, example_of, interval_of, sites_of


@dataclass(frozen=True)
class Question:
    """One question in plain words: both prompts as (same, differing, same), both answers, and what was measured.

    `further`: names of sorts of further answers, with the answers; `counting` says whether the metric counts them.
    """

    clean: tuple[str, str, str]
    corrupted: tuple[str, str, str]
    correct: str
    wrong: str
    measured: str
    further: tuple[tuple[str, str], ...]
    counting: str


@dataclass(frozen=True)
class Effect:
    """The effect in one direction against its controls.

    `touches` where it cannot be told from one of them, `doubtful` also where there is none.
    """

    direction: str
    sentence: str
    reading: str
    touches: bool
    doubtful: bool
    drawing: Drawing
    table: Table


@dataclass(frozen=True)
class EvidenceView:
    """The sections of an evidence page, in their order, in one language.

    `machine` is the machine's word with its reasons; None where it is hidden until the reader has judged.
    """

    place: str
    kind: str
    model: str
    prompts: str  # language of the questions
    confidence: str  # of the intervals
    sentences: tuple[str, ...]
    questions: tuple[Question, ...]
    asked: Table
    effects: tuple[Effect, ...]
    maps: evidence_maps.Maps
    parts: evidence_maps.Parts
    stability: tuple[Table, ...]
    stability_notes: tuple[str, ...]
    against: tuple[str, ...]
    machine: Machine | None

    @property
    def touches(self) -> bool:
        """True where the effect in either direction cannot be told from a control."""
        return any(effect.touches for effect in self.effects)


@dataclass(frozen=True)
class Machine:
    """The machine's word on the kind of knowledge that the place belongs to."""

    word: str
    meaning: str
    grade: str
    reasons: tuple[str, ...]
    weaker: tuple[str, ...]


def evidence_view(content: Content, language: str, t: Texts, *, machine: bool) -> EvidenceView:
    """The page of one candidate; `machine` tells whether the machine's word is shown."""
    texts, found = read_texts(language), candidate_of(content)
    effects = tuple(_effects(content, found, texts, t))
    tables, notes = evidence_checks.stability(content, texts, t)
    return EvidenceView(
        place=place_words(content, texts),
        kind=texts.word("kind", content["kind"]),
        model=content["checkpoint"],
        prompts=content["language"],
        confidence=percent(content["confidence"]),
        sentences=tuple(effect.sentence for effect in effects),
        questions=tuple(_question(example_of(each), content, texts) for each in content["examples"]),
        asked=_asked(content, t),
        effects=effects,
        maps=evidence_maps.maps(content, texts, t),
        parts=evidence_maps.parts(content, texts, t),
        stability=tables,
        stability_notes=notes,
        against=tuple(evidence_checks.against(content, found, texts, t)),
        machine=_machine(content["verdict"], texts) if machine else None,
    )


def place_words(content: Content, texts: Texts) -> str:
    """The place, or the places of a set, in words."""
    return texts("sets.semicolon").join(site_words(site, texts) for site in sites_of(content))


def candidate_of(content: Content) -> Candidate:
    """The intervals as the judge compares them, under the first place's name; p-values are not in the evidence."""
    nulls, damage_nulls = (
        {name: interval_of(each) for name, each in content[key].items()} for key in ("nulls", "damage_nulls")
    )
    recovery, damage = interval_of(content["recovery"]), interval_of(content["damage"])
    return Candidate(sites_of(content)[0], math.nan, math.nan, recovery, damage, nulls, damage_nulls)


def amount(interval: Interval, t: Texts) -> str:
    """A share with its interval and facts, in words."""
    if not math.isfinite(interval.estimate):
        return t("evidence.unmeasured")
    numbers = {name: percent(getattr(interval, name)) for name in ("estimate", "low", "high")}
    return t("evidence.amount" if math.isfinite(interval.low) else "evidence.amount_alone", n=interval.n, **numbers)


def _question(example: Example, content: Content, texts: Texts) -> Question:
    parts = marked(example)
    measured = texts(
        "question.scores",
        metric=texts.word("metric", content["metric"]),
        unit=texts(f"unit.{content['unit']}"),
        clean=_number(example.clean_metric),
        corrupted=_number(example.corrupted_metric),
    )
    best, further = (readable(example.correct), readable(example.wrong)), tuple(further_answers(example, texts))
    note = counting(content["metric"], texts) if further else ""
    return Question(parts["clean"], parts["corrupted"], *best, measured, further, note)


def _asked(content: Content, t: Texts) -> Table:
    """Every question with what the exchange moved in it."""
    names = ("clean", "answers", "gap", "given_back", "taken_away", "half")
    rows = [
        (
            readable(each["clean"]),
            t("evidence.answers", correct=readable(each["correct"]), wrong=readable(each["wrong"])),
            _number(each["clean_metric"] - each["corrupted_metric"]),
            *(_number(each[name]) for name in ("given_back", "taken_away")),
            t("evidence.held_out" if each["held_out"] else "evidence.discovery"),
        )
        for each in content["pairs"]
    ]
    return Table(t("evidence.asked", pairs=len(rows)), [t(f"evidence.{name}_column") for name in names], rows)


def _effects(content: Content, found: Candidate, texts: Texts, t: Texts) -> Iterator[Effect]:
    for direction, interval, nulls, touching in (
        ("denoise", found.recovery, found.nulls, found.touches),
        ("noise", found.damage, found.damage_nulls, found.damage_touches),
    ):
        place = place_words(content, texts)
        name = texts(f"direction.{direction}")
        controls = [(texts.word("null", null), band) for null, band in nulls.items()]
        label = t("evidence.band_label", direction=name.capitalize())
        sentence = t(f"evidence.sentence_{direction}", place=place, amount=amount(interval, t))
        rows = [(t("evidence.this_place"), interval), *controls]
        yield Effect(
            direction,
            sentence + _beside(nulls, texts, t),
            _reading(interval, touching, nulls, texts, t),
            touching is not None,
            touching is not None or not nulls,
            effect_and_controls((t("evidence.this_place"), interval), controls, texts, label),
            Table(label, [t("evidence.what_column"), name], [(row, amount(each, t)) for row, each in rows]),
        )


def _beside(nulls: Mapping[str, Interval], texts: Texts, t: Texts) -> str:
    """The highest control, as the end of a sentence."""
    if not nulls:
        return t("evidence.no_control_end")
    name, highest = max(nulls.items(), key=lambda null: null[1].high)
    return t("evidence.control_end", control=texts.word("null", name), amount=amount(highest, t))


def _reading(
    interval: Interval,
    touching: tuple[str, Interval] | None,
    nulls: Mapping[str, Interval],
    texts: Texts,
    t: Texts,
) -> str:
    if not nulls:
        return t("evidence.no_control")
    if not math.isfinite(interval.low):
        return t("evidence.no_interval")
    if touching is None:
        return t("evidence.clear", controls=len(nulls))
    name, control = touching
    ends = {"low": percent(interval.low), "high": percent(control.high)}
    return t("evidence.touches", control=texts.word("null", name), **ends)


def _machine(verdict: Mapping[str, Any], texts: Texts) -> Machine:
    def sentences(reasons: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[str, ...]:
        return tuple(reason_words(Reason(code, numbers), texts) for code, numbers in reasons)

    return Machine(
        texts(f"word.{verdict['word']}"),
        texts(f"word_meaning.{verdict['word']}"),
        texts("verdict.grade", grade=verdict["grade"], meaning=texts(f"grade.{verdict['grade']}")),
        sentences(verdict["reasons"]),
        sentences(verdict["why_not_stronger"]),
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}".replace("-", "−")
