"""What a study will take before it is run: time, memory, disk, money, people's hours and risks, as ranges and words."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from patchlight.judge.reasons import REASONS, Number, Reason
from patchlight.report.build import write_whole
from patchlight.report.reasons import advice_words, reason_words
from patchlight.report.tables import Table
from patchlight.report.texts import Texts, Words

VERSION = 1
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # of a study: a file of this name lies in the folder itself
FOLDER = "estimates"  # in a workspace: the last estimate of each study
Source = Literal["done", "measured", "borrowed", "unknown"]


@dataclass(frozen=True)
class Span:
    """A likely low and high."""

    low: float
    high: float

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.high + other.high)

    def times(self, factor: float) -> Span:
        """Both ends times a factor."""
        return Span(self.low * factor, self.high * factor)


@dataclass(frozen=True)
class StageRow:
    """One stage: its units, how many of them are done, its patched runs, and the time that is left for it.

    `runs` is None where its work is not made of patched runs, `steps` of a training None elsewhere; `seconds` is None
    where nothing tells its rate. `source` says what the time rests on.
    """

    stage: str
    units: Span
    done: int
    runs: Span | None
    steps: Span | None
    seconds: Span | None
    source: Source


@dataclass(frozen=True)
class Money:
    """In one currency: the machine's hours, the reviewers' hours."""

    currency: str
    machine: Span | None
    reviewers: Span


@dataclass(frozen=True)
class Risk:
    """What may keep the study from its answer: a code with numbers, the kind of knowledge where it is of one.

    The code is one of `judge.reasons.REASONS`, or has its words under `estimate.risk` and `estimate.add`.
    """

    code: str
    numbers: Mapping[str, Number]
    kind: str = ""


@dataclass(frozen=True)
class Review:
    """What people will look at: candidates with decoys, and how long each of them takes."""

    candidates: Span
    minutes: float
    reviewers: int
    assumed: bool  # no price file says the minutes

    @property
    def hours(self) -> Span:
        """Of all reviewers together."""
        return self.candidates.times(self.minutes * self.reviewers / 60)


@dataclass(frozen=True)
class Machine:
    """Where it was estimated: cores, device, memory and disk that were free, in bytes, and seconds of trials."""

    cores: int
    device: str
    memory: float
    disk: float
    calibrated: float


@dataclass(frozen=True)
class Estimate:
    """What a study will take from here on; `memory` and `disk` in bytes. `hash` is the study's, `made` in UTC."""

    study: str
    hash: str
    title: Words
    made: str
    stages: tuple[StageRow, ...]
    memory: Span
    disk: Span
    review: Review
    money: Money | None
    risks: tuple[Risk, ...]
    machine: Machine
    version: int = VERSION

    @property
    def seconds(self) -> Span | None:
        """Of all stages whose rate is known; None where none of the work is."""
        known = sum((each.seconds for each in self.stages if each.seconds is not None), Span(0, 0))
        return None if self.unknown and not known.high else known

    @property
    def unknown(self) -> tuple[str, ...]:
        """The stages with work whose time nothing tells."""
        return tuple(each.stage for each in self.stages if each.seconds is None and each.units.high > each.done)

    @property
    def runs(self) -> Span:
        """The patched runs of all stages."""
        return sum((each.runs for each in self.stages if each.runs is not None), Span(0, 0))


def as_json(found: Estimate) -> dict[str, Any]:
    """Everything as plain values, the totals among them."""
    seconds = None if found.seconds is None else asdict(found.seconds)
    hours = asdict(found.review.hours)
    totals = {"seconds": seconds, "runs": asdict(found.runs), "reviewer_hours": hours, "unknown": list(found.unknown)}
    return {**asdict(found), "totals": totals}


def write_estimate(found: Estimate, workspace: Path) -> Path:
    """The file of the last estimate of this study in a workspace, in which nothing else changes."""
    file = _file(workspace, found.study)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(as_json(found), ensure_ascii=False, indent=1, allow_nan=False))
    return file


def last_estimate(workspace: Path, study: str) -> Estimate | None:
    """The last estimate of a study in a workspace; None where there is none, or it is of another version."""
    if study not in estimated(workspace):  # what a page is asked for may be no name of a file
        return None
    content = json.loads(_file(workspace, study).read_text(encoding="utf-8"))
    content.pop("totals", None)
    try:
        found: Estimate = TypeAdapter(Estimate).validate_python(content)
    except ValidationError:
        return None
    return found if found.version == VERSION else None


def estimated(workspace: Path) -> list[str]:
    """The ids of the studies that have an estimate in a workspace."""
    return sorted(file.stem for file in (workspace / FOLDER).glob("*.json") if ID.fullmatch(file.stem))


def _file(workspace: Path, study: str) -> Path:
    return workspace / FOLDER / f"{study}.json"


def points(found: Estimate, texts: Texts) -> tuple[str, str, str]:
    """The three points: the work and its time; what it costs; what may go wrong."""
    time = texts("estimate.unmeasured") if found.seconds is None else time_words(found.seconds, texts)
    units = sum((each.units for each in found.stages), Span(0, 0))
    work = texts("estimate.work", units=count_words(units), runs=count_words(found.runs), time=time)
    review = found.review
    counted = {"candidates": count_words(review.candidates), "hours": number_words(review.hours)}
    people = texts("estimate.people", **counted, minutes=f"{review.minutes:g}", reviewers=review.reviewers)
    cost = [people, *money_words(found, texts)]
    risks = texts("estimate.risks", count=len(found.risks)) if found.risks else texts("estimate.no_risk")
    return work, " ".join(cost), risks


