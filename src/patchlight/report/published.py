"""A published table measured again: figures with what they can show, a drawing of them, and the same as CSV."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from patchlight.judge.verdict import Reason
from patchlight.report.charts import interval_words, percent
from patchlight.report.contents import ReportContents
from patchlight.report.replay import AskedQuestion, PublishedRow, PublishedTable, Replay
from patchlight.report.svg import GREY, Canvas, Drawing, Point, text_width
from patchlight.report.tables import Download, Table, download
from patchlight.report.texts import Texts

COLUMNS = ("published", "measured", "span", "random", "word", "why")
FILE_COLUMNS = (
    *("model", "kind", "questions", "role", "prints", "module", "modules", "published", "recovery", "low", "high"),
    *("lowest", "highest", "random_lowest", "random_median", "random_highest", "random_models", "gap", "floor"),
    *("word", "reasons"),
)
LOWEST, HIGHEST = -1.0, 2.0  # of the drawing; what lies beyond is drawn at its edge with an arrow
PLOT, ROW, HEAD = 420, 24, 34  # pixels
MEASURED = "#c2640a"


@dataclass(frozen=True)
class Replayed:
    """One table of the replay: what was asked, what follows, the drawing, the numbers twice."""

    title: str
    questions: Sequence[AskedQuestion]
    sentences: Sequence[str]
    drawing: Drawing
    table: Table
    download: Download


def replays(contents: ReportContents, texts: Texts) -> list[Replayed]:
    """The tables of the replay, model by model; none where the study replays nothing."""
    replay = contents.replay
    return [] if replay is None else [_replayed(table, replay.floor, texts) for table in replay.tables]


def properly(replay: Replay, texts: Texts) -> Table:
    """What the study itself found of the same kinds: many facts, controls, a verdict, the test of the layer."""
    columns = ("table.checkpoint", "published.kind", "published.facts", "published.pairs", "published.found")
    rows = [
        (
            texts.pick(each.model),
            texts.word("kind", each.kind),
            str(each.facts),
            str(each.pairs),
            texts("published.graded", word=texts(f"word.{each.word}"), grade=each.grade),
            texts("published.untested") if each.layer_p is None else f"{each.layer_p:.4f}",
        )
        for each in replay.properly
    ]
    return Table(texts("published.properly_table"), [*map(texts, columns), texts("published.layer")], rows)


def published_rows(replay: Replay) -> Iterator[tuple[object, ...]]:
    """A row of FILE_COLUMNS for each figure of the replay."""
    for table in replay.tables:
        for row in table.rows:
            recovery, gap = row.weighed.recovery, row.weighed.gap
            yield (
                *(table.model.get("en", ""), table.kind, len(table.questions), row.role, row.prints, row.module),
                *(row.modules, row.published, recovery.estimate, recovery.low, recovery.high, row.lowest, row.highest),
                *(*row.random, table.random_models, gap.estimate, replay.floor),
                *(row.weighed.word, " ".join(reason.code for reason in row.weighed.reasons)),
            )


def figure(table: PublishedTable, texts: Texts) -> Drawing:
    """The published figure, the measured one and the range at random weights, a line for each row of the table."""
    names = [row_name(row, texts) for row in table.rows]
    margin = max(map(text_width, names)) + 14
    title = f"{texts.word('kind', table.kind)}, {texts.pick(table.model)}"
    canvas = Canvas(margin + PLOT + 150, HEAD + ROW * len(names) + 44, texts("published.label", title=title))
    canvas.text((0, 14), title, font_weight="bold")
    for share in (-1.0, 0.0, 1.0, 2.0):
        x = _x(share, margin)
        canvas.line([(x, HEAD - 6), (x, HEAD + ROW * len(names))], stroke_opacity=0.25)
        canvas.text((x, HEAD + ROW * len(names) + 14), percent(share), text_anchor="middle")
    for index, (name, row) in enumerate(zip(names, table.rows, strict=True)):
        _line(canvas, margin, HEAD + ROW * (index + 0.5), name, row, texts)
    _key(canvas, margin, HEAD + ROW * len(names) + 34, texts)
    return canvas.done()


def row_name(row: PublishedRow, texts: Texts) -> str:
    """What a row of the table is about; matrices go by the name that they print."""
    return texts(f"published.{row.role}", prints=row.prints)


def reason_words(reason: Reason, texts: Texts) -> str:
    """A reason as a sentence."""
    return texts(f"published_reason.{reason.code}", **reason.numbers)


def _replayed(table: PublishedTable, floor: float, texts: Texts) -> Replayed:
    model, kind = texts.pick(table.model), texts.word("kind", table.kind)
    return Replayed(
        title=f"{model}: {kind}",
        questions=table.questions,
        sentences=list(_sentences(table, floor, texts)),
        drawing=figure(table, texts),
        table=_numbers(table, texts),
        download=download(("published", model, kind), FILE_COLUMNS, published_rows(Replay((table,), (), floor))),
    )


def _sentences(table: PublishedTable, floor: float, texts: Texts) -> Iterator[str]:
    asked = table.questions[0]
    yield texts("published.scored", scored=asked.scored, against=asked.against)
    runs = {name: _signed(getattr(asked, f"{name}_metric")) for name in ("clean", "corrupted")}
    gap = asked.clean_metric - asked.corrupted_metric
    yield texts("published.gap", gap=_signed(gap), floor=floor, count=len(table.questions), **runs)
    matrices = [row for row in table.rows if row.role == "matrices"]
    linear, convolution = table.reached["Linear"], table.reached["Conv1D"]
    numbers = {"linear": linear[0], "convolution": convolution[0], "keys": len(matrices)}
    yield texts("published.reached", modules=sum(row.modules for row in matrices), **numbers)


def _numbers(table: PublishedTable, texts: Texts) -> Table:
    rows = [
        (
            row_name(row, texts),
            percent(row.published, 1),
            interval_words(row.weighed.recovery, texts),
            texts("published.range", lowest=percent(row.lowest), highest=percent(row.highest), count=row.modules),
            texts("published.random_range", **_random(row), models=table.random_models),
            texts(f"published_word.{row.weighed.word}"),
            texts("page.between_sentences").join(reason_words(reason, texts) for reason in row.weighed.reasons),
        )
        for row in table.rows
    ]
    header = [texts("published.module"), *(texts(f"published.{name}") for name in COLUMNS)]
    return Table(texts("published.table"), header, rows)


def _random(row: PublishedRow) -> dict[str, str]:
    return dict(zip(("lowest", "median", "highest"), map(percent, row.random), strict=True))


def _line(canvas: Canvas, margin: float, y: float, name: str, row: PublishedRow, texts: Texts) -> None:
    canvas.text((margin - 8, y + 4), name, text_anchor="end")
    lowest, median, highest = row.random
    left, right = _x(lowest, margin), _x(highest, margin)
    title = texts("published.random_range", **_random(row), models="")
    canvas.box((left, y - 6), max(3.0, right - left), 12, title, fill=GREY, fill_opacity=0.6)
    canvas.line([(_x(median, margin), y - 6), (_x(median, margin), y + 6)])
    published = _x(row.published, margin)
    canvas.path(
        f"M{published:g} {y - 7:g}l6 7l-6 7l-6 -7z", percent(row.published, 1), fill="none", stroke="currentColor"
    )
    measured = row.weighed.recovery.estimate
    if math.isfinite(measured):
        canvas.circle((_x(measured, margin), y), 4.5, percent(measured, 1), fill=MEASURED)
        mark = "" if LOWEST <= measured <= HIGHEST else " ◂" if measured < LOWEST else " ▸"
        canvas.text((margin + PLOT + 10, y + 4), percent(measured, 1) + mark)


def _key(canvas: Canvas, margin: float, y: float, texts: Texts) -> None:
    _diamond(canvas, (margin, y - 4))
    canvas.text((margin + 10, y), texts("published.published"))
    second = margin + 30 + text_width(texts("published.published"))
    canvas.circle((second, y - 4), 4.5, fill=MEASURED)
    canvas.text((second + 10, y), texts("published.measured"))
    third = second + 30 + text_width(texts("published.measured"))
    canvas.box((third, y - 10), 16, 12, fill=GREY, fill_opacity=0.6)
    canvas.text((third + 22, y), texts("published.random"))


def _diamond(canvas: Canvas, at: Point, title: str = "") -> None:
    canvas.path(f"M{at[0]:.2f} {at[1] - 7:.2f}l6 7l-6 7l-6 -7z", title, fill="none", stroke="currentColor")


def _x(share: float, margin: float) -> float:
    held = min(HIGHEST, max(LOWEST, share))
    return margin + PLOT * (held - LOWEST) / (HIGHEST - LOWEST)


def _signed(value: float) -> str:
    return f"{value:.4f}".replace("-", "−")
