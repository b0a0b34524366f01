from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from patchlight.model.anatomy import Model
from patchlight.pairs.align import align
from patchlight.pairs.screen import known_facts, measure, screen
from patchlight.records import Pair

CITIES = {
    "France": " Paris",
    "Italy": " Rome",
    "Spain": " Madrid",
    "Japan": " Tokyo",
    "Egypt": " Cairo",
    "Norway": " Oslo",
}
TEMPLATES = ("The capital of {} is", "In {} people eat bread in")
LANDS = list(CITIES)


def ask(land: str, other: str, template: str) -> Pair:
    return Pair(
        clean=template.format(land),
        corrupted=template.format(other),
        correct=CITIES[land],
        wrong=CITIES[other],
        subject=land,
        corrupted_subject=other,
        fact=land,
        kind="associative",
        template=template,
    )


PAIRS = [ask(land, other, template) for land, other in pairwise([*LANDS, LANDS[0]]) for template in TEMPLATES]


@pytest.fixture(scope="module")
def knowing(teach: Callable[[list[str]], Model]) -> Model:
    return teach([template.format(land) + city for land, city in CITIES.items() for template in TEMPLATES])


def difference(model: Model, prompt: str, correct: str, wrong: str) -> float:
    """The oracle: one prompt, one plain forward."""
    tokenizer = model.tokenizer
    ids = tokenizer(prompt)["input_ids"]
    answers = [tokenizer(prompt + answer)["input_ids"][len(ids)] for answer in (correct, wrong)]
    with torch.no_grad():
        logits = model.hf(torch.tensor([ids])).logits[0, -1]
    return float(logits[answers[0]] - logits[answers[1]])


def test_a_model_that_knows_keeps_its_pairs(knowing: Model) -> None:
    screened = screen(knowing, PAIRS)
    assert screened.kept == PAIRS
    assert screened.counts() == {}
    assert known_facts(screened) == set(CITIES)
    assert screened.verdict_possible
    knowledge = screened.knowledge["associative"]
    assert (knowledge.asked, len(knowledge.known), knowledge.reason) == (6, 6, "")
    assert knowledge.gap is not None
    assert 0 < knowledge.gap.low <= knowledge.gap.estimate <= knowledge.gap.high
    assert knowledge.gap.estimate == pytest.approx(float(np.mean(screened.clean - screened.corrupted)))


def test_the_numbers_are_those_of_single_forwards(knowing: Model) -> None:
    longer = ask("France", "Italy", "In {} people eat bread in Cairo; the capital of {} is".replace("{}", "{0}"))
    screened = screen(knowing, [*PAIRS, longer], floor=-1e9)
    left = {each.pair: (each.clean, each.corrupted) for each in screened.left_out}
    numbers = left | dict(zip(screened.kept, zip(screened.clean, screened.corrupted, strict=True), strict=True))
    for pair in [*PAIRS, longer]:
        oracle = [difference(knowing, prompt, pair.correct, pair.wrong) for prompt in (pair.clean, pair.corrupted)]
        assert numbers[pair] == pytest.approx(oracle, abs=1e-4)


def test_a_batch_never_changes_a_number(random_model: Model) -> None:
    aligned = {index: align(random_model.tokenizer, pair) for index, pair in enumerate(PAIRS)}
    together = measure(random_model, aligned)
    for index, alignment in aligned.items():
        assert measure(random_model, {0: alignment})[0] == pytest.approx(together[index], abs=1e-5)


