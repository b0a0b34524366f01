"""Corruptions: every cell equals a plain hooked forward whose embedding module gives the corrupted embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from patchlight.errors import InputError
from patchlight.pairs.align import align
from patchlight.records import Pair
from patchlight.trace.corruptions import Corruption, partners, replaced, subject_positions
from patchlight.trace.sites import structural_sites
from patchlight.trace.sweep import sweep

# In all but the last prompt the subject is the tokens at 1 and 2, and the words around it are the same.
CLEAN = [[3, 14, 15, 9, 6], [3, 24, 25, 9, 6], [3, 26, 27, 9, 6], [7, 1, 8, 2]]
CORRUPTED = [[3, 34, 35, 9, 6], [3, 14, 15, 9, 6], [3, 14, 15, 9, 6], [7, 1, 28, 2]]
CORRECT = [" w50", " w49", " w50", " w50"]
FAMILIES = ["gpt2", "llama", "gemma2", "bloom", "mpt"]
EMBEDDED = ["gaussian", "mean", "zero", "resample"]


@pytest.fixture
def pairs(pair_of) -> list[Pair]:
    prompts = [pair_of(*ids) for ids in zip(CLEAN, CORRUPTED, strict=True)]
    answers = [{"correct": correct, "wrong": " w51", "fact": correct} for correct in CORRECT]
    return [Pair(**vars(pair) | answer) for pair, answer in zip(prompts, answers, strict=True)]


def embedding(model, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model.hf.get_input_embeddings()(torch.tensor(tokens))


@contextmanager
def embedded_as(model, marked: list[int], vectors: torch.Tensor) -> Iterator[None]:
    """A plain hook: wherever these tokens are read, the embedding module gives these vectors."""

    def give(_, args, output):
        ids = args[0]
        return vectors[None] if ids.tolist() == [marked] else output

    handle = model.hf.get_input_embeddings().register_forward_hook(give)
    try:
        yield
    finally:
        handle.remove()


def corrupted_embedding(model, pairs, kind: str) -> torch.Tensor:
    """By the definition of each kind: what the first pair's corrupted run starts from."""
    clean = embedding(model, CLEAN[0])
    subjects = embedding(model, [token for ids in CLEAN[:3] for token in ids[1:3]] + [8])
    if kind == "gaussian":
        drawn = replaced(model, [align(model.tokenizer, pair) for pair in pairs], Corruption("gaussian"))[0]
        clean[1:3] = drawn.vectors[0]
    else:
        clean[1:3] = {"mean": subjects.mean(0), "zero": 0 * clean[1], "resample": embedding(model, [24, 25])}[kind]
    return clean


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("kind", EMBEDDED)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_cell_equals_a_plain_hooked_forward(name, kind, direction, tiny, oracle, pairs):
    model, marked = tiny(name), [45, 46, 47, 48, 44]
    runs = (CLEAN[0], marked) if direction == "denoise" else (marked, CLEAN[0])
    for component in ("resid_pre", "attn_out", "mlp_out"):
        asked = pairs[:3] if kind == "resample" else pairs  # nothing has the words of the last one
        effects = sweep(model, asked, component=component, direction=direction, corruption=kind)
        with embedded_as(model, marked, corrupted_embedding(model, pairs, kind)):
            np.testing.assert_allclose(effects.values[0], oracle(model, *runs, component), rtol=1e-9, atol=1e-11)
    assert effects.clean[0] == pytest.approx(sweep(model, pairs).clean[0])


def test_noise_has_the_stated_size_and_mean(tiny, pairs):
    model = tiny("gpt2")
    alignments = [align(model.tokenizer, pair) for pair in pairs]
    drawn = replaced(model, alignments, Corruption("gaussian", sigma=2.0, samples=4000))[0].vectors
    noise = drawn - embedding(model, CLEAN[0][1:3])
    subjects = embedding(model, [token for ids in CLEAN[:3] for token in ids[1:3]] + [8])
    np.testing.assert_allclose(float(noise.std() / subjects.std()), 2.0, rtol=0.01)
    assert abs(float(noise.mean() / subjects.std())) < 0.02
    assert abs(float(torch.corrcoef(noise[:, 0].T)[0, 1])) < 0.06


def test_the_first_draws_are_the_same_however_many_are_asked_for(tiny, pairs):
    model = tiny("gpt2")
    alignments = [align(model.tokenizer, pair) for pair in pairs]
    one, ten = (replaced(model, alignments, Corruption("gaussian", samples=samples))[0] for samples in (1, 10))
    assert torch.equal(one.vectors, ten.vectors[:1])


def test_draws_are_averaged_in_the_metric(tiny, oracle, pairs):
    model, marked = tiny("llama"), [45, 46, 47, 48, 44]
    corruption = Corruption("gaussian", samples=3)
    drawn = replaced(model, [align(model.tokenizer, pair) for pair in pairs], corruption)[0]
    each = []
    for vectors in drawn.vectors:
        clean = embedding(model, CLEAN[0])
        clean[1:3] = vectors
        with embedded_as(model, marked, clean):
            each.append(oracle(model, CLEAN[0], marked, "attn_out"))
    effects = sweep(model, pairs, component="attn_out", corruption=corruption)
    np.testing.assert_allclose(effects.values[0], np.mean(each, axis=0), rtol=1e-9, atol=1e-11)
    # A patch where nothing differs leaves the corrupted run, so that there the mean is that of the runs themselves.
    np.testing.assert_allclose(effects.values[0, 0, 0], effects.corrupted[0], rtol=1e-12)


