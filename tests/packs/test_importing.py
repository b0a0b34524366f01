"""Files of facts become packs; what does not is named with its row."""

from __future__ import annotations

import json
from pathlib import Path

import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchlight.errors import InputError
from patchlight.packs.check import check_pack
from patchlight.packs.importing import Columns, Imported, import_pack
from patchlight.packs.problem import FileRefused
from patchlight.packs.read import parse_pack
from patchlight.packs.spec import Pack


def read(tmp_path: Path, imported: Imported) -> Pack:
    file = tmp_path / "imported.yaml"
    file.write_text(imported.text, encoding="utf-8")
    return parse_pack(file)


def rewrite(subject: object, true: str, new: str, prompt: str = "The capital of {} is") -> dict[str, object]:
    targets = {"target_true": {"str": true}, "target_new": {"str": new}}
    return {"requested_rewrite": {"prompt": prompt, "relation_id": "P36", "subject": subject, **targets}}


def test_counterfact_keeps_the_true_answer_and_the_false_one_as_distractor(tmp_path: Path) -> None:
    file = tmp_path / "counterfact.json"
    entries = [
        rewrite("France", "Paris", "Rome"),
        rewrite("Italy", "Rome", "Rome", "{}'s capital is"),
        rewrite("France", "Paris", "Oslo"),
        rewrite(None, "Paris", "Rome"),
        rewrite("Mexico City", "Mexico", "Rome", "{} lies in"),
        {"other": 1},
    ]
    file.write_text(json.dumps(entries), encoding="utf-8")
    imported = import_pack(file, "counterfact", Columns(), "en", "a test")
    pack = read(tmp_path, imported)
    facts = pack.facts()
    assert [(fact.subject, fact.answers, fact.distractors) for fact in facts] == [
        ("France", ("Paris",), ("Rome",)),
        ("Italy", ("Rome",), ()),
    ]
    assert [template.text for template in pack.templates("p36")][:2] == [
        "The capital of {subject} is",
        "{subject}'s capital is",
    ]
    assert [each.where.line for each in imported.lost] == [4, 6, 5, 3]
    assert not any(each.severity == "error" for each in check_pack(pack))
    assert not any(entry.reviewed for entry in pack.file.facts)


def test_a_list_of_answers_becomes_the_set_of_right_answers(tmp_path: Path) -> None:
    several = rewrite("Carl Nielsen", "", "", "{} was born in")
    several["requested_rewrite"] |= {"target_true": {"str": ["Denmark", "Funen"]}, "target_new": ["Norway", "Sweden"]}
    plain = rewrite("Franz Berwald", "", "", "{} was born in")
    plain["requested_rewrite"] |= {"target_true": "Sweden", "target_new": 7}
    files = {
        "counterfact": [several, plain],
        "known": [{"subject": "Nielsen", "prompt": "Nielsen is from", "attribute": ["Denmark", "Funen"]}],
        "relations": {"prompt_templates": ["{} is a"], "samples": [{"subject": "ebony", "object": ["wood", "tree"]}]},
    }
    found = {}
    for kind, content in files.items():
        (file := tmp_path / f"{kind}.json").write_text(json.dumps(content), encoding="utf-8")
        imported = import_pack(file, kind, Columns(), "en", "a test")
        pack = read(tmp_path, imported)
        assert not imported.lost
        assert pack.file.relations[0].cardinality == "many"
        found[kind] = [(fact.answers, fact.distractors) for fact in pack.facts()]
    assert found == {
        "counterfact": [(("Denmark", "Funen"), ("Norway", "Sweden")), (("Sweden",), ())],
        "known": [(("Denmark", "Funen"), ())],
        "relations": [(("wood", "tree"), ())],
    }


def test_tracing_facts_take_their_template_from_the_prompt(tmp_path: Path) -> None:
    file = tmp_path / "known.json"
    entry = {
        "subject": "Vinson Massif",
        "attribute": "Antarctica",
        "prompt": "Vinson Massif lies in",
        "relation_id": "P30",
    }
    file.write_text(json.dumps([entry]), encoding="utf-8")
    pack = read(tmp_path, import_pack(file, "known", Columns(), "en", "a test"))
    assert pack.templates("p30")[0].text == "{subject} lies in"
    assert "pack-few-templates" in [each.code for each in check_pack(pack)]


def test_a_relation_file_becomes_a_relation(tmp_path: Path) -> None:
    file = tmp_path / "capital.json"
    samples = [{"subject": "France", "object": "Paris"}, {"subject": "Italy", "object": "Rome"}]
    relation = {"name": "land capital", "prompt_templates": ["The capital of {} is"], "samples": samples}
    file.write_text(json.dumps({**relation, "prompt_templates_zs": ["{} has the capital"]}), encoding="utf-8")
    pack = read(tmp_path, import_pack(file, "relations", Columns(), "en", "a test"))
    assert [each.id for each in pack.file.relations] == ["land_capital"]
    assert len(pack.templates("land_capital")) == 2


@pytest.fixture
def fmea(tmp_path: Path) -> Path:
    """A Japanese FMEA with a title row, merged cells, half-width kana and a severity that is none."""
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "工程FMEA"
    for row in [
        ["工程 FMEA 2026", None, None, None],
        ["工程", "故障モード", "故障の\n原因", "影響度"],
        ["射出成形", "ヒケ", "保圧不足", 7],
        [None, None, "ｹﾞｰﾄの早期固化", 6],
        ["ダイカスト", "湯境", "溶湯温度の低下", "高"],
        ["ダイカスト", "バリ", None, 3],
    ]:
        sheet.append(row)
    sheet.merge_cells("A3:A4")
    sheet.merge_cells("B3:B4")
    file = tmp_path / "fmea.xlsx"
    book.save(file)
    return file


