"""The calibration passport: rates are exact, thresholds are chosen by their rule, and the command works end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy.stats import beta

from patchlight.cli.main import execute
from patchlight.judge.thresholds import THRESHOLDS
from patchlight.model.planted.compiled import PROGRAMS
from patchlight.study.passport import CHOSEN_ON, REPORTED, cases, choose, grid, key, passport_of, proposal, units
from patchlight.study.passport_page import page
from patchlight.verify.passport import is_current, shipped

NOW = key(THRESHOLDS)


def row(group: str, word: str, *confirmed: str, truth: tuple[str, ...] = (), **words: str) -> dict[str, object]:
    every = {key(each): word for each in grid()} | words
    return {"group": group, "seed": 7, "layer": 0, "truth": truth, "confirmed": confirmed, "words": every}


ROWS = [
    row("a", "localised", "mlp 3", truth=("mlp 3",)),
    row("a", "distributed", "mlp 3", "mlp 4", truth=("mlp 3",)),
    row("a", "undetermined", truth=("mlp 3",)),
    row("b", "distributed", "mlp 1", truth=("mlp 1", "mlp 2")),
    row("c", "no knowledge to localise"),
    row("c", "localised", "mlp 0"),
]
HAND_MADE = [
    {"group": "d", "name": "and", "effects": 3, "bias": 0.5, "largest": 2.0},
    {"group": "d", "name": "or", "effects": 1, "bias": 0.1, "largest": 0.3},
    {"group": "e", "name": "first", "working": 2, "hit": 1, "idle": 5, "false": 1},
]


def counts(rates: dict[str, dict[str, float]]) -> dict[str, tuple[float, float]]:
    return {name: (rate["count"], rate["n"]) for name, rate in rates.items()}


def test_rates_count_hits_false_findings_and_verdicts() -> None:
    made = passport_of([*ROWS, *HAND_MADE, {"group": "a", "seed": 8, "layer": 1, "not_learnt": "…"}], 60)
    assert counts(made["rates"]) == {
        "hit": (2, 3),
        "nothing": (1, 2),
        "false": (2, 6),
        "right.a": (1, 3),
        "right.b": (1, 1),
        "right.c": (1, 2),
        "right": (3, 6),
        "wrong": (2, 6),
    }
    assert made["verdicts"]["a"] == {"localised": 1, "distributed": 1, "undetermined": 1}
    assert made["not_learnt"] == 1
    assert made["effects"] == {"models": 2, "effects": 4, "bias": pytest.approx(0.4), "largest": 2.0}
    assert made["places"] == {"models": 1, "working": 2, "hit": 1, "idle": 5, "false": 1}


def test_intervals_are_those_of_clopper_and_pearson() -> None:
    rate = passport_of([*ROWS, *HAND_MADE], 60)["rates"]["hit"]
    assert rate["low"] == pytest.approx(beta.ppf(0.025, 2, 2))
    assert rate["high"] == pytest.approx(beta.ppf(0.975, 3, 1))


def test_thresholds_that_are_wrong_less_often_win_and_todays_stay_where_nothing_is_better() -> None:
    assert choose(ROWS) == THRESHOLDS
    better = next(each for each in grid() if each != THRESHOLDS)
    safer = [*ROWS[:-1], row("c", "localised", "mlp 0", **{key(better): "undetermined"})]
    assert choose(safer) == better
    assert proposal(safer)["thresholds"]["confirmed"] == better.confirmed


def test_thresholds_are_never_chosen_on_the_seeds_that_are_reported() -> None:
    reported, chosen = ({case.seed for case in cases(first, 500)} for first in (REPORTED, CHOSEN_ON))
    assert not reported & chosen


def test_every_layer_is_taught_and_a_unit_is_planned_for_every_model() -> None:
    chosen = cases(REPORTED, 6)
    assert {case.layer for case in chosen if case.group == "a"} == set(range(6))
    planned = units(chosen)
    assert len({unit.hash for unit in planned}) == len(planned) == 24 + 5 + len(PROGRAMS)


def test_the_passport_that_ships_can_be_read_and_is_the_one_on_the_page() -> None:
    text = Path("docs/validation/passport.md").read_text(encoding="utf-8")
    assert page(shipped()) == text
    assert not is_current({**shipped(), "code": "of another day"})


@pytest.mark.slow
def test_the_command_finds_what_was_taught_and_goes_on_where_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["passport", "--quick", "--output", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    made = json.loads((tmp_path / "passport.json").read_text(encoding="utf-8"))
    assert told["rates"] == made["rates"]
    assert counts(made["rates"])["hit"] == counts(made["rates"])["nothing"] == (1, 1)
    assert counts(made["activations"]["rates"])["right"] == (2, 2)
    assert made["rates"]["false"]["count"] == made["rates"]["wrong"]["count"] == 0
    assert made["effects"]["largest"] < 1e-9
    assert made["places"]["hit"] == made["places"]["working"] and not made["places"]["false"]
    assert is_current(made)
    assert (tmp_path / "passport.md").exists()
    assert execute(["passport", "--quick", "--output", str(tmp_path), "--calibrate", "--seed", str(REPORTED)]) == 0
    proposed = json.loads((tmp_path / "calibration.json").read_text(encoding="utf-8"))
    assert proposed["thresholds"] == {name: getattr(THRESHOLDS, name) for name in proposed["weighed"]}
