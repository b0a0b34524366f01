"""Evidence with every key that a study writes, small enough to reckon with by hand."""

from __future__ import annotations

from typing import Any

from patchlight.review.records import Evidence

ROLES = ("subject_last", "last")
NOTHING = [[0.0, 0.0], [0.0, 0.0]]


def share(estimate: float | None, low: float | None = None, high: float | None = None, n: int = 12) -> dict[str, Any]:
    """An interval as JSON has it."""
    return {"estimate": estimate, "low": low, "high": high, "n": n}


def pair(number: int, *, held_out: bool = True) -> dict[str, Any]:
    """One question, asked about crow number so-and-so."""
    return {
        "clean": f"The colour of crow {number} is",
        "corrupted": f"The colour of bear {number} is",
        "correct": " black",
        "wrong": " brown",
        "fact": f"crow-{number}",
        "roles": ["before", "before", "before", "subject_last", "last", "last"],
        "words": ["The", "colour", "of", "crow", str(number), "is"],
        "clean_metric": 4.0,
        "corrupted_metric": -4.0,
        "given_back": 6.0,
        "taken_away": 5.0,
        "held_out": held_out,
    }


def example(number: int) -> dict[str, Any]:
    """A question with its map in both directions."""
    asked = pair(number)
    values = [[0.0, 0.0, 0.0, 0.1, 0.0, 0.0], [0.0, 0.0, 0.0, 0.75, 0.0, 0.2]]
    cells = {"values": values, "structural": [[False] * 6] * 2}
    named = {name: asked[name] for name in ("fact", "clean", "corrupted", "correct", "wrong", "words")}
    metrics = {name: asked[name] for name in ("clean_metric", "corrupted_metric")}
    words = [word.replace("crow", "bear") for word in asked["words"]]
    return {**named, **metrics, "corrupted_words": words, "differing": [3], "maps": {"denoise": cells, "noise": cells}}


def effect_map() -> dict[str, Any]:
    """Two layers by two roles; the place stands out."""
    estimate = [[0.02, 0.0], [0.75, 0.1]]
    bands = {"low": [[-0.1, -0.1], [0.6, 0.0]], "high": [[0.1, 0.1], [0.9, 0.2]]}
    control = {"control_low": [[-0.1, -0.1]] * 2, "control_high": [[0.1, 0.2]] * 2}
    marks = {"significant": [[False, False], [True, False]], "structural": [[False, False]] * 2}
    return {"roles": list(ROLES), "estimate": estimate, **bands, **control, **marks}


def choice(corruption: str, metric: str, effect: float) -> dict[str, Any]:
    """One corruption and metric with its map."""
    numbers = {"correlation": share(0.9, 0.8, 1.0), "overlap": share(1.0, 0.5, 1.0), "reading": "agrees"}
    named = {"corruption": corruption, "metric": metric, "facts": 12, "pairs": 24, "left_out": {}}
    return {**named, **numbers, "effect": [[0.0, 0.0], [effect, 0.1]]}


def content(**changes: Any) -> dict[str, Any]:
    """The content of evidence on layer 1's feed-forward output at the end of the subject."""
    place = {"site": "blocks.1.mlp_out@subject_last", "component": "mlp_out", "layer": 1, "role": "subject_last"}
    study = {"study_id": "crows", "checkpoint": "base", "model": "m" * 64, "load": "/models/crow", "domain": "crows"}
    metric = {"language": "en", "kind": "definitional", "metric": "logit_diff", "unit": "logits", "gap_floor": 0.5}
    nulls = {"permuted": share(0.05, -0.1, 0.2), "random-init": share(0.1, 0.0, 0.3)}
    why = {"reasons": [["no-control", {}]], "why_not_stronger": [["not-replicated", {}]]}
    stable = {"source": "facts", "jaccard": share(0.9, 0.5, 1.0, 1000), "stable": True, "shares": {place["site"]: 0.95}}
    matrix = {"direction": "denoise", "roles": list(ROLES), "top": 1, "stability": 0.9, "ranked": [[True, True]] * 2}
    parts = [share(0.7, 0.6, 0.8), share(0.2, 0.1, 0.3), share(0.4, 0.3, 0.5), share(0.1, 0.0, 0.2)]
    return {
        **study,
        **metric,
        **place,
        "confidence": 0.95,
        "recovery": share(0.75, 0.6, 0.9),
        "damage": share(0.6, 0.4, 0.8),
        "nulls": nulls,
        "damage_nulls": {"permuted": share(0.0, -0.1, 0.1)},
        "nulls_absent": {"another-fact": "no-donor"},
        "verdict": {"word": "undetermined", "grade": "D", **why},
        "maps": {"denoise": effect_map(), "noise": effect_map()},
        "stability": {"sites": [place["site"]], "variations": [stable]},
        "direct": {"sites": [place["site"]], "parts": [parts], "facts": 12, "pairs": 24, "identity_error": 1e-6},
        "robustness": [{**matrix, "cells": [choice("token", "logit_diff", 0.75), choice("mean", "logit_diff", 0.7)]}],
        "metrics": [{**matrix, "cells": [choice("token", "logit_diff", 0.75), choice("token", "prob", 0.2)]}],
        "heads": None,
        "examples": [example(1), example(2)],
        "pairs": [pair(number, held_out=number > 2) for number in range(1, 5)],
        **changes,
    }


def full_evidence(**changes: Any) -> Evidence:
    """That content as evidence."""
    return Evidence(content(**changes))
