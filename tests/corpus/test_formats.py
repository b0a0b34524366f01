"""PubMed XML, MEDLINE text, JSON documents, Hugging Face datasets; and gzips that are damaged in the middle."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
import zlib
from pathlib import Path

import pyarrow
import pyarrow.ipc
import pytest

from patchlight.corpus.files import files_of, read_documents, read_records
from patchlight.errors import InputError
from patchlight.records import Document
from tests.corpus.entrez_server import article

MEDLINE = """\

PMID- 11
OWN - NLM
TI  - A title that goes on
      in a second line.
AB  - AIM: To see. RESULTS: We saw
      seizures.
AD  - Somewhere.

PMID- 12
TI  - Without an abstract.

"""
BOOK = """<PubmedBookArticle><BookDocument><PMID>13</PMID><ArticleTitle>Epilepsy</ArticleTitle>
<Abstract><AbstractText>A chapter.</AbstractText></Abstract></BookDocument></PubmedBookArticle>"""


def xml(*articles: str) -> str:
    return f"<?xml version='1.0'?>\n<PubmedArticleSet>\n{''.join(articles)}\n</PubmedArticleSet>"


def save_dataset(folder: Path, rows: list[dict[str, object]], **state: object) -> Path:
    """A folder as `datasets.Dataset.save_to_disk` lays it out, in two data files."""
    folder.mkdir(parents=True)
    names = []
    for index, part in enumerate((rows[:2], rows[2:])):
        table = pyarrow.Table.from_pylist(part)
        names.append(f"data-0000{index}-of-00002.arrow")
        with pyarrow.ipc.new_stream(folder / names[-1], table.schema) as stream:
            stream.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None, **state}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_pubmed_xml_gives_titles_sections_and_books(tmp_path: Path) -> None:
    path = tmp_path / "pubmed26n0001.xml.gz"
    path.write_bytes(gzip.compress(xml(article("7", "α < β"), BOOK).encode()))
    assert list(read_documents([path])) == [
        Document("7", "AIM: α < β\nEND: 105.", "Title of 7", "PubMed"),
        Document("13", "A chapter.", "Epilepsy", "PubMed"),
    ]


@pytest.mark.parametrize("name", ["export.nbib", "pubmed-epilepsy-set.txt"])
def test_medline_text_is_known_by_its_first_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(MEDLINE)
    with_abstract = Document(
        "11", "AIM: To see. RESULTS: We saw seizures.", "A title that goes on in a second line.", "PubMed"
    )
    assert list(read_documents([path])) == [with_abstract]
    assert list(read_records(path)) == [with_abstract, Document("12", "", "Without an abstract.", "PubMed")]


def test_json_holds_a_list_of_rows_or_rows_by_their_ids(tmp_path: Path) -> None:
    """As PubMedQA does; a list of texts, such as the sections of an abstract, is one text."""
    listed, keyed = tmp_path / "rows.json", tmp_path / "rows.json.gz"
    listed.write_text(json.dumps([{"pmid": 5, "BODY": "one"}, {"BODY": ["a", "b"]}]))
    keyed.write_bytes(gzip.compress(json.dumps({"21645374": {"BODY": ["a", "b"]}}).encode()))
    assert [(d.id, d.text) for d in read_documents([listed], text_field="BODY")] == [
        ("5", "one"),
        ("rows.json:2", "a\nb"),
    ]
    assert [(d.id, d.text) for d in read_documents([keyed], text_field="BODY")] == [("21645374", "a\nb")]
    with pytest.raises(InputError, match="no field 'text'; its fields: 'id', 'BODY'"):
        list(read_documents([keyed]))


def test_a_hugging_face_dataset_is_read_from_disk(tmp_path: Path) -> None:
    rows = [{"id": str(n), "text": f"text {n}", "label": n} for n in range(5)]
    one = save_dataset(tmp_path / "one", rows)
    assert [(d.id, d.text) for d in read_documents([one])] == [(str(n), f"text {n}") for n in range(5)]
    save_dataset(tmp_path / "both" / "train", rows)
    save_dataset(tmp_path / "both" / "test", rows[:3])
    (tmp_path / "both" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert len(list(read_documents([tmp_path / "both"]))) == 8


def test_a_dataset_that_is_not_whole_is_refused_with_its_place(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}"} for n in range(5)]
    chosen = save_dataset(tmp_path / "chosen", rows, _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(InputError, match="flatten_indices"):
        list(read_documents([chosen]))
    outside = save_dataset(tmp_path / "outside", rows, _data_files=[{"filename": "../../secret.arrow"}])
    with pytest.raises(InputError, match="corpus-dataset"):
        list(read_documents([outside]))
    lost = save_dataset(tmp_path / "lost", rows)
    (lost / "data-00001-of-00002.arrow").unlink()
    documents = read_documents([lost])
    assert [next(documents).text for _ in range(2)] == ["text 0", "text 1"]
    with pytest.raises(InputError, match="corpus-dataset") as refused:
        next(documents)
    assert str(refused.value.where) == f"{lost}/data-00001-of-00002.arrow:1"


def test_a_folder_is_read_file_after_file(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("plain")
    (tmp_path / "a.xml").write_text(xml(article("7")))
    (tmp_path / "a.xml.md5").write_text("not read")
    assert [document.id for document in read_documents([tmp_path])] == ["7", "b"]
    assert files_of(tmp_path) == [tmp_path / "a.xml", tmp_path / "b.txt"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("<html><body>busy</body></html>", "outermost element is <html>"),
        (
            xml(article("7"), "<PubmedArticle><MedlineCitation/></PubmedArticle>"),
            "after record 1: a record has no PMID",
        ),
        (xml(article("7"), article("8"))[:-60], "after record 1: "),
        ("<?xml version='1.0' encoding='no-such'?><a/>", "unknown encoding"),
        (
            xml(article("7")).replace("</PubmedArticleSet>", "&nosuch;</PubmedArticleSet>"),
            "after record 1: undefined entity",
        ),
    ],
)
def test_what_is_not_pubmed_xml_is_named(tmp_path: Path, content: str, what: str) -> None:
    path = tmp_path / "bad.xml"
    path.write_text(content)
    with pytest.raises(InputError, match="corpus-xml") as refused:
        list(read_documents([path]))
    assert what in refused.value.what


def test_a_line_that_is_not_medlines_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.nbib"
    path.write_text(MEDLINE + "PMID- 14\nnonsense\n")
    with pytest.raises(InputError, match="corpus-medline") as refused:
        list(read_documents([path]))
    assert str(refused.value.where) == f"{path}:14"


@pytest.mark.parametrize("ending", [".jsonl.gz", ".xml.gz", ".json.gz"])
def test_a_gzip_damaged_in_the_middle_gives_all_records_before_and_says_where(tmp_path: Path, ending: str) -> None:
    """Every record that can be inflated is delivered: gzip's own reader would lose what it holds in its buffer."""
    words = random.Random(3)
    texts = [f"{n} " + " ".join(f"{words.random():.9f}" for _ in range(30)) for n in range(400)]
    if ending == ".xml.gz":
        whole = xml(*(article(str(n + 1), text) for n, text in enumerate(texts))).encode()
    else:
        whole = "\n".join(json.dumps({"text": text}) for text in texts).encode()
    packed = bytearray(gzip.compress(whole, mtime=0))
    cut = len(packed) // 2
    path = tmp_path / f"rows{ending}"
    path.write_bytes(packed[:cut])
    inflater = zlib.decompressobj(31)  # the oracle: what can be inflated, byte by byte
    there = b"".join(inflater.decompress(bytes([byte])) for byte in packed[:cut])
    kept: list[Document] = []
    with pytest.raises(InputError, match="corpus-gzip-damaged") as refused:
        for document in read_documents([path]):
            kept.append(document)
    if ending == ".json.gz":
        assert kept == []  # one JSON document is nothing until it is whole
        return
    mark = b"</PubmedArticle>" if ending == ".xml.gz" else b"\n"
    assert len(kept) == there.count(mark) > 100
    counted = "record" if ending == ".xml.gz" else "line"
    assert f"after {counted} {len(kept)}, byte {len(there)} of its content" in refused.value.what


def test_a_large_baseline_file_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """60 MB of XML: the process that reads it stays within 40 MB of what it took before."""
    path = tmp_path / "pubmed26n0002.xml.gz"
    with gzip.open(path, "wt", compresslevel=1) as stream:
        stream.write("<PubmedArticleSet>")
        for n in range(12_000):
            stream.write(article(str(n + 1), "seizure " * 600))
        stream.write("</PubmedArticleSet>")
    program = (
        "import resource, sys; from pathlib import Path; from patchlight.corpus.files import read_documents\n"
        "used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = used(); n = sum(1 for _ in read_documents([Path(sys.argv[1])])); print(n, used() - before)"
    )
    told = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    records, grown = map(int, told.stdout.split())
    assert records == 12_000
    assert grown < 40_000  # KiB
