"""Further right and wrong answers: built from a pack, aligned, guarded, screened, stored."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from patchlight.model.anatomy import Model
from patchlight.packs.read import read_pack
from patchlight.packs.spec import Pack
from patchlight.pairs.align import align, refuse_leak
from patchlight.pairs.build import build_pairs
from patchlight.pairs.preview import preview
from patchlight.pairs.screen import measure, screen
from patchlight.pairs.stored import pair_of
from patchlight.pairs.twins import build_twins
from patchlight.pairs.whole import whole_scores
from patchlight.records import Pair
from patchlight.report.preview import render_preview
from patchlight.trace.sweep import sweep

WORDS = ("Paris", "Rome", "Madrid", "Tokyo", "Cairo", "Oslo", "bread", "people")
FACTS = {
    "France": "answers: [Paris, Tokyo], distractors: [bread, Cairo]",
    "Italy": "answers: [Rome, Tokyo, Paris Rome], distractors: [Paris]",
    "Spain": "answers: [Madrid, people and], distractors: [bread]",
    "Egypt": "answers: [Cairo], distractors: [people]",
}
FRANCE = Pair("The capital of France is", "The capital of Italy is", " Paris", " Rome", "France", "Italy")


@pytest.fixture
def pack(tmp_path: Path) -> Callable[[dict[str, str]], Pack]:
    """A pack of facts about capitals; each is a line of its answers."""

    def written(facts: dict[str, str]) -> Pack:
        names = sorted({*facts, *WORDS, "Paris Rome", "people and"}, key=len, reverse=True)
        keys = {name: f"t{number}" for number, name in enumerate(names)}
        terms = "".join(f"  {key}: {{en: {name}}}\n" for name, key in keys.items())
        pattern = re.compile("|".join(names))
        lines = "".join(
            f"  - {{id: f{number}, relation: capital, subject: {keys[subject]}, source: un, "
            f"{pattern.sub(lambda found: keys[found[0]], answers)}}}\n"
            for number, (subject, answers) in enumerate(facts.items())
        )
        file = tmp_path / "mini.yaml"
        file.write_text(
            "patchlight: pack/1\nid: mini\ntitle: {en: Capitals}\nlicence: CC0-1.0\nsources: {un: list}\n"
            f"terms:\n{terms}relations:\n"
            "  - id: capital\n    kind: associative\n    cardinality: many\n    templates:\n"
            '      en: ["The capital of {subject} is", "Most people of {subject} live in"]\n'
            f"facts:\n{lines}",
            encoding="utf-8",
        )
        return read_pack(file)

    return written


def summed(model: Model, prompt: str, answers: Sequence[str]) -> float:
    """The logarithm of the summed probabilities of whole answers, each in a plain forward of its own."""
    return float(
        np.logaddexp.reduce([score.raw for score in whole_scores(model, [(prompt, each) for each in answers])])
    )


def test_a_pair_has_the_further_answers_of_its_fact_and_its_partner(
    pack: Callable[[dict[str, str]], Pack], byte_level: PreTrainedTokenizerFast
) -> None:
    built = build_pairs(pack({name: FACTS[name] for name in ("France", "Spain")}), byte_level, seed=0)
    by_fact = {pair.fact: pair for pair in built.pairs if pair.clean.startswith("The capital")}
    assert (by_fact["f0"].correct, by_fact["f0"].wrong) == (" Paris", " Madrid")
    assert by_fact["f0"].also_correct == (" Tokyo",)
    assert by_fact["f0"].also_wrong == (" people and",)
    assert by_fact["f0"].distractors == (" bread", " Cairo")
    assert (by_fact["f1"].also_correct, by_fact["f1"].also_wrong) == ((" people and",), (" Tokyo",))
    for pair in built.pairs:
        refuse_leak(byte_level, pair, align(byte_level, pair))


def test_an_answer_that_cannot_be_scored_is_left_out_and_counted(
    pack: Callable[[dict[str, str]], Pack], byte_level: PreTrainedTokenizerFast
) -> None:
    """Tokyo is right for both, Paris Rome begins with the other's answer, people stands in one of the wordings."""
    built = build_pairs(pack(FACTS), byte_level, seed=0)
    assert len(built.pairs) == 8
    lost = Counter((each.fact, each.template, each.answer, each.reason) for each in built.unscored)
    assert max(lost.values()) == 1
    seen = set[str]()
    for pair in built.pairs:
        further, asked = {*pair.also_correct, *pair.also_wrong}, (pair.fact, pair.template)
        if {pair.fact, pair.partner} == {"f0", "f1"}:
            assert not further & {" Tokyo", " Paris Rome"}
            assert {(*asked, "Paris Rome", "one answer begins with the other")} <= lost.keys()
            assert {(*asked, "Tokyo", "right for both prompts")} <= lost.keys()
            seen.add("both")
        if "f2" in (pair.fact, pair.partner):
            leaks = pair.clean.startswith("Most")
            assert (" people and" in further) != leaks
            assert ((*asked, "people and", "answer's first token in the prompt") in lost) == leaks
            seen.add("first token")
        if pair.fact == "f3":
            leaks = pair.clean.startswith("Most")
            assert (pair.distractors == (" people",)) != leaks
            assert not leaks or (*asked, "people", "answer in the prompt") in lost
            seen.add("word")
        if (pair.fact, pair.partner) == ("f0", "f3"):
            assert (pair.wrong, pair.distractors) == (" Cairo", (" bread",))
    assert {"first token", "word"} <= seen
    assert all(each.detail for each in built.unscored)


