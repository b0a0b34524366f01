"""Malformed files of every format: documents, or an error with a code and a place; never anything else."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchlight.corpus.files import read_documents
from patchlight.errors import InputError
from tests.corpus.entrez_server import article
from tests.corpus.test_formats import MEDLINE, save_dataset, xml

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
PIECES = st.one_of(
    st.binary(max_size=30),
    st.sampled_from(
        [b"\x00", b"\xff\xfe", b"\n", b'"', b"{", b"[" * 3000, b"<a>", b"&x;", b"]]>", b"PMID- ", b"\r", b","]
    ),
    st.sampled_from(
        [
            b'{"text": "\\ud800"}\n',
            b'{"text": 1e999}\n',
            b'{"text":' + b"9" * 5000 + b"}\n",
            b"<!DOCTYPE a [",
            b"\x1f\x8b",
        ]
    ),
)
EDITS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.4), PIECES), min_size=1, max_size=4)


def spoilt(whole: bytes, edits: list[tuple[float, float, bytes]]) -> bytes:
    """Parts of the file cut out, and other bytes put in their place."""
    for at, length, piece in edits:
        start = int(at * len(whole))
        whole = whole[:start] + piece + whole[start + int(length * len(whole)) :]
    return whole


def check(path: Path) -> None:
    try:
        documents = list(read_documents([path]))
    except InputError as error:
        assert error.code.startswith(("corpus-", "pubmed-"))
        assert str(error.where).startswith(str(path))
        assert error.what
        str(error).encode()  # can be printed
    else:
        assert all(document.text.strip() and document.id for document in documents)


def try_spoilt(name: str, folder: Path, examples: int) -> None:
    folder.mkdir(exist_ok=True)
    whole = WHOLE[name](folder)
    target = folder / name
    if target.parent.name == "set":
        save_dataset(target.parent, list(ROWS))
    target.parent.mkdir(exist_ok=True)
    if target.parent.name == "made":
        (target.parent / "card.json").write_text("{}")
    read = target if target.parent == folder else target.parent

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(EDITS.map(lambda edits: spoilt(whole, edits)), st.binary(max_size=200)))
    def spoil(content: bytes) -> None:
        target.write_bytes(content)
        check(read)

    spoil()


@pytest.mark.parametrize("name", WHOLE)
def test_a_malformed_file_gives_documents_or_an_error_with_its_place(name: str, tmp_path: Path) -> None:
    """150 of each format, 2,100 in all; with `--hypothesis-profile=thorough` 2,000 of each."""
    try_spoilt(name, tmp_path, max(150, settings.default.max_examples))
