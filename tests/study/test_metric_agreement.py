"""Where a study's metrics disagree, from the values that its sweeps stored, against plain loops and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from patchlight.records import Pair
from patchlight.study.metrics import metrics_compared
from patchlight.study.results import FurtherMetric, Question, SweepResult

ROLES = ("before", "subject_last", "relation", "relation", "last")
LAYERS = 3


def question(number: int) -> Question:
    pair = Pair("", "", "", "", fact=f"fact-{number // 2}", kind="k", template=str(number % 2))
    return Question(pair, 2.0 + number / 10, -1.0, ROLES, ROLES, ROLES, (1,))


QUESTIONS = [question(number) for number in range(12)]


def measured(direction: str, seed: int = 0) -> SweepResult:
    """Three layers; the first position cannot change anything, the subject in layer 0 restores everything."""
    rng = np.random.default_rng(seed)
    shape = (len(QUESTIONS), LAYERS, len(ROLES))
    clean, corrupted = (np.array([getattr(each, run) for each in QUESTIONS]) for run in ("clean", "corrupted"))
    still = (corrupted if direction == "denoise" else clean)[:, None]
    values = rng.normal(0, 1, shape)
    values[:, :, 0] = still
    structural = np.zeros(shape, dtype=bool)
    structural[:, 0, 1] = True
    further = FurtherMetric(rng.uniform(0, 1, shape), rng.uniform(0.7, 0.9, shape[0]), rng.uniform(0, 0.2, shape[0]))
    further.clean[:2] = further.corrupted[:2] + 0.01  # both questions of the first fact: a gap under the floor
    further.values[:, :, 0] = (further.corrupted if direction == "denoise" else further.clean)[:, None]
    return SweepResult("mlp_out", direction, "", values, structural, {"prob": further})


def recovery(values, clean, corrupted, direction: str, layer: int, role: str) -> float:
    """The mean change at a role over pairs, by their mean gap."""
    at = [position for position, name in enumerate(ROLES) if name == role]
    moved = values - corrupted[:, None, None] if direction == "denoise" else clean[:, None, None] - values
    return moved[:, layer, at].mean(axis=1).sum() / (clean - corrupted).sum()


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_correlation_is_that_of_the_mean_maps_over_the_facts_that_both_metrics_have(direction: str) -> None:
    sweep = measured(direction)
    (made,) = metrics_compared(QUESTIONS, [sweep], ("logit_diff", "prob"), seed=3)
    assert (made.component, made.direction, [cell.metric for cell in made.cells]) == (
        "mlp_out", direction, ["logit_diff", "prob"],
    )  # fmt: skip
    clean, corrupted = (np.array([getattr(each, run) for each in QUESTIONS])[2:] for run in ("clean", "corrupted"))
    prob = sweep.further["prob"]
    sites = [
        (layer, role) for layer in range(LAYERS) for role in ROLES[1:3] + ROLES[4:] if (layer, role) != (0, ROLES[1])
    ]
    first = [recovery(sweep.values[2:], clean, corrupted, direction, *site) for site in sites]
    other = [recovery(prob.values[2:], prob.clean[2:], prob.corrupted[2:], direction, *site) for site in sites]
    cell = made.cells[1]
    assert made.ranked.sum() == len(sites)
    assert cell.correlation.estimate == pytest.approx(spearmanr(first, other).statistic)
    assert cell.correlation.low < cell.correlation.estimate < cell.correlation.high
    assert (cell.correlation.n, cell.facts, made.cells[0].facts) == (5, 5, 6)
    assert cell.left_out == {"gap under floor": 2}


def test_a_sweep_without_further_metrics_a_control_and_one_that_moves_nothing_are_not_compared() -> None:
    sweep = measured("denoise")
    nothing = measured("denoise")
    nothing.values[:] = -1.0
    nothing.further["prob"].values[:] = nothing.further["prob"].corrupted[:, None, None]
    control = SweepResult("mlp_out", "denoise", "another-fact", sweep.values, sweep.structural, sweep.further)
    alone = SweepResult("mlp_out", "denoise", "", sweep.values, sweep.structural)
    assert metrics_compared(QUESTIONS, [control, nothing], ("logit_diff", "prob"), seed=0) == ()
    assert metrics_compared(QUESTIONS, [alone], ("logit_diff",), seed=0) == ()
