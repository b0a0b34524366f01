"""The null maps in the report: beside each map, told in words and numbers, and what is missing said."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from urllib.parse import unquote

import numpy as np
import pytest

from patchlight.records import NULLS
from patchlight.report.build import render
from patchlight.report.charts import interval_words
from patchlight.report.nulls import COLUMNS, null_figure, small_map
from patchlight.report.texts import LANGUAGES, read_texts


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_null_has_its_small_map_and_says_how_far_it_reaches(language, contents):
    texts = read_texts(language)
    figure = null_figure(contents, "definitional", "mlp_out", texts)
    assert figure is not None
    for row, table, each in zip(figure.panels, figure.tables, contents.measured("definitional")[4:6], strict=False):
        names = [texts.word("null", name) for name in each.effects.nulls]
        assert [name in panel.title for name, panel in zip(names, row, strict=True)]
        assert [line[0] for line in table.rows] == names
        for null, line in zip(each.effects.nulls.values(), table.rows, strict=True):
            layer, column = np.unravel_index(np.nanargmax(null.high), null.high.shape)
            assert line[1] == interval_words(null.at(int(layer), int(column)), texts)
    assert len(figure.panels) == 4  # two models, two directions
    text = unquote(figure.download.address.split(",", 1)[1]).removeprefix("\ufeff")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert tuple(rows[0]) == COLUMNS
    denoised = contents.measured("definitional")[4].effects
    cell = next(row for row in rows if (row["control"], row["layer"], row["role"]) == ("another-fact", "2", "last"))
    assert float(cell["high"]) == pytest.approx(denoised.nulls["another-fact"].high[2, 5], rel=1e-5)


def test_colours_are_those_of_the_map_and_nothing_is_drawn_where_nothing_was_measured():
    values = np.array([[0.0, 1.0, np.nan], [1.0, -1.0, 0.5]])
    structural = np.zeros((2, 3), dtype=bool)
    structural[1, 2] = True
    svg = small_map(values, "a label", structural=structural).svg
    assert svg.count("<path") == 4  # white, orange (two cells), purple, grey
    assert svg.count("v6") == 5


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_null_that_could_not_be_made_is_named_with_its_reason(language, contents):
    texts = read_texts(language)
    point = contents.checkpoints[0]
    for name, reason in zip(NULLS, ["off", "no-donor", "few-donors", "off", "off"], strict=True):
        kinds = (dataclasses.replace(point.kinds[0], nulls_absent={name: reason}),)
        page = render(dataclasses.replace(contents, checkpoints=(dataclasses.replace(point, kinds=kinds),)), language)
        assert texts.word("null", name) != name
        assert texts("nulls.absent", null=texts.word("null", name), reason=texts(f"null_absent.{reason}")) in page
        assert not re.search(r"\bnan\b", page, re.IGNORECASE)


def test_the_verdict_names_nulls_in_the_language_of_the_page(contents):
    english, japanese = (render(contents, language) for language in LANGUAGES)
    assert "These controls were not made: unrelated question, before fine-tuning." in english
    assert "次の対照は測定していません：無関係な質問、微調整前のモデル。" in japanese
    assert "highest null map (another fact, 8%)" in english


def test_the_grey_bar_is_the_null_that_reaches_highest(contents):
    effects = contents.measured("definitional")[0].effects
    np.testing.assert_array_equal(effects.control.high, effects.nulls["another-fact"].high)
    raised = effects.nulls["random-init"].high.copy()
    raised[3, 5] = 2.0
    nulls = {**effects.nulls, "random-init": dataclasses.replace(effects.nulls["random-init"], high=raised)}
    control = dataclasses.replace(effects, nulls=nulls).control
    assert control.high[3, 5] == 2.0
    assert control.estimate[3, 5] == nulls["random-init"].estimate[3, 5]
    assert control.estimate[2, 5] == nulls["another-fact"].estimate[2, 5]
