"""The calibration passport: how often the tool erred on models whose truth is known, as shipped with this version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from patchlight.run.units import source_version

DECIDES = ("judge", "trace/weights.py", "trace/joint.py", "trace/growth.py", "trace/sufficient.py", "pairs/screen.py")
"""The code that decides a verdict on a planted model."""
DECIDES_ON_MAPS = (*DECIDES, "trace/engine.py", "trace/sweep.py", "verify/controls.py")
"""The code that decides a verdict on a circuit's maps of activations."""


def shipped() -> Mapping[str, Any]:
    """The passport that was made for this version, as `patchlight passport` wrote it."""
    text = (files("patchlight.verify") / "passport.json").read_text(encoding="utf-8")
    made: Mapping[str, Any] = json.loads(text)
    return made


def is_current(passport: Mapping[str, Any]) -> bool:
    """True where the code that decides verdicts is the code that the passport was made with."""
    on_maps = passport.get("activations", {"code": ""})["code"]
    return bool(passport["code"] == source_version(DECIDES) and on_maps == source_version(DECIDES_ON_MAPS))
