"""Do the metrics agree: rank correlations for a kind of knowledge, as a sentence, as a table and as CSV."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from patchlight.report.contents import ReportContents
from patchlight.report.robustness import correlation_words
from patchlight.report.tables import Download, Table, download
from patchlight.report.texts import Texts
from patchlight.verify.agreement import Robustness

COLUMNS = (
    "model",
    "component",
    "direction",
    "metric",
    "places",
    "correlation",
    "low",
    "high",
    "facts",
    "pairs_left_out",
)


@dataclass(frozen=True)
class Agreement:
    """The further metrics of every checkpoint, component and direction beside the first."""

    title: str
    sentence: str
    table: Table
    download: Download


def agreement(contents: ReportContents, kind: str, texts: Texts) -> Agreement | None:
    """How far the metrics agree on a kind of knowledge; None where a study has one metric, or nothing to compare."""
    compared = [
        (texts.pick(checkpoint.name), made)
        for checkpoint in contents.checkpoints
        for result in checkpoint.kinds
        if result.kind == kind
        for made in result.metrics
    ]
    if not compared:
        return None
    return Agreement(
        texts("agreement.title", kind=texts.word("kind", kind)),
        _least(compared, texts),
        _table(compared, texts),
        download(("metrics", kind), COLUMNS, _rows(compared)),
    )


def _table(compared: Sequence[tuple[str, Robustness]], texts: Texts) -> Table:
    """A row for each checkpoint, component and direction; a column for each further metric."""
    first, *further = (texts.word("metric", cell.metric) for cell in compared[0][1].cells)
    columns = ("table.checkpoint", "table.component", "table.direction", "agreement.sites_column")
    rows = [
        (
            *_names(checkpoint, made, texts).values(),
            str(int(made.ranked.sum())),
            *(correlation_words(cell.correlation, texts) for cell in made.cells[1:]),
        )
        for checkpoint, made in compared
    ]
    return Table(texts("agreement.table", metric=first), [*(texts(name) for name in columns), *further], rows)


def _least(compared: Sequence[tuple[str, Robustness]], texts: Texts) -> str:
    """The comparison with the lowest correlation, in words."""
    known = [
        (cell, _names(checkpoint, made, texts))
        for checkpoint, made in compared
        for cell in made.cells[1:]
        if math.isfinite(cell.correlation.estimate)
    ]
    if not known:
        return texts("agreement.nothing")
    cell, names = min(known, key=lambda each: each[0].correlation.estimate)
    metric, correlation = texts.word("metric", cell.metric), correlation_words(cell.correlation, texts)
    return texts("agreement.least", metric=metric, correlation=correlation, **names)


def _names(checkpoint: str, made: Robustness, texts: Texts) -> dict[str, str]:
    component, direction = texts.word("component", made.component), texts(f"direction.{made.direction}")
    return {"checkpoint": checkpoint, "component": component, "direction": direction}


def _rows(compared: Sequence[tuple[str, Robustness]]) -> Iterator[tuple[object, ...]]:
    for checkpoint, made in compared:
        for cell in made.cells[1:]:
            of, places = cell.correlation, int(made.ranked.sum())
            names = (checkpoint, made.component, made.direction, cell.metric)
            yield (*names, places, of.estimate, of.low, of.high, of.n, sum(cell.left_out.values()))
