"""Whether other facts would name the same sites."""

from __future__ import annotations

import numpy as np
import pytest

from patchlight.records import Site
from patchlight.verify.stability import stability, top_stability


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


def measured(by_wording: tuple[float, float], facts: int = 24):
    """Six sites: 0 and 1 strong whatever the wording, 2 and 3 each in one of two wordings."""
    random = np.random.default_rng(0)
    names = [f"fact-{i}" for i in range(facts) for _ in range(2)]
    templates = ["one", "two"] * facts
    effects = random.normal(0, 0.1, (2 * facts, 6)) + np.array([3, 3, 0, 0, 0, 0])
    effects[0::2, 2] += by_wording[0]
    effects[1::2, 3] += by_wording[1]
    sites = [Site("mlp_out", layer, None, "last") for layer in range(6)]
    return effects, names, templates, sites


def test_a_list_that_nothing_changes_is_stable_under_every_source() -> None:
    found = stability(*measured((0, 0)), 2, seed=1)
    assert [each.source for each in found.variations] == ["facts", "halves", "templates", "paraphrases"]
    assert found.sites == (Site("mlp_out", 0, None, "last"), Site("mlp_out", 1, None, "last"))
    for each in found.variations:
        assert (each.jaccard.estimate, each.stable) == (1.0, True)
        assert not found.going(each)
        assert not found.coming(each)


def test_a_site_of_one_wording_goes_when_that_wording_is_left_out() -> None:
    found = stability(*measured((4, 3.9)), 3, seed=1)
    source = {each.source: each for each in found.variations}
    # Without the first wording site 2 is not named and site 3 is, and the other way round: 2 of 4 sites, and 3 of 3.
    assert source["templates"].jaccard.estimate == pytest.approx((2 / 4 + 1) / 2)
    assert source["templates"].jaccard.n == 2
    assert found.going(source["templates"]) == [(Site("mlp_out", 2, None, "last"), 0.5)]
    assert found.coming(source["templates"]) == [(Site("mlp_out", 3, None, "last"), 0.5)]
    assert found.weakest is not None
    assert not found.weakest.stable


def test_one_wording_leaves_the_sources_of_wording_out() -> None:
    effects, facts, _, sites = measured((0, 0))
    found = stability(effects, facts, ["one"] * len(facts), sites, 2, seed=1)
    assert [each.source for each in found.variations] == ["facts", "halves"]
