"""Two kinds of knowledge compared: matching against brute force, and what may be said when."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from patchlight.judge.contrast import CALIPER, KindFacts, compare_kinds, match_facts

LAYERS, ROLES = 4, 2
NOWHERE = np.zeros((LAYERS, ROLES), dtype=bool)


def kind(name: str, facts: int, seed: int, peak: float = 0.0, **references: float) -> KindFacts:
    """Facts with two covariates, whose effect at layer 1 and role 1 is `peak`, there and in each reference."""
    random = np.random.default_rng([seed, len(name)])

    def shares(height: float) -> np.ndarray:
        values = random.normal(0.2, 0.1, (facts, LAYERS, ROLES))
        values[:, 1, 1] += height
        return values

    return KindFacts(
        name,
        tuple(frozenset({f"{name} {i}", f"{name} {(i + 1) % facts}"}) for i in range(facts)),
        {"length": random.integers(1, 4, facts).astype(float), "metric": random.normal(3, 1, facts)},
        shares(peak),
        {other.replace("_", "-"): shares(height) for other, height in references.items()},
    )


def test_matching_keeps_most_pairs_and_of_those_the_nearest() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        first, second = random.normal(size=(4, 1)), random.normal(0.5, 1, size=(6, 1))
        mine, theirs = match_facts(first, second)
        scale = np.sqrt((first.var() + second.var()) / 2)
        best = (0, 0.0)
        for order in permutations(range(6), 4):
            apart = np.abs(first[:, 0] - second[list(order), 0]) / scale
            within = apart <= CALIPER
            best = max(best, (int(within.sum()), -float(apart[within].sum())))
        apart = np.abs(first[mine, 0] - second[theirs, 0]) / scale
        assert (len(mine), -apart.sum()) == pytest.approx(best)
        assert len(set(theirs)) == len(theirs)


def test_a_true_difference_that_others_do_not_show_is_stated() -> None:
    found = compare_kinds(
        kind("definitional", 40, 1, 0.5, random_init=0.0, before=0.1),
        kind("associative", 40, 2, random_init=0.0, before=0.0),
        NOWHERE,
        seed=0,
    )  # fmt: skip
    assert (found.outcome, found.cell) == ("differ", (1, 1))
    assert found.difference is not None
    assert found.dz is not None
    assert found.delta is not None
    assert found.difference.low < 0.5 < found.difference.high
    assert found.delta.low > 0.5
    assert found.p <= 0.05
    assert found.exploratory >= 1
    assert found.layer_by_kind < 0.01
    assert found.layers[0] < 0.01
    assert set(found.elsewhere) == {"random-init", "before"}
    assert all(abs(each.after) <= 0.25 for each in found.balance)


def test_a_difference_that_a_model_without_the_knowledge_shows_too_is_not_stated() -> None:
    first, second = kind("definitional", 40, 1, 0.5, random_init=0.5), kind("associative", 40, 2, random_init=0.0)
    assert compare_kinds(first, second, NOWHERE, seed=0).outcome == "shown-elsewhere"


def test_without_the_reference_nothing_is_stated() -> None:
    assert compare_kinds(kind("a", 40, 1, 0.5), kind("bb", 40, 2), NOWHERE, seed=0).outcome == "no-reference"


def test_kinds_without_a_difference_are_alike_only_where_that_is_shown() -> None:
    assert compare_kinds(kind("a", 60, 1), kind("bb", 60, 2), NOWHERE, seed=0).outcome == "alike"
    assert compare_kinds(kind("a", 12, 1), kind("bb", 14, 2), NOWHERE, seed=0).outcome in {
        "not-told-apart", "too-few-matched", "not-balanced",
    }  # fmt: skip


def test_kinds_that_cannot_be_matched_say_so() -> None:
    far = kind("bb", 40, 2, 0.5)
    far.covariates["metric"][:] += 50
    found = compare_kinds(kind("a", 40, 1), far, NOWHERE, seed=0)
    assert (found.outcome, found.matched) == ("too-few-matched", 0)


@pytest.mark.parametrize("value", [0.0, 0.3, np.nan])
def test_constant_and_missing_effects_are_no_difference_and_never_nan(value: float) -> None:
    one, other = kind("a", 30, 1), kind("bb", 30, 2)
    for group in (one, other):
        group.shares[:] = value
    assert compare_kinds(one, other, NOWHERE, seed=0).outcome == "no-common-place"
    one.shares[:] = 0.5
    other.shares[:] = 0.2
    found = compare_kinds(one, other, NOWHERE, seed=0)
    assert (found.outcome, found.dz, found.p) == ("not-told-apart", None, 1.0)


def test_structural_places_are_never_compared() -> None:
    structural = NOWHERE.copy()
    structural[1, 1] = True
    found = compare_kinds(kind("a", 40, 1, 0.5), kind("bb", 40, 2), structural, seed=0)
    assert found.cell != (1, 1)
