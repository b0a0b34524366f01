"""The figures of a report: drawings with their caption, the table of their numbers, and the same numbers as CSV."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from patchlight.judge.statistics import IntervalMap
from patchlight.report import tables
from patchlight.report.charts import Series, heat_map, layer_profile, loss_curve, percent, perplexity_curve
from patchlight.report.contents import (
    Checkpoint,
    EffectMap,
    Example,
    ExampleMap,
    Measured,
    ReportContents,
    TrainingCurve,
)
from patchlight.report.svg import Drawing
from patchlight.report.tables import Download, Table
from patchlight.report.texts import Texts

PROFILE_ROLES = ("subject_last", "last")  # where a fact is read in, and where the answer is read out


@dataclass(frozen=True)
class Panel:
    """One drawing of a figure, under its own heading."""

    title: str
    drawing: Drawing


@dataclass(frozen=True)
class Figure:
    """Panels in rows, what they show, and their numbers twice: for reading and for computing."""

    title: str
    panels: Sequence[Sequence[Panel]]
    caption: str
    tables: Sequence[Table]
    download: Download


def profile_figure(contents: ReportContents, kind: str, direction: str, texts: Texts) -> Figure:
    """Effects by layer at two roles, against the control; checkpoints side by side, components below one another."""
    found = [each for each in contents.measured(kind) if each.effects.direction == direction]
    span = _span(found)
    control = any(each.effects.control is not None for each in found)
    caption = texts(
        "profile.caption",
        direction_meaning=texts(f"direction_meaning.{direction}"),
        counts=counts(found, texts),
        confidence=percent(contents.confidence),
        method=texts.word("interval_method", found[0].effects.effect.method),
        control=texts("profile.control_present" if control else "profile.control_absent"),
    )
    rows = [row for each in found for row in tables.effect_rows(each, PROFILE_ROLES, texts)]
    return Figure(
        texts("profile.figure", kind=texts.word("kind", kind), direction=texts(f"direction.{direction}")),
        [[_profile_panel(each, texts, span) for each in row] for row in _rows(found, "component")],
        caption,
        [tables.profile_table(each, _profile_roles(each.effects), texts) for each in found],
        tables.download(("layers", kind, direction), tables.EFFECT_COLUMNS, rows),
    )


def clear_of_control(contents: ReportContents, kind: str, direction: str, texts: Texts) -> Table | None:
    """The layers whose intervals lie wholly above the control, by place; None where no control was measured."""
    found = [
        each
        for each in contents.measured(kind)
        if each.effects.direction == direction and each.effects.control is not None
    ]
    return tables.clear_table(found, PROFILE_ROLES, texts) if found else None


def map_figure(contents: ReportContents, kind: str, component: str, texts: Texts) -> Figure:
    """Layers against parts of the question: checkpoints side by side, directions below one another."""
    found = [each for each in contents.measured(kind) if each.effects.component == component]
    names = {"kind": texts.word("kind", kind), "component": texts.word("component", component)}
    caption = texts(
        "map.caption",
        component_meaning=texts.word("component_meaning", component),
        counts=counts(found, texts),
        confidence=percent(contents.confidence),
        **names,
    )
    rows = [row for each in found for row in tables.effect_rows(each, each.effects.roles, texts)]
    return Figure(
        texts("map.figure", **names),
        [[_map_panel(each, texts) for each in row] for row in _rows(found, "direction")],
        caption,
        [tables.map_table(each, texts) for each in found],
        tables.download(("map", kind, component), tables.EFFECT_COLUMNS, rows),
    )


def example_figure(checkpoint: Checkpoint, kind: str, example: Example, texts: Texts) -> Figure:
    """One pair word by word: components below one another, directions side by side."""
    name, components = texts.pick(checkpoint.name), dict.fromkeys(each.component for each in example.maps)
    return Figure(
        texts("map.example_figure", checkpoint=name, kind=texts.word("kind", kind), fact=example.fact),
        [
            [_example_panel(name, example, each, texts) for each in example.maps if each.component == component]
            for component in components
        ],
        texts("map.example_caption"),
        [tables.example_table(example, each, texts) for each in example.maps],
        tables.download(("example", name, example.fact), tables.EXAMPLE_COLUMNS, tables.example_rows(example)),
    )


def training_figure(checkpoint: Checkpoint, training: TrainingCurve, texts: Texts) -> Figure:
    """Training and validation loss by step."""
    name = texts.pick(checkpoint.name)
    drawing = loss_curve(training.points, training.best_step, texts, texts("training.label", checkpoint=name))
    caption = texts(
        "training.caption",
        documents=training.documents,
        best=training.best_step,
        stopped=texts("training.stopped_early" if training.stopped_early else "training.stopped_late"),
    )
    rows = [(point.step, point.train, point.validation, point.comparable) for point in training.points]
    panels = [[Panel(texts("training.losses"), drawing)]]
    if any(math.isfinite(point.comparable) for point in training.points):
        label = texts("training.perplexity_label", checkpoint=name)
        panels.append(
            [Panel(texts("training.perplexity"), perplexity_curve(training.points, training.best_step, texts, label))]
        )
    return Figure(
        name,
        panels,
        caption,
        [tables.training_table(name, training, texts)],
        tables.download(("loss", name), tables.TRAINING_COLUMNS, rows),
    )


def _profile_panel(each: Measured, texts: Texts, span: tuple[float, float]) -> Panel:
    names = each.names(texts)
    series = [_series(each.effects, role, texts) for role in _profile_roles(each.effects)]
    drawing = layer_profile(series, texts, texts("profile.label", **names), span=span)
    return Panel(texts("profile.panel", **names), drawing)


def _series(effects: EffectMap, role: str, texts: Texts) -> Series:
    column = effects.roles.index(role)
    control = None if effects.control is None else _column(effects.control, column)
    return Series(texts.word("role", role), _column(effects.effect, column), control, effects.structural[:, column])


def _column(values: IntervalMap, column: int) -> IntervalMap:
    low, high, n = values.low[:, column], values.high[:, column], values.n[:, column]
    return IntervalMap(values.estimate[:, column], low, high, n, values.confidence, values.method)


def _profile_roles(effects: EffectMap) -> list[str]:
    """The roles that a profile is drawn at: those of PROFILE_ROLES that these pairs have."""
    return [role for role in PROFILE_ROLES if role in effects.roles]


def _span(found: Sequence[Measured]) -> tuple[float, float]:
    """A range that holds every estimate and interval of the figure, and 0 to 100 % in any case."""
    parts = [part for each in found for part in (each.effects.effect, each.effects.control) if part is not None]
    values = np.concatenate([np.ravel(end) for part in parts for end in (part.estimate, part.low, part.high)])
    finite = values[np.isfinite(values)]
    return float(min(-0.15, *finite)) - 0.05, float(max(1.05, *finite)) + 0.05


def _rows(found: Sequence[Measured], name: str) -> list[list[Measured]]:
    """What was measured, in rows of equal `name` ("component" or "direction"); one row for a single checkpoint."""
    if len({id(each.checkpoint) for each in found}) == 1:
        return [list(found)]
    values = dict.fromkeys(getattr(each.effects, name) for each in found)
    return [[each for each in found if getattr(each.effects, name) == value] for value in values]


def _map_panel(each: Measured, texts: Texts) -> Panel:
    names, effects = each.names(texts), each.effects
    drawing = heat_map(
        effects.effect.estimate,
        [texts.word("role", role) for role in effects.roles],
        texts,
        texts("map.label", **names),
        structural=effects.structural,
        significant=effects.significant,
    )
    return Panel(texts("map.panel", **names), drawing)


def _example_panel(checkpoint: str, example: Example, each: ExampleMap, texts: Texts) -> Panel:
    names = {"component": texts.word("component", each.component), "direction": texts(f"direction.{each.direction}")}
    label = texts("map.example_label", checkpoint=checkpoint, prompt=example.clean, **names)
    drawing = heat_map(
        each.values, example.words, texts, label, structural=each.structural, differing=example.differing
    )
    return Panel(texts("map.example_panel", **names), drawing)


def counts(found: Sequence[Measured], texts: Texts) -> str:
    """Facts and pairs of each checkpoint, in words."""
    found_counts = {
        texts.pick(each.checkpoint.name): texts("verdict.counts", facts=each.result.facts, pairs=each.result.pairs)
        for each in found
    }
    return "; ".join(texts("page.named", name=name, text=count) for name, count in found_counts.items())
