"""A pack whose subject stands under several conditions: the check says which swap would serve it."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from patchlight.packs.read import read_pack
from patchlight.pairs.fit import check_tokens
from patchlight.pairs.twins import build_twins

PACK = """\
patchlight: pack/1
id: moulding
title: {en: Moulding}
licence: CC0-1.0
sources: {book: A book for tests.}
terms:
  moulding: {en: moulding, ja: 射出成形}
  low: {en: low heat, ja: 低温だと}
  top: {en: top heat, ja: 高温だと}
  sink: {en: sink, ja: ヒケ}
  flash: {en: flash, ja: バリ}
relations:
  - id: defect
    kind: associative
    templates: {ja: ["{condition}、{subject}の不良は", "{subject}で{condition}出る不良は"]}
facts:
  - {id: one, relation: defect, subject: moulding, conditions: [low], answers: [sink], source: book}
  - {id: two, relation: defect, subject: moulding, conditions: [top], answers: [flash], source: book}
"""


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_swap_that_would_serve_is_named_and_serves(
    language, tmp_path: Path, byte_level: PreTrainedTokenizerFast
) -> None:
    (tmp_path / "pack.yaml").write_text(PACK, encoding="utf-8")
    pack = read_pack(tmp_path / "pack.yaml")
    (found,) = (each for each in check_tokens(pack, byte_level, "ja") if each.code == "pack-no-pair")
    assert "--swap condition" in found.said(language)[1]
    assert "pairs: {swap: condition}" in found.said(language)[1]
    assert len(build_twins(pack, byte_level, "condition", language="ja").pairs) == 4