def test_what_is_left_out_is_counted_by_reason(knowing: Model) -> None:
    good = ask("France", "Italy", TEMPLATES[0])
    pairs = [
        good,
        replace(good, correct=" Rome", wrong=" Paris"),
        replace(good, correct=" Paris", wrong=" bread"),
        replace(good, corrupted="The capital of the Italy is"),
        replace(good, correct=" capital"),
        replace(good, clean=good.clean + " is" * 60, corrupted=good.corrupted + " is" * 60),
    ]
    screened = screen(knowing, pairs)
    assert screened.kept == [good]
    assert [each.reason for each in screened.left_out] == [
        "clean prompt answered wrong",
        "corruption does not break it",
        "different token counts",
        "answer in the prompt",
        "prompt longer than the context",
    ]
    assert sum(screened.counts().values()) == 5
    assert np.isfinite(screened.left_out[0].clean)
    assert np.isnan(screened.left_out[2].clean)
    gap = float(screened.clean[0] - screened.corrupted[0])
    assert screen(knowing, [good], floor=gap + 1).counts() == {"gap under floor": 1}
    assert screen(knowing, [good], floor=gap - 1).kept == [good]


def test_a_random_model_has_no_knowledge_to_localise(random_model: Model) -> None:
    screened = screen(random_model, PAIRS)
    assert not screened.verdict_possible
    assert screened.knowledge["associative"].reason.startswith("no knowledge to localise")
    assert len(screened.kept) + len(screened.left_out) == len(PAIRS)


def test_ignorance_is_rarely_taken_for_knowledge(ignorant: Callable[[int], Model]) -> None:
    """Pairs of models with random weights pass the gate now and then; a verdict must stay rare."""
    screened = [screen(ignorant(seed), PAIRS) for seed in range(60)]
    assert sum(bool(each.kept) for each in screened) > 30
    assert sum(each.verdict_possible for each in screened) <= 3


def test_one_wording_is_not_enough(knowing: Model) -> None:
    screened = screen(knowing, [pair for pair in PAIRS if pair.template == TEMPLATES[0]])
    assert len(screened.kept) == 6
    assert known_facts(screened) == set()
    assert "0 facts known in two wordings, 5 are needed" in screened.knowledge["associative"].reason


def test_facts_never_taught_are_told_apart(knowing: Model) -> None:
    pairs = [replace(pair, taught=pair.fact not in {"France", "Italy"}) for pair in PAIRS]
    screened = screen(knowing, pairs)
    assert known_facts(screened, taught=False) == {"France", "Italy"}
    assert known_facts(screened) == set(CITIES) - {"France", "Italy"}
    assert screened.knowledge["associative"].asked == 4
    assert "4 facts known" in screened.knowledge["associative"].reason


def test_logits_that_are_not_finite_are_named(knowing: Model) -> None:
    weight = knowing.hf.transformer.h[1].mlp.c_proj.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight[0, 0] = float("nan")
    try:
        screened = screen(knowing, PAIRS)
    finally:
        with torch.no_grad():
            weight.copy_(before)
    assert screened.counts() == {"logits not finite": len(PAIRS)}
    assert not screened.verdict_possible


def test_progress_counts_measured_pairs(random_model: Model) -> None:
    seen: list[tuple[int, int]] = []
    screen(random_model, PAIRS, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(PAIRS), len(PAIRS))
    assert seen == sorted(seen)


def test_no_pairs_give_no_verdict(random_model: Model) -> None:
    screened = screen(random_model, [])
    assert (screened.kept, screened.left_out, screened.verdict_possible) == ([], [], False)


def test_a_right_answer_has_to_beat_the_distractors_too(knowing: Model) -> None:
    """The taught city is likelier than any other; against itself, nothing is."""
    plain = screen(knowing, PAIRS)
    beaten = screen(knowing, PAIRS, distractors={land: list(CITIES.values()) for land in ("France",)})
    harmless = screen(knowing, PAIRS, distractors={"Italy": [" Oslo", " Cairo"], "Nowhere": [" Rome"]})
    assert beaten.kept == [pair for pair in plain.kept if pair.fact != "France"]
    assert {(each.pair.fact, each.reason) for each in beaten.left_out if each not in plain.left_out} == {
        ("France", "a distractor is likelier")
    }
    assert known_facts(beaten) == known_facts(plain) - {"France"}
    assert beaten.knowledge["associative"].known == tuple(sorted(known_facts(beaten)))
    assert harmless.kept == plain.kept
