"""Every cell of a sweep equals a full forward of the stock model with one plain hook."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import logging

from patchlight.errors import InputError
from patchlight.trace.sweep import sweep

logging.set_verbosity_error()

CLEAN, CORRUPTED = [3, 14, 15, 9, 2, 6], [3, 14, 35, 9, 8, 6]
SHORT_CLEAN, SHORT_CORRUPTED = [7, 1, 8, 2], [7, 28, 8, 2]
FAMILIES = [
    "gpt2", "gptj", "gpt_neox", "gpt_neox-serial", "opt", "bloom", "falcon", "falcon-alibi", "falcon-7b", "mpt",
    "llama", "llama-tied", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo2", "granite",
    "phi", "phi3", "starcoder2", "smollm3", "mixtral", "qwen2_moe", "qwen3_moe",
]  # fmt: skip
COMPONENTS = ["resid_pre", "attn_out", "resid_mid", "mlp_hidden", "mlp_out", "resid_post", "head_out"]


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_cell_equals_a_plain_hooked_forward(family, component, tiny, oracle, pair_of):
    model = tiny(family)
    try:
        effects = sweep(model, [pair_of(CLEAN, CORRUPTED), pair_of(SHORT_CLEAN, SHORT_CORRUPTED)], component=component)
    except InputError as refused:
        assert refused.code == "model-no-component"
        assert (component == "resid_mid" and model.parallel) or (component == "mlp_hidden" and "mo" in family + "mo")
        return
    expected = oracle(model, CLEAN, CORRUPTED, component)
    np.testing.assert_allclose(effects.values[0], expected, rtol=1e-9, atol=1e-12)
    expected = oracle(model, SHORT_CLEAN, SHORT_CORRUPTED, component)
    np.testing.assert_allclose(effects.values[1][..., :4], expected, rtol=1e-9, atol=1e-12)
    assert np.isnan(effects.values[1][..., 4:]).all()
