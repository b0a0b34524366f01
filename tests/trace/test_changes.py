"""Estimates are exact to first order, exact where the model is linear, and see what plain gradients miss."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from transformers import logging

from patchlight.errors import InputError
from patchlight.model.anatomy import Model
from patchlight.pairs.align import align
from patchlight.records import Site
from patchlight.trace.capture import capture
from patchlight.trace.changes import ESTIMATED, estimate, patch_cells
from patchlight.trace.engine import replay
from patchlight.trace.gradients import METHODS, metric
from patchlight.trace.plan import needed
from patchlight.trace.rows import Rows
from patchlight.trace.sweep import sweep

logging.set_verbosity_error()

CLEAN, CORRUPTED = [3, 14, 15, 9, 6], [3, 34, 15, 8, 6]
SHORT_CLEAN, SHORT_CORRUPTED = [7, 1, 8, 2], [7, 1, 28, 2]


def components_of(model: Model) -> list[str]:
    absent = {"resid_mid"} if model.parallel else set()
    absent |= set() if model.family.mlp_proj else {"mlp_hidden"}
    # Their small configurations state a number of key heads, which these architectures do not read.
    absent |= {"k", "v"} if model.config.model_type in ("gpt_neox", "opt") else set()
    return [component for component in ESTIMATED if component not in absent]


def changed(model: Model) -> Model:
    """A copy whose weights may be changed."""
    return Model(copy.deepcopy(model.hf), model.tokenizer, model.name)


def linear_tail(model: Model) -> Model:
    """A copy in which the logits are linear in what the last layer's attention gives: no MLP there, no final norm."""
    copied = changed(model)
    for parameter in copied.part("mlp_out", copied.n_layers - 1).parameters():
        parameter.data.zero_()
    inner, norm = copied.family.final_norm.split(".")
    setattr(getattr(copied.hf, inner), norm, torch.nn.Identity())
    return Model(copied.hf, model.tokenizer, model.name)


def exact_cells(model: Model, pairs, component: str) -> np.ndarray:
    effects = sweep(model, pairs, component=component)
    return effects.values - effects.corrupted.reshape(-1, *[1] * (effects.values.ndim - 1))


def nudged(model: Model, pair, component: str, share: float) -> np.ndarray:
    """The metric after moving each activation alone by a share of the way to the donor's."""
    alignment = align(model.tokenizer, pair)
    wanted = {name for part in needed(component, model) for name in part}
    donor, recipient = (
        capture(model, torch.tensor([ids]), wanted) for ids in (alignment.clean_ids, alignment.corrupted_ids)
    )
    near = {name: [torch.lerp(*both, share) for both in zip(tensors, donor.sites[name], strict=True)]
            for name, tensors in recipient.sites.items()}  # fmt: skip
    heads = {"head_out": model.n_heads, "q": model.n_heads, "k": model.n_kv_heads, "v": model.n_kv_heads}
    units = range(heads[component]) if component in heads else [None]
    layers = 1 if component == "embed" else model.n_layers
    length = len(alignment.clean_ids)
    sites = [
        Site(component, None if component == "embed" else layer, unit, position)
        for layer in range(layers)
        for unit in units
        for position in range(length)
    ]
    rows = Rows.of([0] * len(sites), [[site] for site in sites], length)
    everywhere = torch.ones(1, length, dtype=torch.bool)
    with torch.no_grad():
        final = replay(
            model, recipient, dataclasses.replace(donor, sites=near), rows, memory=1 << 28, differs=everywhere
        )
        answers = torch.tensor([(alignment.correct_id, alignment.wrong_id)]).expand(len(sites), -1)
        values = metric(model, final, answers).numpy()
    return values.reshape(layers, *([len(units)] if component in heads else []), length)