def test_what_is_right_for_both_prompts_counts_for_neither(
    pack: Callable[[dict[str, str]], Pack], byte_level: PreTrainedTokenizerFast
) -> None:
    built = build_pairs(pack({name: FACTS[name] for name in ("France", "Italy")}), byte_level, seed=0)
    assert len(built.pairs) == 4
    for pair in built.pairs:
        assert {*pair.also_correct, *pair.also_wrong} == set()
    reasons = Counter((each.answer, each.reason) for each in built.unscored)
    assert reasons["Tokyo", "right for both prompts"] == 4
    assert reasons["Paris Rome", "one answer begins with the other"] == 4
    # Paris is the answer of France: a distractor of Italy that stands among the wrong answers already.
    assert all(" Paris" not in pair.distractors for pair in built.pairs)


def test_twins_have_them_too(tmp_path: Path, byte_level: PreTrainedTokenizerFast) -> None:
    file = tmp_path / "twins.yaml"
    file.write_text(
        "patchlight: pack/1\nid: twins\ntitle: {en: T}\nlicence: CC0-1.0\nsources: {un: list}\nterms:\n"
        + "".join(f"  w{number}: {{en: {word}}}\n" for number, word in enumerate([*WORDS, "France"]))
        + "relations:\n"
        + "".join(
            f"  - {{id: {name}, kind: k, cardinality: many, templates: {{en: ['{text} of {{subject}} is', "
            f"'{text} in {{subject}} is']}}}}\n"
            for name, text in (("capital", "The capital"), ("food", "The bread"))
        )
        + "facts:\n  - {id: a, relation: capital, subject: w8, answers: [w0, w1], distractors: [w2], source: un}\n"
        "  - {id: b, relation: food, subject: w8, answers: [w3, w4, w1], source: un}\n",
        encoding="utf-8",
    )
    built = build_twins(read_pack(file), byte_level, "object_class")
    pair = next(pair for pair in built.pairs if pair.fact == "a")
    assert (pair.correct, pair.wrong, pair.also_correct) == (" Paris", " Tokyo", ())
    assert (pair.also_wrong, pair.distractors) == ((" Cairo",), (" Madrid",))
    assert {(each.answer, each.reason) for each in built.unscored} == {("Rome", "right for both prompts")}


@pytest.mark.parametrize(
    ("further", "reason"),
    [
        ({"also_correct": (" people",)}, "answer in the prompt"),
        ({"also_wrong": (" people and",)}, "answer's first token in the prompt"),
        ({"distractors": (" people",)}, "answer in the prompt"),
        ({"also_correct": (" Rome",)}, "answers are the same"),
        ({"also_correct": (" Rome and",)}, "one answer begins with the other"),
        ({"distractors": (" Paris and",)}, "one answer begins with the other"),
        ({"also_wrong": ("",)}, "empty answer"),
    ],
)
def test_a_pair_written_by_hand_is_refused_for_any_of_its_answers(
    random_model: Model, further: dict[str, tuple[str, ...]], reason: str
) -> None:
    pair = replace(FRANCE, clean="the people of France eat", corrupted="the people of Italy eat", **further)
    assert screen(random_model, [pair], metrics=("logsumexp_diff",)).counts() == {reason: 1}


def test_an_answer_that_goes_on_from_another_of_its_side_is_counted_once(byte_level: PreTrainedTokenizerFast) -> None:
    pair = replace(FRANCE, correct=" Paris and Tokyo", also_correct=(" Paris", " Cairo"), also_wrong=(" Rome", " Oslo"))
    found = align(byte_level, pair)
    decoded = [[byte_level.decode(ids) for ids in side] for side in (found.all_correct_ids, found.all_wrong_ids)]
    assert decoded == [[" Paris", " Cairo"], [" Rome", " Oslo"]]
    assert byte_level.decode(found.correct_ids) == " Paris and Tokyo"


