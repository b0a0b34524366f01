from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchlight.errors import InputError
from patchlight.packs.check import check_pack
from patchlight.packs.read import builtin_packs, parse_pack, read_pack
from patchlight.packs.spec import PackFile


def test_a_pack_speaks_both_languages(pack_file: Path) -> None:
    pack = read_pack(pack_file)
    english, japanese = pack.facts("en"), pack.facts("ja")
    assert (pack.id, pack.title["en"], pack.kinds) == ("mini", "Capitals", ("associative",))
    assert (english[0].subject, english[0].answers, english[0].distractors) == ("France", ("Paris",), ("Rome",))
    assert (japanese[0].subject, japanese[0].answers) == ("フランス", ("パリ",))
    assert (english[0].kind, english[0].source, english[0].taught) == ("associative", "un", True)
    template = pack.templates("capital", "ja")[0]
    assert (template.id, template.fill("日本")) == ("capital.ja.1", "日本の首都は")
    assert pack.statements("capital") == ("{answer} is where {subject} keeps its parliament",)
    assert pack.corpus is not None
    assert pack.corpus.joiners["en"] == (", whereas",)


def test_facts_without_a_name_in_a_language_are_listed_apart(pack_file: Path) -> None:
    pack_file.write_text(pack_file.read_text(encoding="utf-8").replace(", ja: カイロ", ""), encoding="utf-8")
    pack = read_pack(pack_file)
    assert [entry.id for entry in pack.unsaid("ja")] == ["egypt-capital"]
    assert "egypt-capital" not in [fact.id for fact in pack.facts("ja")]
    assert len(pack.facts("en")) == 5


@pytest.mark.parametrize("name", builtin_packs())
def test_every_built_in_pack_has_no_error(name: str) -> None:
    problems = check_pack(parse_pack(name))
    assert [str(problem) for problem in problems if problem.severity == "error"] == []


@pytest.mark.parametrize("name", builtin_packs())
def test_every_built_in_pack_is_read_by_name(name: str) -> None:
    pack = read_pack(name)
    assert pack.facts("en") or pack.facts("ja")


def test_the_form_of_a_pack_is_a_json_schema() -> None:
    schema = PackFile.model_json_schema()
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["FactEntry"]["required"] == ["id", "relation", "subject", "answers"]


def test_an_unknown_pack_name_gets_a_suggestion() -> None:
    with pytest.raises(InputError, match=r"pack-not-found") as caught:
        read_pack("epilepsi")
    assert "did you mean 'epilepsy'?" in str(caught.value)
    with pytest.raises(InputError, match="pack-not-found"):
        read_pack("absent.yaml")


def test_errors_of_content_are_raised_with_their_places(pack_file: Path, pack_text: str) -> None:
    spoilt = pack_text.replace("subject: italy", "subject: itly").replace("answers: [cairo]", "answers: [kairo]")
    pack_file.write_text(spoilt, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_pack(pack_file)
    assert caught.value.code == "pack-unknown-term"
    assert str(caught.value.where).endswith("mini.yaml:28:53")
    assert "did you mean 'italy'?" in str(caught.value)
    assert "unknown term 'kairo'" in str(caught.value)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_a_spoilt_pack_is_refused_without_a_traceback(pack_file: Path, pack_text: str, seed: int) -> None:
    pack_file.write_text(_spoil(pack_text, random.Random(seed)), encoding="utf-8")
    try:
        check_pack(read_pack(pack_file))
    except InputError as problem:
        assert problem.code.startswith("pack-")
        assert problem.where is not None


def _spoil(text: str, chance: random.Random) -> str:
    for _ in range(chance.randint(1, 3)):
        start = chance.randrange(len(text))
        end = start + chance.randint(0, 12)
        insert = "".join(chance.choices("ab: []{},-\n\"'&*{subject}{answer}１ｶ薬", k=chance.randint(0, 5)))
        text = text[:start] + insert + text[end:]
    return text
