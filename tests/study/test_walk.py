"""What a walk through a study holds in memory on its way."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

from patchlight import load_model
from patchlight.model.anatomy import Model
from patchlight.run.progress import Progress
from patchlight.store.ledger import Ledger
from patchlight.study.results import Checkpoint
from patchlight.study.spec import read_study
from patchlight.study.walk import walk

TRAINED = """\
corpus: {files: [texts.jsonl], validation: 0.3}
training:
  one: {learning_rate: 0.0001, max_epochs: 1, block_length: 16}
  two: {learning_rate: 0.0002, max_epochs: 1, block_length: 16}
  three: {learning_rate: 0.0003, max_epochs: 1, block_length: 16}
"""


def held() -> int:
    """How many models are in memory."""
    gc.collect()
    return sum(type(each) is Model for each in gc.get_objects())


def test_a_model_that_was_let_go_is_freed_and_read_again(taught: Path) -> None:
    checkpoint = Checkpoint("base", "digest", lambda: load_model(taught / "model"))
    first = weakref.ref(checkpoint.model)
    checkpoint.let_go()
    gc.collect()
    assert first() is None
    assert checkpoint.model.n_layers > 0
    checkpoint.let_go()
    checkpoint.let_go()


def test_however_many_trainings_a_study_has_their_models_are_held_one_at_a_time(study: Path, tmp_path: Path) -> None:
    study.write_text(study.read_text(encoding="utf-8") + TRAINED, encoding="utf-8")
    texts = [json.dumps({"id": str(number), "text": f"The animal number {number} is a bird."}) for number in range(20)]
    (study.parent / "texts.jsonl").write_text("\n".join(texts), encoding="utf-8")
    read, before = read_study(study), held()
    with Ledger(tmp_path / "workspace") as ledger, ledger.driving():
        ledger.begin_study(read.spec.digest, "animals", "", str(read.file), read.spec.id)
        walked = walk(read, ledger, Progress(), "patchlight run")
        assert [result.checkpoint.key for result in walked.results] == ["base", "one", "two", "three"]
        assert held() - before <= 2  # the one before training, and the one at random init
