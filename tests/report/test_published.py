from __future__ import annotations

import csv
import io
from dataclasses import replace
from urllib.parse import unquote

import pandas as pd
import pytest

from benchmarks.clap import replay_table, tables
from patchlight.judge.published import REASONS
from patchlight.report.build import render
from patchlight.report.published import FILE_COLUMNS, figure, properly, published_rows, replays
from patchlight.report.texts import LANGUAGES, read_texts


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_reason_and_word_of_a_figure_has_its_wording(language):
    texts = read_texts(language)
    assert set(texts.listed("published_reason")) == set(REASONS)
    for code, numbers in REASONS.items():
        assert "{" not in texts(f"published_reason.{code}", **dict.fromkeys(numbers, 0.25))


def test_published_and_measured_figure_stand_beside_what_the_figure_can_show(contents):
    (replayed,) = replays(contents, read_texts("en"))
    first, matrix, head = replayed.table.rows
    assert first[1:3] == ("50.0%", "220.0% (no interval), n\u00a01")
    assert first[5] == "No valid denominator"
    assert "0.0030 logits" in first[6]
    assert matrix[0] == "Conv1D(nf=24, nx=8)"
    assert head[2].startswith("100.0%")
    assert head[5] == "Identity"


def test_what_lies_beyond_the_drawing_is_marked_at_its_edge(contents):
    (replayed,) = replays(contents, read_texts("en"))
    assert "220.0% ▸" in replayed.drawing.svg
    assert "−290.0% ◂" in replayed.drawing.svg


def test_the_download_has_every_figure_with_its_reasons(contents):
    (replayed,) = replays(contents, read_texts("en"))
    text = unquote(replayed.download.address.split(",", 1)[1]).removeprefix("\ufeff")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["word"] for row in rows] == ["no valid denominator", "no valid denominator", "identity"]
    assert rows[0]["reasons"].split()[0] == "gap-under-floor"
    assert rows[2]["random_models"] == "2"


def test_the_studys_own_verdict_and_test_stand_below(contents):
    (row,) = properly(contents.replay, read_texts("en")).rows
    assert row[2:] == ("18", "36", "Localised (grade C)", "0.0040")


def test_a_study_that_replays_nothing_has_no_such_section(contents):
    assert 'id="published"' in render(contents, "en")
    assert 'id="published"' not in render(replace(contents, replay=None), "en")


def test_the_page_in_the_docs_draws_from_the_table_what_the_report_draws(contents):
    texts = read_texts("en")
    table = pd.DataFrame(published_rows(contents.replay), columns=FILE_COLUMNS)
    (again,) = tables(table)
    assert figure(again, texts).svg == figure(contents.replay.tables[0], texts).svg
    assert "| output head | 50.0% | 100.0% |" in replay_table(table, "definitional")
