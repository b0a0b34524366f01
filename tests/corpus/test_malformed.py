"""Malformed files of every format: documents, or an error with a code and a place; never anything else."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given

from patchlight.corpus.files import read_documents
from patchlight.errors import InputError
from tests.corpus.entrez_server import article
from tests.corpus.test_formats import MEDLINE, save_dataset, xml
from tests.malformed.spoiling import as_json, bad_bytes, bad_paths, bad_values, examples, refused

ROWS = [{"pmid": n, "title": "Tïtle", "text": f'Seizure {n}, "quoted".', "source": "s"} for n in range(3)]
LINES = "\n".join(json.dumps(row) for row in ROWS).encode()
XML = xml(article("7"), article("8")).encode()
CSV = b'pmid,title,text\r\n1,a,"b, ""c"""\r\n2,d,e\r\n'


def _parquet(folder: Path) -> bytes:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "whole")
    return (folder / "whole").read_bytes()


def _arrow(folder: Path) -> bytes:
    return (save_dataset(folder / "whole", list(ROWS)) / "data-00000-of-00002.arrow").read_bytes()


WHOLE: dict[str, Callable[[Path], bytes]] = {
    "rows.jsonl": lambda _: LINES,
    "rows.jsonl.gz": lambda _: gzip.compress(LINES, mtime=0),
    "rows.json": lambda _: json.dumps(ROWS).encode(),
    "rows.json.gz": lambda _: gzip.compress(json.dumps({"7": ROWS[0]}).encode(), mtime=0),
    "rows.csv": lambda _: CSV,
    "rows.xml": lambda _: XML,
    "rows.xml.gz": lambda _: gzip.compress(XML, mtime=0),
    "rows.nbib": lambda _: MEDLINE.encode(),
    "rows.txt": lambda _: MEDLINE.encode(),
    "rows.parquet": _parquet,
    "set/data-00000-of-00002.arrow": _arrow,
    "set/state.json": lambda folder: (save_dataset(folder / "other", list(ROWS)) / "state.json").read_bytes(),
    "fetched/search.json": lambda _: b'{"format": "patchlight-pubmed/1", "pmids": ["1"], "slices": []}',
    "made/documents.parquet": _parquet,
}


def check(path: Path) -> None:
    try:
        documents = list(read_documents([path]))
    except InputError as error:
        refused(error, "corpus-", "pubmed-")
        assert str(error.where).startswith(str(path))
    else:
        assert all(document.text.strip() and document.id for document in documents)


def try_spoilt(name: str, folder: Path, count: int) -> None:
    folder.mkdir(exist_ok=True)
    whole = WHOLE[name](folder)
    target = folder / name
    if target.parent.name == "set":
        save_dataset(target.parent, list(ROWS))
    target.parent.mkdir(exist_ok=True)
    if target.parent.name == "made":
        (target.parent / "card.json").write_text("{}")
    read = target if target.parent == folder else target.parent

    @examples(count)
    @given(bad_bytes(whole))
    def spoil(content: bytes) -> None:
        target.write_bytes(content)
        check(read)

    spoil()


@pytest.mark.parametrize("name", WHOLE)
def test_a_malformed_file_gives_documents_or_an_error_with_its_place(name: str, tmp_path: Path) -> None:
    """150 of each format, 2,100 in all; with `--hypothesis-profile=thorough` 2,000 of each."""
    try_spoilt(name, tmp_path, 150)


def test_odd_values_in_rows(tmp_path: Path) -> None:
    lines, listed = tmp_path / "rows.jsonl", tmp_path / "rows.json"

    @examples(150)
    @given(bad_values(ROWS))
    def spoil(rows: list[object]) -> None:
        lines.write_bytes(b"\n".join(map(as_json, rows)))
        listed.write_bytes(as_json(rows))
        check(lines)
        check(listed)

    spoil()


@pytest.mark.parametrize("what", ["missing", "folder", "loop", "unread", "empty", "long", "under"])
@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".parquet", ".xml.gz", ".nbib", ".txt"])
def test_what_is_no_file_gives_no_document(tmp_path: Path, ending: str, what: str) -> None:
    path = bad_paths(tmp_path, ending)[what]
    try:
        assert list(read_documents([path])) == []
    except InputError as error:
        refused(error, "corpus-")
        assert str(error.where).startswith(str(path))
