"""Growing sets on effects whose truth is written down: additive, AND, OR, cancelling; no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from patchlight.trace.growth import Growth, grow, lean

Indices = tuple[int, ...]
SITES = 20


def toy(value: Callable[[Indices], float]) -> Callable[[Sequence[Indices]], np.ndarray]:
    return lambda sets: np.array([value(sites) for sites in sets])


def alone(value: Callable[[Indices], float]) -> np.ndarray:
    return toy(value)([(site,) for site in range(SITES)])


def grown(value, other, share=0.8, largest=10, **settings) -> Growth:
    return grow(toy(value), alone(value), alone(other), share=share, largest=largest, **settings)


def needs_all(*sites: int) -> Callable[[Indices], float]:
    return lambda chosen: float(set(sites) <= set(chosen))


def needs_any(*sites: int) -> Callable[[Indices], float]:
    return lambda chosen: float(bool(set(sites) & set(chosen)))


@given(some.lists(some.floats(0.01, 1), min_size=SITES, max_size=SITES), some.floats(0.3, 0.95))
def test_additive_effects_are_taken_strongest_first_and_no_more_than_needed(weights, share) -> None:
    part = np.array(weights) / sum(weights)
    value = lambda chosen: float(part[list(chosen)].sum())  # noqa: E731
    growth = grown(value, value, share, largest=SITES)
    assert growth.stopped == "reached"
    assert list(part[list(growth.order)]) == sorted(part, reverse=True)[: len(growth.order)]
    assert value(growth.order[:-1]) < share <= value(growth.order) == growth.joint[-1]
    assert growth.reaching(share) == growth.order


@given(some.sets(some.integers(0, SITES - 1), min_size=2, max_size=4))
def test_sites_that_work_only_together_are_found_by_what_each_does_in_the_other_direction(sites) -> None:
    # Each is needed (noising breaks everything), none is enough alone: all single effects of denoising are 0.
    growth = grown(needs_all(*sites), needs_any(*sites))
    assert growth.stopped == "reached"
    assert set(growth.order) == sites


@given(some.sets(some.integers(0, SITES - 1), min_size=2, max_size=4))
def test_of_backups_one_is_enough_and_all_are_needed(sites) -> None:
    enough = grown(needs_any(*sites), needs_all(*sites))
    needed = grown(needs_all(*sites), needs_any(*sites))
    assert len(enough.order) == 1
    assert set(enough.order) < sites
    assert set(needed.order) == sites


def test_a_site_that_became_needless_is_dropped() -> None:
    # Site 0 is strongest alone, but 1 and 2 together do all that it does and more.
    def value(chosen: Indices) -> float:
        return max(0.6 * (0 in chosen), 0.5 * (1 in chosen) + 0.5 * (2 in chosen))

    growth = grown(value, value, share=0.9)
    assert growth.order == (0, 1, 2)
    assert lean(toy(value), growth.order, 0.9) == (1, 2)
    assert lean(toy(value), (3, 1), 0.5) == (1,)


def test_growth_stops_at_its_largest_size_where_the_effect_is_spread() -> None:
    spread = grown(lambda chosen: len(chosen) / SITES, lambda chosen: len(chosen) / SITES, largest=5)
    assert (spread.stopped, len(spread.order)) == ("largest", 5)
    assert spread.reaching(0.8) is None
    assert spread.joint[-1] == pytest.approx(0.25)


def test_growth_that_gains_nothing_ends_and_keeps_nothing_after_its_best() -> None:
    def value(chosen: Indices) -> float:
        return 0.4 - 0.1 * len(set(chosen) - {7}) if 7 in chosen else -0.1 * len(chosen)

    growth = grown(value, value)
    assert growth.stopped == "no gain"
    assert growth.order == (7,)


def test_a_set_never_becomes_a_cut() -> None:
    def cut(sets: Sequence[Indices]) -> np.ndarray:
        return np.array([{3, 4} <= set(sites) for sites in sets])

    growth = grown(lambda chosen: 0.4 * len({3, 4, 5} & set(chosen)), lambda _: 0.0, cut=cut)
    assert set(growth.order) == {3, 5}
    everything = grown(lambda chosen: len(chosen) / SITES, lambda _: 0.0, cut=lambda sets: np.ones(len(sets), bool))
    assert (everything.order, everything.stopped) == ((), "no site left")


def test_few_sets_are_tried() -> None:
    tried = []
    value = lambda chosen: tried.append(chosen) or len(chosen) / SITES  # noqa: E731
    grow(toy(value), np.linspace(1, 0, 500), np.zeros(500), share=0.8, largest=10)
    assert len(tried) <= 10 * 8


def test_no_candidates_grow_no_set() -> None:
    assert grow(toy(len), np.zeros(0), np.zeros(0), share=0.8, largest=3) == Growth((), (), "no site left")