@pytest.mark.parametrize("kind", EMBEDDED)
def test_a_pair_does_not_change_with_the_order_of_the_others(kind, tiny, pairs):
    model, asked = tiny("gpt2"), pairs[:3]
    first = sweep(model, asked, corruption=Corruption(kind, seed=4))
    turned = sweep(model, asked[::-1], corruption=Corruption(kind, seed=4))
    np.testing.assert_allclose(turned.values[::-1], first.values, rtol=1e-12)
    np.testing.assert_array_equal(sweep(model, asked, corruption=Corruption(kind, seed=4)).values, first.values)


def test_another_seed_draws_otherwise(tiny, pairs):
    model = tiny("gpt2")
    seeds = [sweep(model, pairs, corruption=Corruption("gaussian", seed=seed)).corrupted[0] for seed in (0, 1)]
    assert abs(seeds[0] - seeds[1]) > 1e-3


def test_what_the_corruption_does_not_touch_stays_exact(tiny, pairs):
    effects = sweep(tiny("gpt2"), pairs, corruption="gaussian")
    before_subject = effects.values[:, :, 0]
    np.testing.assert_array_equal(before_subject, np.broadcast_to(effects.corrupted[:, None], before_subject.shape))


@pytest.mark.parametrize("kind", EMBEDDED)
def test_what_restores_everything_by_construction_does(kind, tiny, pairs):
    """A subject of one token: its place in the stream of the first layer is a full cut."""
    model, pair = tiny("llama"), pairs[3]
    other = Pair(**vars(pair) | {"clean": pair.clean.replace("w8", "w9"), "correct": " w40"})
    effects = sweep(model, [pair, other], corruption=kind)
    cuts = structural_sites(effects.alignments, "resid_pre", model.n_layers)
    assert cuts[0, 0].tolist() == [False, False, True, False]
    np.testing.assert_allclose(effects.values[cuts], effects.clean, rtol=1e-9)


@pytest.mark.parametrize("name", ["gpt2", "bloom"])
@pytest.mark.parametrize("kind", EMBEDDED)
def test_a_full_cut_gives_the_clean_run_back(kind, name, tiny, pairs):
    effects = sweep(tiny(name), pairs[:3], corruption=kind, positions="all", window=2)
    np.testing.assert_allclose(effects.values[:, 0, 0], effects.clean, rtol=1e-9)
    assert (abs(effects.clean - effects.corrupted) > 1e-3).all()


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_a_donor_of_its_own_gives_the_activations_under_any_corruption(direction, tiny, oracle, pairs):
    model, marked, donor = tiny("gpt2"), [45, 46, 47, 48, 44], [3, 24, 25, 9, 6]
    effects = sweep(model, pairs[:1], direction=direction, corruption="zero", donors=[pairs[1].clean])
    embedded = embedding(model, CLEAN[0])
    embedded[1:3] = 0
    with embedded_as(model, marked, embedded):
        expected = oracle(model, donor, marked if direction == "denoise" else CLEAN[0], "resid_pre")
    np.testing.assert_allclose(effects.values[0], expected, rtol=1e-9, atol=1e-11)


def test_answers_of_several_tokens_follow_the_corrupted_prompt(tiny):
    """The sums of log-probabilities after one patch, by plain hooks on prompt and answer."""
    model, prompt = tiny("gpt2"), CLEAN[0]
    pair = Pair("w3 w14 w15 w9 w6", "w3 w34 w35 w9 w6", " w50 w52", " w51 w53 w54", subject="w14 w15")
    effects = sweep(model, [pair], metric="logprob_diff", corruption="zero")

    def logprob(answer: list[int], layer: int, position: int) -> float:
        ids, kept = torch.tensor([prompt + answer]), []
        block = model.hf.transformer.h[layer]
        keep = block.register_forward_pre_hook(lambda _, args: kept.append(args[0].clone()))
        model.hf(input_ids=ids)
        keep.remove()

        def zero(_, __, output):
            output[0, 1:3] = 0
            return output

        def patch(_, args):
            args[0][0, position] = kept[0][0, position]

        handles = [model.embed.register_forward_hook(zero), block.register_forward_pre_hook(patch)]
        logprobs = model.hf(input_ids=ids).logits[0].log_softmax(-1)
        for handle in handles:
            handle.remove()
        return sum(float(logprobs[len(prompt) - 1 + step, token]) for step, token in enumerate(answer))

    with torch.no_grad():
        for cell in ((0, 1), (1, 2), (1, 4)):
            expected = logprob([50, 52], *cell) - logprob([51, 53, 54], *cell)
            np.testing.assert_allclose(effects.values[0][cell], expected, rtol=1e-9)


def test_a_subject_at_the_end_of_the_prompt_is_whole(tiny):
    pair = Pair("w3 w4 w5", "w3 w14 w15", " w50", " w51", subject="w4 w5", corrupted_subject="w14 w15")
    assert subject_positions(align(tiny("gpt2").tokenizer, pair)) == (1, 2)


def test_partners_have_the_same_words_around_and_another_answer(tiny, pairs):
    alignments = [align(tiny("gpt2").tokenizer, pair) for pair in pairs]
    assert partners(alignments, seed=0)[0] == 1
    assert partners(alignments, seed=0)[2:] == (1, None)
    assert {partners(alignments, seed)[1] for seed in range(20)} == {0, 2}


def test_settings_that_mean_nothing_are_refused(tiny, pairs):
    for kind, settings in (("noise", {}), ("gaussian", {"sigma": 0.0}), ("mean", {"samples": 2})):
        with pytest.raises(InputError, match="corruption"):
            Corruption(kind, **settings)
    with pytest.raises(InputError, match="trace-no-resample"):
        sweep(tiny("gpt2"), pairs, corruption="resample")


def test_a_corruption_is_written_with_what_is_not_usual():
    assert str(Corruption("gaussian")) == "gaussian"
    assert str(Corruption("gaussian", samples=10, seed=3)) == "gaussian (samples 10, seed 3)"
