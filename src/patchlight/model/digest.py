"""The hash of a model, by which a study, a rule and a re-check mean the same weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

from patchlight.model.adapter import find_model
from patchlight.store.digests import place_digest


def model_digest(source: str | Path, adapter: str | Path | None = None, revision: str | None = None) -> str:
    """SHA-256 over the files of a model, and of the adapter over it; raises as `find_model` does."""
    places = [place for place in find_model(source, adapter, revision) if place is not None]
    return hashlib.sha256("".join(map(place_digest, places)).encode()).hexdigest()
