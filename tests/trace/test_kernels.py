"""What stands in for parts of a block computes what they compute, sees when weights change, and leaves no trace."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from patchlight.errors import InputError
from patchlight.trace import kernels
from patchlight.trace.capture import capture
from patchlight.trace.cells import rows_of, sites_of
from patchlight.trace.engine import replay
from patchlight.trace.kernels import check_products, faster
from patchlight.trace.sweep import sweep

CLEAN, CORRUPTED = [3, 14, 15, 9, 6], [3, 34, 15, 8, 6]


def logits(model, ids=CLEAN):
    with torch.inference_mode():
        return model.hf(input_ids=torch.tensor([ids])).logits


def test_every_family_computes_the_same(family, tiny):
    model = tiny(family, torch.float32)
    expected = logits(model)
    with faster(model):
        assert float((logits(model) - expected).abs().max()) <= 5e-5
    assert torch.equal(logits(model), expected)
    assert not any("forward" in vars(module) for module in model.hf.modules())


def test_packed_products_run_and_take_the_activation_in(tiny):
    model = copy.deepcopy(tiny("gpt2", torch.float32))
    with faster(model), torch.profiler.profile() as profile:
        logits(model)
    names = {event.key: event.count for event in profile.key_averages()}
    assert names["mkldnn::_linear_pointwise"] == 4 * model.n_layers
    assert "aten::gelu" not in names


@pytest.mark.parametrize("part", ["weight", "bias"])
def test_a_weight_changed_in_place_is_packed_anew(part, tiny):
    model = copy.deepcopy(tiny("gpt2", torch.float32))
    with faster(model):
        logits(model)
    weight = getattr(model.layers[1].mlp.c_fc, part)
    weight.data[..., [0, 5]] = weight.data[..., [5, 0]]  # its sum stays what it was
    expected = logits(model)
    with faster(model):
        assert float((logits(model) - expected).abs().max()) <= 5e-5


def test_the_formula_of_an_activation_is_the_one_that_it_is_set_to(tiny):
    model = copy.deepcopy(tiny("llama", torch.float32))
    mlp = model.layers[0].mlp
    mlp.act_fn = torch.nn.GELU(approximate="tanh")
    mlp.gate_proj.weight.data *= 0.1  # so little is between the two formulas that trying does not tell them apart
    stream = torch.randn(50, model.width, generator=torch.Generator().manual_seed(0)) * 3
    with torch.inference_mode():
        expected = mlp(stream)
        with faster(model):
            assert float((mlp(stream) - expected).abs().max()) <= 1e-6 * float(expected.abs().max())


def test_the_type_that_new_tensors_have_does_not_matter(tiny):
    model = copy.deepcopy(tiny("gpt2", torch.float32))
    expected = logits(model)
    torch.set_default_dtype(torch.float64)
    try:
        with faster(model):
            assert float((logits(model) - expected).abs().max()) <= 5e-5
    finally:
        torch.set_default_dtype(torch.float32)


def test_an_activation_that_is_not_behind_a_product_stays_where_it_is(tiny):
    model = copy.deepcopy(tiny("llama", torch.float32))

    class Late(torch.nn.Module):
        """Activates what comes out of the MLP, not what goes on in it."""

        def __init__(self, inner):
            super().__init__()
            self.gate_proj, self.act_fn, self.out = inner.gate_proj, torch.nn.SiLU(), inner.down_proj

        def forward(self, stream):
            return self.act_fn(self.out(self.gate_proj(stream)))

    model.layers[0].mlp = Late(model.layers[0].mlp)
    expected = logits(model)
    with faster(model):
        assert float((logits(model) - expected).abs().max()) <= 5e-5


def test_without_the_private_product_the_plain_one_runs(tiny, pair_of, monkeypatch):
    model = copy.deepcopy(tiny("llama", torch.float32))
    expected = sweep(model, [pair_of(CLEAN, CORRUPTED)], component="head_out").values
    monkeypatch.setattr(kernels, "_packable", lambda _: False)
    values = sweep(copy.deepcopy(model), [pair_of(CLEAN, CORRUPTED)], component="head_out").values
    np.testing.assert_allclose(values, expected, atol=5e-5)


def test_bfloat16_products_are_near_and_not_exact(tiny):
    model = tiny("gpt2", torch.float32)
    runs = {}
    for products in ("exact", "bfloat16"):
        recipient = capture(model, torch.tensor([CORRUPTED]), ("q", "k", "v"), products=products)
        donor = capture(model, torch.tensor([CLEAN]), (), products=products)
        rows = rows_of(sites_of(model, "resid_pre", 1, None), torch.eye(5, dtype=torch.bool)[None])
        runs[products] = replay(model, recipient, donor, rows, memory=1 << 20, products=products)
    error = (runs["bfloat16"] - runs["exact"]).abs().max()
    assert 0 < float(error) < 0.05 * float(runs["exact"].abs().max())


def test_products_that_cannot_be_had_are_refused(tiny):
    with pytest.raises(InputError, match="trace-no-products"):
        check_products(tiny("gpt2"), "bfloat16")
    with pytest.raises(InputError, match="trace-unknown-products"):
        check_products(tiny("gpt2"), "int4")
