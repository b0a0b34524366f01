"""The hash of a model, by which a study, a rule and a re-check mean the same weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

from patchlight.model.adapter import find_model


def model_digest(source: str | Path, adapter: str | Path | None = None, revision: str | None = None) -> str:
    """SHA-256 over the files of a model, and of the adapter over it; raises as `find_model` does."""
    places = [place for place in find_model(source, adapter, revision) if place is not None]
    return hashlib.sha256("".join(map(_place_digest, places)).encode()).hexdigest()


def _place_digest(place: Path) -> str:
    files = [place] if place.is_file() else sorted(file for file in place.iterdir() if file.is_file())
    return hashlib.sha256("".join(f"{file.name}{_file_digest(file)}" for file in files).encode()).hexdigest()


def _file_digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
