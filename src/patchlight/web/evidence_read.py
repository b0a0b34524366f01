"""Evidence read back from its JSON into the records that charts and tables of the report take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from patchlight.judge.statistics import IntervalMap
from patchlight.records import Interval, Site
from patchlight.report.contents import DirectEffects, Example, ExampleMap
from patchlight.trace.sites import read_site

SET_MARK = " + "  # joins the places of a set

Content = Mapping[str, Any]
"""The content of evidence; `study.reviewing.evidence_of` says which keys it has."""


def sites_of(content: Content) -> tuple[Site, ...]:
    """The place, or all places of a set."""
    return tuple(read_site(site) for site in content["site"].split(SET_MARK))


def interval_of(given: Mapping[str, Any]) -> Interval:
    """An interval; null in JSON is NaN."""
    estimate, low, high = (math.nan if given[name] is None else given[name] for name in ("estimate", "low", "high"))
    return Interval(estimate, low, high, given["n"])


def cells_of(given: Sequence[Sequence[float | None]]) -> Float[np.ndarray, "row column"]:
    """The cells of a map; null in JSON is NaN."""
    return np.array(given, dtype=float)


def direct_of(given: Mapping[str, Any], confidence: float) -> DirectEffects:
    """The parts of effects, as the report's drawing of them takes them."""
    parts = [[interval_of(part) for part in row] for row in given["parts"]]

    def values(name: str) -> np.ndarray:
        return np.array([[getattr(part, name) for part in row] for row in parts])

    return DirectEffects(
        tuple(read_site(site) for site in given["sites"]),
        IntervalMap(values("estimate"), values("low"), values("high"), values("n"), confidence),
        *(given[name] for name in ("facts", "pairs", "identity_error")),
    )


def example_of(given: Mapping[str, Any]) -> Example:
    """A single question with its maps; their component is that of the evidence."""
    maps = tuple(
        ExampleMap("", direction, cells_of(each["values"]), np.array(each["structural"], dtype=bool))
        for direction, each in given["maps"].items()
    )
    named: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in given.items()}
    return Example(**{**named, "maps": maps})
