"""Names of sites, and the sites that restore everything by construction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchlight.errors import InputError
from patchlight.pairs.align import align
from patchlight.records import Site
from patchlight.trace.rows import COMPONENTS, UNLAYERED
from patchlight.trace.sites import read_site, structural_sites
from patchlight.trace.sweep import sweep

COMPONENTS_BY_POSITION = [name for name in COMPONENTS if name not in ("q", "k", "v", "pattern", "head_out")]


@given(
    component=st.sampled_from(COMPONENTS),
    layer=st.integers(0, 99),
    unit=st.none() | st.integers(0, 9999),
    position=st.none() | st.integers(0, 500) | st.sampled_from(["last", "subject_last", "relation"]),
)
def test_every_site_has_a_name_that_reads_back(component, layer, unit, position):
    site = Site(component, None if component in UNLAYERED else layer, unit, position)
    assert read_site(str(site)) == site


def test_names_are_those_of_the_method():
    assert str(Site("mlp_out", 7, None, "subject_last")) == "blocks.7.mlp_out@subject_last"
    assert str(Site("head_out", 9, 6, "last")) == "blocks.9.head_out.6@last"


@pytest.mark.parametrize("name", ["", "blocks.7", "mlp_out@3", "blocks.1.embed", "blocks.1.mlp@3", "blocks.x.mlp_out"])
def test_other_names_are_refused(name):
    with pytest.raises(InputError, match="trace-site-name"):
        read_site(name)


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_what_is_structural_by_the_graph_restores_everything_and_nothing_else_does(data, tiny, pair_of):
    name = data.draw(st.sampled_from(["gpt2", "llama", "gpt_neox", "gemma2"]))
    model = tiny(name)
    # Not token 0: it pads, and where its embedding is zero a whole prompt of it is zero in every layer.
    clean = data.draw(st.lists(st.integers(1, 49), min_size=1, max_size=5))
    differing = data.draw(st.sets(st.integers(0, len(clean) - 1), min_size=1, max_size=3))
    pair = pair_of(clean, [token % 49 + 1 if at in differing else token for at, token in enumerate(clean)])
    for component in COMPONENTS_BY_POSITION:
        if component == "resid_mid" and model.parallel:
            continue
        effects = sweep(model, [pair], component=component)
        mask = structural_sites([align(model.tokenizer, pair)], component, model.n_layers)
        restored = np.isclose(effects.recovery(floor=-np.inf), 1, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(mask, restored)


def test_a_shorter_prompt_has_no_structural_site_behind_its_end(tiny, pair_of):
    pairs = [pair_of([1, 2, 3, 4], [1, 2, 3, 9]), pair_of([1, 2], [1, 9])]
    alignments = [align(tiny("gpt2").tokenizer, pair) for pair in pairs]
    mask = structural_sites(alignments, "resid_post", 2)
    assert mask.tolist() == [[[False, False, False, True]] * 2, [[False, True, False, False]] * 2]
