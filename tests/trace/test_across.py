"""Activations put from one model into another equal plain hooks on both stock models, in float64."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from patchlight.errors import GateFailed, InputError
from patchlight.model.anatomy import Model
from patchlight.records import TokenPair
from patchlight.trace.across import patch_across
from tests.trace.oracle import activation, logit_diff, patched

CLEAN, CORRUPTED = [3, 14, 15, 9, 6], [3, 34, 35, 9, 6]
SHORT_CLEAN, SHORT_CORRUPTED = [7, 1, 8, 2], [7, 1, 28, 2]


def tuned_like(base: Model, *parts: str) -> Model:
    """A twin that differs in the parameters whose names contain one of these."""
    hf = copy.deepcopy(base.hf)
    torch.manual_seed(5)
    for name, weight in hf.named_parameters():
        if any(part in name for part in parts):
            weight.data.add_(torch.randn_like(weight) * 0.3)
    return Model(hf, base.tokenizer, f"{base.name}, tuned")


def expected(giver: Model, recipient: Model, ids: list[int], component: str) -> np.ndarray:
    """Every cell `[layer, position]` by one full forward of the recipient with one plain hook."""
    values = []
    for layer in range(recipient.n_layers):
        given, reached = activation(giver, ids, component, layer), component
        if component == "resid_mid":  # reached through what attention adds to the block's input
            given, reached = given - activation(recipient, ids, "resid_pre", layer), "attn_out"
        values.append([patched(recipient, ids, reached, layer, at, given) for at in range(len(ids))])
    return np.array(values)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize(
    ("name", "component"),
    [
        *[("gpt2", each) for each in ("resid_pre", "resid_mid", "attn_out", "mlp_out", "resid_post")],
        *[(name, each) for name in ("llama", "gptj", "gemma2", "bloom") for each in ("attn_out", "mlp_out")],
    ],
)
def test_every_cell_equals_a_plain_hook_on_the_other_model(name, component, direction, tiny, pair_of):
    base, tuned = tiny(name), tiny(name, seed=1)
    pairs = [pair_of(CLEAN, CORRUPTED), pair_of(SHORT_CLEAN, SHORT_CORRUPTED)]
    effects = patch_across(base, tuned, pairs, component=component, direction=direction)
    giver, recipient = (tuned, base) if direction == "denoise" else (base, tuned)
    for pair, ids in enumerate((CLEAN, SHORT_CLEAN)):
        found = effects.values[pair, :, : len(ids)]
        np.testing.assert_allclose(found, expected(giver, recipient, ids, component), rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(effects.clean[pair], logit_diff(tuned, ids), rtol=1e-9)
        np.testing.assert_allclose(effects.corrupted[pair], logit_diff(base, ids), rtol=1e-9)


def test_heads_equal_plain_hooks(tiny, pair_of):
    base, tuned = tiny("llama"), tiny("llama", seed=1)
    effects = patch_across(base, tuned, [pair_of(CLEAN, CORRUPTED)], component="head_out")
    width = base.head_dim
    for head in range(base.n_heads):
        given, part = activation(tuned, CLEAN, "head_out", 1), slice(head * width, (head + 1) * width)
        values = [patched(base, CLEAN, "head_out", 1, at, given, part) for at in range(len(CLEAN))]
        np.testing.assert_allclose(effects.values[0, 1, head], values, rtol=1e-9, atol=1e-11)


def test_the_corrupted_prompt_is_scored_by_its_own_answer(tiny, pair_of):
    base, tuned = tiny("gpt2"), tiny("gpt2", seed=1)
    turned = patch_across(base, tuned, [pair_of(CLEAN, CORRUPTED, "one")], prompt="corrupted")
    np.testing.assert_allclose(turned.clean[0], -logit_diff(tuned, CORRUPTED), rtol=1e-9)
    np.testing.assert_allclose(-turned.values[0], expected(tuned, base, CORRUPTED, "mlp_out"), rtol=1e-9, atol=1e-11)
    ids = TokenPair(tuple(CLEAN), tuple(CORRUPTED), (50,), (51,), fact="one")
    np.testing.assert_array_equal(patch_across(base, tuned, [ids], prompt="corrupted").values, turned.values)


def test_a_donor_prompt_is_run_on_the_model_that_gives(tiny, pair_of):
    base, tuned = tiny("gpt2"), tiny("gpt2", seed=1)
    effects = patch_across(base, tuned, [pair_of(CLEAN, CORRUPTED)], donors=[CORRUPTED])
    given = activation(tuned, CORRUPTED, "mlp_out", 1)
    np.testing.assert_allclose(effects.values[0, 1, 4], patched(base, CLEAN, "mlp_out", 1, 4, given), rtol=1e-9)
    np.testing.assert_allclose(effects.clean[0], logit_diff(tuned, CLEAN), rtol=1e-9)


@pytest.mark.parametrize(
    ("parts", "component", "marked"),
    [
        (("h.0.mlp",), "resid_post", [[0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]),
        (("h.0.attn",), "resid_mid", [[0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]),
        (("h.1.mlp",), "resid_mid", [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]),
        (("h.0.mlp", "ln_f"), "resid_post", [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]),
        (("h.0.mlp", "ln_f"), "final_norm", [[0, 0, 0, 0, 1]]),
        (("h.0.mlp",), "mlp_out", [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]),
    ],
)
def test_what_restores_everything_by_construction_is_marked(parts, component, marked, tiny, pair_of):
    base = tiny("gpt2")
    tuned = tuned_like(base, *parts)
    effects = patch_across(base, tuned, [pair_of(CLEAN, CORRUPTED)], component=component)
    assert effects.structural[0].astype(int).tolist() == marked
    cells = effects.values[effects.structural]
    np.testing.assert_allclose(cells, np.full(len(cells), logit_diff(tuned, CLEAN)), rtol=1e-9)
    assert effects.to_frame().structural.tolist() == effects.structural.ravel().tolist()


def test_all_positions_of_the_stream_above_what_differs_restore_everything(tiny, pair_of):
    base = tiny("gpt2")
    tuned = tuned_like(base, "h.0.mlp")
    effects = patch_across(base, tuned, [pair_of(CLEAN, CORRUPTED)], component="resid_post", positions="all")
    assert effects.structural[0, :, 0].tolist() == [True, True]
    np.testing.assert_allclose(effects.values[0, :, 0], logit_diff(tuned, CLEAN), rtol=1e-9)
    # Not by construction: that all that was learnt lies in this MLP is a fact about these weights.
    mlp = patch_across(base, tuned, [pair_of(CLEAN, CORRUPTED)], component="mlp_out", positions="all")
    assert not mlp.structural.any()
    np.testing.assert_allclose(mlp.values[0, 0, 0], logit_diff(tuned, CLEAN), rtol=1e-9)


def test_a_difference_that_is_no_weight_is_found(tiny, pair_of):
    base = tiny("gpt2")
    tuned = tuned_like(base, "h.0.mlp")
    tuned.layers[1].attn.scaling = 0.1
    with pytest.raises(GateFailed, match="trace-not-by-construction"):
        patch_across(base, tuned, [pair_of(CLEAN, CORRUPTED)], component="resid_post", positions="all")


@pytest.mark.parametrize(
    ("other", "settings", "code"),
    [
        ("gpt_bigcode", {}, "model-not-twins"),
        ("gpt2", {"component": "logits"}, "trace-nothing-behind"),
        ("gpt2", {"metric": "kl"}, "trace-kl-across"),
        ("gpt2", {"prompt": "both"}, "trace-unknown-prompt"),
        ("gpt2", {"direction": "up"}, "trace-unknown-direction"),
    ],
)
def test_what_cannot_be_compared_is_refused(other, settings, code, tiny, pair_of):
    with pytest.raises(InputError, match=code):
        patch_across(tiny("gpt2"), tiny(other, seed=1), [pair_of(CLEAN, CORRUPTED)], **settings)


def test_models_of_other_depths_are_no_twins(tiny, pair_of):
    with pytest.raises(InputError, match="model-not-twins"):
        patch_across(tiny("gpt2"), tiny("gpt2", layers=3), [pair_of(CLEAN, CORRUPTED)])
