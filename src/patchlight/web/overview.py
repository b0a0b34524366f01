"""What the pages of a study show of its published results: the verdict first, then why it is not stronger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchlight.judge.verdict import Reason
from patchlight.report.build import FILES
from patchlight.report.reasons import reason_words
from patchlight.report.texts import Texts

TABLES = ("intervals.csv", "effects.parquet", "robustness.csv", "metrics.csv", "screening.csv", "across.csv",
          "published.csv", "questions.csv", "left_out.csv", "summary.json")  # fmt: skip
PUBLISHED = (*FILES.values(), *TABLES)
"""Every file that a study publishes and that may be asked for."""


@dataclass(frozen=True)
class VerdictView:
    """The verdict on one kind of knowledge in one model, in words."""

    checkpoint: str
    kind: str
    word: str
    meaning: str
    grade: str
    counts: str
    candidates: int
    confirmed: int
    weaker: tuple[str, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Overview:
    """A finished study. `tested` and `passed` count places on its maps, `checks` the identities tried before."""

    title: str
    date: str
    verdicts: tuple[VerdictView, ...]
    facts: int
    pairs: int
    tested: int
    passed: int
    checks: int
    checks_failed: int
    unknown: tuple[str, ...]
    files: tuple[str, ...]


def summary_of(workspace: Path, study: str) -> dict[str, Any] | None:
    """The published summary of a study; None before it has a report."""
    file = published(workspace, study, "summary.json")
    found: dict[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file else None
    return found


def published(workspace: Path, study: str, name: str) -> Path | None:
    """A file that a study has published; None for any other name, and where it is not there."""
    file = workspace / "reports" / study / name
    return file if name in PUBLISHED and file.is_file() else None


def overview(workspace: Path, study: str, texts: Texts) -> Overview | None:
    """What a study has published; None before its report, and for a report of before the workbench."""
    summary = summary_of(workspace, study)
    if summary is None or "title" not in summary:
        return None
    checkpoints = summary["checkpoints"]
    kinds = [kind for checkpoint in checkpoints for kind in checkpoint["kinds"]]
    return Overview(
        title=texts.pick(summary["title"]),
        date=summary["date"],
        verdicts=tuple(_verdict(each, kind, texts) for each in checkpoints for kind in each["kinds"]),
        facts=sum(kind["facts"] for kind in kinds),
        pairs=sum(kind["pairs"] for kind in kinds),
        tested=sum(each["places"]["tested"] for each in checkpoints),
        passed=sum(each["places"]["passed"] for each in checkpoints),
        checks=sum(each["checks"]["made"] for each in checkpoints),
        checks_failed=sum(each["checks"]["failed"] for each in checkpoints),
        unknown=tuple(texts(f"unknown.{code}") for code in summary["unknown"]),
        files=tuple(name for name in PUBLISHED if published(workspace, study, name)),
    )


def _verdict(checkpoint: Mapping[str, Any], kind: Mapping[str, Any], texts: Texts) -> VerdictView:
    def sentences(name: str) -> tuple[str, ...]:
        return tuple(reason_words(Reason(code, numbers), texts) for code, numbers in kind[name])

    return VerdictView(
        checkpoint=texts.pick(checkpoint["names"]),
        kind=texts.word("kind", kind["kind"]),
        word=texts(f"word.{kind['verdict']}"),
        meaning=texts(f"word_meaning.{kind['verdict']}"),
        grade=texts("verdict.grade", grade=kind["grade"], meaning=texts(f"grade.{kind['grade']}")),
        counts=texts("verdict.counts", facts=kind["facts"], pairs=kind["pairs"]),
        candidates=kind["candidates"],
        confirmed=kind["confirmed"],
        weaker=sentences("why_not_stronger"),
        reasons=sentences("reasons"),
    )