def money_words(found: Estimate, texts: Texts) -> list[str]:
    """What it costs, where there are prices."""
    if found.money is None:
        return [texts("estimate.no_prices")]
    currency = found.money.currency
    named = {"machine": found.money.machine, "reviewers": found.money.reviewers}
    return [
        texts(f"estimate.money_{name}", amount=number_words(span), currency=currency)
        for name, span in named.items()
        if span is not None
    ]


def stages_table(found: Estimate, texts: Texts) -> Table:
    """Stage by stage: units, patched runs or steps, the time that is left, and what it rests on."""
    header = [texts(f"estimate.column_{name}") for name in ("stage", "units", "done", "runs", "time", "source")]
    rows = [
        [
            texts.word("estimate_stage", each.stage),
            count_words(each.units),
            str(each.done),
            _work_words(each, texts),
            "" if each.seconds is None else time_words(each.seconds, texts),
            texts(f"estimate.source_{each.source}"),
        ]
        for each in found.stages
    ]
    return Table(texts("estimate.stages"), header, rows)


def needs(found: Estimate, texts: Texts) -> list[tuple[str, str]]:
    """Memory and disk: what is needed, beside what is free here."""
    free = {"memory": found.machine.memory, "disk": found.machine.disk}
    return [
        (
            texts(f"estimate.{name}"),
            texts("estimate.need", need=bytes_words(getattr(found, name)), free=bytes_words(Span(has, has))),
        )
        for name, has in free.items()
    ]


def risk_words(risk: Risk, texts: Texts) -> tuple[str, str]:
    """A risk as a sentence, and what to add."""
    if risk.code in REASONS:
        reason = Reason(risk.code, risk.numbers)
        said, add = reason_words(reason, texts), advice_words(reason, texts)
    else:
        numbers = dict(risk.numbers)
        if "reason" in numbers:
            numbers["reason"] = texts.word("exclusion", str(numbers["reason"]))
        said, add = (texts(f"estimate.{part}.{risk.code}", **numbers) for part in ("risk", "add"))
    kind = texts.word("kind", risk.kind) if risk.kind else ""
    return (texts("page.named", name=kind, text=said) if kind else said), add


def basis_words(found: Estimate, texts: Texts) -> list[str]:
    """What the figures rest on, and what they leave out."""
    said = [texts("estimate.basis", made=found.made, cores=found.machine.cores, device=found.machine.device)]
    if found.machine.calibrated:
        said.append(texts("estimate.calibrated", seconds=f"{found.machine.calibrated:.0f}"))
    if found.unknown:
        names = texts("page.comma").join(texts.word("estimate_stage", each) for each in found.unknown)
        said.append(texts("estimate.left_out", stages=names))
    return said + ([texts("estimate.assumed")] if found.review.assumed else [])


def time_words(span: Span, texts: Texts) -> str:
    """A range of seconds in the unit that suits its high end."""
    size, unit = (1, "seconds") if span.high < 300 else (60, "minutes") if span.high < 3 * 3600 else (3600, "hours")

    def rounded(value: float, whole: Callable[[float], int]) -> str:
        tenths = 10 if size > 1 and value < 10 * size else 1  # small numbers of long units
        return f"{whole(value / size * tenths) / tenths:,g}"

    return texts(f"estimate.{unit}", span=_range(rounded(span.low, math.floor), rounded(span.high, math.ceil)))


def count_words(span: Span) -> str:
    """A range of whole numbers."""
    return _range(f"{span.low:,.0f}", f"{span.high:,.0f}")


def number_words(span: Span) -> str:
    """A range of numbers, with one decimal where they are small."""
    digits = 1 if span.high < 100 else 0
    return _range(f"{span.low:,.{digits}f}", f"{span.high:,.{digits}f}")


def bytes_words(span: Span) -> str:
    """A range of bytes, in GiB or MiB."""
    size, unit = (1 << 30, "GiB") if span.high >= 1 << 30 else (1 << 20, "MiB")
    digits = 1 if unit == "GiB" else 0
    return f"{_range(f'{span.low / size:,.{digits}f}', f'{span.high / size:,.{digits}f}')} {unit}"


def rows(found: Estimate) -> Sequence[Mapping[str, Any]]:
    """The stages as rows of a table for other programs."""
    return [
        {
            "stage": each.stage,
            "done": each.done,
            "source": each.source,
            **{
                f"{name}_{end}": None if span is None else getattr(span, end)
                for name, span in (
                    ("units", each.units),
                    ("runs", each.runs),
                    ("steps", each.steps),
                    ("seconds", each.seconds),
                )
                for end in ("low", "high")
            },
        }
        for each in found.stages
    ]


def _work_words(row: StageRow, texts: Texts) -> str:
    if row.steps is not None:
        return texts("estimate.steps", count=count_words(row.steps))
    return "" if row.runs is None else count_words(row.runs)


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low}–{high}"
