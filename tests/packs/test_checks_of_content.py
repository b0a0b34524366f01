"""What a pack says beside its facts: conditions, controls, expiry, confidential terms; in two languages."""

from __future__ import annotations

import random
from datetime import date
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchlight.errors import InputError
from patchlight.packs.check import check_pack
from patchlight.packs.masking import mask
from patchlight.packs.problem import FileRefused, Language
from patchlight.packs.read import parse_pack, read_pack
from patchlight.packs.skeleton import skeleton
from patchlight.packs.spec import Pack

MORE = """\
controls:
  unrelated:
    - {id: hot, prompt: {en: The opposite of hot is}, answer: {en: cold}, wrong: {en: fast}, source: un}
  made_up:
    - {relation: capital, subject: {en: Freedonia}}
review:
  - {code: old, en: Out of date, ja: 古い}
confidential: [paris]
"""


def written(pack_file: Path, *changes: tuple[str, str]) -> Pack:
    text = pack_file.read_text(encoding="utf-8") + MORE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    pack_file.write_text(text, encoding="utf-8")
    return parse_pack(pack_file)


def errors(pack: Pack) -> list[tuple[str, int | None]]:
    return [(each.code, each.where.line) for each in check_pack(pack) if each.severity == "error"]


def test_all_that_a_pack_may_say_is_right(pack_file: Path) -> None:
    pack = written(pack_file)
    assert check_pack(pack) == []
    assert pack.file.controls.made_up[0].subject["en"] == "Freedonia"


@pytest.mark.parametrize(
    ("code", "line", "old", "new"),
    [
        ("condition-hole", 28, "subject: italy, answers", "subject: italy, conditions: [paris], answers"),
        ("condition-hole", 27, "is governed from", "by {condition} is governed from"),
        ("made-up-is-real", 40, "Freedonia", "Japan"),
        ("unknown-relation", 40, "relation: capital, subject: {en: Free", "relation: capitol, subject: {en: Free"),
        ("control-answer", 38, "wrong: {en: fast}", "wrong: {en: cold}"),
        ("control-language", 38, "wrong: {en: fast}", "wrong: {ja: 速い}"),
        ("unknown-source", 38, "{en: fast}, source: un", "{en: fast}, source: nu"),
        ("unknown-term", 43, "[paris]\n", "[pariss]\n"),
        ("no-name", 10, "{en: Spain, ja: スペイン}", "{aliases: [Iberia]}"),
    ],
)
def test_each_fault_has_its_code_and_line(pack_file: Path, code: str, line: int, old: str, new: str) -> None:
    assert (f"pack-{code}", line) in errors(written(pack_file, (old, new)))


def test_a_fact_that_has_expired_and_one_with_too_many_answers_are_warned_of(pack_file: Path) -> None:
    fact = "answers: [cairo], source: un"
    pack = written(pack_file, (fact, "answers: [cairo, tokyo], source: un, expires: 2026-03-31"))
    assert [each.code for each in check_pack(pack, date(2026, 3, 31))] == ["pack-cardinality"]
    assert [each.code for each in check_pack(pack, date(2026, 4, 1))] == ["pack-cardinality", "pack-expired"]


def test_one_subject_may_have_a_fact_for_each_condition(pack_file: Path) -> None:
    changes = [
        ("The capital of {subject} is", "In {condition}, {subject} had"),
        ("{subject} is governed", "{condition}: {subject} was governed"),
        ("{subject}の首都は", "{condition}の{subject}の首都は"),
        ("{subject}を治める町は", "{condition}の{subject}を治める町は"),
        ("  paris: {", "  old: {en: old days, ja: 昔}\n  new: {en: new days, ja: 今}\n  paris: {"),
        ("subject: italy", "subject: france, conditions: [old]"),
        (", subject: france, answers: [paris]", ", subject: france, conditions: [new], answers: [paris]"),
        *((f"subject: {land}", f"subject: {land}, conditions: [new]") for land in ("spain", "japan", "egypt")),
    ]  # fmt: skip
    pack = written(pack_file, *changes)
    assert errors(pack) == []
    assert [fact.condition for fact in pack.facts("ja")][:2] == ["今", "昔"]
    assert pack.templates("capital")[0].fill(
        "France", "old days"
    ) == "In old days, France had from the city of".replace(" from the city of", "")


def test_confidential_terms_are_masked_under_all_their_names(pack_file: Path) -> None:
    assert (
        mask(written(pack_file), "Paris, once lutetia (パリ), in France")
        == "[term 1], once [term 1] ([term 1]), in France"
    )


@pytest.mark.parametrize("language", get_args(Language))
def test_a_new_pack_checks_clean(language: Language, tmp_path: Path) -> None:
    file = tmp_path / "new.yaml"
    file.write_text(skeleton(language), encoding="utf-8")
    pack = read_pack(file)
    assert check_pack(pack) == []
    assert len(pack.facts(language)) == 10


def test_a_problem_is_told_in_japanese(pack_file: Path) -> None:
    problem = next(each for each in check_pack(written(pack_file, ("subject: italy", "subject: itali"))))
    assert problem.said("ja") == ("知らない用語 'itali' です", "'italy' ではありませんか?")
    assert problem.line("ja").startswith(f"{pack_file}:28:53: エラー: ")


def test_a_fault_of_form_is_told_in_japanese(pack_file: Path) -> None:
    with pytest.raises(FileRefused) as caught:
        written(pack_file, ("licence: CC0-1.0", "licence: 3"), ("kind: associative", "kind: [a]"))
    what, fix = caught.value.said("ja")
    assert what.splitlines()[0] == "licence: 文字でなければなりません (書かれた値: 3)"
    assert "ほかに: " in what.splitlines()[1]
    assert fix == "引用符で囲んでください"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_whatever_is_spoilt_is_told_with_code_and_place_in_both_languages(pack_file: Path, seed: int) -> None:
    whole = skeleton("ja" if seed % 2 else "en")
    pack_file.write_text(_spoilt(whole, random.Random(seed)), encoding="utf-8", errors="surrogatepass")
    try:
        problems = check_pack(parse_pack(pack_file))
    except FileRefused as refused:
        problems = list(refused.problems)
        assert refused.said("ja")[0]
    except InputError as problem:  # pragma: no cover
        pytest.fail(f"not a FileRefused: {problem}")
    for each in problems:
        assert each.where.file == pack_file
        assert each.code.startswith("pack-")
        assert all(each.line(language) for language in get_args(Language))


def _spoilt(text: str, chance: random.Random) -> str:
    """The text with a few lines doubled, dropped or moved, or letters put in, taken out or exchanged."""
    for _ in range(chance.randint(1, 4)):
        lines = text.splitlines(keepends=True)
        at = chance.randrange(len(lines))
        way = chance.randrange(4)
        if way == 0:
            lines.insert(at, chance.choice(lines))
        elif way == 1:
            del lines[at]
        else:
            line, cut = lines[at], chance.randrange(len(lines[at]))
            insert = "".join(
                chance.choices("ab: []{},-\n\t\"'&*!|>%@{subject}{condition}１ｶ薬\x00\ud800~", k=chance.randint(0, 4))
            )
            lines[at] = line[:cut] + insert + line[cut + chance.randint(0, 6) :]
        text = "".join(lines)
    return text
