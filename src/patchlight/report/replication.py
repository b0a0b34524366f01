"""What held and what did not, over the runs of a study: as tables in words, as CSV, as JSON and as a page."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from itertools import combinations
from pathlib import Path
from typing import Any

from markupsafe import Markup

from patchlight.judge.replication import (
    QUARTERS,
    Outcome,
    Region,
    Replicated,
    grade_of,
    independent,
    overlap,
    pooled,
    replicated,
)
from patchlight.records import Interval
from patchlight.report.build import environment, write_whole
from patchlight.report.charts import interval_words, percent
from patchlight.report.tables import Table
from patchlight.report.texts import LANGUAGES, Texts, Words, read_texts
from patchlight.store.faults import told_clearly

FILES = {"en": "replication.html", "ja": "replication.ja.html"}


@dataclass(frozen=True)
class Replication:
    """The outcomes of all runs, and the runs that failed with the reason."""

    title: Words
    outcomes: tuple[Outcome, ...]
    failed: tuple[tuple[str, str], ...]
    command: str

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of knowledge, in the order of the first run."""
        return tuple(dict.fromkeys(each.kind for each in self.outcomes))

    @property
    def answers(self) -> dict[str, Replicated]:
        """What came of each kind of knowledge."""
        return {kind: replicated(kind, self.outcomes) for kind in self.kinds}


def summary(found: Replication) -> dict[str, Any]:
    """Everything as plain values; NaN is None."""
    return {
        "answers": [asdict(each) for each in found.answers.values()],
        "outcomes": [_plain(found, each) for each in found.outcomes],
        "effects": list(effect_rows(found)),
        "overlaps": list(overlap_rows(found)),
        "failed": [{"run": run, "reason": reason} for run, reason in found.failed],
    }


def effect_rows(found: Replication) -> Iterator[dict[str, Any]]:
    """For each region that any run names: the effect in every independent model, and the mean over models."""
    for kind in found.kinds:
        outcomes = independent(kind, found.outcomes)
        for region in sorted({region for each in outcomes for region in each.regions}):
            effects = {each.run: each.effects[region] for each in outcomes if region in each.effects}
            rows = [(run, effect, None, None, None) for run, effect in effects.items()]
            mean = pooled(list(effects.values()))
            if mean is not None:
                rows.append(("", mean.mean, mean.i2, mean.tau2, mean.p))  # type: ignore[arg-type]
            for run, effect, i2, tau2, p in rows:
                named = any(each.run == run and region in each.regions for each in outcomes)
                numbers = {name: _number(getattr(effect, name)) for name in ("estimate", "low", "high")}
                yield {"kind": kind, **asdict(region), "run": run, **numbers, "n": effect.n,
                       "named": named if run else None, "i2": i2, "tau2": tau2, "heterogeneity_p": p}  # fmt: skip


def overlap_rows(found: Replication) -> Iterator[dict[str, Any]]:
    """The overlap of the regions of every two outcomes of a kind, beside what chance would give."""
    for kind in found.kinds:
        able = [each for each in found.outcomes if each.kind == kind and each.can_answer]
        for one, other in combinations(able, 2):
            share, chance = overlap(one, other)
            names = {"one": _name(one), "other": _name(other), "independent": one.origin != other.origin}
            yield {"kind": kind, **names, "jaccard": _number(share), "by_chance": _number(chance)}


