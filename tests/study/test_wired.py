"""Circuits judged on maps of activations: the verdict is the true one, and a false place counts as wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from patchlight.judge.thresholds import THRESHOLDS
from patchlight.judge.verdict import Verdict
from patchlight.model.planted.wired import WIRED, Wired, attention, unwired
from patchlight.study.activations import verdict_on_maps
from patchlight.study.passport import ELSEWHERE, key
from patchlight.study.wired import said, together, wired_part

SEED = 1


@pytest.fixture(scope="module")
def single() -> tuple[Wired, Verdict]:
    wired = WIRED["single"](SEED)
    return wired, verdict_on_maps(wired.model, unwired(wired.model, SEED), wired.pairs, SEED)


def test_one_head_is_localised_where_it_was_written(single: tuple[Wired, Verdict]) -> None:
    wired, verdict = single
    assert said(verdict, wired, THRESHOLDS) == "localised"
    assert verdict.sets is not None and verdict.sets.smallest is not None
    assert {str(site) for site in verdict.sets.smallest.sites} == wired.enough[0]


def test_a_set_that_is_not_of_the_circuit_is_localised_elsewhere(single: tuple[Wired, Verdict]) -> None:
    wired, verdict = single
    other = frozenset({attention(wired.model.n_layers)})
    assert said(verdict, replace(wired, enough=(other,), works=other), THRESHOLDS) == ELSEWHERE
    assert said(verdict, wired, replace(THRESHOLDS, confirmed=2.0)) == "undetermined"


def test_a_set_has_the_nulls_of_its_map_in_both_directions(single: tuple[Wired, Verdict]) -> None:
    verdict = single[1]
    assert verdict.sets is not None and verdict.sets.smallest is not None
    assert set(verdict.sets.smallest.nulls) == {"another-fact", "permuted", "random-donor", "random-init"}
    assert set(verdict.sets.smallest.damage_nulls) == {"random-donor", "random-init"}
    assert "set-nulls-missing" not in [each.code for each in verdict.why_not_stronger]
    assert np.isfinite([null.high for null in verdict.sets.smallest.damage_nulls.values()]).all()


def test_a_model_that_says_nothing_has_no_knowledge_to_localise() -> None:
    wired = WIRED["nothing"](SEED)
    verdict = verdict_on_maps(wired.model, unwired(wired.model, SEED), wired.pairs, SEED)
    assert verdict.word == "no knowledge to localise"


def row(circuit: str, truth: str, word: str, clear: bool = True) -> dict[str, object]:
    return {"circuit": circuit, "seed": 3, "truth": truth, "clear": clear, "words": {key(THRESHOLDS): word}}


def test_rates_count_clear_circuits_as_right_and_a_false_place_as_wrong() -> None:
    rows = [
        row("single", "localised", "localised"),
        row("single", "localised", ELSEWHERE),
        row("spread", "distributed", "undetermined"),
        row("alike", "undetermined", "undetermined", clear=False),
        row("alike", "undetermined", "localised", clear=False),
    ]
    part = wired_part(rows, 1.0)
    counts = {name: (rate["count"], rate["n"]) for name, rate in part["rates"].items()}
    assert counts == {"right": (1, 3), "wrong": (2, 5), "undetermined": (1, 2)}
    assert part["verdicts"]["single"] == {"localised": 1, ELSEWHERE: 1}
    weights = {"rates": {"right": {"count": 9, "n": 10}, "wrong": {"count": 0, "n": 10}}, "activations": part}
    assert (together(weights)["right"]["count"], together(weights)["right"]["n"]) == (10, 13)
