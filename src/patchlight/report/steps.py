"""Effects token by token of the answer, and windows of neighbours beside the sum of their places, in maps and words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from patchlight.report.charts import heat_map, interval_words, percent
from patchlight.report.contents import Checkpoint, KindResult, ReportContents
from patchlight.report.figures import Figure, Panel
from patchlight.report.tables import Table, download
from patchlight.report.texts import Texts
from patchlight.report.timed import StepsResult, WindowsResult

STEP_COLUMNS = ("component", "direction", "layer", "place", "token", "estimate", "low", "high", "facts", "structural")
WINDOW_COLUMNS = (
    *("component", "direction", "layers", "positions", "first_layer", "first_role", "structural", "facts"),
    *("together", "together_low", "together_high", "singles", "singles_low", "singles_high"),
)
GIVEN = "answer_"


@dataclass(frozen=True)
class Shown:
    """What is said of one component of one kind of knowledge, and its figure."""

    figure: Figure
    sentences: Sequence[str]


def by_token(contents: ReportContents, texts: Texts) -> list[Shown]:
    """Every component whose effects were measured token by token of the answer."""
    return [
        Shown(_steps_figure(contents, checkpoint, result, found, texts), list(_steps_sentences(found, texts)))
        for checkpoint, result in _results(contents)
        for found in result.timed.steps
    ]


def neighbours(contents: ReportContents, texts: Texts) -> list[Shown]:
    """Every component whose neighbouring layers and words were exchanged together."""
    return [
        Shown(_windows_figure(contents, checkpoint, result, found, texts), list(_windows_sentences(found, texts)))
        for checkpoint, result in _results(contents)
        for found in result.timed.windows
    ]


def _results(contents: ReportContents) -> Iterator[tuple[Checkpoint, KindResult]]:
    return ((checkpoint, result) for checkpoint in contents.checkpoints for result in checkpoint.kinds)


def _names(
    checkpoint: Checkpoint, result: KindResult, found: StepsResult | WindowsResult, texts: Texts
) -> dict[str, str]:
    return {
        "kind": texts.word("kind", result.kind),
        "checkpoint": texts.pick(checkpoint.name),
        "component": texts.word("component", found.component),
        "direction": texts(f"direction.{found.direction}"),
    }


def _place(place: str, texts: Texts) -> str:
    if place.startswith(GIVEN):
        return texts("steps.given", number=place.removeprefix(GIVEN))
    return texts.word("role", place)


def _steps_figure(
    contents: ReportContents, checkpoint: Checkpoint, result: KindResult, found: StepsResult, texts: Texts
) -> Figure:
    names = _names(checkpoint, result, found, texts)
    tokens = [texts("steps.token", number=number + 1) for number in range(len(found.gap.estimate))]
    panels = []
    for index, place in enumerate(found.places):
        title, cells = _place(place, texts), found.effect.estimate[:, index]
        label = texts("steps.label", place=title, **names)
        panels.append(Panel(title, heat_map(cells, tokens, texts, label, structural=found.structural[:, index])))
    caption = texts(
        "steps.caption",
        meaning=texts(f"direction_meaning.{found.direction}"),
        facts=found.facts,
        pairs=found.pairs,
        single=found.single,
        left_out=found.left_out,
        confidence=percent(contents.confidence),
    )
    rows = [
        (
            found.component,
            found.direction,
            layer,
            found.places[place],
            step + 1,
            *(float(getattr(found.effect, name)[layer, place, step]) for name in ("estimate", "low", "high")),
            int(found.effect.n[layer, place, step]),
            int(found.structural[layer, place, step]),
        )
        for layer, place, step in np.argwhere(np.isfinite(found.effect.estimate)).tolist()
    ]
    name = ("steps", names["checkpoint"], result.kind, found.component)
    return Figure(
        texts("steps.title", **names), [panels], caption, [_gap_table(found, texts)], download(name, STEP_COLUMNS, rows)
    )


def _gap_table(found: StepsResult, texts: Texts) -> Table:
    """For each token, the gap that lies on it and the place that moves most of it."""
    rows = []
    for step in range(len(found.gap.estimate)):
        best = _strongest(found, step)
        where = "" if best is None else texts("steps.where", layer=best[0], place=_place(found.places[best[1]], texts))
        value = "" if best is None else interval_words(found.effect.at(*best, step), texts)
        rows.append((texts("steps.token", number=step + 1), interval_words(found.gap.at(step), texts), where, value))
    return Table(
        texts("steps.table"), [texts(f"steps.column.{name}") for name in ("token", "gap", "place", "most")], rows
    )


def _strongest(found: StepsResult, step: int) -> tuple[int, int] | None:
    """Layer and place of the largest effect on a token that is not there by construction."""
    shares = np.where(found.structural[..., step], np.nan, found.effect.estimate[..., step])
    if not np.isfinite(shares).any():
        return None
    layer, place = np.unravel_index(np.nanargmax(shares), shares.shape)
    return int(layer), int(place)


def _steps_sentences(found: StepsResult, texts: Texts) -> Iterator[str]:
    for step in range(len(found.gap.estimate)):
        best = _strongest(found, step)
        if best is None:
            continue
        yield texts(
            f"steps.sentence_{found.direction}",
            number=step + 1,
            gap=percent(float(found.gap.estimate[step])),
            layer=best[0],
            place=_place(found.places[best[1]], texts),
            value=interval_words(found.effect.at(*best, step), texts),
        )


def _windows_figure(
    contents: ReportContents, checkpoint: Checkpoint, result: KindResult, found: WindowsResult, texts: Texts
) -> Figure:
    names = _names(checkpoint, result, found, texts)
    roles = [texts.word("role", role) for role in found.roles]
    panels = []
    for number, key in enumerate(("together", "singles")):
        title, cells = texts(f"windows.{key}"), found.shares.estimate[:, :, number]
        marked = found.structural if number == 0 else np.zeros_like(found.structural)
        label = texts("windows.label", shown=title, **names)
        panels.append(Panel(title, heat_map(cells, roles, texts, label, structural=marked)))
    size = {"layers": found.layers, "positions": found.positions}
    counted = {"facts": found.facts, "pairs": found.pairs, "confidence": percent(contents.confidence)}
    meaning = texts(f"direction_meaning.{found.direction}")
    rows = [
        (
            *(found.component, found.direction, found.layers, found.positions, layer, found.roles[role]),
            *(int(found.structural[layer, role]), int(found.shares.n[layer, role, 0])),
            *(
                float(getattr(found.shares, name)[layer, role, number])
                for number in (0, 1)
                for name in ("estimate", "low", "high")
            ),
        )
        for layer, role in np.argwhere(np.isfinite(found.shares.estimate[..., 0])).tolist()
    ]
    name = ("windows", names["checkpoint"], result.kind, found.component)
    return Figure(
        texts("windows.title", **names),
        [panels],
        texts("windows.caption", meaning=meaning, **size, **counted),
        [_windows_table(found, texts)],
        download(name, WINDOW_COLUMNS, rows),
    )


def _windows_table(found: WindowsResult, texts: Texts) -> Table:
    rows = [
        (
            texts("steps.where", layer=layer, place=texts.word("role", found.roles[role])),
            *(interval_words(found.shares.at(layer, role, number), texts) for number in (0, 1)),
        )
        for layer, role in np.argwhere(np.isfinite(found.shares.estimate[..., 0])).tolist()
    ]
    heads = [texts("windows.first"), texts("windows.together"), texts("windows.singles")]
    return Table(texts("windows.table"), heads, rows)


def _windows_sentences(found: WindowsResult, texts: Texts) -> Iterator[str]:
    shares = np.where(found.structural, np.nan, found.shares.estimate[..., 0])
    if not np.isfinite(shares).any():
        return
    layer, role = (int(index) for index in np.unravel_index(np.nanargmax(shares), shares.shape))
    together, singles = (found.shares.at(layer, role, number) for number in (0, 1))
    code = "more" if together.low > singles.high else "less" if together.high < singles.low else "same"
    last = layer + found.layers - 1
    yield texts(
        f"windows.{code}",
        where=texts("windows.layer" if last == layer else "windows.layers", first=layer, last=last),
        place=texts.word("role", found.roles[role]),
        positions=found.positions,
        together=interval_words(together, texts),
        singles=interval_words(singles, texts),
    )