def test_an_fmea_is_read_under_merged_cells_with_the_columns_asked_for(fmea: Path, tmp_path: Path) -> None:
    columns = Columns("故障モード", "故障の 原因", severity="D", condition="工程", header=2)
    imported = import_pack(fmea, "fmea", columns, "ja", "自社の FMEA")
    pack = read(tmp_path, imported)
    sink, cold = pack.facts("ja")
    assert (sink.subject, sink.answers, sink.condition) == ("ヒケ", ("保圧不足", "ゲートの早期固化"), "射出成形")
    assert (cold.subject, pack.file.facts[0].severity, pack.file.facts[1].severity) == ("湯境", 7, None)
    assert [(each.where.line, each.code) for each in imported.lost] == [
        (6, "pack-import-lost"),
        (5, "pack-import-severity"),
    ]
    assert pack.file.relations[0].cardinality == "many"
    assert not any(each.severity == "error" for each in check_pack(pack))


def test_a_formula_without_its_result_is_named_and_its_row_left_out(fmea: Path, tmp_path: Path) -> None:
    book = openpyxl.load_workbook(fmea)
    book.active["C5"] = '=CONCATENATE("溶湯温度", "の低下")'  # never calculated: openpyxl writes no result
    book.save(fmea)
    imported = import_pack(fmea, "fmea", Columns("B", "C", header=2), "ja", "自社の FMEA")
    assert [fact.subject for fact in read(tmp_path, imported).facts("ja")] == ["ヒケ"]
    named = next(each for each in imported.lost if each.where.line == 5)
    assert "CONCATENATE" in named.what
    assert "計算結果" in named.said("ja")[0]


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        (Columns(header=2), "pack-import-column"),
        (Columns("故障モード", "原因", header=2), "pack-import-column"),
        (Columns("故障モード", "故障の 原因", header=9), "pack-import-header"),
        (Columns("故障モード", "故障の 原因", header=2, sheet="Sheet9"), "pack-import-sheet"),
    ],
)
def test_columns_are_never_guessed(fmea: Path, columns: Columns, code: str) -> None:
    with pytest.raises(InputError, match=code) as caught:
        import_pack(fmea, "fmea", columns, "ja", "x")
    assert isinstance(caught.value, FileRefused)
    assert caught.value.said("ja") != caught.value.said("en")
    assert code != "pack-import-column" or "C = '故障の 原因'" in caught.value.fix


def test_a_csv_with_templates_and_several_answers(tmp_path: Path) -> None:
    file = tmp_path / "drugs.csv"
    rows = [
        "subject,answer,relation,template",
        "valproate,nausea,effect,{} may cause",
        'valproate,"weight gain",effect,',
    ]
    file.write_text(
        "\n".join([*rows, "lacosamide,dizziness,effect,A trial of {} found", ",x,effect,"]), encoding="utf-8-sig"
    )
    imported = import_pack(file, "csv", Columns(), "en", "x")
    pack = read(tmp_path, imported)
    assert [fact.answers for fact in pack.facts()] == [("nausea", "weight gain"), ("dizziness",)]
    assert [each.where.line for each in imported.lost] == [5]
    assert not any(each.severity == "error" for each in check_pack(pack))


@pytest.mark.parametrize("sort", ["counterfact", "known", "relations", "csv", "fmea"])
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=80) | st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_other_file_is_refused_with_code_and_place(sort: str, content: bytes, tmp_path: Path) -> None:
    for ending in (".json", ".xlsx" if sort == "fmea" else ".csv"):
        file = tmp_path / f"file{ending}"
        file.write_bytes(content)
        with pytest.raises(InputError) as caught:
            import_pack(file, sort, Columns("subject", "answer"), "en", "x")
        assert caught.value.code.startswith("pack-import-")
        assert caught.value.where is not None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12), st.text(max_size=12)), min_size=1, max_size=6))
def test_whatever_the_words_are_the_pack_that_comes_out_can_be_read(
    tmp_path: Path, facts: list[tuple[str, str, str]]
) -> None:
    file = tmp_path / "any.json"
    entries = [rewrite(subject, true, new, "{} " + prompt) for subject, true, (new, prompt) in
               ((s, t, (p, p)) for s, t, p in facts)]  # fmt: skip
    file.write_text(json.dumps(entries), encoding="utf-8")
    try:
        imported = import_pack(file, "counterfact", Columns(), "en", "x")
    except InputError as refused:
        assert refused.code == "pack-import-empty"
        return
    pack = read(tmp_path, imported)
    assert {each.code for each in check_pack(pack) if each.severity == "error"} <= {"pack-few-templates"}


@pytest.mark.parametrize("folder", ["factual", "commonsense"])
def test_the_public_relations_pass_the_check_but_for_missing_wordings(
    shared_data: Path, tmp_path: Path, folder: str
) -> None:
    imported = import_pack(shared_data / "relations" / folder, "relations", Columns(), "en", "relations")
    problems = check_pack(read(tmp_path, imported))
    assert imported.facts > 100
    assert {each.code for each in problems if each.severity == "error"} <= {"pack-few-templates"}
