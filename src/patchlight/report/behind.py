"""Behind a place: what its loss costs and who makes up for it, and who reads what it writes, in words and tables."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from patchlight.records import Site
from patchlight.report.charts import interval_words, percent
from patchlight.report.contents import Checkpoint, KindResult, ReportContents
from patchlight.report.reached import LOSSES, RepairResult, RoutesResult
from patchlight.report.subspaces import Told
from patchlight.report.tables import Download, Table, download
from patchlight.report.texts import Texts, site_words

REPAIR_COLUMNS = ("place", "other", "what", "estimate", "low", "high", "facts")
ROUTE_COLUMNS = ("from", "to", "estimate", "low", "high", "facts")
HARDLY = 0.01  # of the gap: a reaction or a reader below it is not named


def made_up_for(contents: ReportContents, texts: Texts) -> list[Told]:
    """Every kind of knowledge whose strongest places were knocked out."""
    return [
        Told(
            _title(checkpoint, result, texts),
            list(_repair_sentences(result.reached.repair, texts)),
            _repair_table(result.reached.repair, texts),
            _repair_download(checkpoint, result, result.reached.repair, texts),
        )
        for checkpoint, result in _results(contents)
        if result.reached.repair
    ]


def read_by(contents: ReportContents, texts: Texts) -> list[Told]:
    """Every kind of knowledge whose strongest places were followed to their readers."""
    return [
        Told(
            _title(checkpoint, result, texts),
            list(_route_sentences(result.reached.routes, texts)),
            _route_table(result.reached.routes, texts),
            _route_download(checkpoint, result, result.reached.routes, texts),
        )
        for checkpoint, result in _results(contents)
        if result.reached.routes
    ]


def _results(contents: ReportContents) -> Iterator[tuple[Checkpoint, KindResult]]:
    return ((checkpoint, result) for checkpoint in contents.checkpoints for result in checkpoint.kinds)


def _title(checkpoint: Checkpoint, result: KindResult, texts: Texts) -> str:
    return texts("repair.title", kind=texts.word("kind", result.kind), checkpoint=texts.pick(checkpoint.name))


def part_words(site: Site, texts: Texts) -> str:
    """A part of the model whatever its word, e.g. "what head 3 of layer 7 looks for"; `logits` is the answer itself."""
    return texts(f"routes.part.{site.component}", layer=site.layer, head=site.unit)


def _repair_sentences(found: RepairResult, texts: Texts) -> Iterator[str]:
    yield texts("repair.counts", facts=found.facts, pairs=found.pairs)
    for number, site in enumerate(found.sites):
        predicted, measured = found.losses.estimate[number, :2].tolist()
        code = "more" if found.losses.low[number, -1] > 0 else "less" if found.losses.high[number, -1] < 0 else "same"
        values = {"predicted": percent(predicted), "measured": percent(measured)}
        yield texts(f"repair.{code}", site=site_words(site, texts), **values)
        named = [
            texts("repair.part", part=part_words(part, texts), share=percent(abs(share), 1))
            for part, share in found.compensating[number]
            if abs(share) >= HARDLY
        ]
        if named:
            yield texts("repair.reacting", listed=texts("page.comma").join(named))
    backed = [(site, other, more) for site, other, more in found.backups if more.low > 0]
    for site, other, cost in backed:
        names = {"site": site_words(site, texts), "other": site_words(other, texts)}
        yield texts("repair.backup", value=interval_words(cost, texts), **names)
    if found.backups and not backed:
        yield texts("repair.no_backup", count=len(found.backups))


def _repair_table(found: RepairResult, texts: Texts) -> Table:
    rows = [
        (
            site_words(site, texts),
            *(interval_words(found.losses.at(number, part), texts) for part in range(len(LOSSES))),
        )
        for number, site in enumerate(found.sites)
    ]
    heads = [texts("paths.place_column"), *(texts(f"repair.column.{name}") for name in LOSSES)]
    return Table(texts("repair.table"), heads, rows)


def _repair_download(checkpoint: Checkpoint, result: KindResult, found: RepairResult, texts: Texts) -> Download:
    losses = [
        (str(found.sites[number]), "", LOSSES[part], each.estimate, each.low, each.high, each.n)
        for number, part in np.ndindex(len(found.sites), len(LOSSES))
        for each in [found.losses.at(number, part)]
    ]
    backups = [
        (str(site), str(other), "backup", more.estimate, more.low, more.high, more.n)
        for site, other, more in found.backups
    ]
    return download(("repair", texts.pick(checkpoint.name), result.kind), REPAIR_COLUMNS, [*losses, *backups])


def _route_sentences(found: RoutesResult, texts: Texts) -> Iterator[str]:
    yield texts("routes.counts", facts=found.facts, pairs=found.pairs)
    for number, site in enumerate(found.senders):
        heard = [
            texts(
                "routes.reader", part=part_words(reader, texts), value=percent(float(found.shares.estimate[number, at]))
            )
            for at, reader in enumerate(found.readers[number])
            if found.shares.low[number, at] > 0 and found.shares.estimate[number, at] >= HARDLY
        ]
        code = "read" if heard else "unread"
        yield texts(f"routes.{code}", site=site_words(site, texts), listed=texts("page.comma").join(heard))


def _route_table(found: RoutesResult, texts: Texts) -> Table:
    rows = [
        (
            texts("routes.path", site=site_words(site, texts), reader=part_words(reader, texts)),
            interval_words(found.shares.at(number, at), texts),
        )
        for number, site in enumerate(found.senders)
        for at, reader in enumerate(found.readers[number])
        if np.isfinite(found.shares.estimate[number, at])
    ]
    return Table(texts("routes.table"), [texts("routes.column.path"), texts("routes.column.share")], rows)


def _route_download(checkpoint: Checkpoint, result: KindResult, found: RoutesResult, texts: Texts) -> Download:
    rows = [
        (str(site), str(reader), each.estimate, each.low, each.high, each.n)
        for number, site in enumerate(found.senders)
        for at, reader in enumerate(found.readers[number])
        for each in [found.shares.at(number, at)]
    ]
    return download(("routes", texts.pick(checkpoint.name), result.kind), ROUTE_COLUMNS, rows)
