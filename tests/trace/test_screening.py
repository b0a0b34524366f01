"""A screening orders all sites, patches the first exactly, and bounds what it missed among the rest."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from transformers import logging

from patchlight.errors import InputError
from patchlight.trace.screening import screen_sites, upper_bound
from patchlight.trace.sites import read_site
from patchlight.trace.sweep import sweep

logging.set_verbosity_error()

COMPONENTS = ("attn_out", "mlp_out", "head_out")


@pytest.fixture
def pairs(pair_of):
    """Four pairs of three facts, of two lengths: the last has no `subject_mid`."""
    return [
        pair_of([3, 14, 15, 9, 6], [3, 34, 15, 8, 6], "a"),
        pair_of([3, 24, 15, 9, 6], [3, 34, 12, 8, 6], "a"),
        pair_of([7, 14, 25, 19, 6], [7, 34, 15, 8, 6], "b"),
        pair_of([7, 1, 8, 2], [7, 1, 28, 2], "c"),
    ]


def expected_share(model, pairs, site, direction):
    """Mean over positions of the role, over pairs of a fact, over facts; by the mean gap of the same facts."""
    effects = sweep(model, pairs, component=site.component, direction=direction)
    received = effects.corrupted if direction == "denoise" else effects.clean
    given = effects.clean if direction == "denoise" else effects.corrupted
    index = (site.layer,) if site.unit is None else (site.layer, site.unit)
    changes, gaps = [], []
    for fact in ("a", "b", "c"):
        cells = []
        for number, (pair, alignment) in enumerate(zip(pairs, effects.alignments, strict=True)):
            at = [position for position, role in enumerate(alignment.roles) if role == site.position]
            if pair.fact == fact and at:
                change = np.mean([effects.values[(number, *index, position)] for position in at]) - received[number]
                cells.append((change, given[number] - received[number]))
        if cells:
            changes.append(np.mean([change for change, _ in cells]))
            gaps.append(np.mean([gap for _, gap in cells]))
    return np.mean(changes) / np.mean(gaps)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("method", ["attribution", "atp_star", "integrated"])
def test_candidates_and_audited_sites_have_their_exact_effect(method, direction, tiny, pairs):
    model = tiny("llama")
    found = screen_sites(
        model, pairs, components=COMPONENTS, direction=direction, method=method, candidates=0.2, audit=4, floor=0
    )
    patched = np.flatnonzero(~np.isnan(found.exact))
    assert found.candidates == np.ceil(0.2 * len(found.sites))
    assert found.audited.sum() == 4
    assert not found.audited[: found.candidates].any()
    np.testing.assert_array_equal(
        patched, np.flatnonzero((np.arange(len(found.sites)) < found.candidates) | found.audited)
    )
    for index in patched:
        expected = expected_share(model, pairs, found.sites[index], direction)
        assert found.exact[index] == pytest.approx(expected, rel=1e-9)


def test_sites_are_ordered_by_absolute_estimate_and_the_sample_by_the_seed(tiny, pairs):
    found = [
        screen_sites(tiny("gpt2"), pairs, components=COMPONENTS, audit=5, seed=seed, floor=0) for seed in (1, 1, 2)
    ]
    assert (np.diff(np.abs(found[0].estimate)) <= 0).all()
    assert (found[0].estimate < 0).any()
    np.testing.assert_array_equal(found[0].audited, found[1].audited)
    assert (found[0].audited != found[2].audited).any()


def test_no_site_is_there_that_restores_everything_or_cannot_change_anything(tiny, pair_of):
    pair = pair_of([3, 14, 15, 9, 6], [3, 34, 15, 9, 6])  # one token differs
    found = screen_sites(
        tiny("gpt2"), [pair], components=("embed", "resid_pre", "resid_post", "v"), floor=0, candidates=1.0
    )
    names = {str(site) for site in found.sites}
    assert found.by_construction == 3  # the differing token's embedding, twice, and the last layer's output
    assert not names & {"embed@subject_last", "blocks.0.resid_pre@subject_last", "blocks.1.resid_post@last"}
    assert not any(site.position == "before" for site in found.sites)  # nothing differs there
    assert {"blocks.1.resid_pre@subject_last", "blocks.0.v.3@subject_last", "blocks.1.v.0@last"} <= names
    assert "blocks.0.v.3@last" not in names
    assert (found.exact != 0).all()


def test_a_strong_site_among_the_audited_is_missed_and_bounds_the_rest(tiny, pairs):
    found = screen_sites(
        tiny("gpt2"), pairs, components=COMPONENTS, candidates=0.1, audit=1000, floor=0, threshold=0.05
    )
    strong = {site for site, exact in zip(found.sites, found.exact, strict=True) if abs(exact) >= 0.05}
    assert set(found.found) | set(found.missed) == strong
    assert set(found.missed) == {site for site in strong if site not in found.sites[: found.candidates]}
    assert found.missed
    assert found.bound == upper_bound(len(found.missed), len(found.sites) - found.candidates)


@pytest.mark.parametrize(("missed", "audited"), [(0, 1), (0, 60), (1, 60), (7, 20), (19, 20)])
def test_the_bound_is_the_one_sided_clopper_pearson_bound(missed, audited):
    two_sided = binomtest(missed, audited).proportion_ci(confidence_level=0.9, method="exact")
    assert upper_bound(missed, audited) == pytest.approx(two_sided.high, rel=1e-9)
    if not missed:
        assert upper_bound(0, audited) == pytest.approx(1 - 0.05 ** (1 / audited))


@pytest.mark.parametrize("audited", [0, 3])
def test_nothing_is_known_where_nothing_was_audited_or_all_was_missed(audited):
    assert upper_bound(audited, audited) == 1.0


def test_the_table_and_the_figures_say_what_was_done(tiny, pairs):
    found = screen_sites(tiny("gpt2"), pairs, components=("mlp_out", "v"), candidates=0.25, audit=3, floor=0)
    table, figures = found.to_frame(), found.figures()
    assert table.columns.tolist() == ["site", "component", "layer", "head", "role", "estimate", "status", "exact"]
    assert [read_site(name) for name in table.site] == list(found.sites)
    assert table.status.value_counts().to_dict() == {
        "candidate": figures["candidates"],
        "audited": 3,
        "rejected": figures["rejected"] - 3,
    }
    assert table.exact.notna().tolist() == (table.status != "rejected").tolist()
    assert figures["largest_audited"] == table.exact[table.status == "audited"].abs().max()
    assert (figures["pairs"], figures["facts"]) == (4, 3)
    assert figures["missed_share_bound"] == upper_bound(figures["missed"], 3)


def test_progress_counts_the_cells_that_are_patched(tiny, pairs):
    seen: list[tuple[int, int]] = []
    screen_sites(tiny("gpt2"), pairs, audit=2, floor=0, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize("candidates", [0, 1.5])
def test_a_share_of_candidates_that_is_none_is_refused(candidates, tiny, pairs):
    with pytest.raises(InputError, match="trace-candidates"):
        screen_sites(tiny("gpt2"), pairs, candidates=candidates)


def test_pairs_without_a_gap_are_refused(tiny, pairs):
    with pytest.raises(InputError, match="trace-no-gap"):
        screen_sites(tiny("gpt2"), pairs, floor=1000)
    with pytest.raises(InputError, match="trace-no-gap"):
        screen_sites(tiny("gpt2"), [])
