"""Tables to read beside a figure, and the same numbers as a CSV download."""

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
from patchlight.report.charts import interval_words, percent, runs
from patchlight.report.contents import CurvePoint, EffectMap, Example, ExampleMap, Measured, TrainingCurve
from patchlight.report.svg import readable
from patchlight.report.texts import Texts

INTERVAL = ("estimate", "low", "high")
EFFECT_COLUMNS = (
    *("model", "component", "direction", "layer", "role", "estimate", "low", "high", "facts"),
    *("control_estimate", "control_low", "control_high", "by_construction", "passes_threshold"),
)
EXAMPLE_COLUMNS = ("component", "direction", "layer", "position", "word", "share_of_gap", "by_construction")
TRAINING_COLUMNS = ("step", "train_loss", "validation_loss", "comparable_loss")


@dataclass(frozen=True)
class Table:
    """Numbers as they are read: a heading, column heads, rows whose first cell names the row."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Download:
    """A CSV file inside the page: its name, and its content as a data: address."""

    file: str
    address: str


def profile_table(each: Measured, roles: Sequence[str], texts: Texts) -> Table:
    """Effect and control by layer at these roles."""
    effects = each.effects
    columns = {
        f"{texts.word('role', role)}: {texts(f'table.{name}')}": (values, effects.roles.index(role))
        for role in roles
        for name, values in (("effect", effects.effect), ("control", effects.control))
        if values is not None
    }
    rows = [
        (str(layer), *(interval_words(values.at(layer, column), texts) for values, column in columns.values()))
        for layer in range(effects.layers)
    ]
    return Table(texts("profile.panel", **each.names(texts)), [texts("table.layer"), *columns], rows)


def clear_table(found: Sequence[Measured], roles: Sequence[str], texts: Texts) -> Table:
    """The layers whose intervals lie wholly above the control, a row for each place."""
    header = [texts("table.checkpoint"), texts("table.component"), *(texts.word("role", role) for role in roles)]
    rows = [
        (
            texts.pick(each.checkpoint.name),
            texts.word("component", each.effects.component),
            *(_clear(each.effects, role) or texts("profile.nowhere") for role in roles),
        )
        for each in found
    ]
    return Table(texts("profile.clear"), header, rows)


def map_table(each: Measured, texts: Texts) -> Table:
    """Every cell of a map with its interval, layer 0 at the bottom as in the drawing."""
    header = [texts("table.layer"), *(texts.word("role", role) for role in each.effects.roles)]
    rows = [
        (
            str(layer),
            *(
                interval_words(each.effects.effect.at(layer, column), texts)
                for column in range(len(each.effects.roles))
            ),
        )
        for layer in reversed(range(each.effects.layers))
    ]
    return Table(texts("map.panel", **each.names(texts)), header, rows)


def example_table(example: Example, each: ExampleMap, texts: Texts) -> Table:
    """Every cell of a single pair's map, layer 0 at the bottom."""
    header = [texts("table.layer"), *(readable(word) for word in example.words)]
    rows = [
        (str(layer), *(percent(float(value), 1) for value in each.values[layer]))
        for layer in reversed(range(len(each.values)))
    ]
    component, direction = texts.word("component", each.component), texts(f"direction.{each.direction}")
    return Table(texts("map.example_panel", component=component, direction=direction), header, rows)


def training_table(name: str, training: TrainingCurve, texts: Texts) -> Table:
    """Losses by step, and the perplexity that can be compared."""
    header = [texts(f"training.{column}") for column in ("step", "train", "validation", "comparable", "perplexity")]
    rows = [(str(point.step), *losses_in_words(point)) for point in training.points]
    return Table(name, header, rows)


def losses_in_words(point: CurvePoint) -> tuple[str, str, str, str]:
    """Training, validation and comparable loss, and the perplexity of the last; empty where none was taken."""
    losses = (point.train, point.validation, point.comparable)
    perplexity = f"{math.exp(point.comparable):.1f}" if point.comparable < 700 else ""
    train, validation, comparable = (f"{loss:.4f}" if math.isfinite(loss) else "" for loss in losses)
    return train, validation, comparable, perplexity


def effect_rows(each: Measured, roles: Sequence[str], texts: Texts) -> Iterable[tuple[object, ...]]:
    """A row of EFFECT_COLUMNS for each layer and role."""
    effects, nothing = each.effects, (math.nan,) * len(INTERVAL)
    for role in (role for role in roles if role in effects.roles):
        for layer in range(effects.layers):
            cell = (layer, effects.roles.index(role))
            yield (
                *(texts.pick(each.checkpoint.name), effects.component, effects.direction, layer, role),
                *(*_numbers(effects.effect, cell), int(effects.effect.n[cell])),
                *(nothing if effects.control is None else _numbers(effects.control, cell)),
                *(int(effects.structural[cell]), int(effects.significant[cell])),
            )


def example_rows(example: Example) -> Iterable[tuple[object, ...]]:
    """A row of EXAMPLE_COLUMNS for each cell of each map."""
    for each in example.maps:
        for layer, position in np.ndindex(*each.values.shape):
            yield (
                *(each.component, each.direction, layer, position, example.words[position]),
                *(float(each.values[layer, position]), int(each.structural[layer, position])),
            )


def download(name: Sequence[str], columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Download:
    """These rows as a CSV file; its byte-order mark lets a spreadsheet read Japanese."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_plain(value) for value in row] for row in rows)
    file = "-".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") or "x" for part in name) + ".csv"
    return Download(file, "data:text/csv;charset=utf-8," + quote("\ufeff" + text.getvalue()))


def _clear(effects: EffectMap, role: str) -> str:
    """Layers as "1, 3-5"; empty where there is none."""
    if effects.control is None or role not in effects.roles:
        return ""
    column = effects.roles.index(role)
    above = effects.effect.low[:, column] > effects.control.high[:, column]
    stretches = runs(above & ~effects.structural[:, column])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in stretches)


def _numbers(values: IntervalMap, cell: tuple[int, ...]) -> tuple[float, ...]:
    return tuple(float(getattr(values, name)[cell]) for name in INTERVAL)


def _plain(value: object) -> object:
    """A number with six digits, empty for NaN; a text that a spreadsheet will not take for a formula."""
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    if isinstance(value, str) and value.lstrip()[:1] in {"=", "+", "-", "@"}:
        return f"'{value}"
    return value
