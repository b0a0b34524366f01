"""Attention that does not go through transformers' interface: reached as it is, or refused where it cannot be."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from patchlight.errors import GateFailed
from patchlight.model.anatomy import Model
from patchlight.records import Site
from patchlight.trace.capture import capture
from patchlight.trace.engine import replay
from patchlight.trace.rows import Rows
from patchlight.trace.sweep import sweep
from tests.trace.oracle import logits_with_all, pattern

CACHED = ["gpt_neo", "bloom", "falcon", "falcon-alibi", "falcon-7b", "mpt"]
CLEAN, CORRUPTED = [3, 14, 15, 9, 6, 5, 35], [3, 34, 15, 8, 6, 5, 35]  # longer than GPT-Neo's window
INSIDE = {"q", "k", "v", "pattern"}


@pytest.mark.parametrize("name", CACHED)
def test_the_pattern_of_a_run_is_what_the_stock_model_gives_out(name, tiny):
    model = tiny(name)
    run = capture(model, torch.tensor([CLEAN, CORRUPTED]), {"pattern"})
    for layer, weights in enumerate(run.sites["pattern"]):
        for prompt, ids in zip(weights, (CLEAN, CORRUPTED), strict=True):
            np.testing.assert_allclose(prompt, pattern(model, ids, layer), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CACHED)
def test_looking_inside_changes_no_bit_of_a_run(name, dtype, tiny):
    model, ids = tiny(name, dtype), torch.tensor([CLEAN, CORRUPTED])
    seen = capture(model, ids, INSIDE)
    assert torch.equal(seen.final, capture(model, ids, ()).final)
    assert {tensor.dtype for name in INSIDE for tensor in seen.sites[name]} == {dtype}
    assert {type(tensor) for tensors in seen.sites.values() for tensor in tensors} == {torch.Tensor}


@pytest.mark.parametrize("name", ["bloom", "falcon"])
def test_passes_side_by_side_give_what_each_gives_alone(name, tiny, pair_of):
    model, pairs = tiny(name, layers=3), [pair_of(CLEAN, CORRUPTED)]
    threads = torch.get_num_threads()
    for component in ("q", "pattern"):
        alone = sweep(model, pairs, component=component).values
        try:
            torch.set_num_threads(2)
            together = sweep(model, pairs, component=component, memory=1).values  # a pass for each row
        finally:
            torch.set_num_threads(threads)
        np.testing.assert_allclose(together, alone, rtol=1e-12)


def summing(self, query, key, value, mask=None):
    """GPT-Neo's attention with products of another kind."""
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key)
    size = scores.shape[-2:]
    later = torch.ones(size[1], size[1], dtype=torch.bool).triu(1)[-size[0] :]
    weights = scores.masked_fill(later, -torch.inf).softmax(-1)
    return torch.einsum("bhqk,bhkd->bhqd", weights, value), weights


def test_attention_that_cannot_be_followed_is_refused(tiny):
    usual = tiny("gpt_neo")
    model = Model(copy.deepcopy(usual.hf), usual.tokenizer, "summing")
    for block in model.layers:
        block.attn.attention._attn = summing.__get__(block.attn.attention)
    for component in ("q", "pattern"):
        with pytest.raises(GateFailed, match=rf"{component} was captured in 0 of 2 layers.*trace-not-captured"):
            capture(model, torch.tensor([CLEAN]), {component})
        donor = capture(usual, torch.tensor([CLEAN]), INSIDE)
        recipient = capture(model, torch.tensor([CORRUPTED]), {"k", "v"})
        rows = Rows.of([0], [[Site(component, 0, 1, 3)]], len(CLEAN))
        with pytest.raises(GateFailed, match=rf"{component} in layer 0 was never applied.*trace-site-not-hit"):
            replay(model, recipient, donor, rows, memory=1 << 20)


@pytest.mark.parametrize("name", ["gpt_neo", "bloom"])
def test_keys_and_values_are_reached_however_attention_multiplies(name, tiny):
    """Only queries and pattern need products of a kind that is known."""
    model = tiny(name)
    donor = capture(model, torch.tensor([CLEAN]), {"k", "v"})
    rows = [[Site("k", 1, None, 3)], [Site("v", 0, 1, 1)]]
    if name == "gpt_neo":
        model = Model(copy.deepcopy(model.hf), model.tokenizer, "summing")
        for block in model.layers:
            block.attn.attention._attn = summing.__get__(block.attn.attention)
        donor = capture(model, torch.tensor([CLEAN]), {"k", "v"})
    recipient = capture(model, torch.tensor([CORRUPTED]), {"k", "v"})
    with torch.no_grad():
        found = model.logits(replay(model, recipient, donor, Rows.of([0, 0], rows, len(CLEAN)), memory=1 << 20))
    np.testing.assert_allclose(found, logits_with_all(model, CLEAN, CORRUPTED, rows), rtol=1e-9, atol=1e-10)
