"""What a file or a folder is known by: the SHA-256 of its bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path


def file_digest(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def place_digest(place: Path) -> str:
    """SHA-256 over the names and bytes of the files in a folder, at any depth, or of the one file."""
    files = [place] if place.is_file() else sorted(file for file in place.rglob("*") if file.is_file())
    return hashlib.sha256("".join(f"{file.name}{file_digest(file)}" for file in files).encode()).hexdigest()
