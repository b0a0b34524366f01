"""Pairs as they come back from a store: rows of plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from patchlight.records import Pair


def pair_of(row: Mapping[str, Any]) -> Pair:
    """The pair of a stored row, whatever else stands there; fields that a row of an earlier version lacks are empty."""
    found: dict[str, Any] = {field.name: row[field.name] for field in fields(Pair) if field.name in row}
    found |= {name: tuple(value) for name, value in found.items() if isinstance(value, list)}
    return Pair(**found)
