from __future__ import annotations

from pathlib import Path

import pytest

from patchlight.packs.check import check_pack
from patchlight.packs.problem import Problem
from patchlight.packs.read import parse_pack

FRANCE = (
    "  - {id: france-capital, relation: capital, subject: france, answers: [paris], distractors: [rome], source: un}\n"
)
EXTRA = "  - {id: extra, relation: capital, subject: france, answers: [cairo], source: un}\n"


def problems(pack_file: Path, old: str, new: str) -> list[Problem]:
    text = pack_file.read_text(encoding="utf-8")
    assert old in text
    pack_file.write_text(text.replace(old, new), encoding="utf-8")
    return check_pack(parse_pack(pack_file))


def test_a_right_pack_has_no_problem(pack_file: Path) -> None:
    assert check_pack(parse_pack(pack_file)) == []


@pytest.mark.parametrize(
    ("code", "line", "old", "new"),
    [
        ("template-hole", 22, "The capital of {subject} is", "The capital is"),
        ("template-hole", 22, "The capital of {subject} is", "The capital of {subjct} is"),
        ("template-hole", 22, "The capital of {subject} is", "{subject}, The capital of {subject} is"),
        ("template-hole", 22, "The capital of {subject} is", "The capital of {subject} } is"),
        ("statement-hole", 25, "{answer} is where", "There is where"),
        ("filler-hole", 35, "maps of {subject}", "maps of {answer}"),
        ("template-space", 22, "The capital of {subject} is", "The capital of {subject} is "),
        ("few-templates", 22, ', "{subject} is governed from the city of"', ""),
        ("few-templates", 22, "{subject} is governed from the city of", "The capital of {subject} is"),
        ("duplicate-id", 28, "id: italy-capital", "id: france-capital"),
        ("unknown-term", 28, "subject: italy", "subject: itali"),
        ("unknown-term", 27, "distractors: [rome]", "distractors: [roma]"),
        ("unknown-relation", 28, "relation: capital, subject: italy", "relation: capitol, subject: italy"),
        ("no-source", 28, "answers: [rome], source: un", "answers: [rome]"),
        ("unknown-source", 28, "answers: [rome], source: un", "answers: [rome], source: uno"),
        ("answer-among-distractors", 27, "distractors: [rome]", "distractors: [rome, paris]"),
        ("same-fact", 28, FRANCE, FRANCE + EXTRA),
        ("width", 8, "ja: フランス", "ja: ﾌﾗﾝｽ"),
        ("width", 22, "The capital of {subject} is", "The １st city of {subject} is"),
        ("answer-in-prompt", 27, "The capital of {subject} is", "Unlike Paris, the capital of {subject} is"),
        ("answer-in-prompt", 27, "The capital of {subject} is", "Once lutetia, the capital of {subject} is"),
        ("answer-in-prompt", 30, "{subject}の首都は", "東京でない{subject}の首都は"),
    ],
)
def test_errors_are_found_with_code_and_line(pack_file: Path, code: str, line: int, old: str, new: str) -> None:
    found = problems(pack_file, old, new)
    errors = [problem for problem in found if problem.severity == "error"]
    assert {(each.code, each.where.line) for each in errors} == {(f"pack-{code}", line)}
    assert errors[0].fix


@pytest.mark.parametrize(
    ("code", "line", "old", "new"),
    [
        ("no-name", 8, ", ja: フランス", ""),
        ("few-facts", 26, "answers: [cairo], source: un", "answers: [cairo], source: un, taught: false"),
        (
            "statement-is-template",
            25,
            "{answer} is where {subject} keeps its parliament",
            "The capital of {subject} is {answer}",
        ),
    ],
)
def test_warnings_are_found_with_code_and_line(pack_file: Path, code: str, line: int, old: str, new: str) -> None:
    found = [(each.severity, each.code, each.where.line) for each in problems(pack_file, old, new)]
    assert found == [("warning", f"pack-{code}", line)]


def test_a_relation_with_one_answer_cannot_be_compared(pack_file: Path) -> None:
    text = pack_file.read_text(encoding="utf-8").replace(", distractors: [rome]", "")
    for answer in ("rome", "madrid", "tokyo", "cairo"):
        text = text.replace(f"[{answer}]", "[paris]")
    pack_file.write_text(text, encoding="utf-8")
    assert [each.code for each in check_pack(parse_pack(pack_file))] == ["pack-one-answer"]


def test_a_problem_prints_place_severity_code_and_remedy(pack_file: Path) -> None:
    printed = str(problems(pack_file, "subject: italy", "subject: itali")[0])
    assert printed.startswith(f"{pack_file}:28:53: error: unknown term 'itali' [pack-unknown-term]")
    assert "did you mean 'italy'?" in printed
