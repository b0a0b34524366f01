"""What the evidence page says, from evidence whose numbers are known."""

from __future__ import annotations

from typing import Any

import pytest

from patchlight.web.evidence_numbers import COLUMNS, number_rows, shown_content
from patchlight.web.evidence_view import EvidenceView, evidence_view
from patchlight.web.texts import web_texts
from tests.web.sample import choice, content, share

TOUCHING = {"random-init": share(0.4, 0.1, 0.65)}


def view(language: str = "en", *, machine: bool = True, **changes: Any) -> EvidenceView:
    return evidence_view(content(**changes), language, web_texts(language), machine=machine)


def test_the_first_sentence_gives_effect_interval_facts_and_the_control_that_reaches_highest() -> None:
    first = view().sentences[0]
    assert "75% (60% to 90%, 12 facts) of the difference returns" in first
    assert "the strongest control (untrained model) gives 10% (0% to 30%, 12 facts)" in first
    japanese = view("ja").sentences[0]
    assert "75%（60%〜90%、知識 12 件）" in japanese
    assert "10%（0%〜30%、知識 12 件）" in japanese


def test_a_place_whose_interval_meets_a_control_is_said_to_touch_it_and_another_to_lie_above_all() -> None:
    clear, touching = view(), view(nulls=TOUCHING)
    assert not clear.touches
    assert "above all 2 controls" in clear.effects[0].reading
    assert touching.touches
    assert "begins at 60%" in touching.effects[0].reading
    assert "reaches up to 65%" in touching.effects[0].reading
    assert any("untrained model" in each and "Recovery" in each for each in touching.against)


def test_without_a_control_nothing_is_called_clear() -> None:
    effect = view(nulls={}).effects[0]
    assert effect.doubtful
    assert "No control was measured" in effect.reading
    assert effect.sentence.endswith("no control was measured beside it.")


def test_the_questions_differ_only_in_the_marked_words() -> None:
    question = view().questions[0]
    assert question.clean == ("The colour of ", "crow", " 1 is")
    assert question.corrupted == ("The colour of ", "bear", " 1 is")
    assert len(view().asked.rows) == 4


@pytest.mark.parametrize("language", ["en", "ja"])
def test_maps_have_the_words_as_columns_and_frame_the_place_that_is_judged(language: str) -> None:
    shown = view(language)
    svg = shown.maps.words[0].drawing.svg
    assert all(f">{word}</text>" in svg for word in ("The", "colour", "crow", "is"))
    for panel in (*shown.maps.every, *shown.maps.words):
        assert panel.drawing.svg.count('stroke-width="2.4"') == 1


def test_the_frame_lies_on_the_cell_of_the_place() -> None:
    [frame] = [part for part in view().maps.every[0].drawing.svg.split("<path") if 'stroke-width="2.4"' in part]
    [cell] = [part for part in view().maps.every[0].drawing.svg.split("<path") if "subject end, layer 1" in part]
    at = [float(number) for number in cell.split('d="M')[1].split("h")[0].split()]
    framed = [float(number) for number in frame.split('d="M')[1].split("h")[0].split()]
    assert framed == [at[0] - 1, at[1] - 1]


def test_what_the_place_does_not_bring_back_is_said_and_want_of_parts_names_the_setting() -> None:
    measured, unmeasured = view().parts, view(direct=None).parts
    assert "30.0%" in measured.sentences[1]
    assert measured.table is not None
    assert measured.table.rows[-1] == ("not brought back", "30.0%")
    assert unmeasured.drawing is None
    assert "direct: true" in unmeasured.note


def test_parts_of_other_places_are_not_shown_as_those_of_this_one() -> None:
    other = {**content()["direct"], "sites": ["blocks.0.mlp_out@last"]}
    assert view(direct=other).parts.drawing is None
    assert "1 strongest" in view(direct=other).parts.note


def test_another_metric_that_shows_far_less_speaks_against_the_place() -> None:
    assert any("probability" in each and "20.0% instead of 75.0%" in each for each in view().against)
    same = [{**content()["metrics"][0], "cells": [choice("token", "logit_diff", 0.75), choice("token", "prob", 0.7)]}]
    assert not any("instead of" in each for each in view(metrics=same).against)


def test_all_that_was_not_made_is_named() -> None:
    bare = view(stability=None, robustness=[], metrics=[], heads=None)
    assert bare.stability == ()
    assert len(bare.stability_notes) == 3
    assert "head_out" in bare.maps.heads_note
    assert any("another fact" in each for each in bare.against)


def test_a_place_seldom_named_and_one_that_is_not_needed_are_spoken_against() -> None:
    seldom = content()["stability"]
    seldom = {**seldom, "variations": [{**seldom["variations"][0], "shares": {}}]}
    against = view(stability=seldom, damage=share(0.1, -0.1, 0.3)).against
    assert any("in only 0%" in each for each in against)
    assert any("without it nothing is lost" in each for each in against)


def test_heads_are_small_maps_for_each_part_of_the_question() -> None:
    patched = [
        {"layer": 1, "head": 2, "role": "last", "effect": 0.4},
        {"layer": 0, "head": 0, "role": "subject_last", "effect": -0.1},
    ]
    heads = view(heads={"direction": "denoise", "facts": 6, "pairs": 12, "patched": patched}).maps.heads
    assert [panel.title for panel in heads] == ["last word", "subject end"]
    assert "H2, layer 1: 40.0%" in heads[0].drawing.svg


def test_a_set_of_places_is_judged_as_one_and_each_of_its_cells_is_framed() -> None:
    site = "blocks.0.mlp_out@last + blocks.1.mlp_out@subject_last"
    shown = view(site=site, layer=None, role=None, damage_nulls={})
    assert "layer 0" in shown.place
    assert "layer 1" in shown.place
    assert shown.maps.every[0].drawing.svg.count('stroke-width="2.4"') == 2


def test_the_machines_word_is_hidden_in_the_page_and_in_its_data() -> None:
    assert view(machine=False).machine is None
    assert "verdict" not in shown_content(content(), machine=False)
    assert shown_content(content(), machine=True)["verdict"]["word"] == "undetermined"


def test_numbers_that_are_missing_stay_empty_and_are_never_nought() -> None:
    missing = view(recovery=share(None, n=0))
    assert "nothing measured" in missing.sentences[0]
    few = view(recovery=share(0.5, n=3))
    assert "50% (no interval, 3 facts)" in few.sentences[0]
    assert few.touches
    assert "Too few facts" in few.effects[0].reading


def test_every_effect_control_map_and_pair_is_a_row_of_the_table() -> None:
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in number_rows(content())]
    effect = next(row for row in rows if row["what"] == "this place" and row["direction"] == "denoise")
    assert (effect["estimate"], effect["low"], effect["high"], effect["n"]) == (0.75, 0.6, 0.9, 12)
    sections = {row["section"] for row in rows}
    assert sections == {"effect", "map", "question", "parts", "stability", "robustness", "metrics", "pair"}
    assert sum(row["section"] == "map" and row["what"] == "effect" for row in rows) == 8


def test_the_model_folder_on_the_servers_disk_is_not_told() -> None:
    assert "/models/crow" not in str(shown_content(content(), machine=True))
