"""Twins that keep the subject, tokenizer checks, whole answers, and the preview that shows them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from patchlight.model.anatomy import Model
from patchlight.packs.read import parse_pack, read_pack
from patchlight.packs.spec import Pack
from patchlight.pairs.align import align, refuse_leak
from patchlight.pairs.build import build_pairs
from patchlight.pairs.fit import check_tokens
from patchlight.pairs.halves import deal_halves
from patchlight.pairs.preview import masked, preview
from patchlight.pairs.twins import build_twins
from patchlight.pairs.whole import whole_scores

CASTINGS = """\
patchlight: pack/1
id: castings
title: {ja: 鋳造}
licence: CC0-1.0
sources: {book: 手順書}
terms:
  die: {ja: 金型}
  sand: {ja: 砂型}
  cold: {ja: 低温だと}
  warm: {ja: 高温だと}
  sink: {ja: ヒケ}
  flash: {ja: バリ}
  heat: {ja: 加熱}
  cool: {ja: 冷却}
relations:
  - id: defect
    kind: associative
    templates: {ja: ["{condition}、{subject}の不良は", "{subject}で{condition}出る不良は"]}
  - id: measure
    kind: associative
    templates: {ja: ["{condition}、{subject}の対策は", "{subject}で{condition}行う対策は"]}
facts:
  - {id: d1, relation: defect, subject: die, conditions: [cold], answers: [sink], source: book}
  - {id: d2, relation: defect, subject: die, conditions: [warm], answers: [flash], source: book}
  - {id: d3, relation: defect, subject: sand, conditions: [cold], answers: [flash], source: book}
  - {id: m1, relation: measure, subject: die, conditions: [cold], answers: [heat], source: book}
  - {id: m2, relation: measure, subject: die, conditions: [warm], answers: [cool], source: book}
controls:
  made_up: [{relation: defect, subject: {ja: 紙型}}]
