"""Drawings of effects and losses as SVG: the one renderer for report, web and notebook.

Lines and letters take the colour of the text around them, so that a drawing reads on light and on dark; the
colours of a map are the same everywhere. Nothing is told by colour alone: cells carry their number, sites that
restore everything by construction are hatched, lines differ in dash and mark. See docs/design/charts.md.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import category, east_asian_width
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Bool, Float

from patchlight.judge.statistics import IntervalMap
from patchlight.report.contents import CurvePoint
from patchlight.report.texts import Texts

# Brewer's PuOr, reversed so that warm means "brings back"; anchors are equally spaced from -1 to 1.
ANCHORS = ("#2d004b", "#542788", "#8073ac", "#b2abd2", "#d8daeb", "#f7f7f7",
           "#fee0b6", "#fdb863", "#e08214", "#b35806", "#7f3b08")  # fmt: skip
GREY, HATCH = "#b9b9b9", "#6f6f6f"
LINE = "#c2640a"  # three to one against white and against the dark page
FONT = "Noto Sans CJK JP, IPAexGothic, Hiragino Sans, Yu Gothic, Meiryo, sans-serif"
CELL, TALL, SHORT = 38, 21, 16  # pixels: a cell's width, its height, and its height in a deep model
CROWDED = 16  # layers above which rows are short
# Two lines that differ in colour, dash and mark; both have three to one against white and against the dark page.
STYLES: tuple[Mapping[str, object], ...] = ({"stroke": LINE}, {"stroke": "#7a74c9", "stroke_dasharray": "4 2"})
MARGIN = 34  # for the layer numbers


@dataclass(frozen=True)
class Drawing:
    """An SVG that stands alone in a file, inline in a page (Jinja2), or in a notebook."""

    svg: str
    width: float  # pixels

    def __html__(self) -> str:
        return self.svg

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: Path | str) -> Path:
        """The path of the SVG file written."""
        target = Path(path)
        target.write_text(self.svg, encoding="utf-8")
        return target


class _Canvas:
    """An SVG element under construction; coordinates in pixels from the upper left corner."""

    def __init__(self, width: float, height: float, label: str) -> None:
        self.width = width
        box = f"0 0 {_short(width)} {_short(height)}"
        self.root = ElementTree.Element(
            "svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": box, "width": _short(width),
                    "height": _short(height), "role": "img", "aria-label": readable(label), "font-family": FONT,
                    "font-size": "11", "fill": "currentColor"})  # fmt: skip

    def path(self, d: str, *, title: str = "", **style: object) -> None:
        self._add("path", title, d=d, **style)

    def box(self, x: float, y: float, width: float, height: float, *, title: str = "", **style: object) -> None:
        self.path(f"M{_short(x)} {_short(y)}h{_short(width)}v{_short(height)}h{_short(-width)}z", title=title, **style)

    def circle(self, x: float, y: float, radius: float, *, title: str = "", **style: object) -> None:
        self._add("circle", title, cx=x, cy=y, r=radius, **style)

    def text(self, x: float, y: float, words: str, *, turned: int = 0, **style: object) -> None:
        if turned:
            style["transform"] = f"rotate({turned} {_short(x)} {_short(y)})"
        self._add("text", "", x=x, y=y, **style).text = readable(words)

    def line(self, points: Sequence[tuple[float, float]], **style: object) -> None:
        if points:
            d = "M" + "L".join(f"{_short(x)} {_short(y)}" for x, y in points)
            self.path(d, **{"fill": "none", "stroke": "currentColor", **style})

    def hatched(self, x: float, y: float, width: float, height: float, *, title: str = "") -> None:
        self.box(x, y, width, height, title=title, fill=GREY)
        strokes = [
            f"M{_short(x + start)} {_short(y + height)}l{_short(run)} {_short(-run)}"
            for start in np.arange(0, width, 7)
            if (run := min(height, width - start)) > 0
        ]
        self.path("".join(strokes), stroke=HATCH, fill="none", pointer_events="none")

    def done(self) -> Drawing:
        return Drawing(ElementTree.tostring(self.root, encoding="unicode"), self.width)

    def _add(self, tag: str, title: str, **attributes: object) -> ElementTree.Element:
        written = {
            name.replace("_", "-"): _short(value) if isinstance(value, int | float) else str(value)
            for name, value in attributes.items()
        }
        element = ElementTree.SubElement(self.root, tag, written)
        if title:
            ElementTree.SubElement(element, "title").text = readable(title)
        return element


def heat_map(
    values: Float[np.ndarray, "layer column"],
    columns: Sequence[str],
    texts: Texts,
    label: str,
    *,
    structural: Bool[np.ndarray, "layer column"],
    significant: Bool[np.ndarray, "layer column"] | None = None,
    differing: Sequence[int] = (),
) -> Drawing:
    """A map of shares of the gap, with columns as words or roles and layer 0 at the bottom, where the text enters.

    The scale runs from -100 % to 100 % in every map; `differing` columns are underlined; NaN stays empty.
    """
    layers, width = values.shape
    tall = TALL if layers <= CROWDED else SHORT
    head, overhang = _column_space(columns)
    canvas = _Canvas(MARGIN + width * CELL + overhang, head + layers * tall + 4, label)
    for column, words in enumerate(columns):
        _column_label(canvas, MARGIN + (column + 0.5) * CELL, head - 6, words, head > TALL, column in differing)
    canvas.text(2, head - 6, texts("chart.layer"))
    for layer in range(layers):
        y = head + (layers - 1 - layer) * tall
        canvas.text(MARGIN - 6, y + tall / 2 + 4, str(layer), text_anchor="end")
        for column, words in enumerate(columns):
            dot = significant is not None and bool(significant[layer, column])
            title = texts("chart.cell", layer=layer, column=readable(words), value=percent(values[layer, column], 1))
            x = MARGIN + column * CELL
            _cell(canvas, x, y, tall, float(values[layer, column]), title, texts, bool(structural[layer, column]), dot)
    return canvas.done()


def colour_scale(texts: Texts) -> Drawing:
    """The key to every map: the scale, hatching, the dot, the empty cell."""
    steps = np.linspace(-1, 1, 11)
    keys = [texts("chart.by_construction"), texts("chart.passes"), texts("chart.empty")]
    offsets = np.cumsum([11 * CELL + 24, *(_width(words) + TALL + 40 for words in keys)])
    canvas = _Canvas(float(offsets[-1]), 26, texts("chart.scale"))
    for index, step in enumerate(steps):
        _cell(canvas, index * CELL, 2, TALL, float(step), percent(float(step)), texts, False, False)
    for x, words in zip(offsets[:3], keys, strict=True):
        canvas.text(float(x) + CELL + 8, 17, words)
    _cell(canvas, float(offsets[0]), 2, TALL, 1.0, keys[0], texts, True, False)
    _cell(canvas, float(offsets[1]), 2, TALL, 0.4, keys[1], texts, False, True)
    _cell(canvas, float(offsets[2]), 2, TALL, math.nan, keys[2], texts, False, False)
    return canvas.done()


@dataclass(frozen=True)
class Series:
    """One line of a profile: the effect by layer `[layer]` in shares of the gap, and the control beside it."""

    name: str
    effect: IntervalMap
    control: IntervalMap | None
    structural: Bool[np.ndarray, " layer"]


def layer_profile(
    series: Sequence[Series], texts: Texts, label: str, *, span: tuple[float, float] = (-0.25, 1.1)
) -> Drawing:
    """Effects by layer with their intervals, each over the grey bar of its control; `span` is the vertical range.

    At most two series, told apart by mark and dash. Structural layers are hatched squares off the line.
    """
    layers = len(series[0].effect.estimate)
    frame = _Frame((-0.5, layers - 0.5), span, max(350, 60 + 20 * layers), 228, top=28)
    canvas = _Canvas(frame.width, frame.height, label)
    _axes(canvas, frame, _ticks(*span), range(layers))
    canvas.text(frame.right, frame.height - 4, texts("chart.layer"), text_anchor="end")
    for order, one in enumerate(series):
        side = 0.16 * (2 * order - len(series) + 1)
        _series(canvas, frame, one, texts, side, STYLES[order])
        _key(canvas, frame.left + 150 * order, 12, one.name, STYLES[order])
    return canvas.done()


def loss_curve(points: Sequence[CurvePoint], best_step: int, texts: Texts, label: str) -> Drawing:
    """Training loss (dashed) and validation loss (dots) by step, with a mark at the step that was kept."""
    losses = [value for point in points for value in (point.train, point.validation) if math.isfinite(value)]
    room = 0.08 * ((max(losses) - min(losses)) or 1.0)
    span = (min(losses) - room, max(losses) + room)
    frame = _Frame((0.0, float(max(point.step for point in points))), span, 350, 210)
    canvas = _Canvas(frame.width, frame.height, label)
    steps = [step for step in _ticks(0, frame.across[1]) if step == int(step)]
    _axes(canvas, frame, _ticks(*span), [int(step) for step in steps], share=False)
    canvas.text(frame.right, frame.height - 4, texts("chart.step"), text_anchor="end")
    train = [frame.at(point.step, point.train) for point in points if math.isfinite(point.train)]
    validation = [frame.at(point.step, point.validation) for point in points if math.isfinite(point.validation)]
    canvas.line(train, stroke_dasharray="5 3")
    canvas.line(validation, stroke=LINE, stroke_width=1.6)
    for x, y in validation:
        canvas.circle(x, y, 2.6, fill=LINE)
    x, _ = frame.at(best_step, span[0])
    canvas.line([(x, frame.top), (x, frame.bottom)], stroke_dasharray="1 3")
    _loss_key(canvas, frame, texts, best_step)
    return canvas.done()


def readable(words: str) -> str:
    """The text as it can be drawn: line ends and other control characters as visible signs."""
    return "".join(_sign(character) for character in words)


def percent(value: float, digits: int = 0) -> str:
    """A share as a percentage with a real minus sign; empty for NaN."""
    if not math.isfinite(value):
        return ""
    rounded = f"{100 * value:.{digits}f}"
    return (rounded.lstrip("-") if float(rounded) == 0 else rounded.replace("-", "−")) + "%"


def colour(share: float) -> str:
    """The colour of a share of the gap, held at the ends of the scale beyond -1 and 1."""
    place = (min(1.0, max(-1.0, share)) + 1) / 2 * (len(ANCHORS) - 1)
    lower = min(int(place), len(ANCHORS) - 2)
    pairs = zip(_channels(ANCHORS[lower]), _channels(ANCHORS[lower + 1]), strict=True)
    mixed = [round(a + (b - a) * (place - lower)) for a, b in pairs]
    return "#{:02x}{:02x}{:02x}".format(*mixed)


@dataclass(frozen=True)
class _Frame:
    """Where data lies on a canvas of this size."""

    across: tuple[float, float]
    up: tuple[float, float]
    width: float
    height: float
    left: float = 46
    top: float = 10

    @property
    def right(self) -> float:
        return self.width - 10

    @property
    def bottom(self) -> float:
        return self.height - 34

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The pixel of a data point."""
        share = (x - self.across[0]) / ((self.across[1] - self.across[0]) or 1.0)
        rise = (y - self.up[0]) / (self.up[1] - self.up[0])
        return self.left + share * (self.right - self.left), self.bottom - rise * (self.bottom - self.top)


