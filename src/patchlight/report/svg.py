"""An SVG under construction, and the finished drawing: escaped, without ids, scripts or styles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import category, east_asian_width
from xml.etree import ElementTree

import numpy as np

GREY, HATCH = "#b9b9b9", "#6f6f6f"
FONT = "Noto Sans CJK JP, IPAexGothic, Hiragino Sans, Yu Gothic, Meiryo, sans-serif"
SIZE = 11  # of letters, in pixels
Point = tuple[float, float]
Style = str | float | int


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


class Canvas:
    """An SVG to draw on, in pixels from the upper left corner; `label` is its text alternative.

    Style names are SVG's with underscores. The colour is that of the text around the drawing unless a style says so.
    """

    def __init__(self, width: float, height: float, label: str) -> None:
        self.width = width
        measures = {"viewBox": f"0 0 {short(width)} {short(height)}", "width": short(width), "height": short(height)}
        look = {"font-family": FONT, "font-size": str(SIZE), "fill": "currentColor"}
        alternative = {"role": "img", "aria-label": readable(label)}
        self._root = ElementTree.Element(
            "svg", {"xmlns": "http://www.w3.org/2000/svg", **measures, **alternative, **look}
        )

    def path(self, d: str, title: str = "", **style: Style) -> None:
        """Draws an SVG path; `title` is shown while the pointer rests on it."""
        self._add("path", title, d=d, **style)

    def box(self, at: Point, width: float, height: float, title: str = "", **style: Style) -> None:
        """Draws a rectangle from its upper left corner."""
        self.path(f"M{_point(at)}h{short(width)}v{short(height)}h{short(-width)}z", title, **style)

    def hatched(self, at: Point, width: float, height: float, title: str = "") -> None:
        """Draws a grey rectangle with diagonal lines."""
        self.box(at, width, height, title, fill=GREY)
        x, y = at
        runs = [(x + start, min(height, width - start)) for start in np.arange(0, width, 7)]
        lines = "".join(f"M{_point((start, y + height))}l{short(run)} {short(-run)}" for start, run in runs)
        self.path(lines, stroke=HATCH, fill="none", pointer_events="none")

    def circle(self, at: Point, radius: float, title: str = "", **style: Style) -> None:
        """Draws a filled circle."""
        self._add("circle", title, cx=at[0], cy=at[1], r=radius, **style)

    def line(self, points: Sequence[Point], **style: Style) -> None:
        """Draws a line through the points."""
        if points:
            look: dict[str, Style] = {"fill": "none", "stroke": "currentColor", **style}
            self.path("M" + "L".join(_point(point) for point in points), **look)  # type: ignore[arg-type]

    def text(self, at: Point, words: str, **style: Style) -> None:
        """Writes words, from `at` on unless `text_anchor` says otherwise."""
        self._add("text", "", x=at[0], y=at[1], **style).text = readable(words)

    def done(self) -> Drawing:
        """The finished drawing; the same calls give the same bytes."""
        return Drawing(ElementTree.tostring(self._root, encoding="unicode"), self.width)

    def _add(self, tag: str, title: str, **attributes: Style) -> ElementTree.Element:
        written = {
            name.replace("_", "-"): value if isinstance(value, str) else short(value)
            for name, value in attributes.items()
        }
        element = ElementTree.SubElement(self._root, tag, written)
        if title:
            ElementTree.SubElement(element, "title").text = readable(title)
        return element


def readable(words: str) -> str:
    """The text as it can be drawn: line ends, control and format characters as visible signs."""
    return "".join(_sign(character) for character in words)


def text_width(words: str) -> float:
    """The width of a text in pixels, roughly: no font is asked."""
    return sum(SIZE if east_asian_width(character) in "WF" else 0.57 * SIZE for character in words)


def short(value: float) -> str:
    """A coordinate in the fewest characters that keep a hundredth of a pixel."""
    return f"{round(value, 2) + 0.0:g}"


def _point(at: Point) -> str:
    return f"{short(at[0])} {short(at[1])}"


def _sign(character: str) -> str:
    if character in "\n\r":
        return "↵"
    if character == "\t":
        return "⇥"
    return "␣" if category(character) in {"Cc", "Cf", "Cs", "Co", "Cn"} else character
