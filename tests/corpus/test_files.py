"""Reading documents: every format gives the same records, and damage is named with its place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchlight.corpus.files import read_documents
from patchlight.errors import InputError
from patchlight.records import Document

ROWS = [
    {"pmid": 12, "title": "Seizures", "text": "A seizure, in short.\nTwo lines.", "source": "s1", "kind": "abstract"},
    {"pmid": None, "title": None, "text": "てんかん", "source": "s2", "kind": "abstract"},
]
SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "pubmed_epilepsy.jsonl.gz"


def write_jsonl(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def refusal(path: Path) -> InputError:
    with pytest.raises(InputError) as refused:
        list(read_documents([path]))
    return refused.value


def test_every_format_gives_the_same_documents(tmp_path: Path) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    plain = write_jsonl(tmp_path / "rows.jsonl", lines)
    zipped = tmp_path / "rows.jsonl.gz"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    table = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), table)
    comma = tmp_path / "rows.csv"
    comma.write_text(
        'pmid,title,text,source\n12,Seizures,"A seizure, in short.\nTwo lines.",s1\n,,てんかん,s2\n', encoding="utf-8"
    )
    first = Document(id="12", title="Seizures", text="A seizure, in short.\nTwo lines.", source="s1")
    for path, unnamed in ((plain, 2), (zipped, 2), (table, 2), (comma, 4)):
        second = Document(id=f"{path.name}:{unnamed}", text="てんかん", source="s2")
        assert list(read_documents([path])) == [first, second]


def test_a_folder_gives_one_document_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "ignored.md").write_text("not read")
    assert [(d.id, d.text, d.source) for d in read_documents([tmp_path])] == [
        ("a", "first", "a.txt"),
        ("b", "second", "b.txt"),
    ]
    assert list(read_documents([tmp_path / "a.txt", tmp_path])) == [
        *read_documents([tmp_path / "a.txt"]),
        *read_documents([tmp_path]),
    ]


def test_the_limit_stops_before_what_follows_is_read(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", ['{"text": "one"}', "damaged"])
    assert [d.text for d in read_documents([path], limit=1)] == ["one"]


@pytest.mark.parametrize(
    ("line", "code", "place"),
    [
        ('{"text": "a",}', "corpus-json", "rows.jsonl:2:14"),
        ('["text"]', "corpus-json", "rows.jsonl:2:1"),
        ('{"title": "a"}', "corpus-no-text", "rows.jsonl:2"),
        ('{"text": "  "}', "corpus-no-text", "rows.jsonl:2"),
        ('{"text": 7}', "corpus-no-text", "rows.jsonl:2"),
        ('{"text": "\\ud800"}', "corpus-not-unicode", "rows.jsonl:2"),
        ("[" * 100_000, "corpus-json", "rows.jsonl:2"),
    ],
)
def test_a_malformed_line_is_named_with_its_place(tmp_path: Path, line: str, code: str, place: str) -> None:
    error = refusal(write_jsonl(tmp_path / "rows.jsonl", ['{"text": "fine"}', line]))
    assert (error.code, str(error.where)) == (code, str(tmp_path / place))


def test_what_precedes_the_break_of_a_gzip_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    lines = [json.dumps({"text": f"document {i} " + "x" * (i % 97)}) for i in range(3000)]
    whole = gzip.compress("\n".join(lines).encode(), mtime=0)
    kept: list[str] = []

    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError) as refused:
        for document in read_documents([path]):
            kept.append(document.text)
    assert len(kept) > 100
    assert kept == [json.loads(line)["text"] for line in lines[: len(kept)]]
    assert (refused.value.code, str(refused.value.where)) == ("corpus-gzip-damaged", f"{path}:{len(kept) + 1}")


def test_changed_bits_in_a_gzip_never_change_a_text_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    texts = [f"document {number}" for number in range(40)]
    whole = gzip.compress("\n".join(json.dumps({"text": text}) for text in texts).encode(), mtime=0)
    noticed = 0
    for at in range(10, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            assert [document.text for document in read_documents([path])] == texts
        except InputError:
            noticed += 1
    assert noticed > len(whole) - 20  # a few bits, of padding, mean nothing


def test_a_csv_row_with_too_few_or_too_many_fields_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    for row in ("2", "2,b,c"):
        path.write_text(f"id,text\n1,a\n{row}\n")
        error = refusal(path)
        assert (error.code, str(error.where)) == ("corpus-csv", f"{path}:3")
    path.write_text('id,text\n1,"never closed\n')
    assert refusal(path).code == "corpus-csv"


def test_other_files_are_refused_with_a_reason(tmp_path: Path) -> None:
    broken, unknown, latin = tmp_path / "broken.parquet", tmp_path / "rows.docx", tmp_path / "latin.txt"
    broken.write_bytes(b"PAR1 not really")
    unknown.write_bytes(b"")
    latin.write_bytes("épilepsie".encode("latin-1"))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert refusal(broken).code == "corpus-parquet-damaged"
    assert refusal(unknown).code == "corpus-unknown-format"
    assert refusal(latin).code == "corpus-not-unicode"
    assert refusal(empty).code == "corpus-empty-folder"
    assert refusal(tmp_path / "absent.jsonl").code == "corpus-not-found"


@given(st.binary(max_size=200), st.sampled_from([".jsonl", ".jsonl.gz", ".csv", ".parquet", ".txt"]))
def test_any_bytes_give_documents_or_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, ending: str
) -> None:
    path = tmp_path_factory.mktemp("any") / f"rows{ending}"
    path.write_bytes(data)
    try:
        documents = list(read_documents([path]))
    except InputError as error:
        assert error.code.startswith("corpus-") and str(error.where).startswith(str(path))
    else:
        assert all(document.text.strip() for document in documents)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="the real abstracts are not beside this checkout")
def test_the_real_abstracts_are_read() -> None:
    documents = list(read_documents([SHARED]))
    assert len(documents) == 3158
    assert len({document.id for document in documents}) == 3158
    assert sum("seizure" in document.text.lower() for document in documents) > 1000
