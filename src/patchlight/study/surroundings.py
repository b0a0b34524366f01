"""What stands around a place in its evidence: stability, parts of effects, other choices, heads, single questions.

It is the same for every place of a component, candidate or decoy: a page picks out what concerns its own place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from patchlight.report.contents import PARTS, DirectEffects, Example, KindResult, Narrowing
from patchlight.verify.agreement import Robustness
from patchlight.verify.stability import Stability


def surroundings_of(kind: KindResult, component: str) -> dict[str, Any]:
    """The keys `stability`, `direct`, `robustness`, `metrics`, `heads`, `examples`; None or empty where not measured.

    `stability`: how often each place is named when one thing is varied. `direct`: the strongest places of the kind with
    their parts `[site][part]`. `robustness` and `metrics`: other corruptions and metrics, each with a map of its own
    `[layer, role]`. `heads`: those that a screening exchanged exactly. `examples`: single questions with their maps
    `[layer, position]`, by direction.
    """
    return {
        "stability": _stability(kind.verdict.stability),
        "direct": _direct(kind.direct),
        "robustness": _choices(kind.robustness, component),
        "metrics": _choices(kind.metrics, component),
        "heads": _heads(kind.narrowing),
        "examples": [_example(each, component) for each in kind.examples],
    }


def _stability(found: Stability | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "sites": [str(site) for site in found.sites],
        "variations": [
            {
                "source": each.source,
                "jaccard": each.jaccard,
                "stable": each.stable,
                "shares": {str(site): share for site, share in each.shares},
            }
            for each in found.variations
        ],
    }


def _direct(found: DirectEffects | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "sites": [str(site) for site in found.sites],
        "parts": [[found.parts.at(row, part) for part in range(len(PARTS))] for row in range(len(found.sites))],
        **{name: getattr(found, name) for name in ("facts", "pairs", "identity_error")},
    }


def _choices(matrices: Sequence[Robustness], component: str) -> list[dict[str, Any]]:
    return [
        {
            "direction": made.direction,
            "roles": made.roles,
            "top": made.top,
            "stability": made.stability,
            "ranked": made.ranked.tolist(),
            "cells": [
                {
                    **{name: getattr(cell, name) for name in ("corruption", "metric", "facts", "pairs", "left_out")},
                    **{name: getattr(cell, name) for name in ("correlation", "overlap", "reading")},
                    "effect": cell.effect.tolist(),
                }
                for cell in made.cells
            ],
        }
        for made in matrices
        if made.component == component
    ]


def _heads(narrowing: Narrowing | None) -> dict[str, Any] | None:
    if narrowing is None:
        return None
    screened = narrowing.screening
    patched = [
        {"layer": site.layer, "head": site.unit, "role": site.position, "effect": float(exact)}
        for site, exact in zip(screened.sites, screened.exact, strict=True)
        if site.component == "head_out" and np.isfinite(exact)
    ]
    named = {name: getattr(screened, name) for name in ("direction", "facts", "pairs")}
    return {**named, "patched": patched} if patched else None


def _example(example: Example, component: str) -> dict[str, Any]:
    named = {name: value for name, value in _fields(example).items() if name != "maps"}
    maps = {
        each.direction: {"values": each.values.tolist(), "structural": each.structural.tolist()}
        for each in example.maps
        if each.component == component
    }
    return {**named, "maps": maps}


def _fields(record: Any) -> dict[str, Any]:
    return {each.name: getattr(record, each.name) for each in dataclasses.fields(record)}
