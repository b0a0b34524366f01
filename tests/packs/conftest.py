"""A small pack that is right in everything, for the tests to spoil."""

from __future__ import annotations

from pathlib import Path

import pytest

PACK = """\
patchlight: pack/1
id: mini
title: {en: Capitals, ja: 首都}
licence: CC0-1.0
sources:
  un: "List of member states"
terms:
  france: {en: France, ja: フランス, class: country}
  italy: {en: Italy, ja: イタリア}
  spain: {en: Spain, ja: スペイン}
  japan: {en: Japan, ja: 日本}
  egypt: {en: Egypt, ja: エジプト}
  paris: {en: Paris, ja: パリ, aliases: [Lutetia]}
  rome: {en: Rome, ja: ローマ}
  madrid: {en: Madrid, ja: マドリード}
  tokyo: {en: Tokyo, ja: 東京}
  cairo: {en: Cairo, ja: カイロ}
relations:
  - id: capital
    kind: associative
    templates:
      en: ["The capital of {subject} is", "{subject} is governed from the city of"]
      ja: ["{subject}の首都は", "{subject}を治める町は"]
    statements:
      en: ["{answer} is where {subject} keeps its parliament"]
facts:
  - {id: france-capital, relation: capital, subject: france, answers: [paris], distractors: [rome], source: un}
  - {id: italy-capital, relation: capital, subject: italy, answers: [rome], source: un}
  - {id: spain-capital, relation: capital, subject: spain, answers: [madrid], source: un}
  - {id: japan-capital, relation: capital, subject: japan, answers: [tokyo], source: un}
  - {id: egypt-capital, relation: capital, subject: egypt, answers: [cairo], source: un}
corpus:
  openers: {en: ["as is well known,"]}
  joiners: {en: [", whereas"]}
  filler: {en: ["maps of {subject} were drawn by hand"]}
"""


@pytest.fixture
def pack_text() -> str:
    return PACK


@pytest.fixture
def pack_file(tmp_path: Path) -> Path:
    file = tmp_path / "mini.yaml"
    file.write_text(PACK, encoding="utf-8")
    return file
