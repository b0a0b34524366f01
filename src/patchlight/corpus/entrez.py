"""NCBI E-utilities, asked politely: Biopython's rate limit, retries that wait as long as the server says."""

from __future__ import annotations

import email.utils
import http.client
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import BaseHandler, Request, build_opener, install_opener
from xml.etree.ElementTree import Element, ParseError, fromstring

from Bio import Entrez

from patchlight.corpus.medline import NOT_XML, article_document, articles
from patchlight.errors import EnvironmentProblem, InputError

NCBI = "https://eutils.ncbi.nlm.nih.gov/entrez/eutils"
SERVER_SECONDS = 60.0  # a server that is silent for so long is asked again
TRIES = 6
LONGEST_WAIT = 120.0  # seconds, whatever Retry-After says
T = TypeVar("T")


class ReplyDamaged(Exception):
    """A reply that is cut off, or is not what was asked for; asking again may help."""


class NotRecords(Exception):
    """A whole reply that is something else, such as the server's word that a search has expired."""


class HistoryExpired(Exception):
    """The server answers, but does not give the records of a search that it once held."""


@dataclass(frozen=True)
class Client:
    """Who asks, and whom: NCBI wants an e-mail address; a key allows ten requests a second in place of three."""

    email: str
    note: Callable[[str], None]  # told when the server is asked again
    api_key: str | None = None
    base_url: str = NCBI
    first_wait: float = 1.0  # seconds before the second try; doubled each time


@dataclass(frozen=True)
class Found:
    """A search: how many records the server has, their PMIDs (as many as were asked for), where it keeps them."""

    count: int
    pmids: tuple[str, ...]
    web_env: str = ""
    query_key: str = ""


@contextmanager
def connected(client: Client) -> Iterator[None]:
    """Inside it Biopython's Entrez speaks for this client: address, key, base URL, time limit, one try a call.

    The settings are Biopython's and urllib's own and hold for the process; urllib's opener is the standard one
    afterwards.
    """
    before = Entrez.email, Entrez.api_key, Entrez.tool, Entrez.max_tries
    Entrez.email, Entrez.api_key, Entrez.tool, Entrez.max_tries = client.email, client.api_key, "patchlight", 1
    install_opener(build_opener(_Route(client.base_url)))
    try:
        yield
    finally:
        install_opener(build_opener())
        Entrez.email, Entrez.api_key, Entrez.tool, Entrez.max_tries = before


def search(client: Client, query: str, *, most: int, dates: tuple[str, str] | None = None) -> Found:
    """What PubMed finds for a query, newest first, kept on its history server.

    `dates` limits it to publication dates (`YYYY/MM/DD`, both included). Raises InputError
    `pubmed-refused` for what the server calls wrong, EnvironmentProblem `pubmed-no-answer` after six tries.
    """
    limits = {"datetype": "pdat", "mindate": dates[0], "maxdate": dates[1]} if dates else {}

    def ask() -> Found:
        reply = _read(Entrez.esearch("pubmed", query, usehistory="y", retmax=str(most), retmode="xml", **limits))
        return _found(_xml(reply), most)

    return _persistently(client, ask)


def fetch_by_history(client: Client, found: Found, start: int, size: int) -> bytes:
    """The XML of `size` records of a search, from its record `start` on. Raises HistoryExpired."""
    where = {"WebEnv": found.web_env, "query_key": found.query_key, "retstart": str(start), "retmax": str(size)}
    try:
        return _persistently(client, lambda: _records(_read(Entrez.efetch("pubmed", retmode="xml", **where))))
    except (InputError, NotRecords) as error:
        raise HistoryExpired from error


def fetch_by_pmid(client: Client, pmids: Sequence[str]) -> bytes:
    """The XML of these records; those that the server no longer has are not in it."""

    def ask() -> bytes:
        try:
            return _records(_read(Entrez.efetch("pubmed", retmode="xml", id=",".join(pmids))))
        except NotRecords as error:
            raise ReplyDamaged(str(error)) from error

    return _persistently(client, ask)