def _cell(
    canvas: _Canvas, x: float, y: float, tall: int, value: float, title: str, texts: Texts, hatched: bool, dot: bool
) -> None:
    if hatched and math.isfinite(value):
        canvas.hatched(x, y, CELL - 1, tall - 1, title=f"{title} ({texts('chart.by_construction')})")
        return
    if not math.isfinite(value):
        canvas.box(x + 0.5, y + 0.5, CELL - 2, tall - 2, fill="none", stroke="currentColor", stroke_opacity=0.2)
        return
    fill = colour(value)
    ink = "#000000" if _luminance(fill) > 0.2 else "#ffffff"
    canvas.box(x, y, CELL - 1, tall - 1, title=title + (f" ({texts('chart.passes')})" if dot else ""), fill=fill)
    number = percent(value).removesuffix("%")
    canvas.text(x + CELL / 2, y + tall / 2 + 3.5, number, fill=ink, text_anchor="middle", pointer_events="none")
    if dot:
        canvas.circle(x + CELL - 6, y + 5, 2.6, fill="#000000", stroke="#ffffff", stroke_width=1)


def _column_space(columns: Sequence[str]) -> tuple[float, float]:
    """The height above the cells and the room to the right that the column labels need."""
    longest = max((_width(words) for words in columns), default=0.0)
    if longest <= CELL - 4:
        return TALL, 4.0
    overhang = max(
        0.72 * _width(words) + 8 - CELL * (len(columns) - 0.5 - index) for index, words in enumerate(columns)
    )
    return 0.72 * longest + 16, max(4.0, overhang)


