from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from patchlight.run.units import Unit, Workplace
from patchlight.store.files import FileStore
from patchlight.store.results import Artifact, keep, opened


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[Unit], Artifact]:
    """Computes a unit and gives its result back as the ledger keeps it."""
    files = FileStore(tmp_path / "files")

    def kept(unit: Unit) -> Artifact:
        manifest = keep(files, unit.work(Workplace(tmp_path, lambda *_: None)))
        return opened(files, manifest, hashlib.sha256(manifest.encode()).hexdigest())

    return kept
