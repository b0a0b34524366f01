"""Metrics of answers of one and several tokens against prompt and answer in one plain hooked forward."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from patchlight.errors import InputError
from patchlight.pairs.align import align
from patchlight.pairs.answers import METRICS, measure
from patchlight.records import TokenPair
from patchlight.trace.cells import structural_cells
from patchlight.trace.sweep import sweep, sweeps

CLEAN, CORRUPTED = [3, 14, 15, 9, 6], [3, 34, 15, 8, 6]
ONE_TOKEN = ([50], [51])
ANSWERS = {
    "one token each": ONE_TOKEN,
    "unequal": ([50], [51, 40, 41]),
    "four against two": ([50, 7, 2, 30], [51, 8]),
    "the first shared": ([50, 40, 2], [50, 41]),
    "two shared": ([7, 8, 9, 10], [7, 8, 20]),
}
WHOLE = ("logprob_diff", "logprob_diff_mean", "logprob", "prob")


def token_pair(correct: list[int], wrong: list[int], clean=CLEAN, corrupted=CORRUPTED) -> TokenPair:
    return TokenPair(tuple(clean), tuple(corrupted), tuple(correct), tuple(wrong))


def by_hand(correct, wrong, after_correct, after_wrong, clean_logits) -> dict[str, float]:
    """Every metric from the logits along both answers; `clean_logits` are those of the clean run along the correct."""
    sums = [
        [float(logits[step].log_softmax(-1)[token]) for step, token in enumerate(answer)]
        for answer, logits in ((correct, after_correct), (wrong, after_wrong))
    ]
    at = next((i for i, (one, other) in enumerate(zip(correct, wrong, strict=False)) if one != other), None)
    values = {
        "logprob_diff": sum(sums[0]) - sum(sums[1]),
        "logprob_diff_mean": np.mean(sums[0]) - np.mean(sums[1]),
        "logprob": sum(sums[0]),
        "prob": np.exp(sum(sums[0])),
    }
    if at is not None:
        logits, truth = after_correct[at], clean_logits[at].softmax(-1)
        values["logit_diff"] = float(logits[correct[at]] - logits[wrong[at]])
        values["rank"] = -int((logits > logits[correct[at]]).sum())
        values["kl"] = -float((truth * (truth.log() - logits.log_softmax(-1))).sum())
    return values


@pytest.mark.parametrize("answers", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "bloom"])
@pytest.mark.parametrize(("component", "direction"), [("resid_pre", "denoise"), ("mlp_out", "noise")])
def test_every_metric_of_every_cell_is_that_of_a_teacher_forced_forward(
    component, direction, name, answers, tiny, oracle_forced
):
    model, (correct, wrong) = tiny(name), answers
    effects = sweeps(model, [token_pair(*answers)], metrics=tuple(METRICS), component=component, direction=direction)
    donor, recipient = (CLEAN, CORRUPTED) if direction == "denoise" else (CORRUPTED, CLEAN)

    def expected(giver, layer, position, run) -> dict[str, float]:
        after = [oracle_forced(model, giver, run, answer, component, layer, position) for answer in answers]
        truth = oracle_forced(model, CLEAN, CLEAN, correct, component, layer, position)
        return by_hand(correct, wrong, *after, truth)

    for layer in range(2):
        for position in range(5):
            for metric, value in expected(donor, layer, position, recipient).items():
                found = effects[metric].values[0, layer, position]
                np.testing.assert_allclose(found, value, rtol=1e-9, atol=1e-11, err_msg=metric)
    for run, values in ((CLEAN, "clean"), (CORRUPTED, "corrupted")):
        for metric, value in expected(run, 0, 0, run).items():
            np.testing.assert_allclose(getattr(effects[metric], values)[0], value, rtol=1e-9, atol=1e-11)


def test_an_answer_that_begins_with_the_other_is_told_apart_by_whole_answers_only(tiny, oracle_forced):
    model, answers = tiny("llama"), ([50], [50, 7])
    effects = sweeps(model, [token_pair(*answers)], metrics=WHOLE)
    after = [oracle_forced(model, CLEAN, CORRUPTED, answer, "resid_pre", 1, 3) for answer in answers]
    for metric, value in by_hand(*answers, *after, after[0]).items():
        np.testing.assert_allclose(effects[metric].values[0, 1, 3], value, rtol=1e-9)
    for metric in ("logit_diff", "kl", "rank"):
        with pytest.raises(InputError, match="one answer begins with the other"):
            sweep(model, [token_pair(*answers)], metric=metric)


def test_pairs_of_every_shape_go_together(tiny):
    model, pairs = tiny("gpt2"), [token_pair(*answers) for answers in ANSWERS.values()]
    pairs += [token_pair(*ANSWERS["unequal"], [5, 6, 7], [5, 16, 7])]
    together = sweeps(model, pairs, metrics=tuple(METRICS), memory=1 << 14)
    for index, pair in enumerate(pairs):
        alone = sweeps(model, [pair], metrics=tuple(METRICS))
        length = len(pair.clean_ids)
        for metric, effects in alone.items():
            np.testing.assert_allclose(together[metric].values[index, :, :length], effects.values[0], rtol=1e-10)
            np.testing.assert_allclose(together[metric].clean[index], effects.clean[0], rtol=1e-10, atol=1e-15)


def calls_of_blocks(model, **settings) -> int:
    """How often any block of the model is called in a sweep."""
    calls = 0

    def count(*_) -> None:
        nonlocal calls
        calls += 1

    handles = [block.register_forward_pre_hook(count) for block in model.layers]
    try:
        sweeps(model, **settings)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def test_further_metrics_cost_no_forward(tiny):
    model = tiny("gpt2")
    one = calls_of_blocks(model, pairs=[token_pair(*ONE_TOKEN)])
    assert calls_of_blocks(model, pairs=[token_pair(*ONE_TOKEN)], metrics=tuple(METRICS)) == one
    shared = token_pair(*ANSWERS["the first shared"])
    whole = calls_of_blocks(model, pairs=[shared], metrics=("logprob_diff",))
    assert calls_of_blocks(model, pairs=[shared], metrics=tuple(METRICS)) == whole


def test_whole_vocabularies_are_unembedded_for_metrics_that_need_them_only(tiny):
    model, rows = tiny("llama"), []
    head = model.hf.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    try:
        sweep(model, [token_pair(*ONE_TOKEN)])
        assert rows == []
        sweep(model, [token_pair(*ONE_TOKEN)], metric="prob", memory=2 * 4 * 61 * 8 * 3)
    finally:
        handle.remove()
    assert max(rows) == 3
    assert sum(rows) == 2 * 5 + 2


def test_kl_and_rank_grow_towards_the_clean_run(tiny):
    effects = sweeps(tiny("gpt2"), [token_pair(*ONE_TOKEN)], metrics=("kl", "rank"))
    assert effects["kl"].clean[0] == pytest.approx(0, abs=1e-12)
    assert (effects["kl"].values <= 1e-12).all()
    shares = 1 - effects["kl"].values[0, 0] / effects["kl"].corrupted
    np.testing.assert_allclose(effects["kl"].recovery()[0, 0], shares, atol=1e-12)
    assert (effects["rank"].values <= 0).all()


def test_kl_of_rows_without_a_clean_run_is_refused(tiny):
    with pytest.raises(InputError, match="trace-kl-without-clean"):
        measure(tiny("gpt2"), "kl", torch.zeros(1, 16, dtype=torch.float64), torch.tensor([[1, 2]]))


def test_each_metric_has_its_own_floor(tiny):
    effects = sweeps(tiny("gpt2"), [token_pair(*ONE_TOKEN)], metrics=tuple(METRICS))
    for metric, one in effects.items():
        gap = one.clean[0] - one.corrupted[0]
        assert np.isnan(one.recovery()).all() == (gap < METRICS[metric].floor)
        assert np.isfinite(one.recovery(floor=-np.inf)).all()
    assert any(np.isfinite(one.recovery()).all() for one in effects.values())


def test_a_metric_that_is_not_finite_is_refused_where_another_is_read(tiny):
    model = copy.deepcopy(tiny("llama", torch.float32))
    model.hf.lm_head.weight.data[9] = 3e38
    assert np.isfinite(sweep(model, [token_pair(*ONE_TOKEN)]).values).all()
    with pytest.raises(InputError, match="trace-not-finite"):
        sweeps(model, [token_pair(*ONE_TOKEN)], metrics=("logit_diff", "kl"))


@pytest.mark.parametrize("answers", [ANSWERS["the first shared"], ANSWERS["four against two"], ([50], [51, 40])])
@pytest.mark.parametrize("metric", ["logit_diff", "logprob_diff", "kl", "prob"])
@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
def test_sites_are_structural_where_every_token_that_is_read_is_restored(name, metric, answers, tiny):
    model = tiny(name)
    for clean, corrupted in ((CLEAN, CORRUPTED), ([1, 2, 3], [1, 2, 9])):
        pair = token_pair(*answers, clean, corrupted)
        for component in ("embed", "resid_pre", "attn_out", "mlp_out", "resid_post", "final_norm"):
            effects = sweep(model, [pair], component=component, metric=metric)
            restored = np.isclose(effects.recovery(floor=-np.inf), 1, rtol=0, atol=1e-9)
            mask = structural_cells([align(model.tokenizer, pair)], component, model.n_layers, metric)
            np.testing.assert_array_equal(mask, restored, err_msg=component)


@pytest.mark.parametrize("metric", ["logit_diff", "logprob", "rank"])
@pytest.mark.parametrize(
    ("correct", "clean", "donors"),
    [
        ([99], CLEAN, None),
        ([51, 99], CLEAN, None),
        ([-1], CLEAN, None),
        ([50], [99, 2], None),
        ([50], [1, 2], [[99, 2]]),
    ],
)
def test_a_token_that_the_model_does_not_have_is_refused(correct, clean, donors, metric, tiny):
    pair = token_pair(correct, [51, 3], clean, [*clean[:-1], 7])
    with pytest.raises(InputError, match="model-no-token"):
        sweep(tiny("llama"), [pair], metric=metric, donors=donors)


def test_token_pairs_measure_what_their_words_do(tiny, pair_of):
    model = tiny("gpt2")
    words, tokens = pair_of(CLEAN, CORRUPTED), token_pair(*ONE_TOKEN)
    effects = sweep(model, [words, tokens])
    np.testing.assert_allclose(effects.values[0], effects.values[1], rtol=1e-12)
    assert effects.alignments[0] == effects.alignments[1]
    donors = sweep(model, [tokens], donors=[[40, 41, 42, 43, 44]])
    np.testing.assert_array_equal(
        donors.values, sweep(model, [words], donors=[pair_of([40, 41, 42, 43, 44], []).clean]).values
    )
