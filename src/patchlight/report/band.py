"""One place's effect with its interval, drawn against the band that the controls span."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from patchlight.records import Interval
from patchlight.report.charts import STYLES, interval_words, percent
from patchlight.report.svg import Canvas, Drawing, text_width
from patchlight.report.texts import Texts

ROW, ACROSS, TOP = 26, 380, 10  # pixels
LEAST, MOST = (-0.1, 1.05), (-1.0, 1.5)  # shares of the gap: the axis shows the first at least, the second at most
Named = tuple[str, Interval]


def effect_and_controls(effect: Named, controls: Sequence[Named], texts: Texts, label: str) -> Drawing:
    """The effect as a mark with whiskers, each control as a grey bar below it, the band of all controls behind both.

    An interval that leaves the axis ends in an arrow head; its numbers are in the title of its row.
    """
    rows = [effect, *controls]
    left = max(text_width(name) for name, _ in rows) + 18
    low, high = _span([interval for _, interval in rows])

    def across(share: float) -> float:
        return left + ACROSS * (min(max(share, low), high) - low) / (high - low)

    bottom = TOP + ROW * len(rows)
    canvas = Canvas(left + ACROSS + 24, bottom + 24, label)
    _band(canvas, [interval for _, interval in controls], across, bottom)
    _axis(canvas, (low, high), across, bottom)
    for index, (name, interval) in enumerate(rows):
        y = TOP + ROW * (index + 0.5)
        canvas.text((left - 10, y + 4), name, text_anchor="end", font_weight="bold" if index == 0 else "normal")
        title = f"{name}: {interval_words(interval, texts)}"
        _row(canvas, interval, (low, high), across, y, title, control=index > 0)
    return canvas.done()


def _span(intervals: Sequence[Interval]) -> tuple[float, float]:
    ends = [end for each in intervals for end in (each.low, each.high, each.estimate) if math.isfinite(end)]
    return max(MOST[0], min(LEAST[0], *ends) - 0.03), min(MOST[1], max(LEAST[1], *ends) + 0.03)


def _band(canvas: Canvas, controls: Sequence[Interval], across: Callable[[float], float], bottom: float) -> None:
    known = [each for each in controls if math.isfinite(each.low)]
    if known:
        start, end = across(min(each.low for each in known)), across(max(each.high for each in known))
        canvas.box((start, TOP), max(1.0, end - start), bottom - TOP, fill="currentColor", fill_opacity=0.12)


def _axis(canvas: Canvas, span: tuple[float, float], across: Callable[[float], float], bottom: float) -> None:
    for tick in (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5):
        if span[0] <= tick <= span[1]:
            canvas.line([(across(tick), TOP), (across(tick), bottom)], stroke_opacity=0.6 if tick == 0 else 0.2)
            canvas.text((across(tick), bottom + 16), percent(tick), text_anchor="middle")


def _row(
    canvas: Canvas,
    interval: Interval,
    span: tuple[float, float],
    across: Callable[[float], float],
    y: float,
    title: str,
    *,
    control: bool,
) -> None:
    if not math.isfinite(interval.estimate):
        return
    colour = "currentColor" if control else str(STYLES[0]["stroke"])
    middle = across(interval.estimate)
    if math.isfinite(interval.low):
        start, end = across(interval.low), across(interval.high)
        if control:
            canvas.box((start, y - 5), max(2.0, end - start), 10, title, fill=colour, fill_opacity=0.35)
        else:
            canvas.line([(start, y), (end, y)], stroke=colour, stroke_width=2.4)
        for beyond, tip, turn in ((interval.low < span[0], start, -1), (interval.high > span[1], end, 1)):
            if beyond:
                canvas.path(f"M{tip:g} {y - 6:g}l{7 * turn} 6l{-7 * turn} 6z", title, fill=colour)
    if control:
        canvas.line([(middle, y - 7), (middle, y + 7)], stroke_width=1.6)
    else:
        canvas.circle((middle, y), 5, title, fill=colour)
