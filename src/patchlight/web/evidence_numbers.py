"""Every number of an evidence page for computing: its JSON, and one long table for CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from patchlight.report.contents import PARTS
from patchlight.web.evidence_read import Content

COLUMNS = ("section", "what", "direction", "layer", "column", "estimate", "low", "high", "n")
NOT_SHOWN = ("load",)  # where the model lies on the server's disk
MACHINE = ("verdict",)
Row = tuple[object, ...]


def shown_content(content: Content, *, machine: bool) -> dict[str, Any]:
    """The evidence as it may be read; without the machine's word where that is still hidden."""
    hidden = NOT_SHOWN if machine else NOT_SHOWN + MACHINE
    return {name: value for name, value in content.items() if name not in hidden}


def number_rows(content: Content) -> Iterator[Row]:
    """Rows of `COLUMNS`; effects are shares of the gap, what a single question moved is in the metric's unit."""
    yield from _effects(content)
    for direction, each in content["maps"].items():
        yield from _map("map", "effect", direction, each, each["roles"])
    for example in content["examples"]:
        for direction, each in example["maps"].items():
            yield from _cells("question", example["clean"], direction, each["values"], example["words"])
    yield from _parts(content)
    yield from _stability(content)
    for each in content["pairs"]:
        for direction, name in (("denoise", "given_back"), ("noise", "taken_away")):
            yield "pair", each["clean"], direction, content["layer"], content["role"], each[name], None, None, 1


def _effects(content: Content) -> Iterator[Row]:
    place = (content["layer"], content["role"])  # None for a set of places
    for direction, name, nulls in (("denoise", "recovery", "nulls"), ("noise", "damage", "damage_nulls")):
        for what, each in {"this place": content[name], **content[nulls]}.items():
            yield "effect", what, direction, *place, *_interval(each)


def _map(section: str, what: str, direction: str, each: Mapping[str, Any], columns: Sequence[str]) -> Iterator[Row]:
    for layer, row in enumerate(each["estimate"]):
        for at, column in enumerate(columns):
            ends = (each["low"][layer][at], each["high"][layer][at])
            yield section, what, direction, layer, column, row[at], *ends, None
            if "control_low" in each:
                band = (each["control_low"][layer][at], each["control_high"][layer][at])
                yield section, "highest control", direction, layer, column, None, *band, None


def _cells(section: str, what: str, direction: str, cells: Any, columns: Sequence[str]) -> Iterator[Row]:
    for layer, row in enumerate(cells):
        for column, value in zip(columns, row, strict=True):
            yield section, what, direction, layer, column, value, None, None, 1


def _parts(content: Content) -> Iterator[Row]:
    direct = content["direct"] or {"sites": [], "parts": []}
    for site, parts in zip(direct["sites"], direct["parts"], strict=True):
        for part, each in zip(PARTS, parts, strict=True):
            yield "parts", f"{site} {part}", "denoise", None, None, *_interval(each)


def _stability(content: Content) -> Iterator[Row]:
    for each in content["stability"]["variations"] if content["stability"] else ():
        yield "stability", f"{each['source']} overlap", "", None, None, *_interval(each["jaccard"])
        share = each["shares"].get(content["site"], 0.0)
        yield "stability", f"{each['source']} names this place", "", None, None, share, None, None, each["jaccard"]["n"]
    for name in ("robustness", "metrics"):
        for made in content[name]:
            for cell in made["cells"]:
                what = f"{cell['corruption']} {cell['metric']}"
                yield from _cells(name, what, made["direction"], cell["effect"], made["roles"])


def _interval(each: Mapping[str, Any]) -> tuple[object, ...]:
    return tuple(each[name] for name in ("estimate", "low", "high", "n"))