confidential: [sand]
"""


@pytest.fixture
def castings(tmp_path: Path) -> Pack:
    file = tmp_path / "castings.yaml"
    file.write_text(CASTINGS, encoding="utf-8")
    return read_pack(file)


def test_a_subject_is_swapped_only_under_the_same_condition(
    castings: Pack, byte_level: PreTrainedTokenizerFast
) -> None:
    pairs = build_pairs(castings, byte_level, seed=0, language="ja").pairs
    assert {(pair.fact, pair.clean.replace("金", "砂") == pair.corrupted.replace("金", "砂")) for pair in pairs} == {
        ("d1", True),
        ("d3", True),
    }


def test_a_condition_is_swapped_where_another_answer_is_right(
    castings: Pack, byte_level: PreTrainedTokenizerFast
) -> None:
    built = build_twins(castings, byte_level, "condition", language="ja")
    assert {(pair.fact, pair.subject, pair.corrupted_subject, pair.wrong) for pair in built.pairs} == {
        ("d1", "低温だと", "高温だと", "バリ"),
        ("d2", "高温だと", "低温だと", "ヒケ"),
        ("m1", "低温だと", "高温だと", "冷却"),
        ("m2", "高温だと", "低温だと", "加熱"),
    }
    assert {refusal.reason for refusal in built.refused} == {"no twin by condition"}
    for pair in built.pairs:
        found = align(byte_level, pair)
        assert all(found.roles[at].startswith("subject") for at in found.differing)
        refuse_leak(byte_level, pair, found)


def test_another_class_of_object_is_asked_of_the_same_subject(
    castings: Pack, byte_level: PreTrainedTokenizerFast
) -> None:
    built = build_twins(castings, byte_level, "object_class", language="ja")
    first = next(pair for pair in built.pairs if pair.template == "defect.ja.1")
    assert (first.clean, first.correct) == ("低温だと、金型の不良は", "ヒケ")
    assert (first.corrupted, first.wrong) == ("低温だと、金型の対策は", "加熱")


@pytest.mark.shared
@pytest.mark.parametrize(("swap", "fewest"), [("condition", 120), ("object_class", 20)])
def test_the_castings_pack_aligns_in_the_tokenizer_of_gpt2(shared_data: Path, swap, fewest) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(shared_data / "tokenizer" / "tokenizer.json"))
    pairs = build_twins(read_pack("castings-ja"), tokenizer, swap, language="ja").pairs
    assert len(pairs) >= fewest
    for pair in pairs:
        words = align(tokenizer, pair).words
        assert "".join(word for word in words if word != "·") == pair.clean


@pytest.mark.parametrize(
    ("code", "old", "new"),
    [
        ("pack-shared-first-token", "{ja: バリ}", "{ja: ヒビ}"),
        ("pack-token-counts", "{ja: バリ}", "{ja: バリバリバリバリ}"),
        ("pack-answer-leak", "の不良は", "のヒの不良は"),
        ("pack-no-pair", "{ja: 砂型}", "{ja: 砂の型}"),
    ],
)
def test_what_a_tokenizer_makes_of_a_pack_is_warned_of(
    castings: Pack, byte_level, code: str, old: str, new: str
) -> None:
    clean = {each.code for each in check_tokens(castings, character_level(byte_level), "ja")}
    file = castings.places.file
    file.write_text(CASTINGS.replace(old, new), encoding="utf-8")
    found = check_tokens(parse_pack(file), character_level(byte_level), "ja")
    assert code in {each.code for each in found} - (clean - {"pack-no-pair"})
    assert all(each.severity == "warning" and each.where.line and each.line("ja") for each in found)


def character_level(byte_level: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are characters."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {letter: number for number, letter in enumerate(sorted({*CASTINGS, *"ビ紙"}))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_whole_answers_are_scored_as_a_plain_forward_scores_them(random_model: Model) -> None:
    tokenizer = copy.deepcopy(random_model.tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(0)
    model = Model(random_model.hf, tokenizer, "with an end of text")
    asked = [("The capital of France is", " Paris"), ("日本の首都は", "東京"), ("In", " Spain, Italy")]
    for (prompt, answer), score in zip(asked, whole_scores(model, asked), strict=True):
        before, ids = (tokenizer(text)["input_ids"] for text in (prompt, prompt + answer))
        assert score.raw == pytest.approx(plain_logprob(model, ids, len(before)), abs=1e-4)
        alone = plain_logprob(model, [0, *ids[len(before) :]], 1)
        assert score.gain == pytest.approx(score.raw - alone, abs=1e-4)
        assert score.per_character == pytest.approx(score.raw / len(answer.strip()))


def test_without_a_start_token_nothing_is_said_of_the_gain(random_model: Model) -> None:
    [score] = whole_scores(random_model, [("In", " Spain")])
    assert math.isfinite(score.raw)
    assert math.isnan(score.gain)


def plain_logprob(model: Model, ids: list[int], before: int) -> float:
    with torch.inference_mode():
        logits = model.hf(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(logits[at - 1, ids[at]]) for at in range(before, len(ids)))


def test_a_preview_shows_every_question_once(castings: Pack, random_model: Model) -> None:
    seen = preview(castings, random_model, language="ja", swap="condition")
    assert len(seen.questions) == 5 * 2
    shown = next(each for each in seen.questions if each.tokens)
    assert math.isfinite(shown.clean)
    assert math.isfinite(shown.per_character)
    assert [token.differs for token in shown.tokens].count(True) >= 1
    assert seen.controls[0].prompt == "低温だと、紙型の不良は"
    assert {answer for answer, _ in seen.controls[0].answers} == {"ヒケ", "バリ"}


def test_what_is_confidential_is_masked_in_what_leaves(castings: Pack, random_model: Model) -> None:
    plain = masked(castings, preview(castings, random_model, language="ja"))
    hidden = [each for each in plain["questions"] if "[term 1]" in each["clean_prompt"]]
    assert hidden
    assert all(each["tokens"] == [] for each in hidden)
    assert "砂型" not in str(plain)


def test_the_page_of_a_preview_is_whole_and_escapes_what_it_shows(
    castings: Pack, random_model: Model, tmp_path: Path
) -> None:
    from patchlight.report.preview import write_preview

    file = castings.places.file
    file.write_text(CASTINGS.replace("{ja: 鋳造}", "{ja: <script>x</script>}"), encoding="utf-8")
    pack = read_pack(file)
    write_preview(pack, preview(pack, random_model, language="ja", swap="condition"), tmp_path / "p.html", "ja")
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "低温だと、金型の不良は" in page
    assert "秘密の用語 1 件" in page
    assert "砂型" not in page


def test_the_ignorant_answer_few(castings: Pack, ignorant: Callable[[int], Model]) -> None:
    model = ignorant(1)
    assert len(preview(castings, model, language="ja", swap="condition").known) < 5


def many_subjects() -> str:
    """The castings with eight moulds, each asked for its defect and its measure when it is cold and when it is warm."""
    head, facts = CASTINGS.split("facts:\n", maxsplit=1)[0], ""
    moulds = dict(zip("abcdefgh", "木石紙布氷土金砂", strict=True))
    for number, mould in enumerate(moulds):
        for relation, answers in (("defect", ("sink", "flash")), ("measure", ("heat", "cool"))):
            for turn, when in enumerate(("cold", "warm")):
                entry = (
                    f"id: {relation}-{mould}-{when}, relation: {relation}, subject: mould_{mould}, conditions: [{when}]"
                )
                facts += f"  - {{{entry}, answers: [{answers[(number + turn) % 2]}], source: book}}\n"
    terms = "".join(f"  mould_{key}: {{ja: {name}型}}\n" for key, name in moulds.items())
    return f"{head}facts:\n{facts}".replace("terms:\n", f"terms:\n{terms}")


@pytest.mark.parametrize("swap", ["condition", "object_class"])
def test_no_twin_of_a_half_leans_on_a_fact_of_the_other(
    swap, byte_level: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    (tmp_path / "moulds.yaml").write_text(many_subjects(), encoding="utf-8")
    pack = read_pack(tmp_path / "moulds.yaml")
    halves = deal_halves(pack, byte_level, seed=3, language="ja", swap=swap)
    built = build_twins(pack, byte_level, swap, language="ja", halves=halves)
    assert len(built.pairs) == len(build_twins(pack, byte_level, swap, language="ja").pairs) == 32 * 2
    for pair in built.pairs:
        assert pair.half == halves[pair.fact] == halves[pair.partner]
    assert sorted(halves.values()).count("discovery") == 16
    elsewhere = build_twins(pack, byte_level, swap, language="ja", halves={fact: fact for fact in halves})
    assert {refusal.reason for refusal in elsewhere.refused} == {"no partner in its half"}
    assert not elsewhere.pairs


def test_twins_meet_as_many_templates_as_asked(castings: Pack, byte_level: PreTrainedTokenizerFast) -> None:
    built = build_twins(castings, byte_level, "condition", language="ja", templates_per_fact=1)
    asked = [(pair.fact, pair.template) for pair in built.pairs]
    assert sorted(fact for fact, _ in asked) == ["d1", "d2", "m1", "m2"]
    assert {template for _, template in asked} >= {"defect.ja.1", "defect.ja.2"}
