"""Documents from files and folders, whatever their format: tables, JSON, plain text, PubMed, datasets."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from patchlight.corpus.datasets import dataset, is_dataset
from patchlight.corpus.fetched import fetched, is_fetched
from patchlight.corpus.medline import is_medline, medline_text, pubmed_xml
from patchlight.corpus.rows import Reading, document, not_unicode
from patchlight.corpus.streams import Damage, damaged, lines
from patchlight.errors import InputError, Place
from patchlight.on_disk import is_file, is_folder
from patchlight.records import Document

csv.field_size_limit(2**27)  # whole articles in one cell; the standard limit is 128 KiB

PREPARED = "card.json", "documents.parquet"  # of a folder that `patchlight corpus prepare` wrote


def read_documents(paths: Sequence[Path], *, limit: int | None = None, text_field: str = "text") -> Iterator[Document]:
    """The documents of `paths` in their order, at most `limit` of them.

    A row needs `text` (or `text_field`); `title`, `source` and an id (`pmid` or `id`) are taken where they
    are. Without an id, a document is called after its place, such as `notes.csv:3`. PubMed's records without
    abstract are left out. Rows are yielded as they are read, so all that stands before a damaged place is
    delivered before the error. Raises InputError with file and line (and column, in JSON) for what cannot be read.
    """
    reading = Reading(text_field)
    found = (kept for path in paths for kept in _read(path, reading) if kept.text.strip())
    return itertools.islice(found, limit)


def read_records(path: Path, *, text_field: str = "text") -> Iterator[Document]:
    """The documents of one file or folder as `read_documents` has them, and those whose text is empty."""
    return _read(path, Reading(text_field, empty=True))


def files_of(path: Path) -> list[Path]:
    """What is read for a path, in its order: the files of a plain folder, else the path itself.

    Raises InputError `corpus-empty-folder`.
    """
    if not is_folder(path) or is_file(path / PREPARED[0]) or is_fetched(path) or is_dataset(path):
        return [path]
    files = sorted(file for file in path.iterdir() if file.is_file() and _reader(file))
    if not files:
        what = "the folder holds no file that can be read"
        raise InputError("corpus-empty-folder", what, where=Place(path), fix=f"put {', '.join(_READERS)} into it")
    return files


def _read(path: Path, reading: Reading) -> Iterator[Document]:
    if is_folder(path):
        return _folder(path, reading)
    if not is_file(path):
        raise InputError("corpus-not-found", "there is no such file", where=Place(path), fix="check the path")
    reader = _reader(path)
    if reader is not None:
        return _told(path, reader(path, reading))
    raise InputError(
        "corpus-unknown-format",
        "the ending of this file is not one that can be read",
        where=Place(path),
        fix=f"use {', '.join(_READERS)}, or a folder of such files",
    )


def _told(path: Path, documents: Iterator[Document]) -> Iterator[Document]:
    """The same documents; a file that the machine fails to read is an error with its place."""
    try:
        yield from documents
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> InputError:
    """The error for a file that the machine fails to read, for the caller to raise."""
    what, fix = f"the file cannot be read: {error.strerror or error}", "check its permissions and the disk"
    return InputError("corpus-unreadable", what, where=Place(path), fix=fix)


def _folder(folder: Path, reading: Reading) -> Iterator[Document]:
    card, documents = PREPARED
    if (folder / card).is_file():
        return _read(folder / documents, Reading(part=True))
    if is_fetched(folder):
        return fetched(folder)
    if is_dataset(folder):
        return dataset(folder, reading)
    return itertools.chain.from_iterable(_read(path, reading) for path in files_of(folder))


def _text(path: Path, _: Reading) -> Iterator[Document]:
    if is_medline(path):
        yield from medline_text(path)
        return
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_unicode(Place(path)) from error
    if not text.strip():
        raise InputError("corpus-no-text", "the file is empty", where=Place(path), fix="remove it, or fill it")
    yield Document(id=path.stem, text=text, source=path.name)


def _json_lines(path: Path, reading: Reading) -> Iterator[Document]:
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            place = Place(path, number)
            yield document(_row(_json(line, place), Place(path, number, 1)), place, reading)


def _json_file(path: Path, reading: Reading) -> Iterator[Document]:
    """A list of rows, or rows by their ids, in one JSON document; it is held in memory as a whole."""
    place = Place(path)
    content = _json("".join(_lines(path)), place)
    entries = content.items() if isinstance(content, dict) else ((None, row) for row in _list(content, place))
    for number, (key, row) in enumerate(entries, start=1):
        yield document({"id": key or f"{path.name}:{number}", **_row(row, place)}, place, reading)


def _json(text: str, place: Place) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = Place(place.file, place.line or error.lineno, error.colno)
        what, fix = f"this is not JSON: {error.msg}", "one JSON object a line"
        raise InputError("corpus-json", what, where=where, fix=fix if place.line else "") from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of too many digits
        what = "this is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError("corpus-json", what, where=place) from error


def _row(row: Any, place: Place) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise InputError("corpus-json", "a row must be a JSON object", where=place, fix='write {"text": "..."}')
    return row


def _list(content: Any, place: Place) -> list[Any]:
    if not isinstance(content, list):
        raise InputError("corpus-json", "the file must hold a list of rows, or rows by their ids", where=place)
    return content


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file, gzipped or not. What precedes a damaged place is given before the error."""
    number = 0
    try:
        for number, raw in enumerate(lines(path), start=1):
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except Damage as damage:
        raise damaged(path, damage, line=number) from damage
    except UnicodeDecodeError as error:
        raise not_unicode(Place(path, number)) from error


def _csv(path: Path, reading: Reading) -> Iterator[Document]:
    reader = csv.DictReader(_lines(path), strict=True)
    try:
        for row in reader:
            place = Place(path, reader.line_num)
            if None in row or None in row.values():
                raise InputError(
                    "corpus-csv",
                    f"this row does not have {len(reader.fieldnames or ())} fields",
                    where=place,
                    fix="quote a field that holds a comma",
                )
            yield document(row, place, reading)
    except csv.Error as error:
        raise InputError("corpus-csv", f"this is not CSV: {error}", where=Place(path, reader.line_num)) from error


def _parquet(path: Path, reading: Reading) -> Iterator[Document]:
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as opened:
            wanted = [name for name in opened.schema_arrow.names if name in reading.fields]
            batches = opened.iter_batches(1024, columns=wanted)
            rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
            for number, row in enumerate(rows, start=1):
                yield document(row, Place(path, number), reading)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(
            "corpus-parquet-damaged",
            f"the Parquet file cannot be read after row {number}: {str(error)[:300]}",
            where=Place(path, number + 1),
            fix="download it again; the rows before were read",
        ) from error


_READERS: dict[str, Callable[[Path, Reading], Iterator[Document]]] = {
    ".jsonl": _json_lines,
    ".jsonl.gz": _json_lines,
    ".json": _json_file,
    ".json.gz": _json_file,
    ".csv": _csv,
    ".parquet": _parquet,
    ".xml": lambda path, _: pubmed_xml(path),
    ".xml.gz": lambda path, _: pubmed_xml(path),
    ".nbib": lambda path, _: medline_text(path),
    ".txt": _text,
}


def _reader(path: Path) -> Callable[[Path, Reading], Iterator[Document]] | None:
    name = path.name.lower()
    return next((reader for ending, reader in _READERS.items() if name.endswith(ending)), None)
