"""A study that fine-tunes a model and asks where the change was written, from YAML to its table."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import SUBJECTS
from tests.journeys.test_study_end_to_end import patchlight

ACROSS = "sweep: {across: {components: [mlp_out]}, components: [mlp_out], directions: [denoise], "
TRAINED = """\
corpus: {files: [texts.jsonl]}
training: {short: {learning_rate: 0.003, max_epochs: 1, block_length: 32}}
"""


@pytest.mark.slow
def test_a_study_says_where_fine_tuning_wrote(study: Path) -> None:
    texts = [{"id": str(at), "text": f"The home of the {name} is the river"} for at, name in enumerate(SUBJECTS * 4)]
    (study.parent / "texts.jsonl").write_text("\n".join(map(json.dumps, texts)), encoding="utf-8")
    study.write_text(study.read_text(encoding="utf-8").replace("sweep: {", ACROSS) + TRAINED, encoding="utf-8")
    ran = patchlight("run", "study.yaml", "--json", folder=study.parent)
    assert ran.returncode == 0, ran.stderr
    table = pd.read_csv(study.parent / "workspace" / "reports" / "animals" / "across.csv")
    assert set(table.checkpoint) == {"Configuration short"}
    assert set(table.what) == {"weights", "mlp_out"}
    whole = table[(table.site == "weights") & (table.facts > 0)]
    assert (whole.estimate - 1).abs().max() < 1e-3
    assert whole.by_construction.all()
