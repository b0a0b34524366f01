"""Named sites, alone and together, equal plain hooks on the stock model."""

from __future__ import annotations

import numpy as np
import pytest

from patchlight.errors import InputError
from patchlight.records import Site, TokenPair
from patchlight.trace.patch import patch
from patchlight.trace.sites import read_site
from patchlight.trace.sweep import sweep

CLEAN, CORRUPTED = [3, 14, 15, 9, 6], [3, 34, 35, 9, 6]
SHORT_CLEAN, SHORT_CORRUPTED = [7, 1, 8, 2], [7, 1, 28, 2]
SETS = [
    "blocks.1.mlp_out@last",
    ["blocks.0.head_out.0+2@subject", "blocks.1.attn_out@last"],
    "blocks.0-1.mlp_out",
    ["blocks.0.mlp_hidden.3-9@subject", "blocks.1.resid_pre@0"],
]


def hooked_sites(name: str, positions: dict[str, list[int]]) -> list[Site]:
    """One site for each layer, unit and position that a name covers."""
    site = read_site(name)

    def several(value):
        return value if isinstance(value, tuple) else (value,)

    places = positions.get(site.position, [site.position]) if isinstance(site.position, str) else several(site.position)
    return [
        Site(site.component, layer, unit, place)
        for layer in several(site.layer)
        for unit in several(site.unit)
        for place in places
    ]


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom"])
def test_sets_of_sites_equal_several_plain_hooks(name, direction, tiny, pair_of, oracle_together):
    model = tiny(name)
    pairs = [pair_of(CLEAN, CORRUPTED), pair_of(SHORT_CLEAN, SHORT_CORRUPTED)]
    effects = patch(model, pairs, SETS, direction=direction)
    roles = [
        {"last": [4], "subject": [1, 2]},
        {"last": [3], "subject": [2]},
    ]
    for row, (clean, corrupted) in enumerate([(CLEAN, CORRUPTED), (SHORT_CLEAN, SHORT_CORRUPTED)]):
        given, received = (clean, corrupted) if direction == "denoise" else (corrupted, clean)
        for column, names in enumerate(SETS):
            together = [names] if isinstance(names, str) else names
            sites = [site for each in together for site in hooked_sites(each, roles[row])]
            expected = oracle_together(model, given, received, sites)
            np.testing.assert_allclose(effects.values[row, column], expected, rtol=1e-9, atol=1e-11)


def test_a_single_site_is_its_cell_of_the_sweep(tiny, pair_of):
    model, pairs = tiny("gpt2"), [pair_of(CLEAN, CORRUPTED, "one")]
    whole = sweep(model, pairs, component="mlp_out", metric="prob")
    effects = patch(model, pairs, ["blocks.1.mlp_out@last", Site("mlp_out", 0, None, 2)], metric="prob")
    np.testing.assert_allclose(effects.values[0], [whole.values[0, 1, 4], whole.values[0, 0, 2]], rtol=1e-12)
    np.testing.assert_allclose(effects.recovery(0)[0], whole.recovery(0)[0][[1, 0], [4, 2]], rtol=1e-9)
    assert list(effects.to_frame().sites) == ["blocks.1.mlp_out@last", "blocks.0.mlp_out@2"]


def test_sets_that_restore_everything_are_marked(tiny, pair_of):
    pairs = [pair_of(CLEAN, CORRUPTED)]
    effects = patch(tiny("gpt2"), pairs, ["blocks.1.resid_post@last", "embed@1-2", "embed@1", "blocks.1.mlp_out@last"])
    assert effects.structural[0].tolist() == [True, True, False, False]
    np.testing.assert_allclose(effects.values[0, :2], effects.clean[0], rtol=1e-9)


@pytest.mark.parametrize("metric", ["logit_diff", "logprob_diff", "kl", "prob"])
@pytest.mark.parametrize("answers", [((50, 51), (50, 52)), ((50, 51), (52,)), ((50,), (51, 52, 53))])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_sets_are_marked_where_every_token_of_the_answers_that_is_read_is_restored(name, answers, metric, tiny):
    """What the last position of the prompt gives back is not enough for tokens of the answer behind it."""
    model, pair = tiny(name), TokenPair(tuple(CLEAN), tuple(CORRUPTED), *answers)
    at_the_end = ["blocks.1.resid_post@last", ["blocks.0-1.attn_out@last"], ["blocks.0-1.v@0-3", "blocks.0-1.k@0-3"]]
    effects = patch(model, [pair], [*at_the_end, "blocks.0.resid_post", "embed@1-2", "embed@1"], metric=metric)
    restored = np.isclose(effects.values, effects.clean[:, None], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(effects.structural, restored)
    assert effects.structural[0, 4:].tolist() == [True, False]


def test_no_pairs_and_no_sets_give_no_values(tiny, pair_of):
    assert patch(tiny("gpt2"), [], ["embed@1"]).values.shape == (0, 1)
    assert patch(tiny("gpt2"), [pair_of(CLEAN, CORRUPTED)], []).values.shape == (1, 0)


@pytest.mark.parametrize(
    ("site", "code"),
    [
        ("blocks.9.mlp_out@last", "trace-no-layer"),
        ("blocks.1.head_out.9@last", "trace-no-unit"),
        ("blocks.1.mlp_out@7", "trace-no-position"),
        ("blocks.1.mlpout@last", "trace-site-name"),
        ("logits@last", "trace-nothing-behind"),
        ([], "trace-empty-set"),
    ],
)
def test_what_is_not_there_is_refused(site, code, tiny, pair_of):
    with pytest.raises(InputError, match=code):
        patch(tiny("gpt2"), [pair_of(CLEAN, CORRUPTED)], [site])
