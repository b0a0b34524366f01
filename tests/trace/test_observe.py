"""Attribution adds up, the lens ends in the logits, patterns are those of the stock attention."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from patchlight.errors import InputError
from patchlight.trace.observe import attention_patterns, attribute, logit_lens
from tests.trace.oracle import activation, logit_diff

CLEAN, CORRUPTED = [3, 14, 15, 9, 6], [3, 34, 15, 8, 6]
FAMILIES = ("gpt2", "llama", "gpt_neox", "olmo2", "granite", "bloom", "cohere", "falcon", "opt", "phi", "qwen3")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_parts_add_up_to_the_logit_difference(name, tiny, pair_of):
    model, pairs = tiny(name), [pair_of(CLEAN, CORRUPTED), pair_of([4, 5, 6, 7], [4, 15, 6, 17])]
    found = attribute(model, pairs)
    np.testing.assert_allclose(found.metric[0], [logit_diff(model, ids) for ids in (CLEAN, CORRUPTED)], rtol=1e-9)
    assert found.error < 1e-6
    assert len(found.parts) == found.values.shape[2]


def test_a_part_is_what_the_output_head_reads_of_what_it_writes(tiny, pair_of):
    model = tiny("gpt2")
    found = attribute(model, [pair_of(CLEAN, CORRUPTED)])
    written, end = activation(model, CLEAN, "mlp_out", 0)[-1], activation(model, CLEAN, "resid_post", 1)[-1]
    norm, head = model.hf.transformer.ln_f, model.hf.lm_head.weight
    scale = (end.var(correction=0) + norm.eps).sqrt()
    expected = (((written - written.mean()) / scale * norm.weight) @ (head[50] - head[51])).detach()
    assert found.values[0, 0, found.parts.index("blocks.0.mlp_out")] == pytest.approx(float(expected), rel=1e-9)
    grouped = found.by_component(model.n_layers)
    assert grouped[0, 0, 1, 0] == pytest.approx(float(expected), rel=1e-9)
    outside = [found.parts.index(name) for name in ("embed", "constant")]
    np.testing.assert_allclose(grouped.sum((2, 3)), found.values.sum(2) - found.values[:, :, outside].sum(2))


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom"])
def test_the_lens_ends_in_the_models_own_logits(name, tiny, pair_of):
    model = tiny(name)
    found = logit_lens(model, [pair_of(CLEAN, CORRUPTED)])
    np.testing.assert_allclose(found[0, :, -1], [logit_diff(model, ids) for ids in (CLEAN, CORRUPTED)], rtol=1e-9)
    middle = model.normed(activation(model, CLEAN, "resid_pre", 1)[-1])
    logits = model.hf.lm_head(middle)
    assert found[0, 0, 1] == pytest.approx(float((logits[50] - logits[51]).detach()), rel=1e-9)


def test_patterns_are_those_of_the_stock_attention(tiny, pair_of):
    model, short = tiny("llama"), [4, 5, 6, 7]
    found = attention_patterns(model, [pair_of(CLEAN, CORRUPTED), pair_of(short, [4, 15, 6, 17])])
    own = copy.deepcopy(model.hf)  # transformers leaves hooks of its own on a model that is asked for its attentions
    own.set_attn_implementation("eager")
    with torch.no_grad():
        stock = own(input_ids=torch.tensor([short]), output_attentions=True).attentions
    for layer, weights in enumerate(stock):
        np.testing.assert_allclose(found[1, 0, layer, :, :4], weights[0, :, -1], rtol=1e-6)
    assert np.isnan(found[1, ..., 4]).all()


def test_capped_logits_are_refused(tiny, pair_of):
    with pytest.raises(InputError) as error:
        attribute(tiny("gemma2"), [pair_of(CLEAN, CORRUPTED)])
    assert error.value.code == "trace-capped-logits"
