"""The matrix of corruptions and metrics: for reading, and as CSV."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from patchlight.records import Interval
from patchlight.report.charts import interval_words, percent
from patchlight.report.contents import Checkpoint, ReportContents
from patchlight.report.tables import Download, Table, download
from patchlight.report.texts import Texts, site_words
from patchlight.verify.agreement import OVERLAP_BAR, Cell, Robustness

READINGS = ("disagrees", "agrees", "open")
MAP_COLUMNS = ("corruption", "metric", "layer", "role", "estimate", "ranked")


@dataclass(frozen=True)
class Matrix:
    """One matrix: what follows from it, its overlaps, the rest of its numbers, and two downloads."""

    title: str
    sentences: Sequence[str]
    overlaps: Table
    details: Table
    downloads: Sequence[tuple[str, Download]]


def matrices(contents: ReportContents, kind: str, texts: Texts) -> list[Matrix]:
    """The matrices of a kind of knowledge, checkpoint by checkpoint."""
    return [
        _matrix(checkpoint, kind, made, texts)
        for checkpoint in contents.checkpoints
        for result in checkpoint.kinds
        if result.kind == kind
        for made in result.robustness
    ]


def _map_rows(made: Robustness) -> Iterator[tuple[object, ...]]:
    for cell in made.cells:
        for layer, column in np.ndindex(*made.ranked.shape):
            at = (layer, column)
            yield cell.corruption, cell.metric, layer, made.roles[column], float(cell.effect[at]), int(made.ranked[at])


def _matrix(checkpoint: Checkpoint, kind: str, made: Robustness, texts: Texts) -> Matrix:
    names = {
        "kind": texts.word("kind", kind),
        "checkpoint": texts.pick(checkpoint.name),
        "component": texts.word("component", made.component),
        "direction": texts(f"direction.{made.direction}"),
    }
    title, table = texts("robustness.title", **names), made.to_frame()
    key = (texts.pick(checkpoint.name), kind, made.component)
    return Matrix(
        title,
        _sentences(made, texts),
        _overlaps(made, texts),
        _details(made, texts),
        [
            (
                texts("robustness.download"),
                download(("robustness", *key), [str(name) for name in table.columns], table.to_numpy().tolist()),
            ),
            (texts("robustness.download_maps"), download(("robustness-maps", *key), MAP_COLUMNS, _map_rows(made))),
        ],
    )


def _sentences(made: Robustness, texts: Texts) -> list[str]:
    named = {
        reading: [_choice(cell, texts) for cell in made.cells[1:] if cell.reading == reading] for reading in READINGS
    }
    lead = texts(
        "robustness.compared",
        top=made.top,
        sites=int(made.ranked.sum()),
        default=_choice(made.cells[0], texts),
        stability=percent(made.stability),
    )
    comma, (site, agreeing) = texts("robustness.comma"), made.agreeing()
    place = "" if site is None else site_words(site, texts)
    return [
        texts("robustness.strongest", site=place, agreeing=agreeing, choices=len(made.cells)),
        lead,
        *(texts(f"robustness.{name}", cells=comma.join(cells)) for name, cells in named.items() if cells),
    ]


def _choice(cell: Cell, texts: Texts) -> str:
    return texts("robustness.choice", corruption=_corruption(cell, texts), metric=texts.word("metric", cell.metric))


def _corruption(cell: Cell, texts: Texts) -> str:
    return texts.word("corruption", cell.corruption)


def _overlaps(made: Robustness, texts: Texts) -> Table:
    """Corruptions down, metrics across."""
    metrics = list(dict.fromkeys(cell.metric for cell in made.cells))
    rows: dict[str, list[str]] = {}
    for cell in made.cells:
        words = interval_words(cell.overlap, texts) or texts("robustness.not_compared")
        reading = texts(f"robustness.reading_{cell.reading}")
        default = cell is made.cells[0]
        rows.setdefault(_corruption(cell, texts), []).append(
            texts("robustness.default") if default else texts("robustness.cell", overlap=words, reading=reading)
        )
    header = [texts("robustness.corruption_column"), *(texts.word("metric", metric) for metric in metrics)]
    title = texts("robustness.overlaps", bar=percent(OVERLAP_BAR))
    return Table(title, header, [(corruption, *cells) for corruption, cells in rows.items()])


def _details(made: Robustness, texts: Texts) -> Table:
    columns = ("choice", "facts", "pairs", "left_out", "correlation", "strongest")
    rows = [
        (
            _choice(cell, texts),
            *(str(cell.facts), str(cell.pairs)),
            _left_out(cell, texts),
            correlation_words(cell.correlation, texts),
            _strongest(made, cell, texts),
        )
        for cell in made.cells
    ]
    return Table(texts("robustness.details"), [texts(f"robustness.{name}_column") for name in columns], rows)


def _left_out(cell: Cell, texts: Texts) -> str:
    parts = [
        texts("page.named", name=texts.word("exclusion", reason), text=count) for reason, count in cell.left_out.items()
    ]
    return texts("robustness.comma").join(parts) or texts("page.none")


def _strongest(made: Robustness, cell: Cell, texts: Texts) -> str:
    site, effect = made.strongest(cell)
    return "" if site is None else texts("page.named", name=site_words(site, texts), text=percent(effect))


def correlation_words(interval: Interval, texts: Texts) -> str:
    """A correlation with its interval and n; empty where there is none."""
    if not math.isfinite(interval.estimate):
        return ""
    numbers = {name: f"{getattr(interval, name):.2f}".replace("-", "−") for name in ("estimate", "low", "high")}
    return texts("page.interval" if math.isfinite(interval.low) else "page.no_interval", n=interval.n, **numbers)
