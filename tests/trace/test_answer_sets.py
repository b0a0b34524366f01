"""Sets of right and wrong answers scored together, against a plain full forward for each answer in float64."""

from __future__ import annotations

import numpy as np
import pytest

from patchlight.errors import InputError
from patchlight.pairs.align import align
from patchlight.pairs.answers import METRICS, measure
from patchlight.pairs.screen import measure as measure_prompts
from patchlight.records import TokenPair
from patchlight.trace.cells import structural_cells
from patchlight.trace.joint import Bench
from patchlight.trace.patch import patch
from patchlight.trace.prompts import metric_of, read_prompts
from patchlight.trace.sites import read_site
from patchlight.trace.sweep import sweep, sweeps

METRIC = "logsumexp_diff"
CLEAN, CORRUPTED = [3, 14, 15, 9, 6], [3, 34, 15, 8, 6]
# Right answers, further right ones after the corrupted prompt, distractors; then what counts of each side.
SETS = {
    "one token each": ([[50]], [[51]], [], [[50]], [[51]]),
    "sets of one token": ([[50], [40]], [[51], [41]], [[42]], [[50], [40]], [[51], [41], [42]]),
    "unequal lengths": (
        [[50, 7], [40], [41, 3, 9]],
        [[51]],
        [[42, 8, 8, 1]],
        [[50, 7], [40], [41, 3, 9]],
        [[51], [42, 8, 8, 1]],
    ),
    "all begin alike": (
        [[50, 40, 2], [50, 41]],
        [[50, 42]],
        [[50, 40, 3]],
        [[50, 40, 2], [50, 41]],
        [[50, 42], [50, 40, 3]],
    ),
    "one contains another": ([[50, 7], [50], [50]], [[51], [51, 9]], [], [[50]], [[51]]),
}  # fmt: skip


def token_pair(right, wrong, distractors=(), clean=CLEAN, corrupted=CORRUPTED, **rest) -> TokenPair:
    (correct, *also_correct), (best_wrong, *also_wrong) = (map(tuple, side) for side in (right, wrong))
    return TokenPair(
        tuple(clean), tuple(corrupted), correct, best_wrong,
        also_correct_ids=tuple(also_correct), also_wrong_ids=tuple(also_wrong),
        distractor_ids=tuple(map(tuple, distractors)), **rest,
    )  # fmt: skip


def union(answers, logits_along) -> float:
    """The logarithm of the probability that one of the answers is said, from the logits along each of them."""
    said = [
        float(sum(logits_along(answer)[step].log_softmax(-1)[token] for step, token in enumerate(answer)))
        for answer in answers
    ]
    return float(np.logaddexp.reduce(said))


