"""`patchlight pack`: from nothing to a checked pack, in both languages, for people and programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from patchlight.cli.main import execute


def told(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, dict]:
    code = execute(["pack", *(str(each) for each in arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_new_pack_is_written_once_and_checks_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    assert told(capsys, "new", file, "--lang", "ja")[0] == 0
    code, found = told(capsys, "check", file)
    assert (code, found["facts"], found["problems"]) == (0, 10, [])
    code, found = told(capsys, "new", file)
    assert (code, found["error"]["code"]) == (3, "pack-file-taken")


def test_errors_are_told_with_their_place_in_japanese(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    execute(["pack", "new", str(file)])
    file.write_text(file.read_text(encoding="utf-8").replace("subject: saw", "subject: sav"), encoding="utf-8")
    capsys.readouterr()
    assert execute(["pack", "check", str(file), "--lang", "ja"]) == 3
    error = capsys.readouterr().err
    assert "エラー[pack-unknown-term]" in error
    assert "知らない用語 'sav' です" in error
    assert "'saw' ではありませんか?" in error


def test_the_tokenizer_of_a_model_is_asked(taught: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = told(capsys, "check", taught / "pack.yaml", "--model", taught / "model")
    assert code == 0
    assert {each["severity"] for each in found["problems"]} <= {"warning"}


def test_a_preview_says_what_the_model_answers(
    taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "preview.html"
    code, found = told(capsys, "preview", taught / "pack.yaml", "--model", taught / "model", "--html", page)
    assert code == 0
    assert len(found["questions"]) == 2 * 12 * 3
    answered = [each for each in found["questions"] if each["outcome"] == "answered"]
    assert len(answered) > 40
    assert all(each["clean"] > 0 > each["corrupted"] for each in answered)
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_language_in_which_nothing_is_asked_is_refused(taught: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = told(capsys, "preview", taught / "pack.yaml", "--model", taught / "model", "--language", "ja")
    assert (code, found["error"]["code"]) == (3, "pack-language")


def test_an_fmea_asks_for_its_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, pack = tmp_path / "fmea.csv", tmp_path / "pack.yaml"
    table.write_text("故障,原因\nヒケ,保圧不足\nバリ,型締力不足\nそり,\n", encoding="utf-8")
    arguments = ("import", table, "--format", "fmea", "--language", "ja", "-o", pack)
    code, found = told(capsys, *arguments)
    assert (code, found["error"]["code"]) == (3, "pack-import-column")
    code, found = told(capsys, *arguments, "--failure", "故障", "--cause", "B")
    assert (code, found["facts"], [each["where"]["line"] for each in found["lost"]]) == (0, 2, [4])
    assert told(capsys, "check", pack)[0] == 0


def test_suggestions_go_through_a_person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus, suggestions, pack = tmp_path / "corpus.txt", tmp_path / "suggestions.yaml", tmp_path / "pack.yaml"
    corpus.write_text("Epilepsy is a neurological disorder.", encoding="utf-8")
    execute(["pack", "new", str(pack)])
    capsys.readouterr()
    assert told(capsys, "suggest", corpus, "-o", suggestions)[1]["suggestions"] == 1
    assert told(capsys, "adopt", suggestions, "--into", pack)[1]["error"]["code"] == "suggestions-none-accepted"
    decided = suggestions.read_text(encoding="utf-8").replace("status: proposed", "status: accepted")
    suggestions.write_text(decided, encoding="utf-8")
    assert told(capsys, "adopt", suggestions, "--into", pack)[1]["adopted"] == ["s1"]
    assert told(capsys, "check", pack)[1]["facts"] == 11
