"""What a study may conclude from what it measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from patchlight.store.files import FileStore
from patchlight.store.results import Artifact
from patchlight.study.findings import too_many_failed
from patchlight.study.results import Checkpoint, CheckpointResults


def never() -> None:
    raise AssertionError("no model is read to judge failed units")


@pytest.mark.parametrize(
    ("failed", "units", "undetermined"), [(0, 0, False), (0, 90, False), (1, 100, False), (2, 100, True), (1, 9, True)]
)
def test_more_than_one_failed_unit_in_a_hundred_leaves_the_verdict_open(
    tmp_path: Path, failed: int, units: int, undetermined: bool
) -> None:
    asked = Artifact({}, "", {}, FileStore(tmp_path))
    result = CheckpointResults(Checkpoint("base", "", never), asked, None, (), (), failed, units)
    verdict = too_many_failed(result, "definitional")
    assert (verdict is not None) == undetermined
    if verdict is not None:
        assert (verdict.word, verdict.grade, verdict.reasons[0].numbers) == (
            "undetermined",
            "D",
            {"failed": failed, "units": units},
        )
