"""What is found out about each record by itself: its clean text, why it cannot be kept, what it is compared by."""

from __future__ import annotations

import hashlib
import itertools
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from jaxtyping import UInt32, UInt64
from numpy import ndarray

from patchlight.corpus.alike import sentence_keys, signature
from patchlight.corpus.clean import UNDETERMINED, clean, compared, language
from patchlight.records import Document

CHUNK = 500  # records that go to a process at a time
FEW = 2000  # records that are done before other processes have started


@dataclass(frozen=True)
class Limits:
    """The language kept (empty: all) and the lengths in characters."""

    language: str
    shortest: int
    longest: int


@dataclass(frozen=True)
class Examined:
    """A record with its clean text. Of one with a `reason` to be left out the rest stays empty."""

    id: str
    title: str
    text: str
    source: str
    reason: str = ""
    written: str = ""  # language
    digest: bytes = b""  # of the text as it is compared
    signature: UInt32[ndarray, "permutation"] | None = None
    keys: UInt64[ndarray, "sentence"] | None = None


def examine(record: Document, limits: Limits) -> Examined:
    """The record examined."""
    text = clean(record.text)
    named = record.id, clean(record.title), text, record.source
    if not text or not limits.shortest <= len(text) <= limits.longest:
        reason = "no-text" if not text else "too-short" if len(text) < limits.shortest else "too-long"
        return Examined(*named, reason)
    written = language(text)
    if limits.language and written not in {limits.language, UNDETERMINED}:
        return Examined(*named, "language", written)
    same = compared(text)
    digest = hashlib.blake2b(same.encode(), digest_size=16).digest()
    return Examined(*named, "", written, digest, signature(same), sentence_keys(same))


def examined(records: Iterable[Document], limits: Limits, workers: int) -> Iterator[Examined]:
    """The records examined, in their order; by `workers` processes where there are many records."""
    left = iter(records)
    first = list(itertools.islice(left, FEW if workers > 1 else 0))
    if len(first) < FEW:
        yield from (examine(record, limits) for record in itertools.chain(first, left))
        return
    # Workers ignore Ctrl-C, which reaches them too: the process that started them ends them.
    ignore = signal.SIGINT, signal.SIG_IGN
    with ProcessPoolExecutor(workers, get_context("spawn"), signal.signal, ignore) as pool:
        yield from _in_turn(pool, itertools.chain(first, left), limits, 2 * workers)


def _in_turn(pool: ProcessPoolExecutor, records: Iterator[Document], limits: Limits, most: int) -> Iterator[Examined]:
    """What the processes found, in order; at most so many chunks are under way, whatever the length of the corpus."""
    waiting: deque[Future[list[Examined]]] = deque()
    while chunk := list(itertools.islice(records, CHUNK)):
        waiting.append(pool.submit(_examine_all, chunk, limits))
        if len(waiting) > most:
            yield from waiting.popleft().result()
    for under_way in waiting:
        yield from under_way.result()


def _examine_all(records: list[Document], limits: Limits) -> list[Examined]:
    return [examine(record, limits) for record in records]
