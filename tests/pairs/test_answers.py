"""Answers of several tokens, in scripts that a tokenizer cuts into parts of characters, and pairs given as tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from patchlight.model.anatomy import Model
from patchlight.pairs.align import PART, AlignmentRefused, align
from patchlight.pairs.answers import METRICS, steps_read
from patchlight.pairs.screen import measure, screen
from patchlight.records import Pair, TokenPair
from patchlight.trace.sweep import sweeps

FRANCE = Pair("The capital of France is", "The capital of Italy is", " Paris", " Rome", "France", "Italy")
WATER = Pair("薬の水は", "薬の火は", "東京", "東西", "水", "火")  # their first character is the same
NEAR = Pair("薬の水は", "薬の火は", "鼻", "鼾", "水", "火")  # one character each, whose first bytes are the same
PREFIX = Pair("of France is", "of Italy is", " Paris", " Paris and Rome", "France", "Italy")


def as_tokens(tokenizer: PreTrainedTokenizerFast, pair: Pair) -> TokenPair:
    clean, corrupted, correct, wrong = (
        tokenizer(text)["input_ids"]
        for text in (pair.clean, pair.corrupted, pair.clean + pair.correct, pair.clean + pair.wrong)
    )
    return TokenPair(tuple(clean), tuple(corrupted), tuple(correct[len(clean) :]), tuple(wrong[len(clean) :]))


def by_hand(model: Model, pair: Pair, prompt: str) -> dict[str, float]:
    """`logit_diff` and `logprob_diff` from one plain forward over prompt and answer, for each answer."""
    tokenizer, sums, rows = model.tokenizer, [], []
    start = len(tokenizer(prompt)["input_ids"])
    texts = [tokenizer(prompt + answer)["input_ids"] for answer in (pair.correct, pair.wrong)]
    for ids in texts:
        with torch.no_grad():
            logits = model.hf(torch.tensor([ids])).logits[0, start - 1 : -1].double()
        rows.append(logits)
        sums.append(float(sum(row.log_softmax(-1)[token] for row, token in zip(logits, ids[start:], strict=True))))
    at = next((i for i, (one, other) in enumerate(zip(*texts, strict=False)) if one != other), None)
    values = {"logprob_diff": sums[0] - sums[1], "logprob": sums[0]}
    if at is not None:
        logits = rows[0][at - start]
        values["logit_diff"] = float(logits[texts[0][at]] - logits[texts[1][at]])
    return values


@pytest.mark.parametrize("pair", [FRANCE, WATER, NEAR, PREFIX], ids=["English", "words", "characters", "prefix"])
def test_the_screen_and_the_sweep_read_what_plain_forwards_do(ignorant: Callable[[int], Model], pair: Pair) -> None:
    model = ignorant(1)
    alignment = align(model.tokenizer, pair)
    for run, prompt in enumerate((pair.clean, pair.corrupted)):
        for metric, value in by_hand(model, pair, prompt).items():
            assert measure(model, {0: alignment}, metric)[0][run] == pytest.approx(value, abs=1e-4)
            effects = sweeps(model, [pair], metrics=[metric])[metric]
            assert (effects.clean, effects.corrupted)[run][0] == pytest.approx(value, abs=1e-4)
            assert effects.values.shape == (1, 2, len(alignment.clean_ids))


def test_japanese_answers_part_within_a_character(byte_level: PreTrainedTokenizerFast) -> None:
    words, characters = align(byte_level, WATER), align(byte_level, NEAR)
    assert byte_level.decode(words.correct_ids) == "東京"
    assert words.correct_ids[: words.parting] == words.wrong_ids[: words.parting]
    assert words.parting >= 3  # the bytes of 東
    assert 0 < characters.parting < len(characters.correct_ids)
    assert characters.correct_id != characters.wrong_id
    assert steps_read(characters, "logit_diff") == [characters.parting]
    assert steps_read(characters, "logprob_diff") == list(range(len(characters.correct_ids)))


TOKENIZER = Path(__file__).parents[2].parent / "shared" / "data" / "tokenizer"


@pytest.mark.shared
@pytest.mark.skipif(not TOKENIZER.is_dir(), reason="../shared/data/tokenizer is absent")
@pytest.mark.parametrize("answers", [("部分発作", "部分欠損"), ("鼻", "鼾"), ("脳波", "脳")])
def test_japanese_answers_in_the_tokenizer_of_gpt2(answers: tuple[str, str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, initializer_range=0.5)
    model = Model(GPT2LMHeadModel(config), tokenizer, "small")
    pair = Pair("薬のカルバマゼピンは", "薬のカルバゼマピンは", *answers, "カルバマゼピン", "カルバゼマピン")
    alignment = align(tokenizer, pair)
    assert alignment.parting > 0
    for run, prompt in enumerate((pair.clean, pair.corrupted)):
        for metric, value in by_hand(model, pair, prompt).items():
            assert measure(model, {0: alignment}, metric)[0][run] == pytest.approx(value, abs=1e-3)
            effects = sweeps(model, [pair], metrics=[metric])[metric]
            assert (effects.clean, effects.corrupted)[run][0] == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize("pair", [FRANCE, WATER, NEAR], ids=["English", "words", "characters"])
def test_a_pair_of_tokens_is_the_pair_of_its_words(byte_level: PreTrainedTokenizerFast, pair: Pair) -> None:
    from_tokens, from_words = align(byte_level, as_tokens(byte_level, pair)), align(byte_level, pair)
    for name in ("clean_ids", "corrupted_ids", "correct_ids", "wrong_ids", "differing", "words", "corrupted_words"):
        assert getattr(from_tokens, name) == getattr(from_words, name)
    subject = [i for i, role in enumerate(from_tokens.roles) if role.startswith("subject")]
    assert (subject[0], subject[-1]) == (from_tokens.differing[0], from_tokens.differing[-1])
    assert from_tokens.roles[-1] == "last"


def test_the_start_token_of_a_pair_of_tokens_is_seen(metaspace: PreTrainedTokenizerFast) -> None:
    words = align(metaspace, FRANCE)
    tokens = align(metaspace, TokenPair(words.clean_ids, words.corrupted_ids, words.correct_ids, words.wrong_ids))
    assert tokens == words
    assert tokens.roles[0] == "bos"


def test_a_prompt_that_ends_within_a_character_is_shown(byte_level: PreTrainedTokenizerFast) -> None:
    ids = byte_level("薬の水")["input_ids"][:-1]
    pair = TokenPair(tuple(ids), (*ids[:-1], ids[-1] + 1), (1,), (2,))
    words = align(byte_level, pair).words
    assert len(words) == len(ids)
    assert words[0] == "薬"
    assert words[-1] in (PART, "\ufffd")


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (TokenPair((1, 2), (1, 3, 4), (5,), (6,)), "different token counts"),
        (TokenPair((1, 2), (1, 2), (5,), (6,)), "prompts are the same"),
        (TokenPair((1, 2), (1, 3), (5,), (5,)), "answers are the same"),
        (TokenPair((1, 2), (1, 3), (), (5,)), "empty answer"),
        (TokenPair((1, 2), (1, -3), (4,), (5,)), "no such token"),
    ],
)
def test_pairs_of_tokens_are_refused_with_the_same_reasons(
    byte_level: PreTrainedTokenizerFast, pair: TokenPair, reason: str
) -> None:
    with pytest.raises(AlignmentRefused) as refused:
        align(byte_level, pair)
    assert refused.value.reason == reason
    assert "of tokens (1, 2)" in str(refused.value)


@pytest.mark.parametrize("metric", METRICS)
def test_each_metric_gates_by_the_sign_that_says_what_the_model_prefers(
    ignorant: Callable[[int], Model], metric: str
) -> None:
    model = ignorant(0)
    pairs = [
        Pair(f"The capital of {one} is", f"The capital of {other} is", correct, wrong, one, other)
        for one, other in (("France", "Italy"), ("Spain", "Japan"), ("Egypt", "Norway"))
        for correct in (" Paris", " bread", " Tokyo", " eat")
        for wrong in (" Cairo", " Oslo", " people and")
    ]
    aligned = {number: align(model.tokenizer, pair) for number, pair in enumerate(pairs)}
    signs, values = measure(model, aligned, METRICS[metric].knows), measure(model, aligned, metric)
    preferred = {number for number, (clean, corrupted) in signs.items() if clean > 0 > corrupted}
    own = METRICS[metric].floor
    for floor, given in ((own, None), (own / 1000, own / 1000)):
        wide = {number for number, (clean, corrupted) in values.items() if clean - corrupted >= floor}
        assert screen(model, pairs, metrics=(metric,), floor=given).kept == [pairs[n] for n in sorted(wide & preferred)]
    assert wide & preferred
    assert len(wide & preferred) < len(pairs)


def test_answers_that_no_token_tells_apart_are_left_out_for_the_metrics_that_need_one(
    ignorant: Callable[[int], Model],
) -> None:
    reason = "one answer begins with the other"
    for metrics in (("logit_diff",), ("logprob_diff", "kl"), ("rank",)):
        assert screen(ignorant(0), [PREFIX], metrics=metrics).counts() == {reason: 1}
    assert reason not in screen(ignorant(0), [PREFIX], metrics=("logprob_diff",)).counts()