def test_estimates_are_the_slope_of_the_exact_effect_in_every_family(family, tiny, pair_of):
    model, pair = tiny(family), pair_of(CLEAN, CORRUPTED)
    components = components_of(model)
    estimates = estimate(model, [pair], components=components)
    for component in components:
        step = 1e-3  # some norms are computed in float32 whatever the model's type
        slope = (nudged(model, pair, component, step) - nudged(model, pair, component, -step)) / (2 * step)
        np.testing.assert_allclose(estimates.cells[component][0], slope, rtol=2e-3, atol=1e-3, err_msg=component)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_in_every_family_and_leaves_the_model_as_it_was(method, family, tiny, pair_of):
    model = tiny(family)
    before = copy.deepcopy(model.hf.config.to_dict()), model.hf.config._attn_implementation
    wants = [parameter.requires_grad for parameter in model.hf.parameters()]
    pairs = [pair_of(CLEAN, CORRUPTED), pair_of(SHORT_CLEAN, SHORT_CORRUPTED)]
    found = estimate(model, pairs, components=components_of(model), method=method, direction="noise")
    for values in found.cells.values():
        assert np.isfinite(values[0]).all()
        assert np.isfinite(values[1, ..., :4]).all()
        assert np.isnan(values[1, ..., 4:]).all()
    assert (model.hf.config.to_dict(), model.hf.config._attn_implementation) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.hf.modules())
    assert [parameter.requires_grad for parameter in model.hf.parameters()] == wants
    assert all(parameter.grad is None for parameter in model.hf.parameters())


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_frozen_weights_give_the_same_estimates(name, tiny, pair_of):
    model = changed(tiny(name))
    pairs, components = [pair_of(CLEAN, CORRUPTED)], components_of(model)
    trainable = estimate(model, pairs, components=components)
    model.hf.requires_grad_(False)
    frozen = estimate(model, pairs, components=components)
    for component in components:
        np.testing.assert_array_equal(frozen.cells[component], trainable.cells[component])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_where_the_metric_is_linear_in_a_site_attribution_is_exact(name, tiny, pair_of):
    model, pairs = linear_tail(tiny(name)), [pair_of(CLEAN, CORRUPTED)]
    linear = ["v", "head_out", "attn_out", "resid_mid", "mlp_out", "resid_post"]
    found = estimate(model, pairs, components=linear)
    for component in linear:
        expected = exact_cells(model, pairs, component)[:, -1]
        np.testing.assert_allclose(found.cells[component][:, -1], expected, rtol=1e-9, atol=1e-11, err_msg=component)


