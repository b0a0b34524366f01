"""A server of our own that speaks NCBI's E-utilities for PubMed, and misbehaves when told to."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

MOST_OF_A_SEARCH = 9_999


@dataclass(frozen=True)
class Reply:
    """What is sent: `cut` bytes of the body are promised and then not sent."""

    body: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0


@dataclass
class PubMed:
    """The records by PMID with their publication dates (`YYYY/MM/DD`), newest first, and what goes wrong.

    `trouble` holds replies that are sent in place of the next right ones, by utility.
    """

    dates: dict[str, str]
    trouble: dict[str, list[Reply | Callable[[Reply], Reply]]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)  # found by a search, no longer there when fetched
    history: dict[str, list[str]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str], float]] = field(default_factory=list)
    url: str = ""

    def counts(self) -> Counter[str]:
        return Counter(utility for utility, _, _ in self.asked)

    def answer(self, utility: str, asked: dict[str, str]) -> Reply:
        self.asked.append((utility, asked, monotonic()))
        right = self._search(asked) if utility == "esearch" else self._fetch(asked)
        waiting = self.trouble.get(utility)
        if not waiting:
            return right
        wrong = waiting.pop(0)
        return wrong(right) if callable(wrong) else wrong

    def _search(self, asked: dict[str, str]) -> Reply:
        found = [
            pmid
            for pmid, date in self.dates.items()
            if asked.get("mindate", "0") <= date <= asked.get("maxdate", "9999/12/31")
        ]
        key = f"MCID_{len(self.history)}"
        self.history[key] = found
        ids = "".join(f"<Id>{pmid}</Id>" for pmid in found[: min(int(asked.get("retmax", 20)), MOST_OF_A_SEARCH)])
        inside = f"<Count>{len(found)}</Count><RetMax>{len(ids)}</RetMax><RetStart>0</RetStart>"
        inside += f"<QueryKey>1</QueryKey><WebEnv>{key}</WebEnv><IdList>{ids}</IdList>"
        return Reply(f"<?xml version='1.0'?><eSearchResult>{inside}</eSearchResult>")

    def _fetch(self, asked: dict[str, str]) -> Reply:
        if "id" in asked:
            wanted = asked["id"].split(",")
        elif asked.get("WebEnv") in self.history:
            start = int(asked["retstart"])
            wanted = self.history[asked["WebEnv"]][start : start + int(asked["retmax"])]
        else:
            body = "<?xml version='1.0'?><eFetchResult><ERROR>Unable to obtain query #1</ERROR></eFetchResult>"
            return Reply(body, status=400)
        there = "".join(article(pmid) for pmid in wanted if pmid in self.dates and pmid not in self.gone)
        return Reply(f"<?xml version='1.0'?><PubmedArticleSet>{there}</PubmedArticleSet>")


def article(pmid: str, text: str = "") -> str:
    """A record whose abstract has two sections, the second with markup inside."""
    told = escape(text) or f"We saw {pmid} seizures &amp; more."
    sections = (
        f'<AbstractText Label="AIM">{told}</AbstractText><AbstractText Label="END">10<sup>5</sup>.</AbstractText>'
    )
    inside = f"<ArticleTitle>Title <i>of</i> {pmid}</ArticleTitle><Abstract>{sections}</Abstract>"
    citation = f"<MedlineCitation><PMID Version='1'>{pmid}</PMID><Article>{inside}</Article></MedlineCitation>"
    return f"<PubmedArticle>{citation}</PubmedArticle>"


@contextmanager
def serve(pubmed: PubMed) -> Iterator[PubMed]:
    """The server on a free port of this machine; `pubmed.url` is its base URL."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, query: str) -> None:
            asked = {key: values[-1] for key, values in parse_qs(query).items()}
            utility = urlsplit(self.path).path.rsplit("/", 1)[-1].removesuffix(".fcgi")
            with lock:
                reply = pubmed.answer(utility, asked)
            body = reply.body.encode()
            self.send_response(reply.status)
            self.send_header("Content-Type", "text/xml; charset=UTF-8")
            self.send_header("Content-Length", str(len(body)))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[: len(body) - reply.cut])

        def do_GET(self) -> None:
            self._answer(urlsplit(self.path).query)

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["Content-Length"])).decode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        pubmed.url = f"http://127.0.0.1:{server.server_port}/entrez/eutils"
        try:
            yield pubmed
        finally:
            server.shutdown()
            thread.join()
