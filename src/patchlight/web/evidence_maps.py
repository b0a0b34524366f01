"""The maps of an evidence page, and the parts of effects: drawings with their captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from patchlight.report.charts import colour_scale, heat_map, interval_words, percent
from patchlight.report.contents import PARTS, Example
from patchlight.report.figures import Panel
from patchlight.report.paths import bars
from patchlight.report.svg import Drawing
from patchlight.report.tables import Table
from patchlight.report.texts import Texts, site_words
from patchlight.web.evidence_read import Content, cells_of, direct_of, example_of, sites_of


@dataclass(frozen=True)
class Maps:
    """Maps of the component over all questions, over single questions word by word, and of heads; `scale` is their key.

    `tables` are the numbers of the maps over all questions, with their intervals and controls.
    """

    scale: Drawing
    every: tuple[Panel, ...]
    words: tuple[Panel, ...]
    heads: tuple[Panel, ...]
    heads_note: str
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class Parts:
    """How much of the effect goes straight to the answer; `drawing` is None where it was not measured."""

    note: str
    drawing: Drawing | None = None
    sentences: tuple[str, ...] = ()
    table: Table | None = None


def maps(content: Content, texts: Texts, t: Texts) -> Maps:
    """Every map of the component; the cells of the place, or of a set's places in this component, are framed."""
    examples = [example_of(each) for each in content["examples"]]
    return Maps(
        colour_scale(texts),
        tuple(_every(content, texts, t)),
        tuple(panel for each in examples for panel in _words(each, content, texts, t)),
        tuple(_heads(content, texts, t)),
        _heads_note(content, t),
        tuple(_tables(content, texts, t)),
    )


def parts(content: Content, texts: Texts, t: Texts) -> Parts:
    """The direct and the indirect part of the kind's strongest places, with what they do not bring back."""
    if content["direct"] is None:
        return Parts(t("evidence.direct_unmeasured"))
    direct, site = content["direct"], content["site"]
    if site not in direct["sites"]:
        return Parts(t("evidence.direct_elsewhere", places=len(direct["sites"])))
    own = direct["parts"][direct["sites"].index(site)]
    found = direct_of({**direct, "sites": [site], "parts": [own]}, content["confidence"])
    shares = {part: float(found.parts.estimate[0, number]) for number, part in enumerate(PARTS)}
    missing = percent(max(0.0, 1 - shares["total"]), 1)
    rows = [(texts(f"paths.{part}"), interval_words(found.parts.at(0, n), texts)) for n, part in enumerate(PARTS)]
    rows.append((texts("paths.missing"), missing))
    place = site_words(found.sites[0], texts)
    label = t("evidence.direct_label", place=place)
    return Parts(
        t("evidence.direct_facts", facts=found.facts, pairs=found.pairs),
        bars(found, texts, label),
        (
            texts("paths.sentence", site=place, **{part: percent(share) for part, share in shares.items()}),
            t("evidence.direct_missing", missing=missing),
        ),
        Table(label, [t("evidence.what_column"), t("evidence.share_column")], rows),
    )


def _every(content: Content, texts: Texts, t: Texts) -> Iterator[Panel]:
    for direction, each in content["maps"].items():
        name = texts(f"direction.{direction}")
        drawing = heat_map(
            cells_of(each["estimate"]),
            [texts.word("role", role) for role in each["roles"]],
            texts,
            t("evidence.map_label", direction=name, component=texts.word("component", content["component"])),
            structural=np.array(each["structural"], dtype=bool),
            significant=np.array(each["significant"], dtype=bool),
            chosen=_own_cells(content, each["roles"]),
        )
        yield Panel(t("evidence.map_every", direction=name), drawing)


def _own_cells(content: Content, roles: Sequence[str]) -> list[tuple[int, int]]:
    """Layer and column of each place that is judged; a part of the question may have several words."""
    own = [site for site in sites_of(content) if site.component == content["component"]]
    return [
        (site.layer, column)
        for site in own
        for column, role in enumerate(roles)
        if isinstance(site.layer, int) and role == site.position
    ]


def _tables(content: Content, texts: Texts, t: Texts) -> Iterator[Table]:
    for direction, each in content["maps"].items():
        header = [texts("table.layer"), *(texts.word("role", role) for role in each["roles"])]
        rows = [
            (str(layer), *(_cell_words(each, layer, column, t) for column in range(len(each["roles"]))))
            for layer in reversed(range(len(each["estimate"])))
        ]
        yield Table(t("evidence.map_every", direction=texts(f"direction.{direction}")), header, rows)


def _cell_words(each: Content, layer: int, column: int, t: Texts) -> str:
    names = ("estimate", "low", "high", "control_low", "control_high")
    values = {name: each[name][layer][column] for name in names if name in each}
    if any(values.get(name) is None for name in names[:3]):
        return ""
    numbers = {name: percent(value, 1) for name, value in values.items() if value is not None}
    return t("evidence.cell_beside" if len(numbers) == len(names) else "evidence.cell", **numbers)


def _words(example: Example, content: Content, texts: Texts, t: Texts) -> Iterator[Panel]:
    chosen = _own_cells(content, _roles(example, content))
    for each in example.maps:
        name = texts(f"direction.{each.direction}")
        drawing = heat_map(
            each.values,
            example.words,
            texts,
            t("evidence.words_label", direction=name, prompt=example.clean),
            structural=each.structural,
            differing=example.differing,
            chosen=chosen,
        )
        yield Panel(t("evidence.map_words", direction=name, prompt=example.clean), drawing)


def _roles(example: Example, content: Content) -> Sequence[str]:
    same = ((each["fact"], each["clean"], each["corrupted"]) for each in content["pairs"])
    index = list(same).index((example.fact, example.clean, example.corrupted))
    roles: Sequence[str] = content["pairs"][index]["roles"]
    return roles


def _heads(content: Content, texts: Texts, t: Texts) -> Iterator[Panel]:
    """A small map of layers and heads for each role at which heads were exchanged."""
    patched = content["heads"]["patched"] if content["heads"] else []
    if not patched:
        return
    layers, heads = (1 + max(each[name] for each in patched) for name in ("layer", "head"))
    layers = max(layers, len(content["maps"]["denoise"]["estimate"]))
    for role in dict.fromkeys(each["role"] for each in patched):
        cells = np.full((layers, heads), np.nan)
        for each in patched:
            if each["role"] == role:
                cells[each["layer"], each["head"]] = np.nan if each["effect"] is None else each["effect"]
        label = t("evidence.heads_label", role=texts.word("role", role))
        columns = [t("evidence.head", head=head) for head in range(heads)]
        drawing = heat_map(cells, columns, texts, label, structural=np.zeros(cells.shape, dtype=bool))
        yield Panel(texts.word("role", role), drawing)


def _heads_note(content: Content, t: Texts) -> str:
    heads = content["heads"]
    return t("evidence.heads", facts=heads["facts"], pairs=heads["pairs"]) if heads else t("evidence.no_heads")
