from __future__ import annotations

import math
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchlight.judge.statistics import IntervalMap
from patchlight.report.charts import Series, colour, colour_scale, heat_map, layer_profile, loss_curve, percent
from patchlight.report.contents import CurvePoint
from patchlight.report.svg import readable
from patchlight.report.texts import read_texts

TEXTS = read_texts("en")
SVG = "{http://www.w3.org/2000/svg}"


def parsed(drawing) -> ElementTree.Element:
    return ElementTree.fromstring(drawing.svg)


def texts_of(drawing) -> list[str]:
    return [element.text for element in parsed(drawing).iter(f"{SVG}text")]


def titles_of(drawing) -> list[str]:
    return [element.text for element in parsed(drawing).iter(f"{SVG}title")]


def draw(values, columns=("The", "drug"), **marks):
    values = np.asarray(values, dtype=float)
    marks = {"structural": np.zeros(values.shape, dtype=bool), **marks}
    return heat_map(values, columns, TEXTS, "a map", **marks)


def intervals(estimate, half=0.1, n=10) -> IntervalMap:
    estimate = np.asarray(estimate, dtype=float)
    return IntervalMap(estimate, estimate - half, estimate + half, np.full(estimate.shape, n))


def test_a_map_shows_words_layers_and_every_number():
    shown = texts_of(draw([[0.0, 0.37], [-0.2, 1.18]]))
    assert {"The", "drug", "0", "1", "37", "−20", "118"} <= set(shown)


def test_layer_zero_is_at_the_bottom():
    cells = {t.text: float(t.get("y")) for t in parsed(draw([[0.11, 0.11], [0.22, 0.22]])).iter(f"{SVG}text")}
    assert cells["11"] > cells["22"]


def test_a_structural_site_is_hatched_and_has_no_number_and_no_dot():
    mark = np.array([[False, True]])
    drawing = draw([[0.1, 1.0]], structural=mark, significant=mark)
    assert "100" not in texts_of(drawing)
    assert any(title.endswith("(by construction)") for title in titles_of(drawing))
    assert not list(parsed(drawing).iter(f"{SVG}circle"))


def test_a_dot_marks_exactly_what_passes_the_threshold():
    drawing = draw([[0.1, 0.5], [0.2, 0.6]], significant=np.array([[False, True], [False, True]]))
    assert len(list(parsed(drawing).iter(f"{SVG}circle"))) == 2
    assert sum("passes the corrected threshold" in title for title in titles_of(drawing)) == 2


def test_what_was_not_measured_is_an_empty_cell():
    drawing = draw([[math.nan, 0.5]])
    assert "nan" not in drawing.svg
    assert titles_of(drawing) == ["drug, layer 0: 50.0%"]


def test_differing_words_are_underlined_and_not_told_by_colour_alone():
    texts = {t.text: t.get("text-decoration") for t in parsed(draw([[0.1, 0.2]], differing=(1,))).iter(f"{SVG}text")}
    assert texts["drug"] == "underline"
    assert texts["The"] is None


def test_the_same_numbers_give_the_same_bytes():
    assert draw([[0.1, 0.2]]).svg == draw([[0.1, 0.2]]).svg


@given(st.floats(-5, 5), st.floats(-5, 5))
def test_the_scale_is_the_same_everywhere_and_symmetric(one, other):
    def greyness(share):
        red, green, blue = (int(colour(share)[i : i + 2], 16) for i in (1, 3, 5))
        return red + green + blue

    assert colour(0.0) == "#f7f7f7"
    assert colour(min(max(one, -1), 1)) == colour(one)
    if 0 <= one <= other:
        assert greyness(one) >= greyness(other)


@pytest.mark.parametrize(("value", "words"), [(0.372, "37%"), (-0.2, "−20%"), (-0.001, "0%"), (math.nan, "")])
def test_shares_are_percentages_with_a_true_minus(value, words):
    assert percent(value) == words


@given(st.text(st.characters(exclude_categories=[]), max_size=20))
def test_any_text_can_be_drawn(words):
    drawing = draw([[0.1, 0.2]], columns=(words, "drug"))
    assert readable(words) in [text or "" for text in texts_of(drawing)]
    drawing.svg.encode("utf-8")


def test_a_profile_puts_effect_and_control_beside_each_other():
    series = [Series("subject end", intervals([0.9, 0.5]), intervals([0.0, 0.0]), np.array([False, False]))]
    drawing = layer_profile(series, TEXTS, "a profile")
    assert "subject end, layer 1: 50.0% (40.0% to 60.0%), n\u00a010" in titles_of(drawing)
    assert len([p for p in parsed(drawing).iter(f"{SVG}path") if p.get("fill-opacity") == "0.3"]) == 2


def test_a_structural_layer_is_off_the_line():
    series = [Series("last word", intervals([1.0, 0.5, 0.2]), None, np.array([True, False, False]))]
    drawing = layer_profile(series, TEXTS, "a profile")
    assert len([p for p in parsed(drawing).iter(f"{SVG}path") if p.get("stroke-opacity") == "0.7"]) == 1
    assert any(title.endswith("(by construction)") for title in titles_of(drawing))


def test_a_layer_with_too_few_facts_has_a_mark_and_no_whisker():
    few = IntervalMap(np.array([0.5]), np.array([math.nan]), np.array([math.nan]), np.array([3]))
    drawing = layer_profile([Series("last word", few, None, np.array([False]))], TEXTS, "a profile")
    assert "nan" not in drawing.svg
    assert titles_of(drawing) == ["last word, layer 0: 50.0% (no interval), n\u00a03"]


def test_a_profile_of_a_deep_model_fits_its_marks():
    series = [Series("last word", intervals(np.linspace(0, 1, 48)), None, np.zeros(48, dtype=bool))]
    assert layer_profile(series, TEXTS, "a profile").width > 48 * 18


def test_a_loss_curve_names_its_lines_and_the_step_that_was_kept():
    points = [CurvePoint(0, 5.0, math.nan), CurvePoint(50, 3.0, 3.2), CurvePoint(100, math.nan, 2.9)]
    shown = texts_of(loss_curve(points, 100, TEXTS, "losses"))
    assert {"training loss", "validation loss", "kept: step 100"} <= set(shown)


def test_a_loss_curve_of_one_point_can_be_drawn():
    assert "nan" not in loss_curve([CurvePoint(0, math.nan, 3.0)], 0, TEXTS, "losses").svg


def test_every_drawing_has_a_text_alternative_and_takes_the_colour_of_the_text():
    for drawing in (draw([[0.1, 0.2]]), colour_scale(TEXTS)):
        assert parsed(drawing).get("role") == "img"
        assert parsed(drawing).get("aria-label")
        assert parsed(drawing).get("fill") == "currentColor"


def test_a_drawing_is_saved_as_a_file_that_stands_alone(tmp_path):
    saved = draw([[0.1, 0.2]]).save(tmp_path / "map.svg")
    assert ElementTree.parse(saved).getroot().tag == f"{SVG}svg"
