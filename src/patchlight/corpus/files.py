"""Documents from files: JSON Lines (also gzipped), CSV, Parquet, plain text, and folders of plain text."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from patchlight.errors import InputError, Place
from patchlight.records import Document

csv.field_size_limit(2**27)  # whole articles in one cell; the standard limit is 128 KiB


def read_documents(paths: Sequence[Path], *, limit: int | None = None) -> Iterator[Document]:
    """The documents of `paths` in their order, at most `limit` of them.

    A row needs `text`; `title`, `source` and an id (`pmid` or `id`) are taken where they are. Without an id, a
    document is called after its place, such as `notes.csv:3`. Rows are yielded as they are read, so all that
    stands before a damaged place is delivered before the error.
    Raises InputError with file and line (and column, in JSON) for what cannot be read.
    """
    return itertools.islice(itertools.chain.from_iterable(map(_read, paths)), limit)


def _read(path: Path) -> Iterator[Document]:
    if path.is_dir():
        texts = sorted(path.glob("*.txt"))
        if not texts:
            raise InputError("corpus-empty-folder", "the folder holds no .txt file", where=Place(path))
        return itertools.chain.from_iterable(map(_text, texts))
    if not path.is_file():
        raise InputError("corpus-not-found", "there is no such file", where=Place(path), fix="check the path")
    for ending, reader in _READERS.items():
        if path.name.lower().endswith(ending):
            return reader(path)
    raise InputError(
        "corpus-unknown-format",
        "the ending of this file is not one that can be read",
        where=Place(path),
        fix=f"use {', '.join(_READERS)}, or a folder of .txt files",
    )


def _text(path: Path) -> Iterator[Document]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _not_unicode(Place(path)) from error
    if not text.strip():
        raise InputError("corpus-no-text", "the file is empty", where=Place(path), fix="remove it, or fill it")
    yield Document(id=path.stem, text=text, source=path.name)


def _json_lines(path: Path) -> Iterator[Document]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                "corpus-json",
                f"this is not JSON: {error.msg}",
                where=Place(path, number, error.colno),
                fix="one JSON object a line",
            ) from error
        except RecursionError as error:
            raise InputError("corpus-json", "the line is nested too deeply", where=Place(path, number)) from error
        if not isinstance(row, dict):
            raise InputError(
                "corpus-json",
                "a line must be a JSON object",
                where=Place(path, number, 1),
                fix='write {"text": "..."}',
            )
        yield _document(row, Place(path, number))


def _lines(path: Path) -> Iterator[str]:
    """The lines of a text file, gzipped or not. What precedes a damaged place is given before the error."""
    number = 0
    with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as opened:
        try:
            for number, raw in enumerate(opened, start=1):
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(
                "corpus-gzip-damaged",
                f"the compressed file is damaged after line {number}: {error}",
                where=Place(path, number + 1),
                fix="download it again; the lines before were read",
            ) from error
        except UnicodeDecodeError as error:
            raise _not_unicode(Place(path, number)) from error


def _csv(path: Path) -> Iterator[Document]:
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
            yield _document(row, place)
    except csv.Error as error:
        raise InputError("corpus-csv", f"this is not CSV: {error}", where=Place(path, reader.line_num)) from error


def _parquet(path: Path) -> Iterator[Document]:
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as opened:
            wanted = [name for name in opened.schema_arrow.names if name in _FIELDS]
            batches = opened.iter_batches(columns=wanted)
            rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
            for number, row in enumerate(rows, start=1):
                yield _document(row, Place(path, number))
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(
            "corpus-parquet-damaged",
            f"the Parquet file cannot be read after row {number}: {error}",
            where=Place(path, number + 1),
            fix="download it again; the rows before were read",
        ) from error


_FIELDS = ("text", "title", "source", "pmid", "id")
_READERS: dict[str, Callable[[Path], Iterator[Document]]] = {
    ".jsonl": _json_lines,
    ".jsonl.gz": _json_lines,
    ".csv": _csv,
    ".parquet": _parquet,
    ".txt": _text,
}


def _document(row: Mapping[str, Any], place: Place) -> Document:
    text = row.get("text")
    if isinstance(text, str) and not _is_unicode(text):
        raise _not_unicode(place)
    if not isinstance(text, str) or not text.strip():
        what = "the row has no field 'text'" if text is None else "the field 'text' is not text, or is empty"
        raise InputError("corpus-no-text", what, where=place, fix="give every row a text, or remove the row")
    return Document(
        id=str(row.get("pmid") or row.get("id") or f"{place.file.name}:{place.line}"),
        text=text,
        title=str(row.get("title") or ""),
        source=str(row.get("source") or place.file.name),
    )


def _is_unicode(text: str) -> bool:
    # JSON can spell half of a surrogate pair, which no file and no tokenizer takes.
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _not_unicode(place: Place) -> InputError:
    return InputError("corpus-not-unicode", "this is not Unicode text", where=place, fix="save the file as UTF-8")
