"""PubMed searched and fetched into a folder: the list of records first, then the records in batches."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from patchlight.corpus.entrez import (
    Client,
    Found,
    HistoryExpired,
    connected,
    fetch_by_history,
    fetch_by_pmid,
    search,
)
from patchlight.corpus.fetched import FORMAT, SEARCH, batch, is_fetched, read_search, write_batch
from patchlight.corpus.medline import article_document, articles
from patchlight.corpus.written import write_whole
from patchlight.errors import InputError, Place
from patchlight.run.progress import Progress

MOST_OF_A_SEARCH = 9_999  # PubMed gives no more records of one search, wherever one starts
BATCH = 200
FIRST_DATE = date(1500, 1, 1)
FUTURE_DAYS = 3 * 366  # journals print dates that have not come yet


@dataclass(frozen=True)
class Slice:
    """Records found by one search: its PMIDs in the server's order, and where the server keeps them."""

    found: Found
    first: str = ""  # publication dates; empty where the search was not cut
    last: str = ""


@dataclass(frozen=True)
class Download:
    """What lies in the folder: records that PubMed found, those listed, PMIDs that the server no longer had."""

    query: str
    found: int
    listed: int
    missing: tuple[str, ...]


@dataclass(frozen=True)
class _Batch:
    number: int
    pmids: tuple[str, ...]
    slice: int
    start: int  # of its first record among those of its slice
    size: int


def download(query: str, folder: Path, client: Client, *, most: int | None, progress: Progress) -> Download:
    """Fetches the newest `most` records (all without it) that PubMed finds, or those still missing in `folder`.

    Raises InputError `pubmed-nothing-found`, `pubmed-other-search` where the folder holds another search,
    `pubmed-refused`, `pubmed-day-too-large`; EnvironmentProblem `pubmed-no-answer` after six tries.
    """
    with connected(client):
        plan = _plan(query, folder, client, most)
        slices = [_slice(row) for row in plan["slices"]]
        batches = _batches(slices, plan["pmids"])
        waiting = [each for each in batches if not _done(folder, each)]
        expired: set[int] = set()  # slices that the server no longer holds
        with progress.stage("PubMed", len(waiting), len(batches) - len(waiting)):
            for each in waiting:
                with progress.unit(f"{len(each.pmids)} records"):
                    _fetch(folder, each, slices, client, expired)
    missing = tuple(pmid for each in batches if (kept := batch(folder, each.number)) for pmid in kept.missing)
    return Download(
        query=query,
        found=plan["found"],
        listed=len(plan["pmids"]),
        missing=missing,
    )


def _plan(query: str, folder: Path, client: Client, most: int | None) -> dict[str, Any]:
    """What `search.json` says, after a search where there is none yet."""
    if is_fetched(folder):
        plan = read_search(folder)
        if (plan["query"], plan["most"]) != (query, most):
            what = f"this folder holds another search: {plan['query']!r}, at most {plan['most']}"
            raise InputError("pubmed-other-search", what, where=Place(folder / SEARCH), fix="name a new folder")
        return plan
    whole = search(client, query, most=min(most or MOST_OF_A_SEARCH, MOST_OF_A_SEARCH))
    if not whole.count:
        what = f"PubMed finds nothing for {query!r}"
        raise InputError("pubmed-nothing-found", what, fix="try the query on the PubMed page")
    wanted = min(most or whole.count, whole.count)
    slices = [Slice(whole)] if len(whole.pmids) >= wanted else list(_slices(query, client, wanted))
    pmids = list(dict.fromkeys(pmid for part in slices for pmid in part.found.pmids))[:wanted]
    plan = {"format": FORMAT, "query": query, "most": most, "found": whole.count, "server": client.base_url}
    plan |= {"searched": datetime.now(UTC).isoformat(timespec="seconds"), "pmids": pmids}
    plan["slices"] = [asdict(part) for part in slices]
    write_whole(folder / SEARCH, json.dumps(plan).encode())
    return plan


def _slices(query: str, client: Client, wanted: int) -> Iterator[Slice]:
    """Searches by publication date that each fit, newest first, until they hold as many records as wanted."""
    waiting = [(FIRST_DATE, datetime.now(UTC).date() + timedelta(days=FUTURE_DAYS))]
    seen: set[str] = set()
    while waiting and len(seen) < wanted:
        first, last = waiting.pop()
        dates = (f"{first:%Y/%m/%d}", f"{last:%Y/%m/%d}")
        found = search(client, query, most=MOST_OF_A_SEARCH, dates=dates)
        if found.count <= MOST_OF_A_SEARCH:
            seen.update(found.pmids)
            if found.pmids:
                yield Slice(found, *dates)
        elif first == last:
            what = f"{found.count} records are dated {dates[0]}, and PubMed gives {MOST_OF_A_SEARCH} of one search"
            raise InputError("pubmed-day-too-large", what, fix="narrow the query, for instance by language or journal")
        else:
            middle = first + (last - first) // 2
            waiting += [(first, middle), (middle + timedelta(days=1), last)]


def _batches(slices: Sequence[Slice], wanted: Sequence[str]) -> list[_Batch]:
    """The wanted PMIDs by 200, in their order; a PMID that two slices found is fetched with the first."""
    left, batches = set(wanted), list[_Batch]()
    for index, part in enumerate(slices):
        for start in range(0, len(part.found.pmids), BATCH):
            here = part.found.pmids[start : start + BATCH]
            pmids = tuple(pmid for pmid in here if pmid in left)
            left.difference_update(pmids)
            if pmids:
                batches.append(_Batch(len(batches) + 1, pmids, index, start, here.index(pmids[-1]) + 1))
    return batches


def _done(folder: Path, wanted: _Batch) -> bool:
    kept = batch(folder, wanted.number)
    return kept is not None and kept.pmids == wanted.pmids


def _fetch(folder: Path, wanted: _Batch, slices: Sequence[Slice], client: Client, expired: set[int]) -> None:
    """Writes a batch: from the history server as long as it holds the search, and by PMID what it did not give."""
    replies, found = list[bytes](), slices[wanted.slice].found
    if found.web_env and wanted.slice not in expired:
        try:
            replies.append(fetch_by_history(client, found, wanted.start, wanted.size))
        except HistoryExpired:
            client.note("PubMed: the server no longer holds the search; records are fetched by their PMIDs")
            expired.add(wanted.slice)
    missing = _missing(wanted, replies)
    if missing:
        replies.append(fetch_by_pmid(client, missing))
        missing = _missing(wanted, replies)
    write_batch(folder, wanted.number, wanted.pmids, missing, replies)


def _missing(wanted: _Batch, replies: Sequence[bytes]) -> list[str]:
    got = {article_document(article).id for reply in replies for article in articles([reply])}
    return [pmid for pmid in wanted.pmids if pmid not in got]


def _slice(row: dict[str, Any]) -> Slice:
    found = row["found"]
    return Slice(Found(**{**found, "pmids": tuple(found["pmids"])}), row["first"], row["last"])
