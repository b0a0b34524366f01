"""Hugging Face datasets as `save_to_disk` writes them, read batch by batch without the datasets library."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import pyarrow
import pyarrow.ipc

from patchlight.corpus.rows import Reading, document
from patchlight.errors import InputError, Place
from patchlight.on_disk import is_file
from patchlight.records import Document

STATE, SPLITS = "state.json", "dataset_dict.json"


def is_dataset(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk`, of one dataset or of several splits."""
    return is_file(folder / STATE) or is_file(folder / SPLITS)


def dataset(folder: Path, reading: Reading) -> Iterator[Document]:
    """The documents of a dataset on disk, split after split in the order that it names.

    Raises InputError `corpus-dataset` for a folder that is not whole, with the file and row of a damaged batch.
    """
    if (folder / STATE).is_file():
        yield from _one(folder, reading)
        return
    for split in _names(folder / SPLITS, "splits"):
        yield from _one(folder / split, reading)


def _one(folder: Path, reading: Reading) -> Iterator[Document]:
    if _json(folder / STATE).get("_indices_data_files"):
        what, fix = "the rows are chosen or shuffled by an index", "call flatten_indices() before save_to_disk()"
        raise InputError("corpus-dataset", what, where=Place(folder / STATE), fix=fix)
    for name in _names(folder / STATE, "_data_files"):
        yield from _arrow(folder / name, reading)


def _arrow(path: Path, reading: Reading) -> Iterator[Document]:
    number = 0
    try:
        with pyarrow.memory_map(str(path)) as mapped, pyarrow.ipc.open_stream(mapped) as stream:
            for batch in stream:
                batch.validate(full=True)
                wanted = [name for name in batch.schema.names if name in reading.fields]
                for row in batch.select(wanted).to_pylist():
                    number += 1
                    yield document(row, Place(path, number), reading)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        what = f"the data file cannot be read after row {number}: {str(error)[:300]}"
        fix = "copy the dataset again; the rows before were read"
        raise InputError("corpus-dataset", what, where=Place(path, number + 1), fix=fix) from error


def _names(path: Path, key: str) -> list[str]:
    """The names of files or folders under a key; each must lie in the dataset's own folder."""
    entries = _json(path).get(key)
    names = [entry.get("filename") if isinstance(entry, dict) else entry for entry in entries or ()]
    if not names or not all(isinstance(name, str) and PurePath(name).name == name for name in names):
        raise InputError("corpus-dataset", f"'{key}' does not name files of this folder", where=Place(path))
    return [str(name) for name in names]


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        what = f"this part of the dataset cannot be read: {error}"
        raise InputError("corpus-dataset", what, where=Place(path), fix="copy the dataset again") from error
    if not isinstance(content, dict):
        raise InputError("corpus-dataset", "this must be a JSON object", where=Place(path))
    return content
