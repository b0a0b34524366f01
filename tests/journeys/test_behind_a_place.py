"""A study that asks for time, windows, self-repair and readers is walked to its page, and walked again for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from patchlight.report.build import coded
from patchlight.report.texts import read_texts
from patchlight.run.progress import Progress
from patchlight.store.ledger import Ledger
from patchlight.study.spec import read_study
from patchlight.study.walk import walk

ASKED = "sweep: {components: [mlp_out], sets: false, steps: true, windows: {}, repair: true, routes: true, "


@pytest.mark.slow
def test_what_lies_behind_a_place_is_measured_once_and_shown(study: Path, tmp_path: Path) -> None:
    asked = study.read_text(encoding="utf-8").replace("sweep: {", ASKED).replace("max_per_kind: 24", "max_per_kind: 8")
    study.write_text(f"{asked}controls: none\n", encoding="utf-8")
    read = read_study(study)
    with Ledger(tmp_path / "workspace") as ledger, ledger.driving():
        ledger.begin_study(read.spec.digest, "animals", "", str(study), read.spec.id)
        first = walk(read, ledger, Progress(), "patchlight run")
        again = walk(read, ledger, Progress(), "patchlight run", stored_only=True)
    assert first.computed
    assert not again.computed
    (checkpoint,) = again.contents.checkpoints
    for result in checkpoint.kinds:
        assert [each.component for each in result.timed.windows] == ["mlp_out"]
        assert result.reached.repair
        assert result.reached.routes
    page = first.report.read_text(encoding="utf-8")
    unasked = [
        name for name in ("paths", "windows", "repair", "routes") if coded(read_texts("en")(f"{name}.none")) in page
    ]
    assert unasked == ["paths"]
