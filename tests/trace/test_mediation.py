"""Direct and indirect effects against frozen forwards with plain hooks, and the identities between them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchlight.trace.mediation import effects
from patchlight.trace.patch import patch
from tests.trace.path_oracle import path_value

CLEAN, CORRUPTED = [3, 14, 15, 9, 6], [3, 34, 15, 8, 6]
FAMILIES = ("gpt2", "llama", "gemma2", "gpt_neox", "granite", "bloom", "cohere")
SITES = ["blocks.0.head_out.2", "blocks.1.mlp_out@1", "blocks.1.attn_out", "blocks.1.resid_pre@1-3", "embed"]


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_parts_add_up_to_the_total_effect_of_every_pair(name, direction, tiny, pair_of):
    model, pairs = tiny(name, torch.float64, 0, 3), [pair_of(CLEAN, CORRUPTED), pair_of([4, 5, 6, 7], [4, 15, 6, 17])]
    found = effects(model, pairs, SITES, direction=direction)
    assert found.identity_error < 1e-9
    np.testing.assert_allclose(found.total, patch(model, pairs, SITES, direction=direction).values, rtol=1e-9)
    np.testing.assert_allclose(found.effect("interaction"), found.effect("indirect_back") - found.effect("indirect"))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_direct_effect_is_that_of_a_frozen_forward(name, tiny, pair_of):
    model, sites = tiny(name, torch.float64, 0, 3), ["blocks.0.head_out.2", "blocks.1.mlp_out", "embed"]
    found = effects(model, [pair_of(CLEAN, CORRUPTED)], sites)
    for index, site in enumerate(sites):
        expected = path_value(model, CLEAN, CORRUPTED, site, ["logits"])
        np.testing.assert_allclose(found.direct[0, index], expected, rtol=1e-9, atol=1e-10)
