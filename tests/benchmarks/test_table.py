"""Figures that are printed: ratios inside rounds, and the share of the measured peak."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.speed.table import bars, markdown, ratios, share


def run(peer: str, number: int, seconds: float) -> dict[str, Any]:
    return {
        "model": "gpt2-small",
        "layers": None,
        "pairs": 8,
        "tokens": 16,
        "differing": None,
        "workload": "W1",
        "peer": peer,
        "round": number,
        "seconds": seconds,
        "needed_flop": 1e12,
        "naive_flop": 6e12,
        "rates": {"2048^3": 200e9},
        "versions": {"torch": "2"},
        "peak_mib": 100.0,
        "difference_from": "hooks",
        "largest_difference": 1e-6,
    }


# A machine that is twice as slow in the second round: the ratio stays the same.
RUNS = [run("hooks", 0, 60.0), run("patchlight", 0, 10.0), run("hooks", 1, 120.0), run("patchlight", 1, 20.0)]


def test_ratios_are_taken_inside_each_round() -> None:
    assert ratios(RUNS, "hooks") == [6.0, 6.0]


def test_share_is_needed_work_at_the_rate_of_the_round() -> None:
    assert share(RUNS[1]) == pytest.approx(1e12 / 10 / 200e9)


def test_the_table_has_a_line_for_each_setting_and_every_peer_in_it() -> None:
    table = markdown([*RUNS, *({**one, "differing": (4, 9)} for one in RUNS)])
    assert "| gpt2-small | 8 x 16 | all | W1 | 90 s, **6.0x** (6.0-6.0) | 15.00 s | 1 of 6 | 38% |" in table
    assert "| gpt2-small | 8 x 16 | 4, 9 | W1 |" in table


def test_the_drawing_shows_the_ratio() -> None:
    assert "6.0x" in bars(RUNS, "speed").svg
