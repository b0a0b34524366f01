"""Effects in parts: what a place says to the answer itself, what others make of it, and what it does not bring back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from patchlight.report.charts import interval_words, percent
from patchlight.report.contents import PARTS, Checkpoint, DirectEffects, ReportContents
from patchlight.report.figures import Figure, Panel
from patchlight.report.svg import GREY, Canvas, Drawing, text_width
from patchlight.report.tables import Table, download
from patchlight.report.texts import Texts, site_words

COLOURS = {"direct": "#0b5fa5", "indirect": "#e08a1e"}
COLUMNS = ("place", "part", "estimate", "low", "high", "facts")
ROW, BAR, ACROSS = 30, 16, 420  # pixels
HARDLY = 0.05  # of the gap: what brings back less is not called one or the other


@dataclass(frozen=True)
class Split:
    """The figure of one kind of knowledge in one checkpoint, and its places in words."""

    figure: Figure
    sentences: Sequence[str]


def split_effects(contents: ReportContents, texts: Texts) -> list[Split]:
    """Every kind of knowledge whose effects were split, checkpoint by checkpoint."""
    return [
        Split(_figure(contents, checkpoint, result.kind, result.direct, texts), list(_sentences(result.direct, texts)))
        for checkpoint in contents.checkpoints
        for result in checkpoint.kinds
        if result.direct
    ]


def _figure(contents: ReportContents, checkpoint: Checkpoint, kind: str, found: DirectEffects, texts: Texts) -> Figure:
    name = texts.pick(checkpoint.name)
    title = texts("paths.title", kind=texts.word("kind", kind), checkpoint=name)
    caption = texts(
        "paths.caption",
        facts=found.facts,
        pairs=found.pairs,
        confidence=percent(contents.confidence),
        error=f"{max(found.identity_error, 1e-15):.0e}",
    )
    return Figure(
        title,
        [[Panel("", bars(found, texts, title))]],
        caption,
        [_table(found, texts)],
        download(("direct", name, kind), COLUMNS, list(_rows(found))),
    )


def bars(found: DirectEffects, texts: Texts, label: str) -> Drawing:
    """A bar for each place: its parts end to end from nought, the whole as a line, what is missing as an outline."""
    names = [site_words(site, texts) for site in found.sites]
    left = max(map(text_width, names), default=0) + 16
    limits = [*np.nan_to_num(found.parts.low[:, 0]), *np.nan_to_num(found.parts.high[:, 0]), *_ends(found), 0.0, 1.0]
    low, high = min(limits) - 0.02, max(limits) + 0.02

    def across(share: float) -> float:
        return float(left + ACROSS * (share - low) / (high - low))

    canvas = Canvas(left + ACROSS + 12, ROW * (len(names) + 2) + 8, label)
    _key(canvas, left, texts)
    for tick in (0.0, 0.5, 1.0):
        canvas.line([(across(tick), ROW), (across(tick), ROW * (len(names) + 1))], stroke=GREY)
        canvas.text((across(tick), ROW * (len(names) + 1) + 16), percent(tick), text_anchor="middle")
    for index, name in enumerate(names):
        y = ROW * (index + 1) + (ROW - BAR) / 2
        canvas.text((left - 8, y + BAR - 4), name, text_anchor="end")
        for part, start, end in _stacked(found, index):
            title = texts("paths.cell", site=name, part=texts(f"paths.{part}"), value=percent(end - start, 1))
            at, width = (across(min(start, end)), y), across(max(start, end)) - across(min(start, end))
            if part in COLOURS:
                canvas.box(at, width, BAR, title, fill=COLOURS[part])
            elif width > 0.5:
                canvas.hatched(at, width, BAR, title)
        _whole(canvas, found, index, y, across, texts)
    return canvas.done()


def _whole(
    canvas: Canvas, found: DirectEffects, index: int, y: float, across: Callable[[float], float], texts: Texts
) -> None:
    """The total with its interval, and the outline of what is missing to all of the gap."""
    total = found.parts.at(index, 0)
    if total.estimate < 1:
        start = across(max(total.estimate, 0.0))
        title = f"{texts('paths.missing')} {percent(1 - max(total.estimate, 0.0), 1)}"
        look = {"fill": "none", "stroke": "currentColor", "stroke_dasharray": "2 3"}
        canvas.box((start, y), across(1.0) - start, BAR, title, **look)
    middle = across(total.estimate)
    canvas.line([(middle, y - 4), (middle, y + BAR + 4)], stroke_width=2)
    if math.isfinite(total.low):
        canvas.line([(across(total.low), y + BAR + 3), (across(total.high), y + BAR + 3)])


def _stacked(found: DirectEffects, index: int) -> Iterator[tuple[str, float, float]]:
    """Where each part of a place's effect begins and ends: what is positive to the right, the rest to the left."""
    ends = {True: 0.0, False: 0.0}
    for number, part in enumerate(PARTS[1:], start=1):
        value = float(found.parts.estimate[index, number])
        start = ends[value >= 0]
        ends[value >= 0] = start + value
        yield part, start, start + value


def _ends(found: DirectEffects) -> list[float]:
    return [end for index in range(len(found.sites)) for _, _, end in _stacked(found, index)]


def _key(canvas: Canvas, left: float, texts: Texts) -> None:
    x = 8.0
    for part in PARTS[1:]:
        if part in COLOURS:
            canvas.box((x, 4), 14, 12, fill=COLOURS[part])
        else:
            canvas.hatched((x, 4), 14, 12)
        words = texts(f"paths.{part}")
        canvas.text((x + 20, 15), words)
        x += text_width(words) + 44


def _sentences(found: DirectEffects, texts: Texts) -> Iterator[str]:
    for index, site in enumerate(found.sites):
        shares = {part: percent(float(found.parts.estimate[index, number])) for number, part in enumerate(PARTS)}
        total = found.parts.at(index, 0)
        shares["total"] = interval_words(total, texts)
        # Nothing is said of who speaks where the whole is not told from nought.
        told = _heard(*found.parts.estimate[index, :2].tolist()) if total.low > 0 else ""
        sentence = texts("paths.sentence", site=site_words(site, texts), **shares)
        yield texts("page.between_sentences").join([sentence, texts(f"paths.{told}")] if told else [sentence])


def _heard(total: float, direct: float) -> str:
    """Whether a place speaks itself or is on the way, by the thirds of its effect; empty where it has hardly any."""
    if not total > HARDLY:
        return ""
    return "itself" if direct > 2 / 3 * total else "way" if direct < total / 3 else "both"


def _table(found: DirectEffects, texts: Texts) -> Table:
    header = [texts("paths.place_column"), *(texts(f"paths.{part}") for part in PARTS)]
    rows = [
        (site_words(site, texts), *(interval_words(found.parts.at(index, part), texts) for part in range(len(PARTS))))
        for index, site in enumerate(found.sites)
    ]
    return Table(texts("paths.table"), header, rows)


def _rows(found: DirectEffects) -> Iterator[tuple[object, ...]]:
    for index, number in np.ndindex(len(found.sites), len(PARTS)):
        each = found.parts.at(index, number)
        yield str(found.sites[index]), PARTS[number], each.estimate, each.low, each.high, each.n
