"""What a study may not conclude, whatever its maps look like."""

from __future__ import annotations

from pathlib import Path

import pytest

from patchlight.store.files import FileStore
from patchlight.store.results import Artifact
from patchlight.study.findings import refused
from patchlight.study.results import Checkpoint, CheckpointResults


def never() -> None:
    raise AssertionError("no model is read to refuse a verdict")


def measured(folder: Path, *, failed: int = 0, units: int = 90, gap_unclear: tuple[str, ...] = ()) -> CheckpointResults:
    asked = Artifact({"gap_unclear": list(gap_unclear)}, "", {}, FileStore(folder))
    return CheckpointResults(Checkpoint("base", "", never), asked, None, (), (), failed, units)


@pytest.mark.parametrize(
    ("failed", "units", "left_open"), [(0, 0, False), (0, 90, False), (1, 100, False), (2, 100, True), (1, 9, True)]
)
def test_more_than_one_failed_unit_in_a_hundred_leaves_the_verdict_open(
    tmp_path: Path, failed: int, units: int, left_open: bool
) -> None:
    verdict = refused(measured(tmp_path, failed=failed, units=units), "definitional", 20)
    assert (verdict is not None) == left_open
    if verdict is not None:
        assert (verdict.word, verdict.grade) == ("undetermined", "D")
        assert verdict.reasons[0].numbers == {"failed": failed, "units": units}


def test_a_kind_whose_gap_is_not_told_from_zero_is_not_ranked(tmp_path: Path) -> None:
    result = measured(tmp_path, gap_unclear=("definitional",))
    verdict = refused(result, "definitional", 12)
    assert verdict is not None
    assert (verdict.word, verdict.reasons[0].code) == ("no knowledge to localise", "gap-unclear")
    assert refused(result, "associative", 12) is None