def write_replication(found: Replication, folder: Path) -> Path:
    """The path of the English page; beside it the Japanese one, `replication.json`, and three tables as CSV.

    Raises EnvironmentProblem where the folder cannot be written.
    """
    import pandas as pd

    tables = {
        "outcomes.csv": pd.DataFrame([_plain(found, each) for each in found.outcomes]),
        "effects.csv": pd.DataFrame(effect_rows(found)),
        "overlaps.csv": pd.DataFrame(overlap_rows(found)),
    }
    with told_clearly(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            # The mark at the beginning makes spreadsheets read Japanese as UTF-8.
            write_whole(folder / name, "\N{ZERO WIDTH NO-BREAK SPACE}" + table.to_csv(index=False))
        write_whole(folder / "replication.json", json.dumps(summary(found), ensure_ascii=False, indent=2))
        for language in LANGUAGES:
            write_whole(folder / FILES[language], render_replication(found, language))
    return folder / FILES["en"]


def render_replication(found: Replication, language: str) -> str:
    """The page; the same runs give the same bytes."""
    texts = read_texts(language)
    style = files("patchlight.report").joinpath("templates", "report.css").read_text(encoding="utf-8")
    template = environment().get_template("replication.html.jinja")
    return template.render(
        t=texts,
        found=found,
        title=texts("replication.title", study=texts.pick(found.title)),
        sentences={kind: sentence(answer, texts) for kind, answer in found.answers.items()},
        tables=[runs_table(found, texts), *_further_tables(found, texts)],
        other_file=next(file for each, file in FILES.items() if each != language),
        other_language=next(each for each in LANGUAGES if each != language),
        style=Markup(style),
        style_digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
    )


def sentence(answer: Replicated, texts: Texts) -> str:
    """What came of a kind of knowledge, in one sentence with its evidence."""
    comma = texts("page.comma")
    return texts(
        f"replication.{answer.held.replace(' ', '-')}",
        kind=texts.word("kind", answer.kind),
        word=texts(f"word.{answer.word}") if answer.word else texts("page.none"),
        models=comma.join(Path(each).name for each in answer.models) or texts("page.none"),
        able=answer.able,
        regions=comma.join(region_words(each, texts) for each in answer.regions) or texts("page.none"),
    )


def runs_table(found: Replication, texts: Texts) -> Table:
    """Every kind in every run: the verdict, the grade beside its replications, the places."""
    answers = found.answers
    rows = [
        (
            texts.word("kind", each.kind),
            _name(each),
            texts(f"replication.varied_{each.varied}"),
            texts(f"word.{each.word}"),
            grade_of(each, answers[each.kind]),
            str(each.facts),
            _named(each.regions, texts),
        )
        for each in found.outcomes
    ]
    header = _header(texts, "kind", "run", "varied", "word", "grade", "facts", "places")
    return Table(texts("replication.runs"), header, rows)


def region_words(region: Region, texts: Texts) -> str:
    """A region in words: component, role, and which quarter of the depth."""
    names = {"component": texts.word("component", region.component), "role": texts.word("role", region.role)}
    return texts("replication.region", **names, quarter=region.quarter, quarters=QUARTERS)


def _further_tables(found: Replication, texts: Texts) -> Iterator[Table]:
    rows = [_effect_words(each, texts) for each in effect_rows(found)]
    yield Table(texts("replication.effects"), _header(texts, "kind", "region", "run", "effect", "named", "i2"), rows)
    overlaps = [
        (texts.word("kind", each["kind"]), each["one"], each["other"], _two(each["jaccard"]), _two(each["by_chance"]))
        for each in overlap_rows(found)
        if each["jaccard"] is not None
    ]
    yield Table(texts("replication.overlaps"), _header(texts, "kind", "one", "other", "jaccard", "chance"), overlaps)


def _effect_words(row: dict[str, Any], texts: Texts) -> Sequence[str]:
    region = Region(row["component"], row["role"], row["quarter"])
    estimate, low, high = (math.nan if row[name] is None else row[name] for name in ("estimate", "low", "high"))
    named = "" if row["named"] is None else texts("table.yes" if row["named"] else "table.no")
    return (
        texts.word("kind", row["kind"]),
        region_words(region, texts),
        row["run"] or texts("replication.mean"),
        interval_words(Interval(estimate, low, high, row["n"]), texts),
        named,
        ""
        if row["i2"] is None
        else texts("replication.differ", i2=percent(row["i2"]), p=f"{row['heterogeneity_p']:.2g}"),
    )


def _header(texts: Texts, *names: str) -> list[str]:
    return [texts(f"replication.{name}_column") for name in names]


def _named(regions: frozenset[Region], texts: Texts) -> str:
    return "; ".join(region_words(each, texts) for each in sorted(regions)) or texts("page.none")


def _name(outcome: Outcome) -> str:
    return outcome.run if outcome.checkpoint == "base" else f"{outcome.run} ({outcome.checkpoint})"


def _plain(found: Replication, each: Outcome) -> dict[str, Any]:
    names = ("kind", "run", "varied", "checkpoint", "model", "pack", "seed", "word", "facts")
    return {
        **{name: getattr(each, name) for name in names},
        "grade_alone": each.grade,
        "grade": grade_of(each, found.answers[each.kind]),
        "reasons": " ".join(reason.code for reason in each.reasons),
        "regions": "; ".join(f"{one.component}@{one.role} quarter {one.quarter}" for one in sorted(each.regions)),
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _two(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