class _Route(BaseHandler):
    """Sends what is meant for NCBI to the base URL, and gives every request a time limit."""

    handler_order = 100  # before urllib's own handlers write the Host header

    def __init__(self, base_url: str) -> None:
        self._base = base_url.rstrip("/")

    def https_request(self, request: Request) -> Request:
        request.timeout = SERVER_SECONDS
        if request.full_url.startswith(f"{NCBI}/"):
            request.full_url = self._base + request.full_url.removeprefix(NCBI)
        return request


def _persistently(client: Client, ask: Callable[[], T]) -> T:
    wait = client.first_wait
    for tried in range(1, TRIES + 1):
        try:
            return ask()
        except (OSError, http.client.HTTPException, ReplyDamaged) as error:
            _refuse_what_stays(error)
            if tried == TRIES:
                raise _no_answer(client, error) from error
            pause = min(LONGEST_WAIT, max(wait, _retry_after(error)))
            client.note(f"PubMed: {_told(error)}; try {tried + 1} of {TRIES} in {pause:.0f} s")
            time.sleep(pause)
            wait *= 2
    raise AssertionError("unreachable")


def _refuse_what_stays(error: Exception) -> None:
    """Raises InputError for what asking again cannot help: a request that the server calls wrong."""
    if not isinstance(error, HTTPError) or error.code // 100 != 4 or error.code in {408, 429}:
        return
    try:
        said = error.read(2000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        said = "its reason was cut off"
    what = f"the server refuses the request ({error.code} {error.reason}): {_plain(said)}"
    raise InputError("pubmed-refused", what, fix="check the query, the e-mail address and the API key") from error


def _retry_after(error: Exception) -> float:
    """The seconds that a server asks to wait, as a number or a date; 0 where it does not say."""
    said = (error.headers.get("Retry-After") or "").strip() if isinstance(error, HTTPError) else ""
    if said.isdecimal():
        return float(said)
    try:
        return email.utils.parsedate_to_datetime(said).timestamp() - time.time()
    except ValueError:
        return 0.0


def _told(error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"the server answered {error.code} {error.reason}"
    return str(error) or type(error).__name__


def _no_answer(client: Client, error: Exception) -> EnvironmentProblem:
    return EnvironmentProblem(
        "pubmed-no-answer",
        f"PubMed gave no usable answer in {TRIES} tries; the last: {_told(error)}",
        where=urlsplit(client.base_url).netloc,
        fix="check the connection and run the same command again; what was fetched is kept",
    )


def _read(handle: Any) -> bytes:
    """The whole reply, closed; Biopython wraps a plain one as text."""
    raw = getattr(handle, "buffer", handle)
    with raw:
        content: bytes = raw.read()
    return content


def _xml(reply: bytes) -> Element:
    try:
        return fromstring(reply)
    except NOT_XML as error:
        raise ReplyDamaged(f"the reply is not XML: {error}") from error


def _found(reply: Element, most: int) -> Found:
    problem, count = reply.findtext("ERROR"), reply.findtext("Count", "")
    if problem or not count.isdecimal():
        raise ReplyDamaged(problem or "the reply names no count")
    pmids = tuple(found.text or "" for found in reply.findall("IdList/Id"))
    if len(pmids) < min(int(count), most):  # what a search does not name would be missing without a word
        raise ReplyDamaged(f"the search finds {count} records, but names {len(pmids)} PMIDs")
    return Found(int(count), pmids, reply.findtext("WebEnv", ""), reply.findtext("QueryKey", ""))


def _records(reply: bytes) -> bytes:
    """The reply, which was read to its end as PubMed records."""
    try:
        for article in articles([reply]):
            article_document(article)
    except ParseError as error:
        raise ReplyDamaged(f"the reply is cut off, or is not XML: {error}") from error
    except NOT_XML as error:
        raise NotRecords(f"{error}: {_plain(reply[:2000].decode('utf-8', 'replace'))}") from error
    return reply


def _plain(said: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", said).split())[:200]