def _column_label(canvas: _Canvas, x: float, y: float, words: str, turned: bool, differs: bool) -> None:
    style: dict[str, object] = {"text_decoration": "underline", "font_weight": "bold"} if differs else {}
    if turned:
        canvas.text(x, y, words, turned=-45, **style)
    else:
        canvas.text(x, y, words, text_anchor="middle", **style)


def _axes(
    canvas: _Canvas, frame: _Frame, up: Sequence[float], across: Sequence[int], *, share: bool = True
) -> None:
    for value in up:
        _, y = frame.at(0, value)
        strength = 0.6 if value == 0 and share else 0.15
        canvas.line([(frame.left, y), (frame.right, y)], stroke_opacity=strength)
        canvas.text(frame.left - 5, y + 4, percent(value) if share else f"{value:g}", text_anchor="end")
    for value in across:
        x, _ = frame.at(value, 0)
        canvas.text(x, frame.bottom + 14, str(value), text_anchor="middle")


def _series(
    canvas: _Canvas, frame: _Frame, series: Series, texts: Texts, side: float, style: Mapping[str, object]
) -> None:
    estimates = series.effect.estimate
    if series.control is not None:
        _control_bars(canvas, frame, series.control, side)
    for run in _runs(np.where(series.structural, np.nan, estimates)):
        points = [frame.at(layer + side, estimates[layer]) for layer in run]
        canvas.line(points, stroke_width=1.2, stroke_opacity=0.7, **style)
    for layer in np.flatnonzero(np.isfinite(estimates)):
        interval = series.effect.at(int(layer))
        numbers = {name: percent(getattr(interval, name), 1) for name in ("estimate", "low", "high")}
        title = texts("chart.estimate", name=series.name, layer=layer, **numbers)
        x, y = frame.at(layer + side, interval.estimate)
        if series.structural[layer]:
            canvas.hatched(x - 4, y - 4, 8, 8, title=f"{title} ({texts('chart.by_construction')})")
            continue
        if math.isfinite(interval.low):
            canvas.line([frame.at(layer + side, end) for end in (interval.low, interval.high)], stroke_width=1.6, **style)
        _mark(canvas, x, y, title, style)


