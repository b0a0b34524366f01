"""Where fine-tuning wrote it: exchanges between two models in words, as a table, and as CSV."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from patchlight.judge.statistics import IntervalMap
from patchlight.report.charts import interval_words
from patchlight.report.contents import ReportContents, Transfer
from patchlight.report.tables import INTERVAL, Download, download
from patchlight.report.texts import Texts, site_words
from patchlight.trace.sites import read_site

COLUMNS = (
    *("site", "estimate", "low", "high", "facts"),
    *("control_estimate", "control_low", "control_high", "by_construction"),
)
SHOWN = 8  # strongest places in the table; the download has all
NAMED = 5  # places in a sentence


@dataclass(frozen=True)
class Exchange:
    """One exchange: what follows from it, its strongest places, those by construction (in grey), and all as CSV."""

    title: str
    sentences: Sequence[str]
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    grey: Sequence[Sequence[str]]
    download: Download


def exchanges(contents: ReportContents, kind: str, texts: Texts) -> list[Exchange]:
    """The exchanges of a kind of knowledge, checkpoint by checkpoint, weights first."""
    return [
        _exchange(texts.pick(checkpoint.name), kind, each, contents, texts)
        for checkpoint in contents.checkpoints
        for result in checkpoint.kinds
        if result.kind == kind
        for each in sorted(result.across, key=lambda each: each.what != "weights")
    ]


def rows(each: Transfer) -> Iterator[tuple[object, ...]]:
    """A row of COLUMNS for each site."""
    nothing = (math.nan,) * len(INTERVAL)
    for at, site in enumerate(each.sites):
        effect, control = (_numbers(part, at) if part else nothing for part in (each.effect, each.control))
        facts = 0 if each.effect is None else int(each.effect.n[at])
        yield (site, *effect, facts, *control, int(each.structural[at]))


def _exchange(checkpoint: str, kind: str, each: Transfer, contents: ReportContents, texts: Texts) -> Exchange:
    what = texts("across.weights") if each.what == "weights" else texts.word("component", each.what)
    names = {"checkpoint": checkpoint, "kind": texts.word("kind", kind), "what": what}
    direction = texts(f"direction.{each.direction}")
    table = [_row(each, at, texts) for at in _strongest(each)[:SHOWN]]
    grey = [_row(each, int(at), texts) for at in np.flatnonzero(each.structural)] if each.effect else []
    floor = texts("across.floor", floor=f"{contents.gap_floor:g}", unit=texts(f"unit.{contents.unit}"))
    return Exchange(
        texts("across.title", direction=direction, **names),
        list(_sentences(each, floor, texts)),
        [texts("table.site"), direction, texts("table.control")],
        table,
        grey,
        download(("across", checkpoint, kind, each.what, each.direction), COLUMNS, rows(each)),
    )


def _sentences(each: Transfer, floor: str, texts: Texts) -> Iterator[str]:
    yield texts(f"across.meaning_{each.direction}")
    if each.left_out:
        yield texts("across.left_out", left_out=each.left_out, floor=floor)
    if each.effect is None:
        yield texts("across.nothing", floor=floor)
        return
    ranked = _strongest(each)
    yield texts("across.counts", facts=each.facts, pairs=each.pairs, sites=len(ranked))
    if each.control is None:
        yield texts("across.no_control")
        return
    clear = [at for at in ranked if each.effect.low[at] > each.control.high[at]]
    comma = texts("robustness.comma")
    named = comma.join(
        texts("page.named", name=_words(each.sites[at], texts), text=interval_words(each.effect.at(at), texts))
        for at in clear[:NAMED]
    )
    yield texts("across.clear" if clear else "across.none_clear", clear=len(clear), sites=len(ranked), names=named)


def _strongest(each: Transfer) -> list[int]:
    """The sites that may be ranked, the largest effect first."""
    if each.effect is None:
        return []
    size = np.abs(np.where(each.structural, np.nan, each.effect.estimate))
    return [int(at) for at in np.argsort(-size, kind="stable") if np.isfinite(size[at])]


def _row(each: Transfer, at: int, texts: Texts) -> Sequence[str]:
    parts = (each.effect, each.control)
    beside = [texts("page.none") if part is None else interval_words(part.at(at), texts) for part in parts]
    if each.structural[at]:
        beside[1] = texts("chart.by_construction")
    return (_words(each.sites[at], texts), *beside)


def _words(site: str, texts: Texts) -> str:
    """A site in words: modules of weights, or an activation."""
    if site == "weights":
        return texts("across.all")
    block = re.fullmatch(r"weights\.blocks\.(\d+)\.(\w+)", site)
    if block:
        return texts("across.block", layer=block[1], part=texts(f"across.{block[2]}"))
    if site.startswith("weights."):
        return texts(f"across.{site.removeprefix('weights.')}")
    return site_words(read_site(site), texts)


def _numbers(values: IntervalMap, at: int) -> tuple[float, ...]:
    return tuple(float(getattr(values, name)[at]) for name in INTERVAL)