@pytest.mark.parametrize("sets", SETS.values(), ids=SETS)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize(("component", "direction"), [("resid_pre", "denoise"), ("mlp_out", "noise")])
def test_every_cell_is_that_of_a_teacher_forced_forward_of_each_answer(
    component, direction, name, sets, tiny, oracle_forced
):
    model, (right, wrong, distractors, counted_right, counted_wrong) = tiny(name), sets
    effects = sweep(
        model, [token_pair(right, wrong, distractors)], metric=METRIC, component=component, direction=direction
    )

    def expected(giver, run, layer=0, position=0) -> float:
        def along(answer):
            return oracle_forced(model, giver, run, answer, component, layer, position)

        return union(counted_right, along) - union(counted_wrong, along)

    donor, recipient = (CLEAN, CORRUPTED) if direction == "denoise" else (CORRUPTED, CLEAN)
    for layer in range(2):
        for position in range(5):
            value = expected(donor, recipient, layer, position)
            np.testing.assert_allclose(effects.values[0, layer, position], value, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(effects.clean, expected(CLEAN, CLEAN), rtol=1e-9)
    np.testing.assert_allclose(effects.corrupted, expected(CORRUPTED, CORRUPTED), rtol=1e-9)
    screened = measure_prompts(model, {0: effects.alignments[0]}, METRIC)[0]
    np.testing.assert_allclose(screened, (effects.clean[0], effects.corrupted[0]), rtol=1e-9)


@pytest.mark.parametrize("answers", [([50], [51]), ([50, 7, 2], [51, 8]), ([50, 40, 2], [50, 41]), ([50], [50, 7])])
def test_single_answers_are_their_log_probability_difference(answers, tiny):
    model, pair = tiny("llama"), token_pair(*([each] for each in answers))
    found = sweeps(model, [pair], metrics=("logprob_diff", METRIC))
    np.testing.assert_allclose(found[METRIC].values, found["logprob_diff"].values, rtol=1e-10, atol=1e-12)
    if answers == ([50], [51]):
        of_logits = sweep(model, [pair])
        for part in ("values", "clean", "corrupted"):
            np.testing.assert_allclose(getattr(found[METRIC], part), getattr(of_logits, part), rtol=1e-9, atol=1e-11)
        final = model.hf.base_model.embed_tokens.weight[:4].detach()
        answers_of_rows = model.hf.base_model.embed_tokens.weight.new_tensor([[50, 51]] * 4).long()
        np.testing.assert_allclose(
            measure(model, METRIC, final, answers_of_rows),
            measure(model, "logit_diff", final, answers_of_rows),
            rtol=1e-9,
        )


def test_pairs_of_every_shape_go_together_and_metrics_do_not_disturb_one_another(tiny):
    model = tiny("gpt2")
    pairs = [token_pair(*sets[:3]) for sets in SETS.values()] * 2
    pairs.append(token_pair(*SETS["unequal lengths"][:3], [5, 6, 7], [5, 16, 7]))
    together = sweeps(model, pairs, metrics=tuple(METRICS), memory=1 << 14)
    for index, pair in enumerate(pairs):
        for metric in METRICS:
            alone, length = sweep(model, [pair], metric=metric), len(pair.clean_ids)
            found = together[metric]
            np.testing.assert_allclose(found.values[index, :, :length], alone.values[0], rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(found.clean[index], alone.clean[0], rtol=1e-9, atol=1e-12)


def test_metrics_of_the_best_two_do_not_see_the_others(tiny):
    model = tiny("llama")
    several, two = token_pair(*SETS["unequal lengths"][:3]), token_pair([[50, 7]], [[51]])
    for metric in set(METRICS) - {METRIC}:
        np.testing.assert_array_equal(
            sweep(model, [several], metric=metric).values, sweep(model, [two], metric=metric).values
        )


@pytest.mark.parametrize(("sets", "runs"), [("sets of one token", 1), ("all begin alike", 1), ("unequal lengths", 3)])
def test_answers_share_the_runs_that_serve_them(sets, runs, tiny):
    model, calls, total = tiny("gpt2"), [], []
    handle = model.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        sweep(model, [token_pair([[50]], [[51]])])
        once, _ = len(calls), calls.clear()
        sweep(
            model, [token_pair(*SETS[sets][:3])], metric=METRIC, on_progress=lambda done, of: total.append((done, of))
        )
    finally:
        handle.remove()
    assert len(calls) == runs * once
    assert total[-1] == (runs * 2 * 5, runs * 2 * 5)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
@pytest.mark.parametrize("sets", ["sets of one token", "unequal lengths"])
def test_sites_are_structural_where_every_token_that_is_read_is_restored(name, sets, tiny):
    model = tiny(name)
    for clean, corrupted in ((CLEAN, CORRUPTED), ([1, 2, 3], [1, 2, 9])):
        pair = token_pair(*SETS[sets][:3], clean, corrupted)
        for component in ("embed", "resid_pre", "mlp_out", "resid_post", "final_norm"):
            effects = sweep(model, [pair], component=component, metric=METRIC)
            restored = np.isclose(effects.recovery(floor=-np.inf), 1, rtol=0, atol=1e-9)
            mask = structural_cells([align(model.tokenizer, pair)], component, model.n_layers, METRIC)
            np.testing.assert_array_equal(mask, restored, err_msg=component)


def test_a_prompt_by_itself_is_scored_by_its_own_answers(tiny, oracle_forced):
    """Turned round, what was right is wrong; a distractor stays wrong."""
    model, pair = tiny("gpt2"), token_pair(*SETS["sets of one token"][:3])

    def along(prompt):
        return lambda answer: oracle_forced(model, prompt, prompt, answer, "resid_pre", 0, 0)

    for prompt, ids, right, wrong in (
        ("clean", CLEAN, [[50], [40]], [[51], [41], [42]]),
        ("corrupted", CORRUPTED, [[51], [41]], [[50], [40], [42]]),
    ):
        _, alignments = read_prompts(model, [pair], prompt, METRIC)
        expected = union(right, along(ids)) - union(wrong, along(ids))
        np.testing.assert_allclose(metric_of(model, alignments, METRIC), expected, rtol=1e-9)


def test_sets_of_sites_move_it_as_single_sites_do(tiny):
    model, pairs = tiny("llama"), [token_pair(*sets[:3]) for sets in SETS.values()]
    effects = sweep(model, pairs, metric=METRIC, component="mlp_out")
    site = read_site("blocks.1.mlp_out@3")
    bench = Bench(model, pairs, {"mlp_out"}, metric=METRIC)
    np.testing.assert_allclose(
        bench.effects([(site,)])[:, 0], effects.values[:, 1, 3] - effects.corrupted, rtol=1e-8, atol=1e-11
    )
    np.testing.assert_allclose(patch(model, pairs, [site], metric=METRIC).values[:, 0], effects.values[:, 1, 3])


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (token_pair([[50], [51]], [[51]]), "answers are the same"),
        (token_pair([[50]], [[51]], [[50]]), "answers are the same"),
        (token_pair([[50], [52]], [[51], [52, 7]]), "one answer begins with the other"),
        (token_pair([[50]], [[51], [50, 7]]), "one answer begins with the other"),
        (token_pair([[50], []], [[51]]), "empty answer"),
    ],
)
def test_further_answers_that_no_token_tells_from_the_other_side_are_refused(pair, reason, tiny):
    with pytest.raises(InputError, match=f"pair-{reason.replace(' ', '-')}"):
        sweep(tiny("gpt2"), [pair], metric=METRIC)
