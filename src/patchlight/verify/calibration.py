"""What the thresholds of the verdict were chosen on, and whether the passport shows that they hold elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from patchlight.verify.passport import shipped

RIGHT, WRONG = 0.9, 0.02  # of clear models at least, and of all models at most


def recorded() -> Mapping[str, Any]:
    """The record of the choice: the seeds, the rule, what each choice made of them, and the one that was taken."""
    text = (files("patchlight.verify") / "calibration.json").read_text(encoding="utf-8")
    made: Mapping[str, Any] = json.loads(text)
    return made


def is_calibrated(thresholds: Mapping[str, float]) -> bool:
    """True where these are the recorded choice, and the passport that ships meets the targets on other seeds."""
    record, passport = recorded(), shipped()
    return record["thresholds"] == thresholds and meets(passport, record)


def meets(passport: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Whether the whole intervals over all models meet the targets, and each part's own share does.

    The parts are weights and activations; models on whose seeds the thresholds were chosen count for nothing.
    """
    if "activations" not in passport:
        return False
    parts = {"weights": passport, "activations": passport["activations"]}
    fresh = not any(set(part["seeds"]) & set(record["seeds"][name]) for name, part in parts.items())
    shares = [
        part["rates"]["right"]["count"] >= RIGHT * part["rates"]["right"]["n"]
        and part["rates"]["wrong"]["count"] <= WRONG * part["rates"]["wrong"]["n"]
        for part in parts.values()
    ]
    together = passport["together"]
    return fresh and all(shares) and together["right"]["low"] >= RIGHT and together["wrong"]["high"] <= WRONG
