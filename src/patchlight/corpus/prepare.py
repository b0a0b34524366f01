"""A corpus made ready: cleaned, without duplicates, in one language, split without leaks, with a data card.

    FOLDER/documents.parquet    id, title, text, source, part; the only file with texts
    FOLDER/manifest.csv         id, source, part, length and SHA-256 of each text: what may be passed on
    FOLDER/card.json, card.md   the data card

Records are read twice as streams: what stays in memory for each is a signature of 512 bytes and a few numbers.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from jaxtyping import Int
from numpy import ndarray

from patchlight.corpus.alike import families, near_duplicates, similar_pairs
from patchlight.corpus.card import PUBMED_LICENCE, REASONS, Card, Dropped, Source, markdown
from patchlight.corpus.clean import LANGUAGES
from patchlight.corpus.examine import Examined, Limits, examined
from patchlight.corpus.fetched import is_fetched, read_search
from patchlight.corpus.files import PREPARED, files_of, read_records, unreadable
from patchlight.corpus.split import sides_of
from patchlight.corpus.terms import TermCounter, pattern
from patchlight.corpus.written import sync_folder, write_whole
from patchlight.errors import InputError, Place
from patchlight.on_disk import is_file, is_there
from patchlight.records import Document
from patchlight.run.progress import Progress
from patchlight.store.digests import file_digest

KIN = 0.5  # texts at least so similar are on the same side
BATCH = 1000  # documents
SCHEMA = pyarrow.schema([(name, pyarrow.string()) for name in ("id", "title", "text", "source", "part")])
REPLACEMENT = "\ufffd"


@dataclass(frozen=True)
class Preparation:
    """What is kept, and how it is split. `language` empty keeps every language; lengths are in characters."""

    language: str = "en"
    shortest: int = 100
    longest: int = 100_000
    near: float = 0.8
    validation: float = 0.2
    held_out: float = 0.0
    seed: int = 42
    terms: tuple[str, ...] = ()
    text_field: str = "text"
    licences: tuple[str, ...] = ()
    keep_before_damage: bool = False

    def __post_init__(self) -> None:
        if self.language and self.language not in LANGUAGES.split():
            what = f"the language {self.language!r} is not one that is told apart"
            raise InputError("corpus-language", what, fix=f"use one of {LANGUAGES}, or none to keep all")
        if not KIN <= self.near <= 1 or self.shortest < 1 or self.longest < self.shortest:
            what = f"a similarity of {self.near:g} with lengths from {self.shortest} to {self.longest} cannot be used"
            raise InputError("corpus-limits", what, fix=f"similarity from {KIN} to 1; lengths from 1, least first")
        for term in self.terms:
            pattern(term)


@dataclass
class _Gathered:
    """What the first reading found, beside the texts that it wrote down."""

    sources: list[Source] = field(default_factory=list)
    dropped: dict[str, Dropped] = field(default_factory=lambda: {reason: Dropped() for reason in REASONS})
    languages: Counter[str] = field(default_factory=Counter)
    ids: list[str] = field(default_factory=list)
    texts: set[bytes] = field(default_factory=set)
    signatures: list[Any] = field(default_factory=list)
    keys: list[Any] = field(default_factory=list)


def prepare(paths: Sequence[Path], folder: Path, choice: Preparation, *, progress: Progress, workers: int = 1) -> Card:
    """Makes `folder`, which is there only when it is whole, out of files and folders that `read_documents` reads.

    Of duplicates the first is kept. The same input and choice give the same files, however many processes
    (`workers`) share the work. Raises InputError
    `corpus-folder-taken`, `corpus-nothing-left`, `split-too-few`, and what reading raises.
    """
    if is_there(folder):
        raise InputError("corpus-folder-taken", "this exists already", where=Place(folder), fix="name a new folder")
    work = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    work.mkdir(parents=True)
    try:
        card = _prepare([file for path in paths for file in files_of(path)], work, choice, progress, workers)
    except BaseException as error:
        shutil.rmtree(work, ignore_errors=True)
        if isinstance(error, InputError):
            error.where = error.where or Place(paths[0])  # too few documents: the texts as a whole are the place
        raise
    work.rename(folder)
    sync_folder(folder.parent)
    return card


def _prepare(files: Sequence[Path], work: Path, choice: Preparation, progress: Progress, workers: int) -> Card:
    gathered, spool = _Gathered(), work / "spool.parquet"
    limits = Limits(choice.language, choice.shortest, choice.longest)
    with progress.stage("reading", len(files)), pyarrow.parquet.ParquetWriter(spool, SCHEMA) as writer:
        records = examined(_records(files, choice, gathered, progress), limits, workers)
        _write_rows(writer, (row for record in records if (row := _row(record, gathered)) is not None))
    if not gathered.ids:
        counts = ", ".join(f"{each.count} {REASONS[reason]}" for reason, each in gathered.dropped.items() if each.count)
        what, fix = f"no document is left: {counts or 'no records'}", "give more texts, or other --shortest, --language"
        raise InputError("corpus-nothing-left", what, fix=fix)
    like, family = _compare(gathered, choice)
    kept = np.flatnonzero(like < 0)
    sides = sides_of(family[kept].tolist(), validation=choice.validation, held_out=choice.held_out, seed=choice.seed)
    card = _write(work, spool, dict(zip(kept.tolist(), sides, strict=True)), gathered, family[kept], choice)
    spool.unlink()
    write_whole(work / "card.md", markdown(card).encode())
    write_whole(work / PREPARED[0], json.dumps(asdict(card), indent=1, ensure_ascii=False).encode())
    return card


def _records(files: Sequence[Path], choice: Preparation, gathered: _Gathered, progress: Progress) -> Iterator[Document]:
    """The records of all files; those of each are counted with their source."""
    for file in files:
        with progress.unit(file.name):
            source = _source(file)
            gathered.sources.append(source)
            try:
                for record in read_records(file, text_field=choice.text_field):
                    source.records += 1
                    yield record
            except InputError as error:
                if not choice.keep_before_damage:
                    kept = f"--keep-before-damage goes on with the {source.records} records before it"
                    fix = "; or ".join(filter(None, [error.fix, kept if source.records else ""]))
                    raise InputError(error.code, error.what, where=error.where, fix=fix) from error
                source.stopped = f"stopped: {error.what} ({error.code} at {error.where})"


def _row(record: Examined, gathered: _Gathered) -> dict[str, str] | None:
    """The row of a document that passes on its own; what is needed to compare it is gathered."""
    reason = record.reason or ("same-text" if record.digest in gathered.texts else "")
    if record.written:
        gathered.languages[record.written] += 1
    if reason:
        gathered.dropped[reason].add(record.id)
        return None
    gathered.texts.add(record.digest)
    gathered.ids.append(record.id)
    gathered.signatures.append(record.signature)
    gathered.keys.append(record.keys)
    return {"id": record.id, "title": record.title, "text": record.text, "source": record.source, "part": ""}


def _compare(gathered: _Gathered, choice: Preparation) -> tuple[Int[ndarray, "document"], Int[ndarray, "document"]]:
    """The earlier document that each nearly equals (-1: none), and the family of each."""
    documents = len(gathered.ids)
    pairs, likeness = similar_pairs(np.stack(gathered.signatures), KIN)
    like = near_duplicates(pairs[likeness >= choice.near], documents)
    for later in np.flatnonzero(like >= 0):
        gathered.dropped["near-duplicate"].add(f"{gathered.ids[later]} (like {gathered.ids[like[later]]})")
    _, same_id = np.unique(gathered.ids, return_inverse=True)
    firsts = np.unique(same_id, return_index=True)[1][same_id]
    pairs = np.concatenate([pairs, np.stack([firsts, np.arange(documents)], axis=1)])
    owners = np.repeat(np.arange(documents), [len(keys) for keys in gathered.keys])
    return like, families(documents, pairs, np.concatenate(gathered.keys), owners)


def _write(
    work: Path,
    spool: Path,
    sides: dict[int, str],
    gathered: _Gathered,
    family: Int[ndarray, "document"],
    choice: Preparation,
) -> Card:
    """Writes documents and manifest, counting on the way; the card of them."""
    counter, origins, totals = TermCounter(choice.terms), Counter[str](), Counter[str]()

    def counted() -> Iterator[dict[str, str]]:
        for row in _kept(spool, sides):
            counter.add(row["title"], row["text"])
            origins[row["source"]] += 1
            totals["characters"] += len(row["text"])
            totals["replaced"] += REPLACEMENT in row["text"]
            digest = hashlib.sha256(row["text"].encode()).hexdigest()
            manifest.writerow([row["id"], row["source"], row["part"], len(row["text"]), digest])
            yield row

    documents = work / PREPARED[1]
    with (
        (work / "manifest.csv").open("w", encoding="utf-8", newline="") as stream,
        pyarrow.parquet.ParquetWriter(documents, SCHEMA, compression="zstd") as writer,
    ):
        manifest = csv.writer(stream, lineterminator="\n")
        manifest.writerow(["id", "source", "part", "characters", "sha256"])
        _write_rows(writer, counted())
    settings = {name: value for name, value in asdict(choice).items() if name not in {"terms", "licences"}}
    return Card(
        sources=gathered.sources,
        licences=[*choice.licences, *([PUBMED_LICENCE] if origins["PubMed"] else [])],
        settings=settings,
        read=sum(source.records for source in gathered.sources),
        dropped=gathered.dropped,
        kept=len(sides),
        characters=totals["characters"],
        parts=dict(sorted(Counter(sides.values()).items())),
        families=len(np.unique(family)),
        largest_family=int(np.unique(family, return_counts=True)[1].max()),
        origins=dict(origins.most_common()),
        languages=dict(gathered.languages.most_common()),
        replaced_characters=totals["replaced"],
        terms=counter.counts(),
        documents_sha256=file_digest(documents),
        version=version("patchlight"),
    )


def _kept(spool: Path, sides: dict[int, str]) -> Iterator[dict[str, str]]:
    with pyarrow.parquet.ParquetFile(spool) as opened:
        number = 0
        for batch in opened.iter_batches(BATCH):
            for row in batch.to_pylist():
                if number in sides:
                    yield {**row, "part": sides[number]}
                number += 1


def _write_rows(writer: Any, rows: Iterator[dict[str, str]]) -> None:
    waiting: list[dict[str, str]] = []
    for row in rows:
        waiting.append(row)
        if len(waiting) == BATCH:
            writer.write_table(pyarrow.Table.from_pylist(waiting, SCHEMA))
            waiting.clear()
    if waiting:
        writer.write_table(pyarrow.Table.from_pylist(waiting, SCHEMA))


def _source(path: Path) -> Source:
    try:
        inside = [path] if is_file(path) else sorted(file for file in path.rglob("*") if file.is_file())
        digests = "".join(file_digest(file) for file in inside)
    except OSError as error:
        raise unreadable(path, error) from error
    sha256 = digests if is_file(path) else hashlib.sha256(digests.encode()).hexdigest()
    if not is_fetched(path):
        return Source(path.name, sha256)
    plan = read_search(path)
    return Source(path.name, sha256, search={key: plan[key] for key in ("query", "most", "found", "searched")})
