"""Joint effects of sets equal plain hooks on the stock model, in both directions."""

from __future__ import annotations

import numpy as np
import pytest

from patchlight.errors import InputError
from patchlight.records import Site, TokenPair
from patchlight.trace.joint import Bench, joint_effects
from patchlight.trace.patch import patch
from patchlight.trace.sites import read_site

PAIRS = [([3, 14, 15, 9, 6], [3, 34, 35, 9, 6]), ([7, 1, 8, 2], [7, 1, 28, 2])]
POSITIONS = [{"subject_first": 1, "subject_last": 2, "last": 4}, {"subject_last": 2, "last": 3}]
NAMES = ["blocks.0.mlp_out@subject_last", "blocks.1.attn_out@last", "blocks.0.mlp_out@subject_first"]
SITES = tuple(read_site(name) for name in NAMES)
COMPONENTS = ("attn_out", "mlp_out")


@pytest.fixture
def bench(tiny, pair_of):
    pairs = [pair_of(*ids, fact=f"fact-{row}") for row, ids in enumerate(PAIRS)]
    return lambda direction="denoise", name="gpt2", **settings: Bench(
        tiny(name), pairs, COMPONENTS, direction=direction, **settings
    )


@pytest.fixture
def hooked(tiny, oracle_together):
    """What a set moves in one pair, by plain hooks on the stock model."""

    def moved(row: int, sites, direction: str, name: str = "gpt2") -> float:
        clean, corrupted = PAIRS[row]
        given, received = (clean, corrupted) if direction == "denoise" else (corrupted, clean)
        here = [
            Site(site.component, site.layer, None, POSITIONS[row][site.position])
            for site in sites
            if site.position in POSITIONS[row]
        ]
        runs = [oracle_together(tiny(name), given, received, chosen) for chosen in (here, [])]
        return runs[0] - runs[1] if direction == "denoise" else runs[1] - runs[0]

    return moved


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_every_part_of_a_joint_effect_equals_plain_hooks(name, direction, bench, hooked):
    eligible = (*SITES, read_site("blocks.1.mlp_out@last"))
    found = joint_effects(bench(direction, name), SITES, eligible)
    for row in range(2):

        def effect(*sites, row=row):
            return pytest.approx(hooked(row, sites, direction, name), abs=1e-9)

        assert found.joint[row] == effect(*SITES)
        assert found.complement[row] == effect(eligible[-1])
        for index, site in enumerate(SITES):
            assert found.singles[row, index] == effect(site)
            assert found.left_out[row, index] == effect(*(other for other in SITES if other != site))
            for beside, other in enumerate(SITES):
                if beside != index:
                    assert found.couples[row, index, beside] == effect(site, other)
    a, b, _ = found.singles.T
    np.testing.assert_allclose(found.interaction[:, 0, 1], found.couples[:, 0, 1] - a - b, rtol=1e-12)
    np.testing.assert_allclose(found.surplus, found.joint - found.singles.sum(1), rtol=1e-12)
    alone = found.singles.sum(1).mean()
    ratio = found.joint.mean() / alone if alone > 0 else np.nan  # a share of nothing
    assert found.super_additivity == pytest.approx(ratio, nan_ok=True)


def test_a_role_that_a_pair_lacks_is_left_out_and_a_pair_without_any_moves_nothing(bench):
    effects = bench().effects([SITES[2:], SITES[:1]])
    assert effects[1, 0] == 0  # a subject of one token has no first token of its own
    assert (effects[[0, 0, 1], [0, 1, 1]] != 0).all()


def test_effects_and_gaps_are_those_of_patch(bench, tiny, pair_of):
    tried = bench()
    direct = patch(tiny("gpt2"), [pair_of(*ids) for ids in PAIRS], [SITES[:2]])
    np.testing.assert_allclose(tried.effects([SITES[:2]])[:, 0], (direct.values[:, 0] - direct.corrupted), rtol=1e-9)
    np.testing.assert_allclose(tried.gaps, direct.clean - direct.corrupted, rtol=1e-12)


def test_runs_are_captured_once_where_they_fit_and_values_do_not_depend_on_it(bench, monkeypatch):
    import patchlight.trace.sweep as sweep

    captured = []
    capture = sweep.capture
    monkeypatch.setattr(sweep, "capture", lambda *given, **named: captured.append(1) or capture(*given, **named))
    kept, small = bench(), bench(memory=1 << 11)
    begun = len(captured)
    values = kept.effects([SITES])
    assert len(captured) == begun
    np.testing.assert_allclose(small.effects([SITES]), values, rtol=1e-9)
    assert len(captured) > begun


def test_cuts_are_told_and_their_complement_is_not_measured(bench):
    every = tuple(Site("attn_out", layer, None, "last") for layer in range(2))
    tried = bench()
    assert tried.structural([every, every[:1], ()]).tolist() == [True, False, False]
    found = joint_effects(tried, SITES[:1], (*SITES[:1], *every))
    assert np.isnan(found.complement).all()
    assert np.isnan(found.couples).all()
    np.testing.assert_allclose(tried.effects([every])[:, 0], tried.gaps, rtol=1e-9)


def test_what_gives_back_the_last_position_is_no_cut_for_a_later_token_of_an_answer(tiny):
    at_the_end = tuple(read_site(f"blocks.{layer}.{name}@last") for layer in range(2) for name in COMPONENTS)
    for wrong, cut in (((51,), True), ((51, 52, 53), False)):
        pair = TokenPair(*map(tuple, PAIRS[0]), correct_ids=(50,), wrong_ids=wrong)
        tried = Bench(tiny("gpt2"), [pair], COMPONENTS, metric="logprob_diff")
        assert tried.structural([at_the_end]).tolist() == [cut]
        assert bool(np.isclose(tried.effects([at_the_end])[0, 0], tried.gaps[0], atol=1e-9)) is cut


def test_a_window_of_layers_is_a_set_like_any_other(bench):
    window, singles = read_site("blocks.0-1.mlp_out@last"), [read_site(f"blocks.{n}.mlp_out@last") for n in (0, 1)]
    effects = bench("noise").effects([(window,), tuple(singles)])
    np.testing.assert_allclose(effects[:, 0], effects[:, 1], rtol=1e-12)


def test_a_site_that_is_not_there_is_refused(bench):
    with pytest.raises(InputError, match="trace-no-layer"):
        joint_effects(bench(), (read_site("blocks.9.mlp_out@last"),))
