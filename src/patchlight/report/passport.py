"""The calibration passport as every report shows it: how often the rule erred on models whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass

from patchlight.report.texts import Texts
from patchlight.verify.passport import is_current, shipped

SHOWN = ("hit", "nothing", "false", "right", "wrong")
ON_MAPS = ("right", "wrong", "undetermined")


@dataclass(frozen=True)
class PassportPart:
    """A line in words, count of n, and the 95 % interval, for each rate; `made` says when, `old` that code changed."""

    rows: tuple[tuple[str, str, str], ...]
    made: str
    old: bool


def rows_of(texts: Texts) -> PassportPart:
    """The short table of the passport that was shipped with this version."""
    found = shipped()
    rows = tuple(_row(name, found["rates"][name], texts) for name in SHOWN)
    rows += tuple(_row(f"activations.{name}", found["activations"]["rates"][name], texts) for name in ON_MAPS)
    made = texts("passport.made", date=found["date"], version=found["made_with"]["patchlight"])
    return PassportPart(rows, made, not is_current(found))


def _row(name: str, rate: dict[str, float], texts: Texts) -> tuple[str, str, str]:
    low, high = (f"{100 * rate[end]:.1f}" for end in ("low", "high"))
    count = texts("passport.count", count=rate["count"], n=rate["n"])
    return texts(f"passport.{name}"), count, texts("passport.range", low=low, high=high)
