"""Drawings of effects and losses as SVG: the one renderer for report, web and notebook.

Lines and letters take the colour of the text around them, so that a drawing reads on light and on dark; the
colours of a map are the same everywhere. Nothing is told by colour alone: cells carry their number, sites that
restore everything by construction are hatched, lines differ in dash and mark. See docs/design/charts.md.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from jaxtyping import Bool, Float

from patchlight.judge.sets import TriedCurve
from patchlight.judge.statistics import IntervalMap
from patchlight.records import Interval
from patchlight.report.contents import CurvePoint
from patchlight.report.svg import Canvas, Drawing, Point, readable, text_width
from patchlight.report.texts import Texts

# Brewer's PuOr, reversed so that warm means "brings back"; anchors are equally spaced from -1 to 1.
ANCHORS = ("#2d004b", "#542788", "#8073ac", "#b2abd2", "#d8daeb", "#f7f7f7",
           "#fee0b6", "#fdb863", "#e08214", "#b35806", "#7f3b08")  # fmt: skip
CELL, TALL, SHORT = 38, 21, 16  # pixels: a cell's width, its height, and its height in a deep model
CROWDED = 16  # layers above which rows are short
MARGIN = 34  # for the layer numbers
WIDTH, HEIGHT = 350, 228  # of a profile or curve


class _LineStyle(TypedDict, total=False):
    stroke: str
    stroke_dasharray: str


# Two lines that differ in colour, dash and mark; both have three to one against white and against the dark page.
STYLES = (_LineStyle(stroke="#c2640a"), _LineStyle(stroke="#7a74c9", stroke_dasharray="4 2"))


@dataclass(frozen=True)
class Series:
    """One line of a profile: the effect by layer `[layer]` in shares of the gap, and the control beside it."""

    name: str
    effect: IntervalMap
    control: IntervalMap | None
    structural: Bool[np.ndarray, " layer"]


def heat_map(
    values: Float[np.ndarray, "layer column"],
    columns: Sequence[str],
    texts: Texts,
    label: str,
    *,
    structural: Bool[np.ndarray, "layer column"],
    significant: Bool[np.ndarray, "layer column"] | None = None,
    differing: Sequence[int] = (),
    chosen: Sequence[tuple[int, int]] = (),
) -> Drawing:
    """A map of shares of the gap, with columns as words or roles and layer 0 at the bottom, where the text enters.

    The scale runs from -100 % to 100 % in every map; `differing` columns are underlined, `chosen` cells (layer,
    column) are framed; NaN stays empty.
    """
    layers, width = values.shape
    tall = TALL if layers <= CROWDED else SHORT
    head, overhang = _column_space(columns)
    canvas = Canvas(MARGIN + width * CELL + overhang, head + layers * tall + 4, label)
    canvas.text((2, head - 6), texts("chart.layer"))
    for column, words in enumerate(columns):
        _column_label(canvas, (MARGIN + (column + 0.5) * CELL, head - 6), words, column in differing, head > TALL)
    for layer in range(layers):
        y = head + (layers - 1 - layer) * tall
        canvas.text((MARGIN - 6, y + tall / 2 + 4), str(layer), text_anchor="end")
        for column, words in enumerate(columns):
            value, hatched = float(values[layer, column]), bool(structural[layer, column])
            dot = significant is not None and bool(significant[layer, column])
            title = texts("chart.cell", layer=layer, column=readable(words), value=percent(value, 1))
            title += f" ({texts('chart.by_construction')})" if hatched else f" ({texts('chart.passes')})" if dot else ""
            _cell(canvas, (MARGIN + column * CELL, y), tall, value, title, hatched=hatched, dot=dot)
    for layer, column in chosen:
        corner = (MARGIN + column * CELL - 1, head + (layers - 1 - layer) * tall - 1)
        canvas.box(corner, CELL + 1, tall + 1, fill="none", stroke="currentColor", stroke_width=2.4)
    return canvas.done()


def colour_scale(texts: Texts) -> Drawing:
    """The key to every map: the scale, hatching, the dot, the empty cell."""
    steps = np.linspace(-1, 1, 11)
    keys = [texts("chart.by_construction"), texts("chart.passes"), texts("chart.empty")]
    *starts, end = np.cumsum([11 * CELL + 24, *(text_width(words) + TALL + 40 for words in keys)])
    canvas = Canvas(float(end), 26, texts("chart.scale"))
    for index, step in enumerate(steps):
        _cell(canvas, (index * CELL, 2), TALL, float(step), percent(float(step)))
    for number, (x, words) in enumerate(zip(starts, keys, strict=True)):
        _cell(canvas, (float(x), 2), TALL, (1.0, 0.4, math.nan)[number], words, hatched=number == 0, dot=number == 1)
        canvas.text((float(x) + CELL + 8, 17), words)
    return canvas.done()


def layer_profile(
    series: Sequence[Series], texts: Texts, label: str, *, span: tuple[float, float] = (-0.25, 1.1)
) -> Drawing:
    """Effects by layer with their intervals, each over the grey bar of its control; `span` is the vertical range.

    At most two series, told apart by mark and dash. Structural layers are hatched squares off the line.
    """
    layers = len(series[0].effect.estimate)
    plot = _Plot.open((-0.5, layers - 0.5), span, max(WIDTH, 60 + 20 * layers), label)
    plot.axes(_ticks(*span), range(layers), texts("chart.layer"), share=True)
    for order, one in enumerate(series):
        side = 0.16 * (2 * order - len(series) + 1)
        if one.control is not None:
            plot.control_bars(one.control, side)
        plot.estimates(one, side, STYLES[order], texts)
        plot.key((plot.left + 150 * order, 12), one.name, STYLES[order])
    return plot.canvas.done()


def growth_curve(curve: TriedCurve, texts: Texts, label: str) -> Drawing:
    """The joint effect by the number of sites: dots on the discovery facts, diamonds on the facts held out."""
    halves = {"chart.discovery": curve.discovery, "chart.held_out": curve.held_out}
    ends = np.concatenate([np.ravel(end) for values in halves.values() for end in (values.low, values.high)])
    finite, last = ends[np.isfinite(ends)], max(curve.sizes)
    span = (float(min(-0.05, *finite)) - 0.05, float(max(1.05, *finite)) + 0.05)
    plot = _Plot.open((0.0, last + 0.6), span, WIDTH, label)
    sizes = [int(tick) for tick in _ticks(0, last + 1) if tick == int(tick) and tick > 0]
    plot.axes(_ticks(*span), sizes, texts("chart.sites"), share=True)
    for order, (key, values) in enumerate(halves.items()):
        _growth(plot, curve.sizes, values, order, texts(key), texts)
    return plot.canvas.done()


def _growth(plot: _Plot, sizes: Sequence[int], values: IntervalMap, order: int, half: str, texts: Texts) -> None:
    style, side = STYLES[order], 0.012 * max(sizes) * (2 * order - 1)
    points = [plot.at(size + side, float(values.estimate[index])) for index, size in enumerate(sizes)]
    plot.canvas.line(points, stroke_width=1.2, stroke_opacity=0.7, **style)
    for index, (size, point) in enumerate(zip(sizes, points, strict=True)):
        interval = values.at(index)
        if math.isfinite(interval.low):
            whisker = [plot.at(size + side, end) for end in (interval.low, interval.high)]
            plot.canvas.line(whisker, stroke=style["stroke"], stroke_width=1.6)
        plot.mark(point, style, texts("chart.set_of", size=size, half=half, value=interval_words(interval, texts)))
    plot.key((plot.left + 150 * order, 12), half, style)


def loss_curve(points: Sequence[CurvePoint], best_step: int, texts: Texts, label: str) -> Drawing:
    """Training loss (dashed) and validation loss (dots) by step, with a dotted line at the step that was kept."""
    lines = {
        "chart.train_loss": [(point.step, point.train) for point in points],
        "chart.validation_loss": [(point.step, point.validation) for point in points],
    }
    return _by_step(lines, best_step, texts, label)


def perplexity_curve(points: Sequence[CurvePoint], best_step: int, texts: Texts, label: str) -> Drawing:
    """The perplexity of the comparable validation loss by step, with a dotted line at the step that was kept."""
    shown = [point for point in points if point.comparable < math.log(1e12)]
    lines = {"chart.validation_perplexity": [(point.step, math.exp(point.comparable)) for point in shown]}
    return _by_step(lines, best_step, texts, label)


def _by_step(lines: Mapping[str, Sequence[tuple[float, float]]], best_step: int, texts: Texts, label: str) -> Drawing:
    """Lines by step, the last of them with dots."""
    values = [value for line in lines.values() for _, value in line if math.isfinite(value)]
    room = 0.08 * ((max(values) - min(values)) or 1.0)
    span = (min(values) - room, max(values) + room)
    last = max(step for line in lines.values() for step, _ in line)
    plot = _Plot.open((0.0, float(last or 1)), span, WIDTH, label)
    steps = [int(step) for step in _ticks(0, last or 1) if step == int(step)]
    plot.axes(_ticks(*span), steps, texts("chart.step"), share=False)
    kept = [(float(best_step), end) for end in span]
    styles = [_LineStyle(stroke_dasharray="5 3")] * (len(lines) - 1) + [STYLES[0], _LineStyle(stroke_dasharray="1 3")]
    for order, ((key, line), style) in enumerate(zip([*lines.items(), ("chart.kept", kept)], styles, strict=True)):
        ends = [plot.at(*point) for point in line if math.isfinite(point[1])]
        plot.canvas.line(ends, stroke_width=1.4, **style)
        for end in ends if style is STYLES[0] else []:
            plot.canvas.circle(end, 2.6, fill=style["stroke"])
        x = 8 + ((0, 106, 222) if len(lines) == 2 else (0, 166))[order]
        plot.canvas.line([(x, 12), (x + 18, 12)], **style)
        plot.canvas.text((x + 22, 16), texts(key, step=best_step))
    return plot.canvas.done()


def percent(value: float, digits: int = 0) -> str:
    """A share as a percentage with a real minus sign; empty for NaN."""
    return f"{100 * value:z.{digits}f}%".replace("-", "−") if math.isfinite(value) else ""


def interval_words(interval: Interval, texts: Texts) -> str:
    """An interval as percentages with its number of facts; empty where nothing was measured."""
    if not math.isfinite(interval.estimate):
        return ""
    numbers = {name: percent(getattr(interval, name), 1) for name in ("estimate", "low", "high")}
    return texts("page.interval" if math.isfinite(interval.low) else "page.no_interval", n=interval.n, **numbers)


def colour(share: float) -> str:
    """The colour of a share of the gap, held at the ends of the scale beyond -1 and 1."""
    place = (min(1.0, max(-1.0, share)) + 1) / 2 * (len(ANCHORS) - 1)
    lower = min(int(place), len(ANCHORS) - 2)
    pairs = zip(_channels(ANCHORS[lower]), _channels(ANCHORS[lower + 1]), strict=True)
    mixed = [round(a + (b - a) * (place - lower)) for a, b in pairs]
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def runs(present: Bool[np.ndarray, " layer"]) -> list[list[int]]:
    """Stretches of layers without a gap between them."""
    layers = np.flatnonzero(present)
    stretches = np.split(layers, np.flatnonzero(np.diff(layers) > 1) + 1)
    return [stretch.tolist() for stretch in stretches if len(stretch)]


@dataclass(frozen=True)
class _Plot:
    """A canvas with axes: `across` and `up` are the ranges of the data."""

    canvas: Canvas
    across: tuple[float, float]
    up: tuple[float, float]
    left: float
    right: float
    top: float = 28
    bottom: float = HEIGHT - 34

    @classmethod
    def open(cls, across: tuple[float, float], up: tuple[float, float], width: float, label: str) -> _Plot:
        """An empty plot of this width."""
        return cls(Canvas(width, HEIGHT, label), across, up, left=46, right=width - 10)

    def at(self, x: float, y: float) -> Point:
        """The pixel of a data point."""
        share = (x - self.across[0]) / (self.across[1] - self.across[0])
        rise = (y - self.up[0]) / (self.up[1] - self.up[0])
        return self.left + share * (self.right - self.left), self.bottom - rise * (self.bottom - self.top)

    def axes(self, up: Sequence[float], across: Sequence[int], name: str, *, share: bool) -> None:
        """Draws grid lines and numbers; `share` writes the vertical ones as percentages."""
        for value in up:
            _, y = self.at(0, value)
            strength = 0.6 if value == 0 and share else 0.15
            self.canvas.line([(self.left, y), (self.right, y)], stroke_opacity=strength)
            words = percent(value) if share else f"{value:g}"
            self.canvas.text((self.left - 5, y + 4), words, text_anchor="end")
        for value in across:
            x, _ = self.at(value, 0)
            self.canvas.text((x, self.bottom + 14), str(value), text_anchor="middle")
        self.canvas.text((self.right, HEIGHT - 4), name, text_anchor="end")

    def control_bars(self, control: IntervalMap, side: float) -> None:
        """Draws the interval of the control of each layer as a grey bar."""
        width = min(8.0, 0.3 * (self.right - self.left) / len(control.low))
        for layer in np.flatnonzero(np.isfinite(control.low)).tolist():
            x, top = self.at(layer + side, float(control.high[layer]))
            _, bottom = self.at(layer, float(control.low[layer]))
            height = max(2.0, bottom - top)
            self.canvas.box((x - width / 2, top), width, height, fill="currentColor", fill_opacity=0.3)

    def estimates(self, series: Series, side: float, style: _LineStyle, texts: Texts) -> None:
        """Draws a line through the layers, a mark and a whisker for each; structural ones as hatched squares."""
        values = series.effect.estimate
        for run in runs(np.isfinite(values) & ~series.structural):
            points = [self.at(layer + side, values[layer]) for layer in run]
            self.canvas.line(points, stroke_width=1.2, stroke_opacity=0.7, **style)
        for layer in np.flatnonzero(np.isfinite(values)).tolist():
            interval = series.effect.at(layer)
            title = texts("chart.cell", column=series.name, layer=layer, value=interval_words(interval, texts))
            x, y = self.at(layer + side, interval.estimate)
            if series.structural[layer]:
                self.canvas.hatched((x - 4, y - 4), 8, 8, f"{title} ({texts('chart.by_construction')})")
                continue
            if math.isfinite(interval.low):
                ends = [self.at(layer + side, end) for end in (interval.low, interval.high)]
                self.canvas.line(ends, stroke=style["stroke"], stroke_width=1.6)
            self.mark((x, y), style, title)

    def mark(self, at: Point, style: _LineStyle, title: str = "") -> None:
        """Draws a circle for the first style, a diamond for the second."""
        if style is STYLES[0]:
            self.canvas.circle(at, 3.4, title, fill=style["stroke"])
        else:
            self.canvas.path(f"M{at[0]:g} {at[1] - 4.4:g}l4.4 4.4l-4.4 4.4l-4.4 -4.4z", title, fill=style["stroke"])

    def key(self, at: Point, words: str, style: _LineStyle) -> None:
        """Draws a piece of the line with its name."""
        x, y = at
        self.canvas.line([at, (x + 24, y)], stroke_width=1.2, **style)
        self.mark((x + 12, y), style)
        self.canvas.text((x + 30, y + 4), words)


def _cell(
    canvas: Canvas, at: Point, tall: int, value: float, title: str, *, hatched: bool = False, dot: bool = False
) -> None:
    x, y = at
    if not math.isfinite(value):
        edge = {"fill": "none", "stroke": "currentColor", "stroke_opacity": "0.2"}
        return canvas.box((x + 0.5, y + 0.5), CELL - 2, tall - 2, "", **edge)
    if hatched:
        return canvas.hatched(at, CELL - 1, tall - 1, title)
    fill = colour(value)
    ink = "#000000" if _luminance(fill) > 0.2 else "#ffffff"
    canvas.box(at, CELL - 1, tall - 1, title, fill=fill)
    number = percent(value).removesuffix("%")
    canvas.text((x + CELL / 2, y + tall / 2 + 3.5), number, fill=ink, text_anchor="middle", pointer_events="none")
    if dot:
        canvas.circle((x + CELL - 6, y + 5), 2.6, fill="#000000", stroke="#ffffff", stroke_width=1)
    return None


def _column_space(columns: Sequence[str]) -> tuple[float, float]:
    """The height above the cells and the room to the right that the column labels need."""
    widths = [text_width(readable(words)) for words in columns]
    if max(widths, default=0) <= CELL - 4:
        return TALL, 4.0
    overhangs = [0.72 * width + 11 - CELL * (len(widths) - 0.5 - index) for index, width in enumerate(widths)]
    return 0.72 * max(widths) + 16, max(4.0, *overhangs)


def _column_label(canvas: Canvas, at: Point, words: str, differs: bool, turned: bool) -> None:
    style = {"text_decoration": "underline", "font_weight": "bold"} if differs else {}
    if turned:
        style["transform"] = f"rotate(-45 {at[0] + 3:g} {at[1]:g})"
        canvas.text((at[0] + 3, at[1]), words, **style)
    else:
        canvas.text(at, words, text_anchor="middle", **style)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers within the range, about five."""
    rough = (high - low) / 5
    size = 10 ** math.floor(math.log10(rough))
    step = size * (1, 2, 5, 10)[bisect_right([1.5, 3.5, 7.5], rough / size)]
    return [round(index * step, 10) for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _channels(code: str) -> list[int]:
    return [int(code[start : start + 2], 16) for start in (1, 3, 5)]


def _luminance(code: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    shares = [value / 255 for value in _channels(code)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
