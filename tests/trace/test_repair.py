"""Self-repair: it adds up, and finds the backup that was built in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchlight.trace.mediation import effects
from patchlight.trace.repair import self_repair

CLEAN, CORRUPTED = [3, 14, 15, 9, 6], [3, 34, 15, 8, 6]
SITES = ["blocks.0.head_out.2", "blocks.1.mlp_out@1", "blocks.1.resid_pre", "blocks.0.resid_post"]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt_neox", "granite", "bloom"])
def test_prediction_reaction_and_the_norm_add_up_to_what_was_measured(name, tiny, pair_of):
    model, pairs = tiny(name, torch.float64, 0, 3), [pair_of(CLEAN, CORRUPTED)]
    found, expected = self_repair(model, pairs, SITES), effects(model, pairs, SITES, direction="noise")
    np.testing.assert_allclose(found.measured, expected.effect("total"), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(found.predicted, expected.effect("direct_held"), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(found.predicted + found.reaction.sum(2) + found.norm, found.measured)
