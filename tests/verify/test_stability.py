"""The split of the facts, and whether other facts would name the same sites."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchlight.verify.stability import split_facts, top_stability


@given(facts=st.lists(st.sampled_from("abcdefghijk")), seed=st.integers(0, 99))
def test_split_is_complete_even_and_independent_of_order(facts: list[str], seed: int) -> None:
    discovery, confirmation = split_facts(facts, seed)
    assert discovery | confirmation == set(facts)
    assert not discovery & confirmation
    assert 0 <= len(discovery) - len(confirmation) <= 1
    assert split_facts(facts[::-1] + facts, seed) == (discovery, confirmation)


def test_another_seed_splits_otherwise() -> None:
    facts = [f"fact-{i}" for i in range(30)]
    assert len({split_facts(facts, seed)[0] for seed in range(5)}) == 5


def test_clear_sites_are_stable_and_noise_is_not() -> None:
    random = np.random.default_rng(0)
    noise = random.normal(0, 1, (20, 40))
    clear = noise + np.where(np.arange(40) < 3, 5.0, 0.0)
    assert top_stability(clear, 3, seed=0) == 1.0
    assert top_stability(noise, 3, seed=0) < 0.8


def test_facts_without_a_cell_do_not_weaken_it() -> None:
    means = np.random.default_rng(0).normal(0, 0.1, (20, 10))
    means[:, 4] += 2
    means[5:, 4] = np.nan
    assert top_stability(means, 1, seed=0) > 0.99


@pytest.mark.parametrize("top", [0, 11])
def test_a_list_longer_than_the_map_is_refused(top: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 10"):
        top_stability(np.zeros((5, 10)), top, seed=0)
