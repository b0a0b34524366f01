"""Directions within a place, and looking beside acting, in words and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from patchlight.records import Site
from patchlight.report.charts import interval_words, percent
from patchlight.report.contents import Checkpoint, KindResult, ReportContents
from patchlight.report.tables import Download, Table, download
from patchlight.report.texts import Texts, site_words
from patchlight.report.within import ENOUGH, Observed, SubspaceResult

ROW_COLUMNS = ("site", "method", "dimensions", "control", "dormant", "estimate", "low", "high", "facts")
SEEN_COLUMNS = (
    "component",
    "layer",
    "looked",
    "looked_low",
    "looked_high",
    "acted",
    "acted_low",
    "acted_high",
    "facts",
)
APART = 0.1  # of the gap: smaller disagreements are not named, nor those whose intervals meet
MOST = 5  # disagreements that are named


@dataclass(frozen=True)
class Told:
    """One finding in words, its numbers as a table, and their download."""

    title: str
    sentences: Sequence[str]
    table: Table
    download: Download


def within_places(contents: ReportContents, texts: Texts) -> list[Told]:
    """Every place whose directions were looked for."""
    return [
        _within(checkpoint, result, found, texts)
        for checkpoint, result in _results(contents)
        for found in result.subspaces
    ]


def looked_and_acted(contents: ReportContents, texts: Texts) -> list[Told]:
    """Every kind of knowledge that was looked at without exchanging anything."""
    return [
        _observed(checkpoint, result, result.observed, texts)
        for checkpoint, result in _results(contents)
        if result.observed
    ]


def _results(contents: ReportContents) -> Iterator[tuple[Checkpoint, KindResult]]:
    return ((checkpoint, result) for checkpoint in contents.checkpoints for result in checkpoint.kinds)


def _named(checkpoint: Checkpoint, result: KindResult, texts: Texts) -> dict[str, str]:
    return {"kind": texts.word("kind", result.kind), "checkpoint": texts.pick(checkpoint.name)}


def _within(checkpoint: Checkpoint, result: KindResult, found: SubspaceResult, texts: Texts) -> Told:
    named = _named(checkpoint, result, texts)
    site = site_words(found.site, texts)
    rows = [
        (
            str(found.site),
            row.method,
            row.dimensions,
            row.control,
            int(row.dormant),
            *(float(getattr(found.effect, name)[index]) for name in ("estimate", "low", "high")),
            found.facts,
        )
        for index, row in enumerate(found.rows)
    ]
    return Told(
        texts("subspaces.title", site=site, **named),
        list(_smallest(found, texts)),
        _within_table(found, texts),
        download(("subspaces", named["checkpoint"], result.kind), ROW_COLUMNS, rows),
    )


def _smallest(found: SubspaceResult, texts: Texts) -> Iterator[str]:
    """What the whole vector does, the smallest subspace of each method, the controls and the audit."""
    (whole,) = found.of("whole")
    yield texts(
        "subspaces.whole", width=found.width, value=_value(found, whole, texts), facts=found.facts, pairs=found.pairs
    )
    for method in dict.fromkeys(found.rows[index].method for index in found.of("")):
        index, name = found.smallest(method), texts(f"subspaces.method.{method}")
        if index is None:
            yield texts("subspaces.none_enough", method=name, share=percent(ENOUGH))
        else:
            size = found.rows[index].dimensions
            yield texts("subspaces.enough", method=name, size=size, value=_value(found, index, texts))
    for control in ("shuffled", "random", "random-init"):
        measured = [index for index in found.of(control) if np.isfinite(found.effect.estimate[index])]
        if measured:
            highest = max(measured, key=lambda index: float(found.effect.estimate[index]))
            yield texts(f"subspaces.highest.{control}", value=_value(found, highest, texts))
    yield _audited(found, texts)


def _audited(found: SubspaceResult, texts: Texts) -> str:
    if not found.readable:
        return texts("subspaces.not_audited")
    if found.readable == found.width:
        return texts("subspaces.all_read", width=found.width)
    asleep = [found.rows[index] for index in found.of("") if found.rows[index].dormant]
    names = (texts("subspaces.sized", method=texts(f"subspaces.method.{r.method}"), size=r.dimensions) for r in asleep)
    listed = texts("page.comma").join(names)
    code = "subspaces.dormant" if asleep else "subspaces.awake"
    return texts(code, listed=listed, read=found.readable, width=found.width)


def _within_table(found: SubspaceResult, texts: Texts) -> Table:
    columns = ("", "row", "null", "shuffled", "random", "random-init")
    at = {(row.method, row.dimensions, row.control): index for index, row in enumerate(found.rows)}
    at |= {
        (method, row.dimensions, "random"): at["random", row.dimensions, "random"]
        for row in found.rows
        for method in {each.method for each in found.rows}
        if ("random", row.dimensions, "random") in at
    }
    body = [
        (
            texts("subspaces.sized", method=texts(f"subspaces.method.{row.method}"), size=row.dimensions),
            *(
                _value(found, at[key], texts) if (key := (row.method, row.dimensions, column)) in at else ""
                for column in columns
            ),
        )
        for row in found.rows
        if not row.control
    ]
    heads = [texts(f"subspaces.column.{column or 'itself'}") for column in columns]
    return Table(texts("subspaces.table"), [texts("subspaces.column.method"), *heads], body)


def _value(found: SubspaceResult, index: int, texts: Texts) -> str:
    return interval_words(found.effect.at(index), texts)


def _observed(checkpoint: Checkpoint, result: KindResult, found: Observed, texts: Texts) -> Told:
    named = _named(checkpoint, result, texts)
    rows = [
        (
            component,
            layer,
            *(
                float(getattr(found.shares, name)[number, layer, way])
                for way in (0, 1)
                for name in ("estimate", "low", "high")
            ),
            found.facts,
        )
        for number, component in enumerate(found.components)
        for layer in range(found.shares.estimate.shape[1])
    ]
    return Told(
        texts("observation.title", **named),
        list(_apart(found, texts)),
        _seen_table(found, texts),
        download(("observation", named["checkpoint"], result.kind), SEEN_COLUMNS, rows),
    )


def _apart(found: Observed, texts: Texts) -> Iterator[str]:
    """How far the lens has come, and where looking and acting are told apart, furthest first."""
    lens = found.lens.estimate
    depth = int(np.argmax(lens >= 0.5)) if (lens >= 0.5).any() else len(lens) - 1
    yield texts(
        "observation.lens", depth=depth, layers=len(lens) - 1, share=interval_words(found.lens.at(depth), texts)
    )
    looked, acted = found.shares.estimate[..., 0], found.shares.estimate[..., 1]
    differ = np.abs(looked - acted)
    between = np.max(found.shares.low, axis=-1) > np.min(found.shares.high, axis=-1)  # no interval: never
    order = zip(*np.unravel_index(np.argsort(-differ, axis=None), differ.shape), strict=True)
    named = [cell for cell in order if between[cell] and differ[cell] >= APART][:MOST]
    for number, layer in named:
        code = "looks_larger" if looked[number, layer] > acted[number, layer] else "acts_larger"
        site = site_words(Site(found.components[number], int(layer), None, "last"), texts)
        shares = {
            name: interval_words(found.shares.at(number, layer, way), texts)
            for way, name in enumerate(("looked", "acted"))
        }
        yield texts(f"observation.{code}", site=site, **shares)
    if not named:
        yield texts("observation.agree", share=percent(APART))


def _seen_table(found: Observed, texts: Texts) -> Table:
    body = [
        (
            site_words(Site(component, layer, None, "last"), texts),
            *(interval_words(found.shares.at(number, layer, way), texts) for way in (0, 1)),
        )
        for number, component in enumerate(found.components)
        for layer in range(found.shares.estimate.shape[1])
    ]
    header = [texts("paths.place_column"), texts("observation.looked"), texts("observation.acted")]
    return Table(texts("observation.table", facts=found.facts, error=f"{max(found.error, 1e-15):.0e}"), header, body)
