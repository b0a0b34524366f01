"""How the places were narrowed: a screening in words, its candidates as a table, and every place as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from patchlight.report.charts import percent
from patchlight.report.contents import Narrowing, ReportContents
from patchlight.report.tables import Download, Table, download
from patchlight.report.texts import Texts, site_words

COLUMNS = ("exact", "estimate", "chosen", "reaches")


@dataclass(frozen=True)
class Screen:
    """One screening: what came of it, the candidates and what was missed, and the download of all its places."""

    title: str
    sentences: Sequence[str]
    table: Table
    download: Download


def screens(contents: ReportContents, kind: str, texts: Texts) -> list[Screen]:
    """The screenings of a kind of knowledge, checkpoint by checkpoint."""
    return [
        _screen(texts.pick(checkpoint.name), kind, result.narrowing, texts)
        for checkpoint in contents.checkpoints
        for result in checkpoint.kinds
        if result.kind == kind and result.narrowing
    ]


def _screen(checkpoint: str, kind: str, narrowing: Narrowing, texts: Texts) -> Screen:
    frame = narrowing.screening.to_frame()
    rows = frame.astype(object).to_numpy().tolist()
    return Screen(
        texts("narrowing.title", kind=texts.word("kind", kind), checkpoint=checkpoint),
        list(_sentences(narrowing, texts)),
        _candidates(narrowing, texts),
        download(("screening", checkpoint, kind), [str(name) for name in frame.columns], rows),
    )


def _sentences(narrowing: Narrowing, texts: Texts) -> Iterator[str]:
    found, figures = narrowing.screening, narrowing.screening.figures()
    components = dict.fromkeys(texts.word("component", site.component) for site in sorted(found.sites))
    numbers = figures | {
        "components": texts("robustness.comma").join(components),
        "direction": texts(f"direction.{found.direction}"),
        "method": texts(f"narrowing.method_{found.method}"),
        "threshold": _share(found.threshold),
        "confidence": _share(float(figures["confidence"])),
        "bound": percent(found.bound, 1),
        "largest": percent(float(figures["largest_audited"]), 1),
    }
    yield texts("narrowing.ordered", **numbers)
    if narrowing.left_out:
        yield texts("narrowing.left_out", left_out=narrowing.left_out)
    yield texts("narrowing.kept", **numbers)
    outcome = "audit" if figures["audited"] else "no_audit" if figures["rejected"] else "nothing_rejected"
    yield texts(f"narrowing.{outcome}", **numbers)


def _candidates(narrowing: Narrowing, texts: Texts) -> Table:
    """The candidates by exact effect, and after them the places that only the audit found."""
    found = narrowing.screening
    strong = np.abs(found.exact) >= found.threshold
    first = np.arange(len(found.sites)) < found.candidates
    shown = np.flatnonzero(first | (found.audited & strong))
    ordered = sorted(shown, key=lambda index: (not first[index], -abs(found.exact[index])))
    rows = [
        (
            site_words(found.sites[index], texts),
            percent(float(found.exact[index]), 1),
            percent(float(found.estimate[index]), 1),
            texts("narrowing.candidate" if first[index] else "narrowing.audited"),
            texts("table.yes" if strong[index] else "table.no"),
        )
        for index in ordered
    ]
    threshold = _share(found.threshold)
    header = [texts("table.site"), *(texts(f"narrowing.{name}_column", threshold=threshold) for name in COLUMNS)]
    return Table(texts("narrowing.table", facts=found.facts), header, rows)


def _share(value: float) -> str:
    return f"{100 * value:g}%"
