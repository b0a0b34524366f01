"""Pages out of contents: one self-contained HTML file in each language, written whole or not at all."""

from __future__ import annotations

import base64
import hashlib
import math
import os
import re
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from patchlight.report import (
    across,
    agreement,
    behind,
    contrast,
    figures,
    learnt,
    narrowing,
    nulls,
    passport,
    paths,
    published,
    robustness,
    sets,
    steps,
    subspaces,
)
from patchlight.report.answers import counting, further_answers
from patchlight.report.charts import colour_scale, interval_words, percent
from patchlight.report.contents import Checkpoint, Example, ReportContents
from patchlight.report.reasons import advice_words, looked_for, reason_words
from patchlight.report.stability import stability_table
from patchlight.report.svg import readable
from patchlight.report.texts import LANGUAGES, Texts, Words, read_texts, site_words
from patchlight.store.faults import told_clearly

FILES = {"en": "report.html", "ja": "report.ja.html"}


def build_report(contents: ReportContents, folder: Path) -> Path:
    """The path of the English report, with the Japanese one beside it; each stands alone and links to the other.

    Raises EnvironmentProblem where the folder cannot be written or the disk is full; no half page is left.
    """
    pages = {FILES[language]: render(contents, language) for language in LANGUAGES}
    with told_clearly(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, page in pages.items():
            write_whole(folder / name, page)
    return folder / FILES["en"]


def render(contents: ReportContents, language: str) -> str:
    """The report as one HTML page; the same contents give the same bytes."""
    texts = read_texts(language)
    style = files("patchlight.report").joinpath("templates", "report.css").read_text(encoding="utf-8")
    template = environment().get_template("report.html.jinja")
    return template.render(
        contents=contents,
        t=texts,
        style=Markup(style),
        style_digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        other_file=next(file for each, file in FILES.items() if each != language),
        other_language=next(each for each in LANGUAGES if each != language),
        scale=colour_scale(texts),
        kinds=list(dict.fromkeys(result.kind for point in contents.checkpoints for result in point.kinds)),
        figures=figures,
        robustness=robustness,
        narrowing=narrowing,
        nulls=nulls,
        paths=paths,
        subspaces=subspaces,
        sets=sets,
        steps=steps,
        behind=behind,
        agreement=agreement,
        passport=passport.rows_of(texts),
        across=across,
        published=published,
        contrast=contrast,
        learnt=learnt,
        metric=texts.word("metric", contents.metric),
        unit=texts(f"unit.{contents.unit}"),
        counting=counting(contents.metric, texts),
        **_helpers(texts),
    )


def tested_and_passed(checkpoint: Checkpoint) -> tuple[int, int]:
    """How many places on a checkpoint's maps could be ranked, and how many passed the corrected threshold."""
    tested = passed = 0
    for effects in (effects for result in checkpoint.kinds for effects in result.maps):
        ranked = np.isfinite(effects.effect.estimate) & ~effects.structural
        tested += int(ranked.sum())
        passed += int((ranked & effects.significant).sum())
    return tested, passed


def marked(example: Example) -> dict[str, tuple[str, str, str]]:
    """Both prompts as (same, differing, same), cut at whole words where the script has spaces."""
    clean, corrupted = readable(example.clean), readable(example.corrupted)
    head = _common(clean, corrupted)
    while head and clean[head - 1].isascii() and clean[head - 1].isalnum():
        head -= 1
    tail = _common(clean[head:][::-1], corrupted[head:][::-1])
    while tail and clean[-tail].isascii() and clean[-tail].isalnum():
        tail -= 1
    return {
        name: (text[:head], text[head : len(text) - tail], text[len(text) - tail :])
        for name, text in (("clean", clean), ("corrupted", corrupted))
    }


def _common(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def _helpers(texts: Texts) -> dict[str, Any]:
    def words(text: Words) -> Markup:
        if texts.language in text:
            return Markup("{}").format(text[texts.language])
        language = next(iter(text))
        return Markup('<span lang="{}">{}</span>').format(language, text[language])

    return {
        "reason": lambda each: reason_words(each, texts),
        "advice": lambda each: advice_words(each, texts),
        "looked_for": looked_for,
        "words": words,
        "plain": texts.pick,
        "marked": marked,
        "further_answers": lambda example: further_answers(example, texts),
        "tested_and_passed": tested_and_passed,
        "candidate_site": lambda site: site_words(site, texts),
        "interval": lambda interval: interval_words(interval, texts),
        "number": lambda value: f"{value:.2f}".replace("-", "−") if math.isfinite(value) else "",
        "percent": percent,
        "readable": readable,
        "stability_table": lambda checkpoint, found: stability_table(checkpoint, found, texts),
    }


@cache
def environment() -> jinja2.Environment:
    """What templates of this folder are rendered with."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("patchlight.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["coded"] = coded
    return found


def coded(text: str) -> Markup:
    """The text as HTML, what stands between backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def write_whole(path: Path, text: str) -> None:
    """Writes beside the target and moves into place, so that a reader finds the old page or the new one, whole."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
