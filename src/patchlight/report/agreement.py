"""Do the metrics agree: one table of rank correlations for a kind of knowledge, with a sentence, and as CSV."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from patchlight.report.contents import Checkpoint, ReportContents
from patchlight.report.robustness import correlation_words, left_out_words
from patchlight.report.tables import Download, Table, download
from patchlight.report.texts import Texts
from patchlight.verify.agreement import Cell, Robustness

COLUMNS = ("model", "component", "direction", "metric", "correlation", "low", "high", "facts", "pairs_left_out")


@dataclass(frozen=True)
class Agreement:
    """The further metrics of every checkpoint, component and direction beside the first."""

    title: str
    sentence: str
    table: Table
    download: Download


def agreement(contents: ReportContents, kind: str, texts: Texts) -> Agreement | None:
    """How far the metrics agree on a kind of knowledge; None where a study has one metric."""
    compared = list(_compared(contents, kind))
    if not compared:
        return None
    names = ("component", "direction")
    header = [
        *(texts(f"table.{name}") for name in ("checkpoint", *names)),
        *(texts(f"{name}_column") for name in ("agreement.metric", "robustness.correlation", "robustness.left_out")),
    ]
    rows = [
        (*_words(*each, texts).values(), correlation_words(each[2].correlation, texts), left_out_words(each[2], texts))
        for each in compared
    ]
    title = texts("agreement.table", metric=texts.word("metric", contents.metric))
    return Agreement(
        texts("agreement.title", kind=texts.word("kind", kind)),
        _least(compared, texts),
        Table(title, header, rows),
        download(("metrics", kind), COLUMNS, (_plain(*each, texts) for each in compared)),
    )


def _compared(contents: ReportContents, kind: str) -> Iterator[tuple[Checkpoint, Robustness, Cell]]:
    for checkpoint in contents.checkpoints:
        for made in (made for result in checkpoint.kinds if result.kind == kind for made in result.metrics):
            yield from ((checkpoint, made, cell) for cell in made.cells[1:])


def _words(checkpoint: Checkpoint, made: Robustness, cell: Cell, texts: Texts) -> dict[str, str]:
    return {
        "checkpoint": texts.pick(checkpoint.name),
        "component": texts.word("component", made.component),
        "direction": texts(f"direction.{made.direction}"),
        "metric": texts.word("metric", cell.metric),
    }


def _plain(checkpoint: Checkpoint, made: Robustness, cell: Cell, texts: Texts) -> tuple[object, ...]:
    of = cell.correlation
    names = (texts.pick(checkpoint.name), made.component, made.direction, cell.metric)
    return (*names, of.estimate, of.low, of.high, of.n, sum(cell.left_out.values()))


def _least(compared: list[tuple[Checkpoint, Robustness, Cell]], texts: Texts) -> str:
    known = [each for each in compared if math.isfinite(each[2].correlation.estimate)]
    if not known:
        return texts("agreement.nothing")
    least = min(known, key=lambda each: each[2].correlation.estimate)
    return texts("agreement.least", **_words(*least, texts), correlation=correlation_words(least[2].correlation, texts))
