"""Several places together: growth curves, the sets in words, how their sites work together, windows, indices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from patchlight.judge.sets import TriedCurve, TriedSet, TriedSets
from patchlight.judge.statistics import IntervalMap
from patchlight.records import Interval, Site
from patchlight.report.charts import growth_curve, interval_words, percent
from patchlight.report.contents import Checkpoint, KindResult, ReportContents
from patchlight.report.figures import Figure, Panel
from patchlight.report.tables import Download, Table, download
from patchlight.report.texts import Texts, site_words

WINDOWS_SHOWN = 8
SET_COLUMNS = ("grown_by", "share", "reached", "what", "site", "other", "direction", "estimate", "low", "high", "facts")

CURVE_COLUMNS = ("direction", "sites", "half", "estimate", "low", "high", "facts")


@dataclass(frozen=True)
class SetsPart:
    """What is shown of one kind in one checkpoint."""

    title: str
    sentences: Sequence[str]
    figure: Figure
    tables: Sequence[Table]
    download: Download


def set_parts(contents: ReportContents, kind: str, texts: Texts) -> list[SetsPart]:
    """The sets of a kind of knowledge, checkpoint by checkpoint."""
    return [
        _part(checkpoint, result, result.verdict.sets, texts)
        for checkpoint in contents.checkpoints
        for result in checkpoint.kinds
        if result.kind == kind and result.verdict.sets
    ]


def _part(checkpoint: Checkpoint, result: KindResult, sets: TriedSets, texts: Texts) -> SetsPart:
    names = {"kind": texts.word("kind", result.kind), "checkpoint": texts.pick(checkpoint.name)}
    shown = _shown(sets)
    tables = [_members(each, texts) for each in shown]
    tables += [_couples(each, texts) for each in shown if len(each.sites) > 1]
    return SetsPart(
        texts("sets.title", **names),
        list(_sentences(sets, shown, checkpoint, texts)),
        _figure(names, result.kind, sets, texts),
        [*tables, _windows(sets, texts), _indices(result, texts)],
        download(("sets", names["checkpoint"], result.kind), SET_COLUMNS, _rows(sets)),
    )


def _shown(sets: TriedSets) -> list[TriedSet]:
    """The sets of the smallest share, each once."""
    first = min((each.grown.share for each in sets.sets), default=0.0)
    return list({each.sites: each for each in reversed(sets.sets) if each.grown.share == first}.values())[::-1]


def _sentences(sets: TriedSets, shown: Sequence[TriedSet], checkpoint: Checkpoint, texts: Texts) -> Iterator[str]:
    evidence = sets.evidence
    yield texts(
        "sets.split",
        discovery=sets.discovery_facts,
        held_out=sets.held_out_facts,
        record=checkpoint.split[:12] or texts("page.none"),
    )
    yield texts("sets.eligible", eligible=evidence.eligible, limit=sets.limit, largest=evidence.largest)
    if evidence.wiring:
        wiring = texts("sets.semicolon").join(site_words(site, texts) for site in evidence.wiring)
        yield texts("sets.wiring", sites=wiring)
    for each in shown:
        yield from _in_words(each, texts)
    if not shown:
        yield texts("sets.none_grown")


def _in_words(each: TriedSet, texts: Texts) -> Iterator[str]:
    yield texts(
        "sets.found",
        by=texts(f"sets.by_{each.grown.by}"),
        size=len(each.sites),
        share=percent(each.grown.share),
        reached=texts("sets.reached" if each.grown.reached else "sets.not_reached"),
        recovery=interval_words(each.recovery, texts),
        damage=interval_words(each.damage, texts),
        reading=texts(f"sets.reading_{each.reading}"),
    )
    nulls = [
        texts("page.named", name=texts.word("null", name), text=interval_words(interval, texts))
        for name, interval in each.nulls.items()
    ]
    if nulls:
        yield texts("sets.nulls", nulls=texts("sets.semicolon").join(nulls))
    for name, so, surplus in (
        ("and", each.and_like, each.surplus),
        ("or", each.or_like, each.surplus_damage),
    ):
        if so:
            yield texts(f"sets.{name}_like", surplus=interval_words(surplus, texts))


def _figure(names: dict[str, str], kind: str, sets: TriedSets, texts: Texts) -> Figure:
    grown = [each for each in sets.curves if each.sites]
    rows = [row for each in grown for row in _curve_rows(each)]
    return Figure(
        texts("sets.figure", **names),
        [[_panel(names, each, texts) for each in grown]],
        texts("sets.caption", discovery=sets.discovery_facts, held_out=sets.held_out_facts),
        [_curve_table(each, texts) for each in grown],
        download(("growth", names["checkpoint"], kind), CURVE_COLUMNS, rows),
    )


def _panel(names: dict[str, str], each: TriedCurve, texts: Texts) -> Panel:
    direction = texts(f"direction.{each.direction}")
    return Panel(direction, growth_curve(each, texts, texts("sets.label", direction=direction, **names)))


def _curve_rows(curve: TriedCurve) -> Iterator[tuple[object, ...]]:
    for half, values in (("discovery", curve.discovery), ("held out", curve.held_out)):
        for index, size in enumerate(curve.sizes):
            yield curve.direction, size, half, *_numbers(values.at(index))


def _curve_table(curve: TriedCurve, texts: Texts) -> Table:
    header = [texts(f"sets.{name}_column") for name in ("size", "added", "discovery", "held_out")]
    rows = [
        (
            str(size),
            site_words(curve.sites[size - 1], texts),
            interval_words(curve.discovery.at(index), texts),
            interval_words(curve.held_out.at(index), texts),
        )
        for index, size in enumerate(curve.sizes)
    ]
    return Table(texts(f"direction.{curve.direction}"), header, rows)


def _members(each: TriedSet, texts: Texts) -> Table:
    """Each site alone, and the set without it, in both directions."""
    columns = (each.single, each.left_out, each.single_damage, each.left_out_damage)
    names = ("single", "left_out", "single_damage", "left_out_damage")
    rows = [
        (site_words(site, texts), *(interval_words(values.at(index), texts) for values in columns))
        for index, site in enumerate(each.sites)
    ]
    together = (each.recovery, each.complement, each.damage, each.complement_damage)
    words = [interval_words(value, texts) or texts("sets.by_construction") for value in together]
    rows.append((texts("sets.all_others"), words[0], words[1], words[2], words[3]))
    header = [texts("table.site"), *(texts(f"sets.{name}_column") for name in names)]
    return Table(texts("sets.members", by=texts(f"sets.by_{each.grown.by}"), facts=each.recovery.n), header, rows)


def _couples(each: TriedSet, texts: Texts) -> Table:
    """The interaction of every two sites that were tried together."""
    rows = [
        (
            site_words(each.sites[a], texts),
            site_words(each.sites[b], texts),
            interval_words(each.interaction.at(a, b), texts),
            interval_words(each.interaction_damage.at(a, b), texts),
        )
        for a, b in combinations(range(len(each.sites)), 2)
        if np.isfinite(each.interaction.estimate[a, b])
    ]
    header = [texts("table.site"), texts("sets.other_column"), texts("table.recovery"), texts("table.damage")]
    return Table(texts("sets.couples", by=texts(f"sets.by_{each.grown.by}"), facts=each.recovery.n), header, rows)


def _windows(sets: TriedSets, texts: Texts) -> Table:
    """The windows that bring back most, beside the sum of their layers one by one."""
    joint, surplus, sites = sets.windows, sets.windows_surplus, sets.evidence.windows.sites
    first = np.argsort(-np.nan_to_num(joint.estimate, nan=-np.inf), kind="stable")[:WINDOWS_SHOWN]
    rows = [
        (
            window_words(sites[index], texts),
            interval_words(joint.at(index), texts),
            percent(float(joint.estimate[index] - surplus.estimate[index]), 1),
            interval_words(surplus.at(index), texts),
        )
        for index in map(int, first)
    ]
    header = [texts("table.site"), *(texts(f"sets.{name}_column") for name in ("window", "sum", "surplus"))]
    return Table(texts("sets.windows", facts=sets.discovery_facts), header, rows)


def window_words(site: Site, texts: Texts) -> str:
    """A window of layers in words."""
    layers = site.layer if isinstance(site.layer, tuple) else (site.layer,)
    names = {"component": texts.word("component", site.component), "role": texts.word("role", str(site.position))}
    return texts("sets.window_site", first=layers[0], last=layers[-1], **names)


def _indices(result: KindResult, texts: Texts) -> Table:
    """How concentrated the effect of single places is, beside the null map."""
    header = [texts("sets.index_column"), texts("table.recovery"), texts("table.damage"), texts("table.control")]
    rows = [
        (
            texts("sets.index_sign", index=texts(f"index.{each.name}"), sign=texts(f"sets.{each.sign}")),
            *(_plain(value, texts) for value in (each.recovery, each.damage, each.null)),
        )
        for each in result.concentration
    ]
    return Table(texts("sets.indices"), header, rows)


def _plain(interval: Interval | None, texts: Texts) -> str:
    """An index with its interval, as it is."""
    if interval is None or not np.isfinite(interval.estimate):
        return texts("page.none")
    numbers = {name: f"{getattr(interval, name):.2f}" for name in ("estimate", "low", "high")}
    return texts("page.interval" if np.isfinite(interval.low) else "page.no_interval", n=interval.n, **numbers)


def _rows(sets: TriedSets) -> Iterator[tuple[object, ...]]:
    for each in sets.sets:
        head = (each.grown.by, each.grown.share, int(each.grown.reached))
        whole = " & ".join(map(str, each.sites))
        for direction, joint, surplus in (
            ("denoise", each.recovery, each.surplus),
            ("noise", each.damage, each.surplus_damage),
        ):
            yield *head, "joint", whole, "", direction, *_numbers(joint)
            yield *head, "surplus", whole, "", direction, *_numbers(surplus)
        for name, null in each.nulls.items():
            yield *head, f"null {name}", whole, "", "denoise", *_numbers(null)
        yield *head, "complement", whole, "", "denoise", *_numbers(each.complement)
        yield *head, "complement", whole, "", "noise", *_numbers(each.complement_damage)
        yield from ((*head, *row) for row in _site_rows(each))
    for index, site in enumerate(sets.evidence.windows.sites):
        for what, values in (("window", sets.windows), ("window surplus", sets.windows_surplus)):
            yield "", "", "", what, str(site), "", "denoise", *_numbers(values.at(index))


def _site_rows(each: TriedSet) -> Iterator[tuple[object, ...]]:
    maps: dict[tuple[str, str], IntervalMap] = {
        ("single", "denoise"): each.single,
        ("single", "noise"): each.single_damage,
        ("without it", "denoise"): each.left_out,
        ("without it", "noise"): each.left_out_damage,
    }
    for (what, direction), values in maps.items():
        for index, site in enumerate(each.sites):
            yield what, str(site), "", direction, *_numbers(values.at(index))
    for direction, couples in (("denoise", each.interaction), ("noise", each.interaction_damage)):
        for a, b in combinations(range(len(each.sites)), 2):
            yield "interaction", str(each.sites[a]), str(each.sites[b]), direction, *_numbers(couples.at(a, b))


def _numbers(interval: Interval) -> tuple[float, float, float, int]:
    return interval.estimate, interval.low, interval.high, interval.n
