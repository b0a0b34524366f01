"""A folder that holds a saved model."""

from __future__ import annotations

from pathlib import Path

import pytest

from patchlight.model.load import save_model
from tests.model.tiny import tiny_gpt2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tiny_gpt2(), tmp_path / "model")
    return tmp_path / "model"
