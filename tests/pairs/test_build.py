from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from patchlight.packs.read import builtin_packs, parse_pack, read_pack
from patchlight.packs.spec import Pack
from patchlight.pairs.align import align, refuse_leak
from patchlight.pairs.build import Built, build_pairs

CITIES = {"france": "Paris", "italy": "Rome", "spain": "Madrid", "japan": "Tokyo", "egypt": "Cairo", "norway": "Oslo"}


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    terms = "".join(f"  {land}: {{en: {land.title()}}}\n  {city}: {{en: {city}}}\n" for land, city in CITIES.items())
    facts = "".join(
        f"  - {{id: {land}, relation: capital, subject: {land}, answers: [{city}], source: un"
        f"{', taught: false' if land == 'norway' else ''}}}\n"
        for land, city in CITIES.items()
    )
    file = tmp_path / "mini.yaml"
    file.write_text(
        "patchlight: pack/1\nid: mini\ntitle: {en: Capitals}\nlicence: CC0-1.0\nsources: {un: list}\n"
        f"terms:\n{terms}relations:\n  - id: capital\n    kind: associative\n    templates:\n"
        '      en: ["The capital of {subject} is", "In {subject} people eat bread in", "{subject} is in"]\n'
        f"facts:\n{facts}",
        encoding="utf-8",
    )
    return read_pack(file)


def edited(pack: Pack, old: str, new: str) -> Pack:
    file = pack.places.file
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    return parse_pack(file)


def test_each_fact_meets_each_template(pack: Pack, byte_level: PreTrainedTokenizerFast) -> None:
    built = build_pairs(pack, byte_level, seed=0)
    assert built.refused == []
    asked = Counter((pair.fact, pair.template) for pair in built.pairs)
    assert len(asked) == 6 * 3
    assert set(asked.values()) == {1}


def test_the_wrong_answer_is_right_for_the_corrupted_prompt(pack: Pack, byte_level: PreTrainedTokenizerFast) -> None:
    for pair in build_pairs(pack, byte_level, seed=0).pairs:
        assert pair.correct == " " + CITIES[pair.fact]
        assert pair.wrong == " " + CITIES[pair.corrupted_subject.lower()]
        assert pair.corrupted == pair.clean.replace(pair.subject, pair.corrupted_subject)
        refuse_leak(byte_level, pair, align(byte_level, pair))


def test_the_seed_decides(pack: Pack, byte_level: PreTrainedTokenizerFast) -> None:
    assert build_pairs(pack, byte_level, seed=1) == build_pairs(pack, byte_level, seed=1)
    assert any(build_pairs(pack, byte_level, seed=1) != build_pairs(pack, byte_level, seed=seed) for seed in (2, 3))


def test_partners_serve_about_equally_often(pack: Pack, byte_level: PreTrainedTokenizerFast) -> None:
    for seed in range(5):
        pairs = build_pairs(pack, byte_level, seed=seed).pairs
        for template in {pair.template for pair in pairs}:
            served = Counter(pair.corrupted_subject for pair in pairs if pair.template == template)
            assert max(served.values()) <= 2


def test_facts_never_taught_are_built_and_flagged(pack: Pack, byte_level: PreTrainedTokenizerFast) -> None:
    pairs = build_pairs(pack, byte_level, seed=0).pairs
    assert {pair.fact for pair in pairs if not pair.taught} == {"norway"}
    assert "Norway" not in {pair.corrupted_subject for pair in pairs if pair.taught}


def test_templates_per_fact_takes_them_in_turn(pack: Pack, byte_level: PreTrainedTokenizerFast) -> None:
    pairs = build_pairs(pack, byte_level, seed=0, templates_per_fact=2).pairs
    assert set(Counter(pair.fact for pair in pairs).values()) == {2}
    assert set(Counter(pair.template for pair in pairs).values()) == {4}


def reasons(built: Built) -> dict[str, int]:
    assert sum(built.counts().values()) == len(built.refused)
    assert all(refusal.detail for refusal in built.refused)
    return built.counts()


def test_nothing_is_lost_silently(pack: Pack, byte_level: PreTrainedTokenizerFast) -> None:
    longer = edited(pack, "{en: Egypt}", "{en: Egypt of xqz}")
    built = build_pairs(longer, byte_level, seed=0)
    assert reasons(built) == {"no partner of equal token count": 3}
    assert {refusal.fact for refusal in built.refused} == {"egypt"}
    assert len(built.pairs) == 15


def test_facts_that_share_their_answer_are_no_contrast(pack: Pack, byte_level: PreTrainedTokenizerFast) -> None:
    same = pack
    for city in ("Rome", "Madrid", "Tokyo", "Cairo", "Oslo"):
        same = edited(same, f"answers: [{city}]", "answers: [Paris]")
    assert reasons(build_pairs(same, byte_level, seed=0)) == {"no partner with another answer": 18}


def test_a_further_right_answer_is_never_the_wrong_one(pack: Pack, byte_level: PreTrainedTokenizerFast) -> None:
    also = edited(pack, "answers: [Paris]", "answers: [Paris, Rome, Madrid, Tokyo]")
    pairs = build_pairs(also, byte_level, seed=0).pairs
    assert {pair.wrong for pair in pairs if pair.fact == "france"} == {" Cairo"}
    assert "France" not in {pair.corrupted_subject for pair in pairs if pair.fact in {"italy", "spain", "japan"}}


def test_answers_that_begin_alike_meet_only_where_there_are_no_others(
    pack: Pack, byte_level: PreTrainedTokenizerFast
) -> None:
    alike = pack
    for city in ("Rome", "Madrid", "Tokyo", "Oslo"):
        alike = edited(alike, city, f"Paris {city}")
    pairs = build_pairs(alike, byte_level, seed=0).pairs
    assert {pair.wrong for pair in pairs if pair.fact != "egypt"} == {" Cairo"}
    alike = edited(alike, "Cairo", "Paris Cairo")
    pairs = build_pairs(alike, byte_level, seed=0).pairs
    assert len(pairs) == 18
    # Paris alone is the beginning of every other answer, and is met by the fact whose answer it is only.
    assert " Paris" not in {pair.wrong for pair in pairs}
    assert {align(byte_level, pair).parted for pair in pairs if pair.fact != "france"} == {True}


def test_an_alignment_refusal_keeps_its_reason(pack: Pack, byte_level: PreTrainedTokenizerFast) -> None:
    leaking = edited(pack, "In {subject} people eat bread in", "In {subject} Rome eats Paris in")
    counts = reasons(build_pairs(leaking, byte_level, seed=0))
    assert counts == {"answer in the prompt": 2}


def test_what_cannot_be_said_in_the_language_is_refused(pack: Pack, byte_level: PreTrainedTokenizerFast) -> None:
    built = build_pairs(pack, byte_level, seed=0, language="ja")
    assert built.pairs == []
    assert reasons(built) == {"not said in this language": 6}


def test_japanese_answers_bring_no_space(byte_level: PreTrainedTokenizerFast) -> None:
    for name in builtin_packs():
        for pair in build_pairs(read_pack(name), byte_level, seed=0, language="ja").pairs:
            assert pair.correct == pair.correct.strip()
            align(byte_level, pair)
