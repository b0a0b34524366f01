"""How often the texts of a study name its answers: by hand-counted texts, in English and in Japanese."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from patchlight.packs.read import read_pack
from patchlight.run.units import Unit
from patchlight.store.results import Artifact
from patchlight.study.mentions import mentions_of, mentions_unit
from patchlight.study.spec import read_study
from patchlight.study.stages import texts_unit

PACK = """\
patchlight: pack/1
id: moulds
title: {en: Moulds}
licence: CC0-1.0
sources: {book: A book for tests.}
terms:
  die: {en: die, ja: 金型}
  sand: {en: sand, ja: 砂型}
  flash: {en: flash, ja: バリ}
  sink: {en: sink mark, ja: ヒケ}
relations:
  - id: defect
    kind: associative
    templates: {en: ["The {subject} has a", "In the {subject} is a"], ja: ["{subject}の不良は", "{subject}に出るのは"]}
facts:
  - {id: one, relation: defect, subject: die, answers: [flash, sink], source: book}
  - {id: two, relation: defect, subject: sand, answers: [sink], source: book}
"""
STUDY = """\
patchlight: study/1
id: moulds
title: {en: Moulds}
pack: pack.yaml
language: LANGUAGE
model: {load: some/model}
corpus: {files: [texts.jsonl], validation: 0.3}
training: {I: {learning_rate: 0.001}}
"""
TEXTS = {
    "en": ["A Flash here, a flash there.", "Flashes.", "Flashlight only.", "No sink\nmarks, one flash."] * 5,
    "ja": ["バリが出た。バリだ。", "大きなバリとヒケ。", "何もない。"] * 7,
}
NAMED = {"en": {"one": ("flash",), "two": ("sink mark", "sink\nmark")}, "ja": {"one": ("バリ",), "two": ("ヒケ",)}}


@pytest.mark.parametrize("language", ["en", "ja"])
def test_documents_trained_on_that_name_the_first_answer_are_counted_once(
    language: str, tmp_path: Path, stored: Callable[[Unit], Artifact]
) -> None:
    (tmp_path / "pack.yaml").write_text(PACK, encoding="utf-8")
    (tmp_path / "study.yaml").write_text(STUDY.replace("LANGUAGE", language), encoding="utf-8")
    rows = [json.dumps({"id": f"{n}", "text": f"{text} {n}"}) for n, text in enumerate(TEXTS[language])]
    (tmp_path / "texts.jsonl").write_text("\n".join(rows), encoding="utf-8")
    study, pack = read_study(tmp_path / "study.yaml"), read_pack(tmp_path / "pack.yaml")
    texts = stored(texts_unit(study, pack))
    table = texts.table("documents")
    train = [text.lower() for text in table.text[table.part == "train"] if "Flashlight" not in text]
    assert 0 < len(train) < len(TEXTS[language])
    expected = {
        fact: sum(any(name in text for name in names) for text in train) for fact, names in NAMED[language].items()
    }
    assert mentions_of(stored(mentions_unit(study, pack, texts))) == expected
    assert all(expected.values())
