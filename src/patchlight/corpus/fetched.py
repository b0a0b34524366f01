"""A folder of records fetched from PubMed: how it is laid out, and its documents.

    search.json            query, PMIDs, the slices in which they were found; written when the search is whole
    raw/000001.json        a batch: its PMIDs, those the server no longer had, its files with their SHA-256
    raw/000001-1.xml.gz    records as the server sent them (a second file holds what the first reply left out)

A batch is done when its JSON file is there and the digests hold, so fetching may be killed at any moment.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from patchlight.corpus.medline import pubmed_xml
from patchlight.corpus.written import write_whole
from patchlight.errors import InputError, Place
from patchlight.on_disk import is_file
from patchlight.records import Document
from patchlight.store.digests import file_digest

SEARCH, RAW = "search.json", "raw"
FORMAT = "patchlight-pubmed/1"
AGAIN = "run `patchlight corpus pubmed` again with the same query and folder: only what is missing is fetched"


@dataclass(frozen=True)
class Batch:
    """What was fetched: the PMIDs asked for, those that the server no longer had, and digests by file name."""

    pmids: tuple[str, ...]
    missing: tuple[str, ...]
    files: dict[str, str]


def write_batch(folder: Path, number: int, pmids: Sequence[str], missing: Sequence[str], replies: list[bytes]) -> None:
    """The batch is on disk, its JSON file last."""
    files = {}
    for index, reply in enumerate(replies, start=1):
        name, content = f"{number:06d}-{index}.xml.gz", gzip.compress(reply, mtime=0)
        write_whole(folder / RAW / name, content)
        files[name] = hashlib.sha256(content).hexdigest()
    batch = Batch(tuple(pmids), tuple(missing), files)
    write_whole(folder / RAW / f"{number:06d}.json", json.dumps(asdict(batch)).encode())


def batch(folder: Path, number: int) -> Batch | None:
    """A batch that is done and undamaged, else None."""
    try:
        row = json.loads((folder / RAW / f"{number:06d}.json").read_bytes())
        found = Batch(tuple(row["pmids"]), tuple(row["missing"]), dict(row["files"]))
        intact = all(file_digest(folder / RAW / name) == digest for name, digest in found.files.items())
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return found if intact else None


def is_fetched(folder: Path) -> bool:
    """Whether a folder holds a search of PubMed."""
    return is_file(folder / SEARCH)


def read_search(folder: Path) -> dict[str, Any]:
    """What `search.json` says. Raises InputError `pubmed-search-damaged`."""
    file = folder / SEARCH
    try:
        plan = json.loads(file.read_bytes())
        if plan["format"] == FORMAT and isinstance(plan["pmids"], list) and isinstance(plan["slices"], list):
            return dict(plan)
        reason = f"its format is not {FORMAT}"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = str(error)
    fix = "move the folder away and fetch again"
    raise InputError("pubmed-search-damaged", f"the search cannot be read: {reason}", where=Place(file), fix=fix)


def fetched(folder: Path) -> Iterator[Document]:
    """The documents in the order of the search, each once, those without abstract with an empty text.

    Raises InputError `pubmed-unfinished` where batches are missing or damaged, after the documents before them.
    """
    left = set(read_search(folder)["pmids"])
    number = 0
    while left:
        number += 1
        here = batch(folder, number)
        if here is None:
            what = f"batch {number} is missing or damaged; {len(left)} records are not there"
            raise InputError("pubmed-unfinished", what, where=Place(folder), fix=AGAIN)
        wanted = left.intersection(here.pmids)
        for name in here.files:
            for document in pubmed_xml(folder / RAW / name):
                if document.id in wanted:
                    wanted.remove(document.id)
                    yield document
        if not left.intersection(here.pmids):
            raise InputError(
                "pubmed-unfinished", f"batch {number} is not of this search", where=Place(folder), fix=AGAIN
            )
        left.difference_update(here.pmids)
