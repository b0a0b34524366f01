"""Are the kinds different: what was matched, what may be said, and the numbers behind it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from patchlight.judge.contrast import ALIKE, BALANCED, CALIPER, FEWEST_MATCHED, LEVEL
from patchlight.records import Interval, Site
from patchlight.report.charts import interval_words, percent
from patchlight.report.contents import KindsCompared, ReportContents
from patchlight.report.tables import Download, Table, download
from patchlight.report.texts import Texts, site_words

COLUMNS = (
    *("model", "component", "first", "second", "facts_first", "facts_second", "matched", "dropped_first"),
    *("dropped_second", "outcome", "layer", "role"),
    *("difference", "low", "high", "p", "exploratory_places"),
)
BALANCE_COLUMNS = ("model", "component", "first", "second", "covariate", "before", "after")


@dataclass(frozen=True)
class Comparison:
    """One comparison of two kinds: a heading, what may be said of it, its tables and its numbers."""

    title: str
    sentences: Sequence[str]
    tables: Sequence[Table]
    download: Download


def comparisons(contents: ReportContents, texts: Texts) -> list[Comparison]:
    """Every comparison of kinds, checkpoint by checkpoint."""
    return [
        _comparison(texts.pick(checkpoint.name), compared, texts)
        for checkpoint in contents.checkpoints
        for compared in checkpoint.compared
    ]


def _comparison(checkpoint: str, compared: KindsCompared, texts: Texts) -> Comparison:
    component = texts.word("component", compared.component)
    tables = [_balance(compared, texts)] if compared.contrast.balance else []
    if compared.contrast.difference is not None:
        tables.append(_numbers(compared, texts))
    return Comparison(
        texts("contrast.title", checkpoint=checkpoint, component=component),
        list(_sentences(compared, texts)),
        tables,
        download(("kinds", checkpoint, compared.component), COLUMNS, [_row(checkpoint, compared)]),
    )


def kinds_rows(contents: ReportContents) -> list[tuple[object, ...]]:
    """A row of `COLUMNS` for every comparison: what was matched, what was left out, and what came of it."""
    return [
        _row(checkpoint.name["en"], compared) for checkpoint in contents.checkpoints for compared in checkpoint.compared
    ]


def balance_rows(contents: ReportContents) -> list[tuple[object, ...]]:
    """A row of `BALANCE_COLUMNS` for every covariate: standardised mean differences before and after matching."""
    return [
        (checkpoint.name["en"], compared.component, *compared.contrast.kinds, each.name, each.before, each.after)
        for checkpoint in contents.checkpoints
        for compared in checkpoint.compared
        for each in compared.contrast.balance
    ]


def _sentences(compared: KindsCompared, texts: Texts) -> Iterator[str]:
    found = compared.contrast
    first, second = (texts.word("kind", kind) for kind in found.kinds)
    numbers = {
        "first": first, "second": second, "facts_first": found.facts[0], "facts_second": found.facts[1],
        "dropped_first": found.dropped[0], "dropped_second": found.dropped[1],
        "matched": found.matched, "needed": FEWEST_MATCHED, "caliper": CALIPER, "bar": BALANCED,
        "alike": percent(ALIKE), "site": _site(compared, texts), "p": f"{found.p:.3g}", "level": LEVEL,
        "difference": interval_words(found.difference, texts) if found.difference else "",
        "others": texts("robustness.comma").join(texts(f"contrast.reference.{name}") for name in found.elsewhere),
    }  # fmt: skip
    yield texts("contrast.matched", **numbers)
    yield texts(f"contrast.outcome.{found.outcome}", **numbers)


def _balance(compared: KindsCompared, texts: Texts) -> Table:
    rows = [
        (texts(f"contrast.covariate.{each.name}"), _number(each.before), _number(each.after))
        for each in compared.contrast.balance
    ]
    header = [texts(f"contrast.{name}_column") for name in ("covariate", "before", "after")]
    return Table(texts("contrast.balance"), header, rows)


def _numbers(compared: KindsCompared, texts: Texts) -> Table:
    """The largest difference in every measure that was taken of it."""
    found = compared.contrast
    first, second = (texts.word("kind", kind) for kind in found.kinds)
    rows = [
        (
            texts("contrast.difference", first=first, second=second),
            interval_words(found.difference, texts) if found.difference else "",
        ),
        (texts("contrast.p"), f"{found.p:.3g}"),
        (texts("contrast.dz"), _size(found.dz)),
        (texts("contrast.delta"), _size(found.delta)),
        *(
            (texts("contrast.larger", name=texts(f"contrast.reference.{name}")), interval_words(each, texts))
            for name, each in found.elsewhere.items()
        ),
        (texts("contrast.exploratory"), str(found.exploratory)),
        (texts("contrast.layer", kind=first), _p(found.layers[0])),
        (texts("contrast.layer", kind=second), _p(found.layers[1])),
        (texts("contrast.layer_by_kind"), _p(found.layer_by_kind)),
    ]
    rows = [row if row[1] else (row[0], texts("contrast.not_computed")) for row in rows]
    header = [texts("contrast.measure_column"), texts("contrast.value_column")]
    return Table(texts("contrast.numbers", site=_site(compared, texts)), header, rows)


def _site(compared: KindsCompared, texts: Texts) -> str:
    if compared.contrast.cell is None:
        return ""
    layer, role = compared.contrast.cell
    return site_words(Site(compared.component, layer, None, compared.roles[role]), texts)


def _row(checkpoint: str, compared: KindsCompared) -> tuple[object, ...]:
    found = compared.contrast
    layer, role = ("", "") if found.cell is None else (found.cell[0], compared.roles[found.cell[1]])
    known = found.difference
    limits = (math.nan,) * 3 if known is None else (known.estimate, known.low, known.high)
    asked = (checkpoint, compared.component, *found.kinds, *found.facts, found.matched, *found.dropped, found.outcome)
    return (*asked, layer, role, *limits, found.p, found.exploratory)


def _size(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{_number(interval.estimate)} ({_number(interval.low)}, {_number(interval.high)})"


def _p(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else ""


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")
