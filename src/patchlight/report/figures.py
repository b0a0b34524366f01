"""The figures of a report: drawings with their caption, the table of their numbers, and the same numbers as CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np

from patchlight.judge.statistics import IntervalMap
from patchlight.records import Interval
from patchlight.report.charts import Drawing, Series, heat_map, layer_profile, loss_curve, percent, readable
from patchlight.report.contents import (
    Checkpoint,
    EffectMap,
    Example,
    ExampleMap,
    KindResult,
    ReportContents,
    TrainingCurve,
    Words,
)
from patchlight.report.texts import Texts

PROFILE_ROLES = ("subject_last", "last")  # where a fact is read in, and where the answer is read out
INTERVAL = ("estimate", "low", "high")


@dataclass(frozen=True)
class Panel:
    """One drawing of a figure, under its own heading."""

    title: str
    drawing: Drawing


@dataclass(frozen=True)
class Table:
    """Numbers as they are read: a heading, column heads, rows whose first cell names the row."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """Panels in rows, what they show, and their numbers twice: for reading and for computing.

    `download` is a data: address of a CSV file to be saved as `file`.
    """

    title: str
    panels: Sequence[Sequence[Panel]]
    caption: str
    tables: Sequence[Table]
    download: str
    file: str


def profile_figure(contents: ReportContents, kind: str, direction: str, texts: Texts) -> Figure:
    """Effects by layer at two roles, against the control; checkpoints side by side, components below one another."""
    found = [each for each in measured(contents, kind) if each[2].direction == direction]
    span = _span(found)
    panels = [[_profile_panel(each, texts, span) for each in row] for row in _rows(found, "component")]
    control = any(effects.control is not None for _, _, effects in found)
    caption = texts(
        "profile.caption",
        direction_meaning=texts(f"direction_meaning.{direction}"),
        counts=_counts(found, texts),
        confidence=percent(contents.confidence),
        method=found[0][2].effect.method,
        control=texts(f"profile.control_{'present' if control else 'absent'}"),
    )
    title = texts("profile.figure", kind=texts.word("kind", kind), direction=texts(f"direction.{direction}"))
    tables = [_profile_table(each, texts) for each in found]
    rows = [(_name(c, texts), *row) for c, _, effects in found for row in _effect_rows(effects, PROFILE_ROLES)]
    return Figure(title, panels, caption, tables, _csv(EFFECT_COLUMNS, rows), _file("layers", kind, direction))


def clear_of_control(contents: ReportContents, kind: str, direction: str, texts: Texts) -> Table | None:
    """The layers whose intervals lie wholly above the control, by place; None where no control was measured."""
    found = [
        each
        for each in measured(contents, kind)
        if each[2].direction == direction and each[2].control is not None
    ]
    if not found:
        return None
    header = [texts("table.checkpoint"), texts("table.component"), *(texts.word("role", role) for role in PROFILE_ROLES)]
    rows = [
        (
            _name(checkpoint, texts),
            texts.word("component", effects.component),
            *(", ".join(map(str, _clear(effects, role))) or texts("profile.nowhere") for role in PROFILE_ROLES),
        )
        for checkpoint, _, effects in found
    ]
    return Table(texts("profile.clear"), header, rows)


def map_figure(
    contents: ReportContents, kind: str, component: str, texts: Texts, *, control: bool = False
) -> Figure:
    """Layers against parts of the question: checkpoints side by side, directions below one another."""
    found = [each for each in measured(contents, kind) if each[2].component == component]
    if control:
        found = [each for each in found if each[2].control is not None]
    panels = [[_map_panel(each, texts, control) for each in row] for row in _rows(found, "direction")]
    caption = texts(
        "map.control_caption" if control else "map.caption",
        component=texts.word("component", component),
        component_meaning=texts.word("component_meaning", component),
        counts=_counts(found, texts),
        confidence=percent(contents.confidence),
    )
    title = texts(
        "map.control_figure" if control else "map.figure",
        kind=texts.word("kind", kind),
        component=texts.word("component", component),
    )
    tables = [_map_table(each, texts, control) for each in found]
    rows = [(_name(c, texts), *row) for c, _, effects in found for row in _effect_rows(effects, effects.roles)]
    file = _file("control" if control else "map", kind, component)
    return Figure(title, panels, caption, tables, _csv(EFFECT_COLUMNS, rows), file)


def example_figure(checkpoint: Checkpoint, kind: str, example: Example, texts: Texts) -> Figure:
    """One pair word by word: components below one another, directions side by side."""
    components = dict.fromkeys(each.component for each in example.maps)
    panels = [
        [_example_panel(checkpoint, example, each, texts) for each in example.maps if each.component == component]
        for component in components
    ]
    tables = [_example_table(example, each, texts) for each in example.maps]
    rows = [row for each in example.maps for row in _example_rows(example, each)]
    title = texts(
        "map.example_figure",
        checkpoint=_name(checkpoint, texts),
        kind=texts.word("kind", kind),
        fact=example.fact,
    )
    columns = ("component", "direction", "layer", "position", "word", "share_of_gap", "by_construction")
    file = _file("example", _name(checkpoint, texts), example.fact)
    return Figure(title, panels, texts("map.example_caption"), tables, _csv(columns, rows), file)


def training_figure(checkpoint: Checkpoint, training: TrainingCurve, texts: Texts) -> Figure:
    """Training and validation loss by step."""
    name = _name(checkpoint, texts)
    drawing = loss_curve(training.points, training.best_step, texts, texts("training.label", checkpoint=name))
    header = [texts(f"training.{column}") for column in ("step_column", "train_column", "validation_column")]
    rows = [(str(point.step), _loss(point.train), _loss(point.validation)) for point in training.points]
    caption = texts(
        "training.caption",
        documents=training.documents,
        best=training.best_step,
        stopped=texts(f"training.stopped_{'early' if training.stopped_early else 'late'}"),
    )
    numbers = [(point.step, point.train, point.validation) for point in training.points]
    download = _csv(("step", "train_loss", "validation_loss"), numbers)
    return Figure(name, [[Panel("", drawing)]], caption, [Table(name, header, rows)], download, _file("loss", name))


Measured = tuple[Checkpoint, KindResult, EffectMap]


def measured(contents: ReportContents, kind: str) -> list[Measured]:
    """Every map of a kind of knowledge, with the checkpoint it belongs to, checkpoints in their order."""
    return [
        (checkpoint, result, effects)
        for checkpoint in contents.checkpoints
        for result in checkpoint.kinds
        if result.kind == kind
        for effects in result.maps
    ]


def in_language(words: Words, language: str) -> str:
    """The text in this language, or in one that it has."""
    return words[language] if language in words else next(iter(words.values()))


EFFECT_COLUMNS = (
    *("model", "component", "direction", "layer", "role", "estimate", "low", "high", "facts"),
    *("control_estimate", "control_low", "control_high", "by_construction", "passes_threshold"),
)


def _effect_rows(effects: EffectMap, roles: Sequence[str]) -> Iterable[tuple[object, ...]]:
    nothing = (math.nan,) * len(INTERVAL)
    for role in (role for role in roles if role in effects.roles):
        column = effects.roles.index(role)
        for layer in range(len(effects.effect.estimate)):
            cell = (layer, column)
            control = nothing if effects.control is None else _numbers(effects.control, cell)
            marks = (int(effects.structural[cell]), int(effects.significant[cell]))
            yield (
                *(effects.component, effects.direction, layer, role),
                *(*_numbers(effects.effect, cell), int(effects.effect.n[cell])),
                *(*control, *marks),
            )


def _numbers(values: IntervalMap, cell: tuple[int, ...]) -> tuple[float, ...]:
    return tuple(float(getattr(values, name)[cell]) for name in INTERVAL)


def _profile_panel(each: Measured, texts: Texts, span: tuple[float, float]) -> Panel:
    checkpoint, result, effects = each
    names = _labels(checkpoint, result.kind, effects, texts)
    series = [_series(effects, role, texts) for role in _profile_roles(effects)]
    drawing = layer_profile(series, texts, texts("profile.label", **names), span=span)
    return Panel(texts("profile.panel", **names), drawing)


def _series(effects: EffectMap, role: str, texts: Texts) -> Series:
    column = effects.roles.index(role)
    control = None if effects.control is None else _column(effects.control, column)
    return Series(
        texts.word("role", role), _column(effects.effect, column), control, effects.structural[:, column]
    )


def _column(values: IntervalMap, column: int) -> IntervalMap:
    low, high, n = values.low[:, column], values.high[:, column], values.n[:, column]
    return IntervalMap(values.estimate[:, column], low, high, n, values.confidence, values.method)


def _profile_roles(effects: EffectMap) -> list[str]:
    """The roles that a profile is drawn at: those of PROFILE_ROLES that these pairs have."""
    return [role for role in PROFILE_ROLES if role in effects.roles]


def _clear(effects: EffectMap, role: str) -> list[int]:
    if effects.control is None or role not in effects.roles:
        return []
    column = effects.roles.index(role)
    above = effects.effect.low[:, column] > effects.control.high[:, column]
    return [int(layer) for layer in np.flatnonzero(above & ~effects.structural[:, column])]


def _span(found: Sequence[Measured]) -> tuple[float, float]:
    """A range that holds every interval of the figure, and 0 to 100 % in any case."""
    parts = [part for _, _, effects in found for part in (effects.effect, effects.control) if part is not None]
    low = min([-0.15, *(float(value) for part in parts for value in part.low.ravel() if math.isfinite(value))])
    high = max([1.05, *(float(value) for part in parts for value in part.high.ravel() if math.isfinite(value))])
    return low - 0.05, high + 0.05


def _rows(found: Sequence[Measured], name: str) -> list[list[Measured]]:
    """What was measured, in rows of equal `name` ("component" or "direction"); one row for a single checkpoint."""
    if len({id(checkpoint) for checkpoint, _, _ in found}) == 1:
        return [list(found)]
    values = dict.fromkeys(getattr(effects, name) for _, _, effects in found)
    return [[each for each in found if getattr(each[2], name) == value] for value in values]


def _map_panel(each: Measured, texts: Texts, control: bool) -> Panel:
    checkpoint, result, effects = each
    names = _labels(checkpoint, result.kind, effects, texts)
    label, values = texts("map.label", **names), effects.effect
    if control and effects.control is not None:
        label, values = texts("map.control_label", label=label), effects.control
    drawing = heat_map(
        values.estimate,
        [texts.word("role", role) for role in effects.roles],
        texts,
        label,
        structural=effects.structural,
        significant=None if control else effects.significant,
    )
    return Panel(texts("map.panel", **names), drawing)


def _map_table(each: Measured, texts: Texts, control: bool) -> Table:
    checkpoint, result, effects = each
    values = effects.control if control and effects.control is not None else effects.effect
    header = [texts("table.layer"), *(texts.word("role", role) for role in effects.roles)]
    cells = np.ndindex(*values.estimate.shape)
    shown = np.array([interval_words(values.at(*cell), texts) for cell in cells]).reshape(values.estimate.shape)
    rows = [(str(layer), *shown[layer]) for layer in reversed(range(len(shown)))]
    return Table(texts("map.panel", **_labels(checkpoint, result.kind, effects, texts)), header, rows)


def _profile_table(each: Measured, texts: Texts) -> Table:
    checkpoint, result, effects = each
    roles = _profile_roles(effects)
    header, columns = [texts("table.layer")], []
    for role in roles:
        for name, values in (("effect", effects.effect), ("control", effects.control)):
            if values is not None:
                header.append(f"{texts.word('role', role)}: {texts(f'table.{name}')}")
                columns.append((values, effects.roles.index(role)))
    rows = [
        (str(layer), *(interval_words(values.at(layer, column), texts) for values, column in columns))
        for layer in range(len(effects.effect.estimate))
    ]
    return Table(texts("profile.panel", **_labels(checkpoint, result.kind, effects, texts)), header, rows)


def _example_panel(checkpoint: Checkpoint, example: Example, each: ExampleMap, texts: Texts) -> Panel:
    names = {
        "component": texts.word("component", each.component),
        "direction": texts(f"direction.{each.direction}"),
    }
    label = texts("map.example_label", checkpoint=_name(checkpoint, texts), prompt=example.clean, **names)
    drawing = heat_map(
        each.values, example.words, texts, label, structural=each.structural, differing=example.differing
    )
    return Panel(texts("map.example_panel", **names), drawing)


def _example_table(example: Example, each: ExampleMap, texts: Texts) -> Table:
    header = [texts("table.layer"), *(readable(word) for word in example.words)]
    rows = [
        (str(layer), *(percent(float(value), 1) for value in each.values[layer]))
        for layer in reversed(range(len(each.values)))
    ]
    component, direction = texts.word("component", each.component), texts(f"direction.{each.direction}")
    return Table(texts("map.example_panel", component=component, direction=direction), header, rows)


def _example_rows(example: Example, each: ExampleMap) -> Iterable[tuple[object, ...]]:
    for layer, position in np.ndindex(*each.values.shape):
        yield (
            *(each.component, each.direction, layer, position, example.words[position]),
            *(float(each.values[layer, position]), int(each.structural[layer, position])),
        )


def _labels(checkpoint: Checkpoint, kind: str, effects: EffectMap, texts: Texts) -> dict[str, str]:
    return {
        "kind": texts.word("kind", kind),
        "checkpoint": _name(checkpoint, texts),
        "component": texts.word("component", effects.component),
        "direction": texts(f"direction.{effects.direction}"),
    }


def _counts(found: Sequence[Measured], texts: Texts) -> str:
    """Facts and pairs of each checkpoint, in words."""
    counts = {
        _name(checkpoint, texts): texts("verdict.counts", facts=result.facts, pairs=result.pairs)
        for checkpoint, result, _ in found
    }
    return "; ".join(f"{name}: {count}" for name, count in counts.items())


def interval_words(interval: Interval, texts: Texts) -> str:
    """An interval as percentages with its number of facts; empty where nothing was measured."""
    if not math.isfinite(interval.estimate):
        return ""
    numbers = {name: percent(getattr(interval, name), 1) for name in INTERVAL}
    return texts("page.interval" if math.isfinite(interval.low) else "page.no_interval", n=interval.n, **numbers)


def _name(checkpoint: Checkpoint, texts: Texts) -> str:
    return in_language(checkpoint.name, texts.language)


def _loss(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else ""


def _csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A data: address of these rows; the byte-order mark lets a spreadsheet read Japanese."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_plain(value) for value in row] for row in rows)
    return "data:text/csv;charset=utf-8," + quote("\ufeff" + text.getvalue())


def _plain(value: object) -> object:
    """A number with six digits, empty for NaN; a text that a spreadsheet will not take for a formula."""
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    if isinstance(value, str) and value.lstrip()[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        return f"'{value}"
    return value


def _file(*parts: str) -> str:
    return "-".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") or "x" for part in parts) + ".csv"
