"""The page of a pack's preview: one self-contained HTML file, for a person to look through before a study is run."""

from __future__ import annotations

import base64
import hashlib
import math
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from patchlight.packs.problem import Language
from patchlight.packs.spec import Pack
from patchlight.pairs.preview import ANSWERED, Preview, masked
from patchlight.report.answers import counting
from patchlight.report.build import environment, write_whole
from patchlight.report.texts import read_texts
from patchlight.store.faults import told_clearly


def write_preview(pack: Pack, content: Preview, file: Path, language: Language) -> None:
    """Writes the page in that language; confidential terms of the pack are masked in it.

    Raises EnvironmentProblem where the file cannot be written; no half page is left.
    """
    with told_clearly(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, render_preview(pack, content, language))


def render_preview(pack: Pack, content: Preview, language: Language) -> str:
    """The page as HTML; the same preview gives the same bytes."""
    texts = read_texts(language)
    styles = (files("patchlight.report").joinpath("templates", name) for name in ("report.css", "preview.css"))
    style = "".join(each.read_text(encoding="utf-8") for each in styles)
    plain = masked(pack, content)
    return (
        environment()
        .get_template("preview.html.jinja")
        .render(
            t=texts,
            title=pack.title.get(language) or next(iter(pack.title.values())),
            preview=plain,
            counting=counting(content.metric, texts) if _further(content) else "",
            facts=_by_fact(plain["questions"]),
            outcomes=Counter(question.outcome for question in content.questions).most_common(),
            answered=ANSWERED,
            unreviewed=sum(not fact.reviewed for fact in pack.file.facts),
            written=len(pack.file.facts),
            confidential=len(pack.file.confidential),
            number=_number,
            style=Markup(style),
            style_digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        )
    )


def _by_fact(questions: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for question in questions:
        found.setdefault(question["fact"], []).append(question)
    return found


def _further(content: Preview) -> bool:
    return any(each.also_correct or each.also_wrong or each.distractors for each in content.questions)


def _number(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(value) else "\N{EN DASH}"
