"""Weights of one model in another equal a copy of the model with these weights loaded, and nothing is left behind."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from patchlight.errors import GateFailed, InputError
from patchlight.model.anatomy import Model
from patchlight.model.modules import differing_modules, weight_modules
from patchlight.records import TokenPair
from patchlight.trace.prompts import both_alone
from patchlight.trace.sweep import sweep
from patchlight.trace.weights import patch_weights, put
from tests.trace.oracle import logit_diff
from tests.trace.test_across import CLEAN, CORRUPTED, SHORT_CLEAN, SHORT_CORRUPTED, tuned_like


def loaded(recipient: Model, giver: Model, parts: tuple[str, ...]) -> Model:
    """A copy of the recipient with the giver's weights whose names contain one of these."""
    hf, others = copy.deepcopy(recipient.hf), dict(giver.hf.named_parameters())
    with torch.no_grad():
        for name, weight in hf.named_parameters():
            if any(part in name for part in parts):
                weight.copy_(others[name])
    return Model(hf, recipient.tokenizer, "loaded")


SETS = {
    "gpt2": {
        "weights.embed": ("wte", "wpe"),
        "weights.blocks.0.mlp": ("h.0.mlp",),
        "weights.blocks.1.attn": ("h.1.attn",),
        "weights.blocks.1.norms": ("h.1.ln_",),
        "weights.final_norm": ("ln_f",),
    },
    "llama": {
        "weights.embed": ("embed_tokens",),
        "weights.blocks.0.mlp": ("layers.0.mlp",),
        "weights.blocks.1.attn": ("layers.1.self_attn",),
        "weights.blocks.0.norms": ("layers.0.input_layernorm", "layers.0.post_attention_layernorm"),
        "weights.unembed": ("lm_head",),
    },
    "opt": {"weights.blocks.1.mlp": ("layers.1.fc",), "weights.blocks.1.attn": ("layers.1.self_attn.",)},
}


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("name", SETS)
def test_each_set_equals_a_model_with_these_weights_loaded(name, direction, tiny, pair_of):
    base, tuned = tiny(name), tiny(name, seed=1)
    sets = [*SETS[name], tuple(SETS[name])[:2]]
    pairs = [pair_of(CLEAN, CORRUPTED), pair_of(SHORT_CLEAN, SHORT_CORRUPTED)]
    effects = patch_weights(base, tuned, pairs, sets, direction=direction)
    giver, recipient = (tuned, base) if direction == "denoise" else (base, tuned)
    for column, names in enumerate(sets):
        together = (names,) if isinstance(names, str) else names
        copied = loaded(recipient, giver, sum((SETS[name][each] for each in together), ()))
        for row, ids in enumerate((CLEAN, SHORT_CLEAN)):
            np.testing.assert_allclose(effects.values[row, column], logit_diff(copied, ids), rtol=1e-9)


def test_every_parameter_of_every_family_is_in_one_module(family, tiny):
    model = tiny(family)
    modules = weight_modules(model)
    named = [name for names in modules.values() for name in names]
    assert sorted(named) == sorted(name for name, _ in model.hf.named_parameters())
    for layer in range(model.n_layers):
        attention, mlp = (dict.fromkeys(modules[f"weights.blocks.{layer}.{part}"]) for part in ("attn", "mlp"))
        for component, inside in (("attn_proj", attention), ("mlp_proj", mlp)):
            if getattr(model.family, component) is not None:
                projection = model.part(component, layer)
                assert any(model.hf.get_parameter(name) is projection.weight for name in inside)
    tied = model.hf.get_output_embeddings().weight is model.hf.get_input_embeddings().weight
    assert ("weights.unembed" in modules) == (not tied)


def test_all_weights_together_give_the_other_model_and_nothing_is_left_behind(tiny, pair_of):
    base, tuned = tiny("gpt2"), tiny("gpt2", seed=1)
    digests, pairs = (Model(m.hf, m.tokenizer, "").digest for m in (base, tuned)), [pair_of(CLEAN, CORRUPTED, "one")]
    before = list(digests)
    effects = patch_weights(base, tuned, pairs)
    assert effects.structural.tolist() == [False] * (len(effects.sets) - 1) + [True]
    assert effects.names[-1] == "all weights"
    np.testing.assert_allclose(effects.recovery(-np.inf)[:, -1], 1, rtol=1e-12)
    assert effects.by_layer().shape == (1, 2, 3)
    np.testing.assert_array_equal(effects.by_layer()[0, 1], effects.values[0, 4:7])
    assert list(effects.to_frame().weights) == list(effects.names)
    assert [Model(m.hf, m.tokenizer, "").digest for m in (base, tuned)] == before


