from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from patchlight.errors import InputError
from patchlight.pairs.align import Alignment
from patchlight.records import Pair
from patchlight.report.notebook import draw_effects
from patchlight.trace.effects import Effects

PAIR = Pair(clean="The drug works", corrupted="The salt works", correct=" a", wrong=" b")
ALIGNED = Alignment(
    (1, 2, 3), (1, 4, 3), (5,), (6,), (1,), ("before", "subject_last", "last"), ("The", " drug", " works"),
    ("The", " salt", " works"),
)  # fmt: skip


def effects(pairs: int, direction: str = "denoise", gap: float = 4.0) -> Effects:
    values = np.full((pairs, 2, 3), -gap / 2)
    values[:, 1, 1] = gap / 4  # three quarters of the way up, one quarter of the way down
    clean, corrupted = np.full(pairs, gap / 2), np.full(pairs, -gap / 2)
    return Effects(values, clean, corrupted, (PAIR,) * pairs, (ALIGNED,) * pairs, "mlp_out", direction, "logit_diff")


def texts_of(drawing) -> list[str]:
    return [t.text for t in ElementTree.fromstring(drawing.svg).iter("{http://www.w3.org/2000/svg}text")]


def test_one_pair_is_drawn_word_by_word():
    shown = texts_of(draw_effects(effects(1)))
    assert {" drug", " works", "75", "0"} <= set(shown)


def test_several_pairs_are_drawn_by_role():
    shown = texts_of(draw_effects(effects(3)))
    assert {"subject end", "last word", "75"} <= set(shown)


def test_one_of_several_pairs_can_be_asked_for():
    assert " drug" in texts_of(draw_effects(effects(3), 2))


def test_noising_is_drawn_as_damage():
    shown = texts_of(draw_effects(effects(3, "noise")))
    assert {"25", "100"} <= set(shown)


def test_a_gap_under_the_floor_draws_nothing():
    for pairs in (1, 3):
        shown = texts_of(draw_effects(effects(pairs, gap=0.01)))
        assert "75" not in shown


def test_a_notebook_shows_the_drawing():
    assert draw_effects(effects(1))._repr_svg_().startswith("<svg")


def test_heads_are_refused_with_a_way_out():
    headed = Effects(
        np.zeros((1, 2, 4, 3)), np.ones(1), -np.ones(1), (PAIR,), (ALIGNED,), "head_out", "denoise", "logit_diff"
    )
    with pytest.raises(InputError) as refused:
        draw_effects(headed)
    assert refused.value.code == "chart-heads"
