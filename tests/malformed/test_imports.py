"""Malformed files of facts, and batches of prompts: read, or refused with a code and a place."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchlight.errors import InputError
from patchlight.packs.check import check_pack
from patchlight.packs.importing import Columns, import_pack
from patchlight.packs.read import parse_pack
from patchlight.review.guard import prompts_from
from tests.malformed.spoiling import ODD, as_json, bad_bytes, bad_paths, bad_values, examples, refused

FACTS = [("France", "Paris"), ("Italy", "Rome"), ("Japan", "Tokyo"), ("Egypt", "Cairo"), ("Spain", "Madrid")]
COUNTERFACT = [
    {
        "requested_rewrite": {
            "prompt": "The capital of {} is",
            "relation_id": "P36",
            "subject": subject,
            "target_true": {"str": answer},
            "target_new": {"str": "Oslo"},
        }
    }
    for subject, answer in FACTS
]
KNOWN = [
    {"subject": subject, "attribute": answer, "prompt": f"{subject} has the capital", "relation_id": "P36"}
    for subject, answer in FACTS
]
RELATION = {
    "name": "capital",
    "prompt_templates": ["The capital of {} is"],
    "prompt_templates_zs": ["{} has the capital"],
    "samples": [{"subject": subject, "object": answer} for subject, answer in FACTS],
}
ROWS = [["subject", "answer", "severity"], *([subject, answer, "5"] for subject, answer in FACTS)]
PROMPTS = [{"prompt": f"The capital of {subject} is", "subject": subject, "kind": "home"} for subject, _ in FACTS]
JSON = {"counterfact": COUNTERFACT, "known": KNOWN, "relations": RELATION}
COLUMNS = {"fmea": Columns("subject", "answer", severity="severity")}


def written_csv() -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(ROWS)
    return text.getvalue().encode()


def written_sheet(rows: list[list[Any]] = ROWS, change: Callable[[Any], None] = lambda sheet: None) -> bytes:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    change(book.active)
    content = io.BytesIO()
    book.save(content)
    return content.getvalue()


def check_import(file: Path, format: str) -> None:  # noqa: A002
    try:
        imported = import_pack(file, format, COLUMNS.get(format, Columns()), "en", "a test")
    except InputError as error:
        refused(error, "pack-import-")
        return
    assert all(each.line(language) for each in imported.lost for language in ("en", "ja"))
    made = file.parent / "made.yaml"
    made.write_text(imported.text, encoding="utf-8")
    check_pack(parse_pack(made))  # what an importer writes can be read


def check_prompts(file: Path) -> None:
    try:
        found = prompts_from(file)
    except InputError as error:
        refused(error, "guard-")
    else:
        assert all(each.subject in each.prompt for each in found)


@pytest.mark.parametrize("format", JSON)
def test_odd_values_in_json(tmp_path: Path, format: str) -> None:  # noqa: A002
    file = tmp_path / "facts.json"

    @examples(120)
    @given(bad_values(JSON[format]).map(as_json))
    def spoil(content: bytes) -> None:
        file.write_bytes(content)
        check_import(file, format)

    spoil()


@pytest.mark.parametrize("format", [*JSON, "csv", "fmea"])
def test_spoilt_bytes(tmp_path: Path, format: str) -> None:  # noqa: A002
    whole = as_json(JSON[format]) if format in JSON else written_csv() if format == "csv" else written_sheet()
    file = tmp_path / {"csv": "facts.csv", "fmea": "facts.xlsx"}.get(format, "facts.json")

    @examples(100)
    @given(bad_bytes(whole))
    def spoil(content: bytes) -> None:
        file.write_bytes(content)
        check_import(file, format)

    spoil()


CELLS = st.one_of(st.sampled_from([odd for odd in ODD if isinstance(odd, str | int | float)]), st.text(max_size=20))


@pytest.mark.parametrize("format", ["csv", "fmea"])
def test_odd_cells_of_a_csv(tmp_path: Path, format: str) -> None:  # noqa: A002
    file = tmp_path / "facts.csv"

    @examples(100)
    @given(st.lists(st.lists(CELLS, max_size=5), max_size=5))
    def spoil(rows: list[list[Any]]) -> None:
        text = io.StringIO()
        csv.writer(text).writerows([ROWS[0], *rows])
        file.write_bytes(text.getvalue().encode("utf-8", errors="replace"))
        check_import(file, format)

    spoil()


def test_spoilt_bytes_of_prompts(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"

    @examples(150)
    @given(bad_bytes(b"\n".join(map(as_json, PROMPTS))))
    def spoil(content: bytes) -> None:
        file.write_bytes(content)
        check_prompts(file)

    spoil()


def test_odd_values_in_prompts(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"

    @examples(150)
    @given(bad_values(PROMPTS))
    def spoil(rows: list[Any]) -> None:
        file.write_bytes(b"\n".join(map(as_json, rows)))
        check_prompts(file)

    spoil()


@pytest.mark.parametrize("what", ["missing", "folder", "loop", "unread", "empty", "long", "under"])
@pytest.mark.parametrize("format", [*JSON, "csv", "fmea"])
def test_what_is_no_file_is_refused(tmp_path: Path, format: str, what: str) -> None:  # noqa: A002
    path = bad_paths(tmp_path, {"csv": ".csv", "fmea": ".xlsx"}.get(format, ".json"))[what]
    with pytest.raises(InputError) as caught:
        import_pack(path, format, COLUMNS.get(format, Columns()), "en", "a test")
    refused(caught.value, "pack-import-")


@pytest.mark.parametrize("what", ["missing", "folder", "loop", "unread", "empty", "long", "under"])
def test_no_batch_of_prompts_is_refused(tmp_path: Path, what: str) -> None:
    with pytest.raises(InputError) as caught:
        prompts_from(bad_paths(tmp_path, ".jsonl")[what])
    refused(caught.value, "guard-")


def test_a_sheet_with_one_cell_far_away_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "facts.xlsx"
    file.write_bytes(written_sheet(change=lambda sheet: sheet.cell(1_048_576, 16_384, "far")))
    with pytest.raises(InputError, match="reaches to row 1048576") as caught:
        import_pack(file, "fmea", COLUMNS["fmea"], "en", "a test")
    refused(caught.value, "pack-import-file")


def test_a_sheet_that_is_merged_as_a_whole_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    file = tmp_path / "facts.xlsx"
    file.write_bytes(written_sheet(change=lambda sheet: sheet.merge_cells("A9:B9")))
    with zipfile.ZipFile(file) as packed:
        parts = {name: packed.read(name) for name in packed.namelist()}
    assert b"A9:B9" in parts["xl/worksheets/sheet1.xml"]
    parts["xl/worksheets/sheet1.xml"] = parts["xl/worksheets/sheet1.xml"].replace(b"A9:B9", b"A9:XFD1048576")
    with zipfile.ZipFile(file, "w") as packed:
        for name, content in parts.items():
            packed.writestr(name, content)
    with pytest.raises(InputError, match="merged cells") as caught:
        import_pack(file, "fmea", COLUMNS["fmea"], "en", "a test")
    refused(caught.value, "pack-import-file")


def test_a_sheet_that_unpacks_to_gigabytes_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    file = tmp_path / "facts.xlsx"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed, packed.open("xl/worksheets/a.xml", "w") as part:
        for _ in range(257):
            part.write(bytes(1 << 20))
    with pytest.raises(InputError, match="larger than 256 MiB") as caught:
        import_pack(file, "fmea", COLUMNS["fmea"], "en", "a test")
    refused(caught.value, "pack-import-file")


def test_prompts_may_hold_what_other_programs_take_for_the_end_of_a_line(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "One\u2028of France is", "subject": "France"}\n', encoding="utf-8-sig")
    assert [each.subject for each in prompts_from(file)] == ["France"]