def test_the_gate_asks_whether_the_right_answers_together_beat_the_wrong_ones(
    ignorant: Callable[[int], Model],
) -> None:
    model, words = ignorant(0), (" Paris", " bread", " Tokyo", " Cairo", " Oslo and", " eat")
    prompts = [f"The capital of {name} is" for name in ("France", "Italy", "Egypt", "Norway")]
    asked = [(prompt, word) for prompt in prompts for word in words]
    raw = {each: score.raw for each, score in zip(asked, whole_scores(model, asked), strict=True)}

    def preferred(prompt: str, right: Sequence[str], wrong: Sequence[str]) -> float:
        one, other = (np.logaddexp.reduce([raw[prompt, word] for word in side]) for side in (right, wrong))
        return float(one - other)

    pairs, expected = list[Pair](), list[Pair]()
    for clean, corrupted in permutations(prompts, 2):
        for right in combinations(words, 2):
            wrong = [word for word in words if word not in right]
            pair = Pair(
                clean, corrupted, right[0], wrong[0],
                also_correct=right[1:], also_wrong=tuple(wrong[1:3]), distractors=tuple(wrong[3:]),
            )  # fmt: skip
            pairs.append(pair)
            values = preferred(clean, right, wrong), preferred(corrupted, right, wrong)
            assert measure(model, {0: align(model.tokenizer, pair)}, "logsumexp_diff")[0] == pytest.approx(
                values, abs=1e-3
            )
            expected += [pair] if values[0] > 0 > values[1] and values[0] - values[1] >= 0.5 else []
    kept = screen(model, pairs, metrics=("logsumexp_diff",)).kept
    assert kept == expected
    assert set(kept) != set(screen(model, pairs, metrics=("logprob_diff",)).kept)
    assert 0 < len(kept) < len(pairs)


def test_japanese_answers_that_are_cut_within_characters(ignorant: Callable[[int], Model]) -> None:
    model = ignorant(1)
    pair = Pair(
        "薬の水は", "薬の火は", "東京", "東西", "水", "火",
        also_correct=("大阪", "鼻"), also_wrong=("鼾",), distractors=("大人",),
    )  # fmt: skip
    found = align(model.tokenizer, pair)
    assert all(len(ids) > 2 for ids in (*found.all_correct_ids, *found.all_wrong_ids))
    effects = sweep(model, [pair], metric="logsumexp_diff", component="mlp_out")
    for value, prompt in ((effects.clean[0], pair.clean), (effects.corrupted[0], pair.corrupted)):
        right, wrong = ("東京", "大阪", "鼻"), ("東西", "鼾", "大人")
        assert value == pytest.approx(summed(model, prompt, right) - summed(model, prompt, wrong), abs=1e-3)


def test_a_preview_counts_any_right_answer_and_says_what_it_could_not(
    pack: Callable[[dict[str, str]], Pack], teach: Callable[[list[str]], Model]
) -> None:
    """The model says the second answer of each fact: by the best answers alone it knows nothing of it."""
    facts = {
        "France": "answers: [Oslo, Paris]",
        "Italy": "answers: [Cairo, Rome, people and]",
        "Spain": "answers: [Tokyo, Madrid]",
    }
    made = pack(facts)
    said = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid"}
    texts = [
        f"{template.fill(subject)} {answer}"
        for subject, answer in said.items()
        for template in made.templates("capital")
    ]
    model = teach(texts * 3)
    seen = preview(made, model)
    assert seen.metric == "logsumexp_diff"
    assert seen.known == ("f0", "f1", "f2")
    assert {each.answer for each in seen.unscored} == {"people and"}
    question = next(each for each in seen.questions if each.fact == "f0")
    assert (question.correct, question.also_correct) == ("Oslo", ("Paris",))
    page = render_preview(made, seen, "en")
    assert "→ Oslo / Paris" in page and "All right answers count together" in page and "people and" in page
    best_alone = preview(made, model, metric="logprob_diff")
    assert len(best_alone.known) < 3
    assert "ほかの答えは数えません" in render_preview(made, best_alone, "ja")


def test_a_stored_pair_comes_back_as_it_was() -> None:
    pair = replace(FRANCE, also_correct=(" Tokyo", " Oslo"), distractors=(" bread",), fact="f", half="discovery")
    row = json.loads(json.dumps({**asdict(pair), "clean_metric": math.pi, "words": ["a"]}))
    assert pair_of(row) == pair
    assert len({pair_of(row), pair}) == 1
    old = {name: value for name, value in row.items() if name not in ("also_correct", "also_wrong", "distractors")}
    assert pair_of(old) == replace(pair, also_correct=(), distractors=())