def test_modules_that_do_not_differ_change_nothing(tiny, pair_of):
    base = tiny("gpt2")
    tuned = tuned_like(base, "h.1.mlp")
    assert differing_modules(base, tuned) == ("weights.blocks.1.mlp",)
    effects = patch_weights(base, tuned, [pair_of(CLEAN, CORRUPTED)])
    at = effects.names.index("weights.blocks.1.mlp")
    assert set(np.flatnonzero(effects.values[0] != effects.base[0])) == {at, len(effects.sets) - 1}
    np.testing.assert_allclose(effects.values[0, at], effects.tuned[0], rtol=1e-12)
    assert effects.change[at] > 0
    assert not effects.change[:at].any()


def test_weights_come_back_after_an_error(tiny):
    base, tuned = tiny("llama-tied"), tiny("llama-tied", seed=1)
    others = {name: weight.data for name, weight in tuned.hf.named_parameters()}
    before = {name: weight.data_ptr() for name, weight in base.hf.named_parameters()}
    with pytest.raises(KeyError), both_alone(base, tuned), put(base, others):
        assert base.hf.get_output_embeddings().weight.data_ptr() == others["model.embed_tokens.weight"].data_ptr()
        raise KeyError
    assert {name: weight.data_ptr() for name, weight in base.hf.named_parameters()} == before


def test_packed_weights_follow_what_is_put_in(tiny, pair_of):
    base, tuned = (tiny("gpt2", dtype=torch.float32, seed=seed) for seed in (0, 1))
    pairs = [pair_of(CLEAN, CORRUPTED)]
    expected = [sweep(model, pairs).values for model in (base, tuned)]
    with put(base, {name: weight.data for name, weight in tuned.hf.named_parameters()}):
        np.testing.assert_allclose(sweep(base, pairs).values, expected[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sweep(base, pairs).values, expected[0], rtol=1e-5, atol=1e-5)


def test_the_shuffled_change_has_the_same_size_and_is_not_what_was_learnt(tiny, pair_of):
    base = tiny("gpt2")
    tuned, pairs = tuned_like(base, "h.0.mlp.c_fc.weight"), [pair_of(CLEAN, CORRUPTED)]
    learnt, first, again, other = (
        patch_weights(base, tuned, pairs, ["weights.blocks.0.mlp"], delta=delta, seed=seed).values[0, 0]
        for delta, seed in (("learnt", 0), ("shuffled", 0), ("shuffled", 0), ("shuffled", 1))
    )
    assert first == again
    assert len({learnt, first, other}) == 3


def test_answers_of_several_tokens_and_the_corrupted_prompt(tiny):
    base, tuned = tiny("gpt2"), tiny("gpt2", seed=1)
    pair = TokenPair(tuple(CLEAN), tuple(CORRUPTED), (50, 4), (51, 7))
    effects = patch_weights(base, tuned, [pair], ["weights.embed"], metric="logprob_diff", prompt="corrupted")

    def logprob(model: Model, answer: tuple[int, ...]) -> float:
        with torch.no_grad():
            logits = model.hf(input_ids=torch.tensor([[*CORRUPTED, *answer]])).logits[0].log_softmax(-1)
        return float(sum(logits[len(CORRUPTED) - 1 + at, token] for at, token in enumerate(answer)))

    for model, found in (
        (base, effects.base),
        (tuned, effects.tuned),
        (loaded(base, tuned, ("wte", "wpe")), effects.values[:, 0]),
    ):
        np.testing.assert_allclose(found[0], logprob(model, (51, 7)) - logprob(model, (50, 4)), rtol=1e-9)


def test_a_difference_that_is_no_weight_is_found(tiny, pair_of):
    base = tiny("gpt2")
    tuned = tuned_like(base, "h.0.mlp")
    tuned.layers[1].attn.scaling = 0.1
    with pytest.raises(GateFailed, match="trace-not-by-construction"):
        patch_weights(base, tuned, [pair_of(CLEAN, CORRUPTED)], [])


@pytest.mark.parametrize(
    ("sets", "settings", "code"),
    [
        (["weights.blocks.9.mlp"], {}, "trace-no-weights"),
        (["weights.unembed"], {}, "tied to its embedding"),
        ([[]], {}, "trace-empty-set"),
        (None, {"delta": "random"}, "trace-unknown-delta"),
        (None, {"metric": "kl"}, "trace-kl-across"),
    ],
)
def test_what_is_not_there_is_refused(sets, settings, code, tiny, pair_of):
    with pytest.raises(InputError, match=code):
        patch_weights(tiny("gpt2"), tiny("gpt2", seed=1), [pair_of(CLEAN, CORRUPTED)], sets, **settings)