def _control_bars(canvas: _Canvas, frame: _Frame, control: IntervalMap, side: float) -> None:
    for layer in np.flatnonzero(np.isfinite(control.low)):
        x, top = frame.at(layer + side, control.high[layer])
        _, bottom = frame.at(layer, control.low[layer])
        canvas.box(x - 4, top, 8, max(2.0, bottom - top), fill="currentColor", fill_opacity=0.3)


def _mark(canvas: _Canvas, x: float, y: float, title: str, style: Mapping[str, object]) -> None:
    if style is STYLES[0]:
        canvas.circle(x, y, 3.4, title=title, fill=style["stroke"])
    else:
        canvas.path(f"M{_short(x)} {_short(y - 4.4)}l4.4 4.4l-4.4 4.4l-4.4 -4.4z", title=title, fill=style["stroke"])


def _key(canvas: _Canvas, x: float, y: float, words: str, style: Mapping[str, object]) -> None:
    canvas.line([(x, y), (x + 24, y)], stroke_width=1.2, **style)
    _mark(canvas, x + 12, y, "", style)
    canvas.text(x + 30, y + 4, words)


def _loss_key(canvas: _Canvas, frame: _Frame, texts: Texts, best_step: int) -> None:
    rows = [("chart.train_loss", "5 3"), ("chart.validation_loss", ""), ("chart.kept", "1 3")]
    lines = [(texts(key, step=best_step), dash) for key, dash in rows]
    x = frame.right - max(_width(words) for words, _ in lines) - 34
    for index, (words, dash) in enumerate(lines):
        y = frame.top + 10 + 15 * index
        stroke = "currentColor" if dash else LINE
        canvas.line([(x, y - 4), (x + 24, y - 4)], stroke=stroke, **({"stroke_dasharray": dash} if dash else {}))
        canvas.text(x + 30, y, words)


def _runs(values: Float[np.ndarray, " layer"]) -> Iterator[list[int]]:
    """Stretches of layers without a gap between them."""
    finite = np.flatnonzero(np.isfinite(values))
    for stretch in np.split(finite, np.flatnonzero(np.diff(finite) > 1) + 1):
        if len(stretch):
            yield [int(layer) for layer in stretch]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers within the range, about five."""
    rough = (high - low) / 5
    size = 10 ** math.floor(math.log10(rough))
    step = size * (1, 2, 5, 10)[min(3, bisect_right([1.5, 3.5, 7.5], rough / size))]
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(index * step, 10) for index in range(first, last + 1)]


def _sign(character: str) -> str:
    if character in "\n\r":
        return "↵"
    if character == "\t":
        return "⇥"
    return "␣" if category(character) in {"Cc", "Cf", "Cs", "Co", "Cn"} else character


def _width(words: str) -> float:
    """The width of a text in pixels at 11 pixels, roughly: no font is asked."""
    return sum(11.0 if east_asian_width(character) in "WF" else 6.2 for character in words)


def _channels(code: str) -> list[int]:
    return [int(code[start : start + 2], 16) for start in (1, 3, 5)]


def _luminance(code: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    linear = [c / 12.92 if (c := value / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for value in _channels(code)]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _short(value: float) -> str:
    """A coordinate in the fewest characters that keep a hundredth of a pixel."""
    return f"{round(value, 2) + 0.0:g}"