@pytest.mark.parametrize("component", ["q", "k"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_atp_star_goes_through_a_saturated_softmax_exactly(name, component, tiny, written_out, pair_of):
    model = linear_tail(tiny(name))
    last = model.n_layers - 1
    if name == "gpt2":
        model.layers[last].attn.c_attn.weight.data[:, : model.width] *= 30
    else:
        model.layers[last].self_attn.q_proj.weight.data *= 30
    pairs = [pair_of(CLEAN, CORRUPTED)]
    found = estimate(model, pairs, components=[component], method="atp_star")
    expected = written_out(model, CLEAN, CORRUPTED, component)[last] - corrupted_metric(model)
    np.testing.assert_allclose(found.cells[component][0, last], expected, rtol=1e-9, atol=1e-9)
    plain = estimate(model, pairs, components=[component]).cells[component][0, last]
    strongest = np.unravel_index(np.abs(expected).argmax(), expected.shape)
    assert abs(plain[strongest] - expected[strongest]) > 0.5 * abs(expected[strongest])


@pytest.mark.parametrize("component", ["q", "k"])
@pytest.mark.parametrize("name", ["gpt_neo", "bloom", "falcon", "falcon-7b", "falcon-alibi", "mpt"])
def test_atp_star_goes_through_attention_of_a_familys_own_exactly(name, component, tiny, projected, pair_of):
    model = linear_tail(tiny(name))
    found = estimate(model, [pair_of(CLEAN, CORRUPTED)], components=[component], method="atp_star")
    expected = projected(model, CLEAN, CORRUPTED, component)[-1] - corrupted_metric(model)
    np.testing.assert_allclose(found.cells[component][0, -1], expected, rtol=1e-9, atol=1e-9)
    assert np.abs(expected).max() > 0.01


def corrupted_metric(model: Model) -> float:
    with torch.no_grad():
        logits = model.hf(input_ids=torch.tensor([CORRUPTED])).logits[0, -1]
    return float(logits[50] - logits[51])


@pytest.fixture
def cancelling(tiny, pair_of):
    """A model in which the gradient at layer 0's MLP, last position, cancels: directly against through the next MLP."""
    model, pairs = linear_tail(tiny("gpt2")), [pair_of([3, 14, 15, 9, 6], [3, 14, 15, 9, 8])]
    model.layers[1].attn.c_proj.weight.data.zero_()
    model.layers[1].mlp.c_proj.weight.data.copy_(tiny("gpt2").layers[1].mlp.c_proj.weight.data)
    both = estimate(model, pairs, components=["mlp_out"]).cells["mlp_out"][0, 0, -1]
    weight = model.layers[1].mlp.c_proj.weight.data
    weight.mul_(0)
    direct = estimate(model, pairs, components=["mlp_out"]).cells["mlp_out"][0, 0, -1]
    weight.copy_(tiny("gpt2").layers[1].mlp.c_proj.weight.data * (-direct / (both - direct)))
    return model, pairs, direct


def test_grad_drop_sees_effects_that_cancel_in_the_gradient(cancelling):
    model, pairs, direct = cancelling
    cell = (0, 0, -1)
    assert abs(estimate(model, pairs, components=["mlp_out"]).cells["mlp_out"][cell]) < 1e-9 * abs(direct)
    assert abs(exact_cells(model, pairs, "mlp_out")[cell]) > 0.05 * abs(direct)
    seen = estimate(model, pairs, components=["mlp_out"], method="atp_star").cells["mlp_out"][cell]
    assert seen == pytest.approx(direct / 2)  # the mean of 0 (whole) and `direct` (the next layer dropped)


def plain_gradients(model: Model, ids: list[int], dropped: int | None) -> dict[str, list[torch.Tensor]]:
    """Gradients by stock autograd, with the outputs of one layer's attention and MLP cut from the graph."""
    seen: dict[str, list[torch.Tensor]] = {"resid_pre": [], "head_out": [], "mlp_out": []}

    def see(name):
        return lambda _, args: seen[name].append(args[0])

    def cut(name, layer):
        def after(_, __, output):
            stream, *rest = output if isinstance(output, tuple) else (output,)
            if name in seen:
                seen[name].append(stream)
            stream = stream.detach().clone() if layer == dropped else stream
            return (stream, *rest) if rest else stream

        return after

    handles = []
    for layer, block in enumerate(model.layers):
        handles.append(block.register_forward_pre_hook(see("resid_pre")))
        handles.append(model.part("attn_proj", layer).register_forward_pre_hook(see("head_out")))
        for name in ("attn_out", "mlp_out"):
            handles.append(model.part(name, layer).register_forward_hook(cut(name, layer)))
    logits = model.hf(input_ids=torch.tensor([ids])).logits[0, -1]
    for handle in handles:
        handle.remove()
    flat = [tensor for tensors in seen.values() for tensor in tensors]
    found = iter(torch.autograd.grad(logits[50] - logits[51], flat, allow_unused=True))
    return {
        name: [torch.zeros_like(tensor) if (gradient := next(found)) is None else gradient for tensor in tensors]
        for name, tensors in seen.items()
    }


def test_grad_drop_is_the_mean_over_gradients_with_one_layer_cut_out_in_every_family(family, tiny, pair_of):
    model, components = tiny(family), ["resid_pre", "head_out", "mlp_out"]
    found = estimate(model, [pair_of(CLEAN, CORRUPTED)], components=components, method="atp_star")
    own, given = (capture(model, torch.tensor([ids]), components).sites for ids in (CORRUPTED, CLEAN))
    every = [plain_gradients(model, CORRUPTED, dropped) for dropped in (None, *range(model.n_layers))]
    for component in components:
        total, sizes = np.zeros_like(found.cells[component][:1].repeat(2, axis=0))
        for gradients in every:
            for layer, gradient in enumerate(gradients[component]):
                product = (given[component][layer] - own[component][layer])[0] * gradient.view(len(CLEAN), -1)
                if component == "head_out":
                    product = product.unflatten(-1, (model.n_heads, -1)).transpose(0, 1)
                total[layer] += product.sum(-1).numpy()
                sizes[layer] += product.sum(-1).abs().numpy()
        kept = model.n_layers + (component == "resid_pre")
        expected = np.copysign(sizes / kept, total)
        np.testing.assert_allclose(found.cells[component][0], expected, rtol=1e-5, atol=1e-8, err_msg=component)


@pytest.mark.parametrize("name", ["gpt2", "opt", "granite"])
def test_integrated_estimates_of_the_embeddings_add_up_to_the_gap(name, tiny, pair_of):
    pairs = [pair_of(CLEAN, CORRUPTED), pair_of([9, 8, 7, 6, 5], [9, 8, 7, 16, 5])]
    found = estimate(tiny(name), pairs, components=["embed"], method="integrated", steps=80)
    np.testing.assert_allclose(found.cells["embed"].sum((1, 2)), found.gap, rtol=5e-3)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_patched_cells_are_those_of_the_sweep_and_no_others(direction, tiny, pair_of):
    model, pairs = tiny("llama"), [pair_of(CLEAN, CORRUPTED), pair_of(SHORT_CLEAN, SHORT_CORRUPTED)]
    random = np.random.default_rng(0)
    for component in ("k", "mlp_out"):
        effects = sweep(model, pairs, component=component, direction=direction)
        given, received = effects.clean, effects.corrupted
        if direction == "noise":
            given, received = received, given
        chosen = (random.random(effects.values.shape) < 0.3) & ~np.isnan(effects.values)
        seen: list[tuple[int, int]] = []
        found = patch_cells(
            model,
            pairs,
            {component: chosen},
            direction=direction,
            on_progress=lambda done, total, seen=seen: seen.append((done, total)),
        )
        expected = effects.values - received.reshape(-1, *[1] * (effects.values.ndim - 1))
        np.testing.assert_allclose(found.cells[component], np.where(chosen, expected, np.nan), rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(found.gap, given - received)
        assert seen[-1] == (chosen.sum(), chosen.sum())


@pytest.mark.parametrize("method", METHODS)
def test_a_small_memory_gives_the_same_estimates(method, tiny, pair_of):
    model, pairs = tiny("llama"), [pair_of(CLEAN, CORRUPTED), pair_of(CORRUPTED, CLEAN)]
    components = components_of(model)
    whole = estimate(model, pairs, components=components, method=method)
    cut = estimate(model, pairs, components=components, method=method, memory=1)
    for component in components:
        np.testing.assert_allclose(cut.cells[component], whole.cells[component], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_float32_estimates_are_near_those_in_float64(method, tiny, pair_of):
    short, long = tiny("llama", torch.float32), changed(tiny("llama", torch.float32))
    long.hf.double()
    found, expected = (
        estimate(model, [pair_of(CLEAN, CORRUPTED)], components=["mlp_out", "k"], method=method).cells
        for model in (short, long)
    )
    for component, values in found.items():
        np.testing.assert_allclose(values, expected[component], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"components": ["pattern"]}, "trace-unknown-component"),
        ({"direction": "sideways"}, "trace-unknown-direction"),
        ({"method": "guess"}, "trace-unknown-method"),
    ],
)
def test_what_cannot_be_estimated_is_refused(asked, code, tiny, pair_of):
    with pytest.raises(InputError, match=code):
        estimate(tiny("gpt2"), [pair_of(CLEAN, CORRUPTED)], **asked)


def test_components_that_a_model_lacks_are_refused(tiny, pair_of):
    for name, component in (("gptj", "resid_mid"), ("mixtral", "mlp_hidden")):
        with pytest.raises(InputError, match="model-no-component"):
            estimate(tiny(name), [pair_of(CLEAN, CORRUPTED)], components=[component])


def test_answers_that_share_their_first_tokens_are_refused(tiny, pair_of):
    pair = dataclasses.replace(pair_of(CLEAN, CORRUPTED), correct=" w50 w52", wrong=" w50 w51")
    with pytest.raises(InputError, match="trace-answers-part-late"):
        estimate(tiny("gpt2"), [pair])


def test_estimates_that_are_not_finite_are_refused(tiny, pair_of):
    model = changed(tiny("llama"))
    model.hf.lm_head.weight.data[50] = torch.inf
    with pytest.raises(InputError, match="trace-not-finite"):
        estimate(model, [pair_of(CLEAN, CORRUPTED)], components=["mlp_out"])
