"""Every cell of a sweep equals a full forward of the stock model with one plain hook."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import logging

from patchlight.errors import InputError
from patchlight.trace.sweep import sweep

logging.set_verbosity_error()

CLEAN, CORRUPTED = [3, 14, 15, 9, 6], [3, 34, 15, 8, 6]
SHORT_CLEAN, SHORT_CORRUPTED = [7, 1, 8, 2], [7, 1, 28, 2]
COMPONENTS = ["resid_pre", "attn_out", "resid_mid", "mlp_hidden", "mlp_out", "resid_post", "head_out"]
PARALLEL = (
    "gptj", "codegen", "gpt_neox", "falcon", "falcon-7b", "cohere", "cohere2", "stablelm-parallel", "phi",
)  # fmt: skip
EXPERTS = ("mixtral", "phimoe", "olmoe", "granitemoe", "qwen2_moe", "qwen3_moe", "gpt_oss")


def absent(family: str, component: str) -> bool:
    return (component == "resid_mid" and family in PARALLEL) or (component == "mlp_hidden" and family in EXPERTS)


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_cell_equals_a_plain_hooked_forward_in_every_family(component, family, tiny, oracle, pair_of):
    model = tiny(family)
    if absent(family, component):
        with pytest.raises(InputError, match="model-no-component"):
            sweep(model, [pair_of(CLEAN, CORRUPTED)], component=component)
        return
    effects = sweep(model, [pair_of(CLEAN, CORRUPTED), pair_of(SHORT_CLEAN, SHORT_CORRUPTED)], component=component)
    np.testing.assert_allclose(effects.values[0], oracle(model, CLEAN, CORRUPTED, component), rtol=1e-9, atol=1e-11)
    short = oracle(model, SHORT_CLEAN, SHORT_CORRUPTED, component)
    np.testing.assert_allclose(effects.values[1][..., :4], short, rtol=1e-9, atol=1e-11)
    assert np.isnan(effects.values[1][..., 4:]).all()


@pytest.mark.parametrize("component", ["resid_pre", "mlp_out", "head_out"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_float32_stays_within_its_limit(name, component, tiny, oracle, pair_of):
    model = tiny(name, torch.float32)
    effects = sweep(model, [pair_of(CLEAN, CORRUPTED)], component=component)
    assert np.abs(effects.values[0] - oracle(model, CLEAN, CORRUPTED, component)).max() <= 5e-5


@pytest.mark.parametrize("name", ["gpt2", "llama", "falcon-alibi"])
def test_noising_puts_the_corrupted_run_into_the_clean_one(name, tiny, oracle, pair_of):
    model = tiny(name)
    effects = sweep(model, [pair_of(CLEAN, CORRUPTED)], component="attn_out", direction="noise")
    np.testing.assert_allclose(effects.values[0], oracle(model, CORRUPTED, CLEAN, "attn_out"), rtol=1e-9, atol=1e-11)
    gap = effects.clean - effects.corrupted
    expected = (effects.clean[:, None, None] - effects.values) / gap[:, None, None]
    np.testing.assert_allclose(effects.recovery(floor=-np.inf), expected)


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_any_lengths_positions_and_companions_give_the_same_cells(data, tiny, oracle, pair_of):
    name = data.draw(st.sampled_from(["gpt2", "llama", "mistral", "gemma2"]))
    component = data.draw(st.sampled_from(["resid_pre", "mlp_out", "resid_mid"]))
    tokens = st.integers(0, 49)
    pairs = []
    for _ in range(data.draw(st.integers(1, 3))):
        clean = data.draw(st.lists(tokens, min_size=1, max_size=7))
        differing = data.draw(st.sets(st.integers(0, len(clean) - 1), min_size=1))
        pairs.append((clean, [(token + 1) % 50 if at in differing else token for at, token in enumerate(clean)]))
    effects = sweep(tiny(name), [pair_of(*pair) for pair in pairs], component=component)
    for pair, values in zip(pairs, effects.values, strict=True):
        expected = oracle(tiny(name), *pair, component)
        np.testing.assert_allclose(values[:, : len(pair[0])], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["gpt2", "bloom"])
def test_a_donor_of_its_own_gives_the_activations_and_the_baselines_stay(name, tiny, oracle, pair_of):
    model, donor = tiny(name), [40, 41, 42, 43, 44]
    usual = sweep(model, [pair_of(CLEAN, CORRUPTED)], component="mlp_out")
    other = sweep(model, [pair_of(CLEAN, CORRUPTED)], component="mlp_out", donors=[pair_of(donor, donor).clean])
    np.testing.assert_allclose(other.values[0], oracle(model, donor, CORRUPTED, "mlp_out"), rtol=1e-9, atol=1e-11)
    assert (other.clean, other.corrupted) == (usual.clean, usual.corrupted)


def test_a_donor_of_another_length_is_refused(tiny, pair_of):
    with pytest.raises(InputError, match="trace-donor-length"):
        sweep(tiny("gpt2"), [pair_of(CLEAN, CORRUPTED)], donors=["w1 w2"])


def test_the_same_sweep_is_bit_identical_whatever_ran_before(tiny, pair_of):
    model, pairs = tiny("llama", torch.float32), [pair_of(CLEAN, CORRUPTED), pair_of(SHORT_CLEAN, SHORT_CORRUPTED)]
    first = sweep(model, pairs, component="attn_out")
    sweep(model, pairs[:1], component="head_out", direction="noise")
    np.testing.assert_array_equal(first.values, sweep(model, pairs, component="attn_out").values)


def test_a_small_memory_gives_the_same_values_in_more_passes(tiny, pair_of):
    model, pairs = tiny("llama"), [pair_of(CLEAN, CORRUPTED), pair_of(CORRUPTED, CLEAN)]
    seen: list[tuple[int, int]] = []
    whole = sweep(model, pairs)
    cut = sweep(model, pairs, memory=4096, on_progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_allclose(cut.values, whole.values, rtol=1e-12)
    assert len(seen) > 4
    assert seen == sorted(seen)
    assert seen[-1] == (cut.values.size, cut.values.size)


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_model_is_left_as_it_was(interrupted, tiny, pair_of):
    model = tiny("llama")
    before = copy.deepcopy(model.hf.config.to_dict()), model.hf.config._attn_implementation

    def stop(done, total):
        if interrupted:
            raise KeyboardInterrupt

    try:
        sweep(model, [pair_of(CLEAN, CORRUPTED)], component="head_out", on_progress=stop)
    except KeyboardInterrupt:
        assert interrupted
    assert (model.hf.config.to_dict(), model.hf.config._attn_implementation) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.hf.modules())


def test_threads_wait_for_their_turn_with_a_model(tiny, pair_of):
    model, pairs = tiny("llama"), [pair_of(CLEAN, CORRUPTED)]
    kinds = ["resid_pre", "attn_out", "mlp_out", "head_out", "q", "v"]
    expected = {kind: sweep(model, pairs, component=kind).values for kind in kinds}
    with ThreadPoolExecutor(4) as threads:
        found = {kind: threads.submit(sweep, model, pairs, component=kind) for kind in kinds}
    for kind in kinds:
        np.testing.assert_array_equal(found[kind].result().values, expected[kind])
    assert model.hf.config._attn_implementation == "sdpa"


def test_single_places_before_and_behind_the_blocks(tiny, pair_of):
    effects = {
        name: sweep(tiny("gpt2"), [pair_of(CLEAN, CORRUPTED)], component=name)
        for name in ("embed", "resid_pre", "final_norm", "logits")
    }
    np.testing.assert_allclose(effects["embed"].values[:, 0], effects["resid_pre"].values[:, 0], rtol=1e-12)
    for name in ("final_norm", "logits"):
        assert effects[name].values.shape == (1, 1, 5)
        assert effects[name].values[0, 0, -1] == effects[name].clean[0]
        assert (effects[name].values[0, 0, :-1] == effects[name].corrupted[0]).all()


@pytest.mark.parametrize("metric", ["logprob", "prob", "rank"])
def test_other_metrics_are_read_off_the_same_patched_runs(metric, tiny, pair_of):
    model = tiny("gpt2")
    effects = sweep(model, [pair_of(CLEAN, CORRUPTED)], metric=metric)
    with torch.no_grad():
        logits = model.hf(input_ids=torch.tensor([CLEAN])).logits[0, -1]
    probability = logits.softmax(-1)[50]
    expected = {"logprob": probability.log(), "prob": probability, "rank": -(logits > logits[50]).sum()}[metric]
    np.testing.assert_allclose(effects.clean[0], float(expected), rtol=1e-9)
    np.testing.assert_allclose(effects.values[0, -1, -1] == effects.corrupted[0], False)


def test_the_table_has_a_line_a_cell_and_roles_average_their_positions(tiny, pair_of):
    effects = sweep(tiny("gpt2"), [pair_of(CLEAN, CORRUPTED, "one"), pair_of(SHORT_CLEAN, SHORT_CORRUPTED, "two")])
    table = effects.to_frame()
    assert len(table) == 2 * (5 + 4)
    assert list(table[(table.fact == "two") & (table.layer == 1)].token) == ["w7", "w1", "w8", "w2"]
    roles, values = effects.by_role()
    for column, role in enumerate(roles):
        mean = table[(table.role == role) & (table.pair == 0) & (table.layer == 1)].value.mean()
        np.testing.assert_allclose(values[0, 1, column], mean)
    heads = sweep(tiny("gpt2"), [pair_of(CLEAN, CORRUPTED)], component="head_out").to_frame()
    assert sorted(heads["head"].unique()) == [0, 1, 2, 3]


def test_activations_that_are_not_finite_are_refused(tiny, pair_of):
    model = copy.deepcopy(tiny("gpt2"))
    model.layers[1].mlp.c_proj.bias.data[3] = float("nan")
    with pytest.raises(InputError, match="trace-not-finite"):
        sweep(model, [pair_of(CLEAN, CORRUPTED)])


def test_a_model_in_training_is_refused(tiny, pair_of):
    model = copy.deepcopy(tiny("gpt2"))
    model.hf.train()
    with pytest.raises(InputError, match="trace-in-training"):
        sweep(model, [pair_of(CLEAN, CORRUPTED)])


def test_prompts_beyond_the_context_are_refused(tiny, pair_of):
    ids = list(range(33))
    with pytest.raises(InputError, match="trace-prompt-too-long"):
        sweep(tiny("gpt2"), [pair_of(ids, [*ids[:-1], 40])])


def test_unknown_words_are_refused(tiny, pair_of):
    for setting in ({"component": "mlp"}, {"direction": "up"}, {"metric": "accuracy"}):
        with pytest.raises(InputError, match="trace-unknown"):
            sweep(tiny("gpt2"), [pair_of(CLEAN, CORRUPTED)], **setting)


def test_no_pairs_give_no_values(tiny):
    assert sweep(tiny("gpt2"), []).values.shape == (0, 2, 0)
