"""The null maps beside a map: small, on the same colour scale, with how far each reaches and what was not made."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

from patchlight.judge.statistics import IntervalMap
from patchlight.records import Site
from patchlight.report.charts import colour, interval_words
from patchlight.report.contents import KindResult, Measured, ReportContents
from patchlight.report.figures import Figure, Panel, counts
from patchlight.report.svg import GREY, Canvas, Drawing
from patchlight.report.tables import Table, download
from patchlight.report.texts import Texts, site_words

WIDE, TALL, MARGIN = 22, 7, 22  # pixels: a cell's width and height, and the layer numbers
COLUMNS = ("model", "component", "direction", "control", "layer", "role", "estimate", "low", "high", "facts")
SHADES = 40  # of the scale from -1 to 1; what one shade has is drawn as one path


def null_figure(contents: ReportContents, kind: str, component: str, texts: Texts) -> Figure | None:
    """The null maps of a component, a row for each map that they stand beside; None where none was made."""
    every = [each for each in contents.measured(kind) if each.effects.component == component]
    found = [each for each in every if each.effects.nulls]
    if not found:
        return None
    names = {"kind": texts.word("kind", kind), "component": texts.word("component", component)}
    rows = [row for each in found for row in _rows(each, texts)]
    return Figure(
        texts("nulls.figure", **names),
        [list(_panels(each, texts)) for each in found],
        texts("nulls.caption", counts=counts(found, texts), **names),
        [_reach(each, texts) for each in found],
        download(("nulls", kind, component), COLUMNS, rows),
    )


def absences(result: KindResult, texts: Texts) -> list[str]:
    """What was not made, a sentence for each null map."""
    return [
        texts("nulls.absent", null=texts.word("null", name), reason=texts(f"null_absent.{reason}"))
        for name, reason in result.nulls_absent.items()
    ]


def small_map(
    values: Float[np.ndarray, "layer column"], label: str, *, structural: Bool[np.ndarray, "layer column"]
) -> Drawing:
    """A map of shares of the gap without numbers, on the scale of every map; layer 0 at the bottom, NaN empty."""
    layers, width = values.shape
    canvas = Canvas(MARGIN + width * WIDE, layers * TALL + 4, label)
    shades: dict[str, list[str]] = defaultdict(list)
    for layer, column in np.ndindex(layers, width):
        value = float(values[layer, column])
        if math.isfinite(value):
            fill = GREY if structural[layer, column] else colour(round(value * SHADES / 2) * 2 / SHADES)
            x, y = MARGIN + column * WIDE, (layers - 1 - layer) * TALL
            shades[fill].append(f"M{x} {y}h{WIDE - 1}v{TALL - 1}h{1 - WIDE}z")
    for fill, cells in shades.items():
        canvas.path("".join(cells), fill=fill)
    for layer in (0, layers - 1):
        canvas.text((MARGIN - 4, (layers - 1 - layer) * TALL + 8), str(layer), text_anchor="end", font_size=9)
    return canvas.done()


def _panels(each: Measured, texts: Texts) -> Iterator[Panel]:
    for name, null in each.effects.nulls.items():
        words = {"null": texts.word("null", name), **each.names(texts)}
        drawing = small_map(null.estimate, texts("nulls.label", **words), structural=each.effects.structural)
        yield Panel(texts("nulls.panel", **words), drawing)


def _rows(each: Measured, texts: Texts) -> Iterator[tuple[object, ...]]:
    effects, model = each.effects, texts.pick(each.checkpoint.name)
    for name, null in effects.nulls.items():
        for layer, column in np.ndindex(effects.structural.shape):
            numbers = [float(values[layer, column]) for values in (null.estimate, null.low, null.high)]
            place = (layer, effects.roles[column])
            yield (model, effects.component, effects.direction, name, *place, *numbers, int(null.n[layer, column]))


def _reach(each: Measured, texts: Texts) -> Table:
    """For each null map the cell in which its interval reaches highest, sites by construction apart."""
    header = [texts(f"table.{name}") for name in ("null", "reaches", "site")]
    rows = [(texts.word("null", name), *_highest(each, null, texts)) for name, null in each.effects.nulls.items()]
    return Table(texts("map.panel", **each.names(texts)), header, rows)


def _highest(each: Measured, null: IntervalMap, texts: Texts) -> tuple[str, str]:
    ranked = np.where(each.effects.structural, np.nan, null.high)
    if not np.isfinite(ranked).any():
        return "", ""
    layer, column = np.unravel_index(int(np.nanargmax(ranked)), ranked.shape)
    site = Site(each.effects.component, int(layer), None, each.effects.roles[column])
    return interval_words(null.at(int(layer), int(column)), texts), site_words(site, texts)
