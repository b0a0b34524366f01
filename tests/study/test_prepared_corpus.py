"""A study that names a prepared folder trains on its split, and knows when it has changed."""

from __future__ import annotations

import json
import random
from pathlib import Path

from patchlight.corpus.prepare import Preparation, prepare
from patchlight.packs.read import read_pack
from patchlight.run.progress import Progress
from patchlight.run.units import Workplace
from patchlight.study.spec import read_study
from patchlight.study.stages import texts_unit

STUDY = """\
patchlight: study/1
id: least
title: {en: Least}
pack: common
model: {load: some/model}
corpus: {files: [ready], validation: 0.5}
training: {I: {learning_rate: 0.001}}
"""
WORDS = "the seizure began after a long night without sleep and the patient was given a drug that helped"


def prepared(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    rows = [{"pmid": n, "text": " ".join(chance.choices(WORDS.split(), k=40))} for n in range(1, 41)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepare([folder / "rows.jsonl"], folder / "ready", Preparation(validation=0.25), progress=Progress())


def test_the_recorded_split_is_the_studys(tmp_path: Path) -> None:
    prepared(tmp_path, seed=1)
    (tmp_path / "study.yaml").write_text(STUDY)
    unit = texts_unit(read_study(tmp_path / "study.yaml"), read_pack("common"))
    result = unit.work(Workplace(tmp_path, lambda done, total: None))
    assert result.meta == {"read": 40, "train": 30, "validation": 10}

    (tmp_path / "ready").rename(tmp_path / "before")
    prepared(tmp_path, seed=2)
    assert texts_unit(read_study(tmp_path / "study.yaml"), read_pack("common")).hash != unit.hash
